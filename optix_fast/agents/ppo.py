"""Proximal policy optimisation (Schulman et al. 2017), for any policy head."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from types import ModuleType
from typing import Any

import torch
from gymnasium import spaces
from torch import nn

import optix_fast.ops as native_ops
import optix_fast.reference as reference_ops
from optix_fast.agents.arguments import require, require_count, require_optional, resolve_device
from optix_fast.agents.base import Agent
from optix_fast.agents.building import Algorithm, Options, Parts, outputs_of
from optix_fast.agents.guards import as_in_training, restored_on_error
from optix_fast.agents.hyperparams import read_config
from optix_fast.envs.normalizers import ObsNormalizer, RewardNormalizer
from optix_fast.learners.acting import Acting
from optix_fast.learners.learner import Backend, Learner
from optix_fast.learners.policy import Policy
from optix_fast.learners.ppo import native
from optix_fast.learners.ppo.act_queue import ActQueue
from optix_fast.learners.ppo.batch import Batch, make_batch
from optix_fast.learners.ppo.config import PPOConfig
from optix_fast.learners.ppo.graph import GraphPPO
from optix_fast.learners.ppo.update import (
    STATISTICS,
    Permutations,
    PPOModel,
    Updated,
    minibatch_sizes,
    ppo_update,
    updated_of,
)
from optix_fast.learners.tensors import explained_variance
from optix_fast.locks import exclusive
from optix_fast.networks.heads import (
    CategoricalHead,
    MultiDiscreteHead,
    NormalHead,
    PolicyHead,
    component_sizes,
)
from optix_fast.networks.modes import training_batch_norm
from optix_fast.types import EpisodeData, HyperparamSet

_LOG = logging.getLogger(__name__)


class PPOAgent(Agent):
    """PPO over any actor and critic, for any policy head.

    `TorchPPOAgent` and `TorchGaussianPPOAgent` are this with a head.

    Single `act()` calls outside of `no_recording()` are remembered for windows that carry no log-probs.

    Args:
        actor, critic: modules; critic returns [B, 1] or [B].
        optimizer: over the parameters of both.
        hyperparams: see PPOConfig; unknown keys are warned about once.
        head: what the actor's outputs mean.
        device: "auto" (CUDA where there is one), "cpu", "cuda", "cuda:N".
        obs_normalizer: part of the policy; updated after each window, saved with the weights.
        reward_normalizer: scales rewards before GAE.
        seed: of the agent's random streams; None draws one from the operating system.
        backend: "auto" acts and updates in the compiled core where it serves these networks and this
            optimizer, else in torch with the compiled loss (on CUDA as one graph); "native" raises with the
            reason instead of falling back; "torch" uses the reference. See `backend`.
    """

    default_param_bounds = {  # noqa: RUF012 (the documented class attribute)
        "learning_rate": (1e-4, 3e-3),
        "gamma": (0.95, 0.999),
        "clip_ratio": (0.1, 0.3),
        "entropy_coef": (0.001, 0.05),
    }
    default_log_params = ["learning_rate"]  # noqa: RUF012
    algorithm = "ppo"
    config_type = PPOConfig
    _model: PPOModel
    _learner: Learner[PPOModel, ..., Updated]
    _own_state = ("reward_normalizer",)

    def __init__(
        self,
        actor: nn.Module,
        critic: nn.Module,
        optimizer: torch.optim.Optimizer,
        hyperparams: HyperparamSet,
        head: PolicyHead,
        device: str | torch.device,
        obs_normalizer: ObsNormalizer | None,
        reward_normalizer: RewardNormalizer | None,
        seed: int | None,
        backend: str,
    ) -> None:
        require(nn.Module, actor=actor, critic=critic)
        require(torch.optim.Optimizer, optimizer=optimizer)
        require_optional(ObsNormalizer, obs_normalizer=obs_normalizer)
        require_optional(RewardNormalizer, reward_normalizer=reward_normalizer)
        super().__init__(hyperparams, seed, backend)
        self._policy = Policy(actor, head, resolve_device(device), critic, obs_normalizer)
        self._model = PPOModel(actor, critic, optimizer, head, is_loss_fused=backend != "torch")
        self.reward_normalizer = reward_normalizer
        self._queue = ActQueue()
        self._acting = Acting(self._policy, self._streams, backend, is_on_policy=True, queue=self._queue)
        on_cuda = self._policy.device.type == "cuda" and backend != "torch"
        self._graph = GraphPPO() if on_cuda else None
        self._learner = Learner(
            self._acting, self._model, native.recognise, native.ppo_update, ppo_update,
            between=None if self._graph is None else self._graph.update,
        )  # fmt: skip
        self._apply(self._hyperparams.config(), self._hyperparams.params)

    @property
    def actor(self) -> nn.Module:
        """The network of the policy."""
        return self._model.actor

    @property
    def critic(self) -> nn.Module:
        """The network of the values."""
        return self._model.critic

    @property
    def _actor(self) -> nn.Module:
        """The actor, under the name that subclasses of the documented agents read."""
        return self._model.actor

    @property
    def _critic(self) -> nn.Module:
        return self._model.critic

    @property
    def _optimizer(self) -> torch.optim.Optimizer:
        return self._model.optimizer

    @property
    def continuous_dimensions(self) -> int:
        """Dimensions whose entropy, in the diagnostics, is a differential one."""
        head = self._policy.head
        return head.action_dim if isinstance(head, NormalHead) else 0

    @property
    def obs_normalizer(self) -> ObsNormalizer | None:
        """The policy's observation normalizer."""
        return self._policy.obs_normalizer

    @property
    def backend(self) -> Backend:
        """See Agent. On CUDA the reason also says why the last update was not replayed as a CUDA graph."""
        chosen = super().backend
        if self._graph is None or not self._graph.reason:
            return chosen
        return Backend(chosen, f"{chosen.reason}; {self._graph.reason}")

    @property
    def _ops(self) -> ModuleType:
        """Where GAE is taken from."""
        return native_ops if self._model.is_loss_fused else reference_ops

    # --- acting ---------------------------------------------------------------------------------

    @exclusive
    def reset_cache(self) -> None:
        """Forget the recorded act() calls."""
        self._queue.clear()

    # --- learning -------------------------------------------------------------------------------

    @as_in_training
    def learn(self, episode_data: EpisodeData) -> dict[str, Any]:
        """Update actor and critic from one window: GAE, then n_epochs of shuffled minibatches of
        clipped surrogate + vf_coef·value loss − entropy_coef·entropy.

        Returns:
            Means over the minibatches of policy_loss, value_loss, entropy, approx_kl, clip_fraction;
            explained_var of the values before the update (NaN when the returns do not vary);
            n_updates; learning_rate. A window of one row is not learned from where a batch norm is in
            training mode: n_updates and the means are zero, with a logged warning.

        Raises:
            NonFiniteError: a reward, loss or gradient is NaN or infinite. Parameters, optimizer,
                normalizers and random streams are as before the call.
            RuntimeError: "Cache underflow…" when a window without log_probs does not match the
                recorded act() calls.
        """
        config: PPOConfig = self._hyperparams.config()
        with restored_on_error(self):
            batch = make_batch(
                self._policy, episode_data, config, self._ops, self._queue, self.reward_normalizer
            )
            diagnostics = self._update(batch, self._annealed(config))
            self.env_steps += int(batch.returns.shape[0])
            if self.obs_normalizer is not None:
                self.obs_normalizer.update(episode_data.observations)
        return diagnostics

    def _update(self, batch: Batch, config: PPOConfig) -> dict[str, Any]:
        updated = self._updated(batch, config)
        return {
            **updated.means,
            "explained_var": explained_variance(batch.values, batch.returns),
            "n_updates": updated.n_updates,
            "learning_rate": float(self._model.optimizer.param_groups[0]["lr"]),
        }

    def _updated(self, batch: Batch, config: PPOConfig) -> Updated:
        n_rows = len(batch.returns)
        if n_rows == 1 and (layer := training_batch_norm(self._model.networks().items())):
            _LOG.warning("A window of one row is not learned from: %s is in training mode", layer)
            return updated_of([0.0] * len(STATISTICS), 0)
        stream = self._streams["update"]
        per_epoch = len(minibatch_sizes(self._model, n_rows, config.minibatch_size))
        # Masks first: an early stop gives back the permutations that were drawn last.
        with self._model.drawing_masks(stream):
            permutations = Permutations(stream, config.n_epochs, n_rows)
            updated = self._learner.update(batch, permutations.order, config)
        permutations.begun(updated.n_updates, per_epoch)
        return updated

    def _annealed(self, config: PPOConfig) -> PPOConfig:
        """The config with learning_rate and clip_ratio as they are at this point of the run."""
        if config.anneal_steps is None:
            return config
        left = max(0.0, 1.0 - self.env_steps / config.anneal_steps)
        self._rates.anneal(self._groups(), left)
        return replace(config, clip_ratio=config.clip_ratio * left)

    def _apply(self, config: PPOConfig, params: Mapping[str, Any]) -> None:
        if config.anneal_steps is None:
            self._rates.end_annealing(self._groups())
        super()._apply(config, params)

    # --- state ----------------------------------------------------------------------------------

    def _get_state(self) -> dict[str, Any]:
        rewards = self.reward_normalizer
        return {"reward_normalizer": None if rewards is None else rewards.state_dict()}

    def _check_state(self, state: Mapping[str, Any]) -> None:
        if self.reward_normalizer is not None and state["reward_normalizer"] is None:
            raise ValueError("the state has no reward_normalizer, this agent has one")

    def _set_state(self, state: Mapping[str, Any]) -> None:
        if self.reward_normalizer is not None:
            self.reward_normalizer.load_state_dict(state["reward_normalizer"])


