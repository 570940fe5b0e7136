"""The generic agent of seed 003: one policy network, learned by REINFORCE, A2C or a loss of your own."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor, nn

from optix_fast.agents.arguments import require, resolve_device
from optix_fast.agents.base import Agent
from optix_fast.agents.guards import as_in_training, restored_on_error
from optix_fast.learners.acting import Acting
from optix_fast.learners.actions import action_indices
from optix_fast.learners.learner import Backend
from optix_fast.learners.optimizers import descend
from optix_fast.learners.policy import Policy
from optix_fast.learners.policy_gradient import PolicyGradientModel, TorchAgentConfig, make_targets
from optix_fast.learners.tensors import explained_variance
from optix_fast.locks import exclusive
from optix_fast.networks.heads import CategoricalHead
from optix_fast.types import Array, EpisodeData, HyperparamSet, NonFiniteError, Tree, is_recording

# (model, episode_data, targets) → the loss to descend.
LossFn = Callable[[nn.Module, EpisodeData, Tensor], Tensor]


class TorchAgent(Agent):
    """Policy gradient over any network of logits, one step of the optimizer for each window (seed 003).

    Windows with `values` are learned by A2C (advantages G − V), others by REINFORCE (returns G); both are
    normalised over the window. policy_gradient.make_targets says where returns stop and what they go on
    with. The loss is −mean(log π(a|s)·target), or what `compute_loss_fn` makes of the targets.

    A subclass may override `act` alone; it is then asked for one observation at a time, everywhere.

    Args:
        model: observations → logits, [B, n_actions]. The public attribute `model`.
        optimizer: over the model's parameters, and all others that the loss trains. The public attribute
            `optimizer`.
        hyperparams: see TorchAgentConfig; unknown keys are warned about once.
        compute_loss_fn: (model, episode_data, targets) → a scalar tensor with a gradient. episode_data is
            the window as learn() was given it; targets are float32 [R], one for each of its R rows and in
            their order, on the model's device (`targets.device`). With it, actions may be of any kind, if
            a subclass overrides `act`.
        device: "auto" (CUDA where there is one), "cpu", "cuda", "cuda:N".
        seed: of the agent's random streams; None draws one from the operating system.

    Raises:
        TypeError, ValueError: an argument of another kind or outside its range.
    """

    default_param_bounds = {"learning_rate": (1e-4, 3e-3), "gamma": (0.95, 0.999)}  # noqa: RUF012
    default_log_params = ["learning_rate"]  # noqa: RUF012
    algorithm = "policy gradient"
    config_type = TorchAgentConfig
    _model: PolicyGradientModel

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        hyperparams: HyperparamSet,
        compute_loss_fn: LossFn | None = None,
        device: str | torch.device = "auto",
        *,
        seed: int | None = None,
    ) -> None:
        require(nn.Module, model=model)
        require(torch.optim.Optimizer, optimizer=optimizer)
        if compute_loss_fn is not None and not callable(compute_loss_fn):
            raise TypeError(
                f"compute_loss_fn must be a function of (model, episode_data, targets), "
                f"got {type(compute_loss_fn).__name__}"
            )
        super().__init__(hyperparams, seed)
        self._head = CategoricalHead()
        self._policy = Policy(model, self._head, resolve_device(device))
        self._model = PolicyGradientModel(model, optimizer)
        self._acting = Acting(self._policy, self._streams, "torch", is_on_policy=True)
        self._compute_loss_fn = compute_loss_fn
        self._apply(self._hyperparams.config(), self._hyperparams.params)

    def _not_described(self) -> list[str]:
        return [] if self._compute_loss_fn is None else ["its compute_loss_fn"]

    @property
    def model(self) -> nn.Module:
        """The network of logits."""
        return self._model.model

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The optimizer; another one over the model's parameters may be put in its place."""
        return self._model.optimizer

    @optimizer.setter
    def optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        self._model.optimizer = optimizer

    @property
    def backend(self) -> Backend:
        """ "torch": the core has no update for it."""
        return Backend("torch", "TorchAgent learns in torch")

    # --- acting ---------------------------------------------------------------------------------

    @exclusive
    def bind_spaces(self, observation_space: Any, action_space: Any) -> None:
        """Learn the spaces of the environment; pipelines call it.

        Raises:
            ValueError: the action space is not Discrete, or the agent is bound to another one.
        """
        if isinstance(action_space, spaces.Discrete) or not self._acts_its_own_way():
            super().bind_spaces(observation_space, action_space)

    def act(self, observation: Any, deterministic: bool | None = None) -> int:
        """The action for one observation.

        Args:
            observation: one observation of the environment, without a batch axis.
            deterministic: the most probable action (True) or a sample of the softmax (False); None: a
                sample, and the most probable one inside `no_recording()`.

        Raises:
            NonFiniteError: the model's outputs are NaN or infinite.
        """
        action: int = super().act(observation, self._is_greedy(deterministic))
        return action

    def act_batch(
        self, observations: Tree, deterministic: bool | None = None, action_masks: Array | None = None
    ) -> Array:
        """Actions [N] for N observations [N, …]."""
        return super().act_batch(observations, self._is_greedy(deterministic), action_masks)

    def act_rows(self, observations: Tree, rows: Any, t: int) -> Array:
        """Act for all environments of row t, write actions and log_probs into the window (see
        pipelines.rows.WindowRows) and return the actions [N]."""
        with self._lock:
            return self._acting.act_rows(observations, rows, t, self._is_greedy(None))

    @staticmethod
    def _is_greedy(deterministic: bool | None) -> bool:
        return not is_recording() if deterministic is None else deterministic

    def _logits(self, observations: Tree) -> Tensor:
        return self._policy.params(self._acting.prepare(observations))

    def _acts_its_own_way(self) -> bool:
        return type(self).act is not TorchAgent.act

    # --- learning -------------------------------------------------------------------------------

    @as_in_training
    def learn(self, episode_data: EpisodeData) -> dict[str, Any]:
        """One step of the optimizer from one window.

        Returns:
            loss; grad_norm, before clipping; baseline_type, "a2c" or "reinforce"; explained_variance of the
            window's values (NaN without values, or where the returns do not vary).

        Raises:
            NonFiniteError: a reward, value, loss or gradient is NaN or infinite.
            ValueError: the window is empty, its fields do not fit together or its actions the model.
            TypeError: compute_loss_fn returned something else than a scalar tensor with a gradient.
            After any error, that of compute_loss_fn too, the agent is as before the call.
        """
        config: TorchAgentConfig = self._hyperparams.config()
        made = make_targets(episode_data, config.gamma, self.device)
        drawing_masks = self._model.drawing_masks(self._streams["update"])
        with restored_on_error(self), drawing_masks, self._model.masked_in_torch():
            loss = self._loss(episode_data, made.targets)
            if not bool(torch.isfinite(loss)):
                raise NonFiniteError("loss")
            grad_norm = descend(loss, self.optimizer, config.max_grad_norm)
        self.env_steps += episode_data.length
        values = made.values
        return {
            "loss": loss.item(),
            "grad_norm": grad_norm,
            "baseline_type": "reinforce" if values is None else "a2c",
            "explained_variance": (math.nan if values is None else explained_variance(values, made.returns)),
        }

    def _loss(self, data: EpisodeData, targets: Tensor) -> Tensor:
        if self._compute_loss_fn is not None:
            return _checked_loss(self._compute_loss_fn(self.model, data, targets))
        logits = self._logits(data.observations)
        if data.action_masks is not None:
            allowed = torch.as_tensor(data.action_masks, dtype=torch.bool, device=self.device)
            logits = logits.masked_fill(~allowed, -math.inf)
        taken = action_indices(self._head, data.actions, *logits.shape)
        index = torch.as_tensor(taken, device=self.device)
        log_probs = torch.log_softmax(logits, dim=-1).gather(-1, index[:, None]).squeeze(-1)
        return -(log_probs * targets).mean()


def _checked_loss(loss: Any) -> Tensor:
    if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.requires_grad:
        what = f"{list(loss.shape)} tensor" if isinstance(loss, Tensor) else type(loss).__name__
        without = " without a gradient" if isinstance(loss, Tensor) and not loss.requires_grad else ""
        raise TypeError(f"compute_loss_fn must return a scalar tensor with a gradient, got {what}{without}")
    return loss
