"""The generic agent of seed 003: one policy network, learned by REINFORCE, A2C or a loss of your own."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from optix_fast.agents import agent as shared
from optix_fast.agents.policy_gradient import TorchAgentConfig, make_targets
from optix_fast.networks.heads import CategoricalHead, Draw
from optix_fast.random import RandomStream
from optix_fast.types import (
    Array,
    BaseAgent,
    EpisodeData,
    HyperparamSet,
    NonFiniteError,
    Tree,
    is_recording,
    tree_map,
)

# (model, episode_data, targets) → the loss to descend.
LossFn = Callable[[nn.Module, EpisodeData, Tensor], Tensor]
_NAME = "model"


class TorchAgent(BaseAgent):
    """Policy gradient over any network of logits, one step of the optimizer for each window (seed 003).

    Windows with `values` are learned by A2C (advantages G − V), others by REINFORCE (returns G); both are
    normalised over the window. policy_gradient.make_targets says where returns stop and what they go on
    with. The loss is −mean(log π(a|s)·target), or what `compute_loss_fn` makes of the targets.

    A subclass may override `act` alone; it is then asked for one observation at a time, everywhere.

    Args:
        model: observations → logits, [B, n_actions]. The public attribute `model`.
        optimizer: over the model's parameters, and whatever else the loss trains. The public attribute
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
    kept_on_rollback = ("streams",)

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
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a Module, got {type(model).__name__}")
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise TypeError(f"optimizer must be a Optimizer, got {type(optimizer).__name__}")
        if compute_loss_fn is not None and not callable(compute_loss_fn):
            raise TypeError(
                f"compute_loss_fn must be a function of (model, episode_data, targets), "
                f"got {type(compute_loss_fn).__name__}"
            )
        self._hyperparams = shared.check_hyperparams(hyperparams, TorchAgentConfig)
        config = shared.read_config(TorchAgentConfig, hyperparams.params)
        self.device = shared.resolve_device(device)
        self.model, self.optimizer = model.to(self.device), optimizer
        self._compute_loss_fn = compute_loss_fn
        self._head = CategoricalHead()
        root = RandomStream(seed)
        self._streams = {name: root.spawn(name) for name in ("rollout", "evaluation", "update")}
        if "learning_rate" in hyperparams.params:
            self._set_learning_rate(config.learning_rate)

    # --- acting ---------------------------------------------------------------------------------

    def bind_spaces(self, observation_space: Any, action_space: Any) -> None:
        """Learn the spaces of the environment; pipelines call it.

        Raises:
            ValueError: the action space is not Discrete, or the agent is bound to another one.
        """
        del observation_space
        if isinstance(action_space, spaces.Discrete) or not self._acts_its_own_way():
            self._head.bind(action_space)

    def act(self, observation: Any, deterministic: bool | None = None) -> int:
        """The action for one observation.

        Args:
            observation: one observation of the environment, without a batch axis.
            deterministic: the most probable action (True) or a sample of the softmax (False); None: a
                sample, and the most probable one inside `no_recording()`.

        Raises:
            NonFiniteError: the model's outputs are NaN or infinite.
        """
        batch = tree_map(lambda leaf: shared.to_numpy(leaf)[None], observation)
        mask = batch.get("action_mask") if isinstance(batch, Mapping) else None
        return int(self._draw(batch, deterministic, mask).actions[0])

    def act_batch(
        self, observations: Tree, deterministic: bool | None = None, action_masks: Array | None = None
    ) -> Array:
        """Actions [N] for N observations [N, …]."""
        return self._draw(observations, deterministic, action_masks).actions

    def act_rows(self, observations: Tree, rows: Any, t: int) -> Array:
        """Act for all environments of row t, write actions and log_probs into the window (see
        pipelines.rows.WindowRows) and return the actions [N]."""
        draw = self._draw(observations, None, None if rows.action_masks is None else rows.action_masks[t])
        actions: Array = rows.actions[t]
        actions[...] = draw.actions
        rows.column("log_probs")[t] = draw.log_probs
        return actions

    @torch.no_grad()
    def _draw(self, observations: Tree, deterministic: bool | None, masks: Array | None) -> Draw:
        recording = is_recording()
        stream = self._streams["rollout" if recording else "evaluation"]
        params = self._logits(observations)
        draw = self._head.draw(
            params, stream, not recording if deterministic is None else deterministic, masks
        )
        if not np.isfinite(draw.log_probs).all():
            raise NonFiniteError("policy output while acting")
        return draw

    def _logits(self, observations: Tree) -> Tensor:
        return self._head.params(self.model(shared.to_tensors(observations, self.device)))

    def _acts_its_own_way(self) -> bool:
        return type(self).act is not TorchAgent.act

    @torch.no_grad()
    def action_probs(self, observation: Any) -> Array:
        """Probabilities of the actions, [n_actions], for one observation."""
        batch = tree_map(lambda leaf: shared.to_numpy(leaf)[None], observation)
        probs: Array = torch.softmax(self._logits(batch), dim=-1)[0].cpu().numpy()
        return probs

    # --- learning -------------------------------------------------------------------------------

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
        config = shared.read_config(TorchAgentConfig, self._hyperparams.params)
        made = make_targets(episode_data, config.gamma, self.device)
        with shared.restored_on_error(self):
            loss = self._loss(episode_data, made.targets)
            grad_norm = self._step(loss, config)
        values = made.values
        return {
            "loss": loss.item(),
            "grad_norm": grad_norm,
            "baseline_type": "reinforce" if values is None else "a2c",
            "explained_variance": (
                math.nan if values is None else shared.explained_variance(values, made.returns)
            ),
        }

    def _loss(self, data: EpisodeData, targets: Tensor) -> Tensor:
        if self._compute_loss_fn is not None:
            return _checked_loss(self._compute_loss_fn(self.model, data, targets))
        logits = self._logits(data.observations)
        if data.action_masks is not None:
            allowed = torch.as_tensor(data.action_masks, dtype=torch.bool, device=self.device)
            logits = logits.masked_fill(~allowed, -math.inf)
        taken = shared.action_indices(self._head, data.actions, *logits.shape)
        index = torch.as_tensor(taken, device=self.device)
        log_probs = torch.log_softmax(logits, dim=-1).gather(-1, index[:, None]).squeeze(-1)
        return -(log_probs * targets).mean()

    def _step(self, loss: Tensor, config: TorchAgentConfig) -> float:
        if not bool(torch.isfinite(loss)):
            raise NonFiniteError("loss")
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        trained = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        norm = float(nn.utils.clip_grad_norm_(trained, config.max_grad_norm or math.inf))
        if not math.isfinite(norm):
            raise NonFiniteError("gradient")
        self.optimizer.step()
        return norm

    # --- hyperparameters ------------------------------------------------------------------------

    def get_hyperparams(self) -> HyperparamSet:
        """A copy; learning_rate as the optimizer has it."""
        hyperparams = self._hyperparams.copy()
        hyperparams.params["learning_rate"] = float(self.optimizer.param_groups[0]["lr"])
        return hyperparams

    def set_hyperparams(self, hyperparams: HyperparamSet) -> None:
        """Replace the whole set; a learning_rate in it is written to every parameter group.

        Raises:
            TypeError, ValueError: not a HyperparamSet, or a value out of its range; nothing changes.
        """
        if not isinstance(hyperparams, HyperparamSet):
            raise TypeError(f"hyperparams must be a HyperparamSet, got {type(hyperparams).__name__}")
        config = shared.read_config(TorchAgentConfig, hyperparams.params)
        self._hyperparams = hyperparams.copy()
        if "learning_rate" in hyperparams.params:
            self._set_learning_rate(config.learning_rate)

    def _set_learning_rate(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = float(rate)

    # --- weights and state ----------------------------------------------------------------------

    def save_weights(self, path: str) -> None:
        """Write the model into the directory `path`: model.safetensors."""
        shared.save_module(self.model, path, _NAME)

    def load_weights(self, path: str) -> None:
        """Read what save_weights wrote, or an older run's model.pt, onto the agent's device.

        Raises:
            FileNotFoundError, ValueError: the file is missing or damaged.
            RuntimeError: it is of another architecture (keys and shapes named). Nothing is loaded then.
        """
        shared.load_module(self.model, shared.read_module_file(path, _NAME), _NAME)

    def average_weights(self, paths: Sequence[str]) -> None:
        """Load the element-wise mean of the models saved in `paths`."""
        shared.load_module_mean(self.model, paths, _NAME)

    def perturb_weights(self, noise_scale: float) -> None:
        """Multiply each parameter by 1 + noise_scale·N(0, 1)."""
        shared.perturb(shared.unique_parameters([self.model]), noise_scale, self._streams["update"].normal)

    def teardown(self) -> None:
        """Move the model to the CPU and empty the CUDA cache."""
        self.model.cpu()
        self.device = torch.device("cpu")
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def state_dict(self) -> dict[str, Any]:
        """Everything that training goes on from: model, optimizer, hyperparameters, random streams."""
        return {
            "model": shared.module_state(self.model),
            "optimizer": shared.optimizer_state(self.optimizer),
            "hyperparams": dict(self._hyperparams.params),
            "streams": {name: stream.state_dict() for name, stream in self._streams.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what state_dict gave, for an agent of the same architecture."""
        shared.load_module(self.model, state["model"], _NAME)
        shared.load_optimizer_state(self.optimizer, state["optimizer"])
        self._hyperparams = HyperparamSet(dict(state["hyperparams"]), self._hyperparams.episode_id)
        for name, stream in self._streams.items():
            stream.load_state_dict(state["streams"][name])


def _checked_loss(loss: Any) -> Tensor:
    if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.requires_grad:
        what = f"{list(loss.shape)} tensor" if isinstance(loss, Tensor) else type(loss).__name__
        without = " without a gradient" if isinstance(loss, Tensor) and not loss.requires_grad else ""
        raise TypeError(f"compute_loss_fn must return a scalar tensor with a gradient, got {what}{without}")
    return loss