class TorchPPOAgent(PPOAgent):
    """PPO for Discrete, MultiDiscrete and MultiBinary action spaces (seed 003).

    The actor returns logits: [B, n_actions], or [B, sum of nvec], one component after the other; a
    MultiBinary's bits are components of two.

    Args: see PPOAgent. `action_space` binds the environment's space at once; otherwise the
    pipeline's set_agent does. A MultiDiscrete or MultiBinary space has to be given
    here.
    """

    def __init__(
        self,
        actor: nn.Module,
        critic: nn.Module,
        optimizer: torch.optim.Optimizer,
        hyperparams: HyperparamSet,
        device: str | torch.device = "auto",
        reward_normalizer: RewardNormalizer | None = None,
        *,
        obs_normalizer: ObsNormalizer | None = None,
        action_space: Any = None,
        seed: int | None = None,
        backend: str = "auto",
    ) -> None:
        multi = isinstance(action_space, spaces.MultiDiscrete | spaces.MultiBinary)
        head = MultiDiscreteHead(component_sizes(action_space)) if multi else CategoricalHead()
        if action_space is not None:
            head.bind(action_space)
        super().__init__(
            actor, critic, optimizer, hyperparams, head, device,
            obs_normalizer, reward_normalizer, seed, backend,
        )  # fmt: skip


class TorchGaussianPPOAgent(PPOAgent):
    """PPO for Box action spaces (seed 003): a diagonal Gaussian, by default squashed by tanh.

    Args: see PPOAgent, and
        action_dim: A, values of an action.
        action_space: the Box to act in; without it and without a pipeline, actions are in (−1, 1).
        squash: tanh of the sample, scaled to the Box; without it the sample is clipped to the Box.
        log_std: "state": the actor returns [mean ‖ log_std], [B, 2A]; "free": it returns the mean
            and log_std is a parameter of its own, starting at 0, which joins the optimizer's first group.
    """

    def __init__(
        self,
        actor: nn.Module,
        critic: nn.Module,
        optimizer: torch.optim.Optimizer,
        action_dim: int,
        hyperparams: HyperparamSet,
        device: str | torch.device = "auto",
        reward_normalizer: RewardNormalizer | None = None,
        *,
        obs_normalizer: ObsNormalizer | None = None,
        action_space: Any = None,
        squash: bool = True,
        log_std: str = "state",
        seed: int | None = None,
        backend: str = "auto",
    ) -> None:
        require_count("action_dim", action_dim)
        if log_std not in ("state", "free"):
            raise ValueError(f"log_std must be 'state' or 'free', got {log_std!r}")
        free = None
        if log_std == "free":
            free = nn.Parameter(torch.zeros(action_dim, device=resolve_device(device)))
        head = NormalHead(action_dim, squash, free)
        if action_space is not None:
            head.bind(action_space)
        # Before the agent looks at the optimizer, which has to hold every parameter it trains.
        with _joined(optimizer, free):
            super().__init__(
                actor, critic, optimizer, hyperparams, head, device,
                obs_normalizer, reward_normalizer, seed, backend,
            )  # fmt: skip

    def _arguments(self) -> dict[str, Any]:
        head = self._policy.head
        assert isinstance(head, NormalHead)
        log_std = "state" if head.log_std is None else "free"
        return {"action_dim": head.action_dim, "squash": bool(head.squash), "log_std": log_std}


@contextmanager
def _joined(optimizer: Any, log_std: nn.Parameter | None) -> Iterator[None]:
    """Let the optimizer train log_std in its first group (a learning-rate scheduler that was made earlier
    counts the groups), unless what is done inside fails."""
    if log_std is None or not isinstance(optimizer, torch.optim.Optimizer):
        yield
        return
    group = optimizer.param_groups[0]
    joined = {key: value for key, value in (("params", log_std), ("param_names", "log_std")) if key in group}
    for key, value in joined.items():
        group[key].append(value)
    try:
        yield
    except BaseException:
        for key in joined:
            del group[key][-1]
        raise


def _build(parts: Parts, options: Options) -> PPOAgent:
    config, log_std = read_config(PPOConfig, parts.params), options.log_std
    outputs = outputs_of(parts.action_space, log_std)
    actor, critic = parts.network(outputs, 0.01), parts.network(1, 1.0)
    optimizer = torch.optim.Adam(
        [*actor.parameters(), *critic.parameters()], lr=config.learning_rate, eps=1e-5
    )
    common = parts.common(config)
    if options.normalize_observations:
        if not isinstance(parts.observation_space, spaces.Box):
            raise ValueError(f"normalize_observations needs Box observations, got {parts.observation_space}")
        common["obs_normalizer"] = ObsNormalizer(parts.observation_space.shape)
    if options.normalize_rewards:
        common["reward_normalizer"] = RewardNormalizer(config.gamma)
    if isinstance(parts.action_space, spaces.Box):
        width = outputs // (2 if log_std == "state" else 1)
        return TorchGaussianPPOAgent(
            actor, critic, optimizer, width, squash=options.squash, log_std=log_std, **common
        )
    return TorchPPOAgent(actor, critic, optimizer, **common)


_SPACES = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
ALGORITHM = Algorithm(
    PPOConfig, _build, "a Discrete, MultiDiscrete, MultiBinary or Box action space",
    lambda space: isinstance(space, _SPACES), "tanh",
)  # fmt: skip
