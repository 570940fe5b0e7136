"""What the agents of the soft actor-critics share: SAC, TQC and CrossQ."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import nn

from optix_fast.agents.arguments import check_disjoint, require, require_count, resolve_device
from optix_fast.agents.base import Agent
from optix_fast.agents.guards import as_in_training
from optix_fast.learners.acting import Acting
from optix_fast.learners.actions import raw_actions
from optix_fast.learners.config import SoftConfig
from optix_fast.learners.critics import Updated
from optix_fast.learners.experience import Experience, Means
from optix_fast.learners.learner import Learner
from optix_fast.learners.optimizers import optimizer_like
from optix_fast.learners.policy import Policy
from optix_fast.learners.squashed_policy import STATISTICS, SoftModel
from optix_fast.learners.tensors import unique_parameters
from optix_fast.learners.uniform_start import UniformStart
from optix_fast.networks.heads import LOG_STD_MAX, LOG_STD_MIN, CategoricalHead, SquashedHead
from optix_fast.types import EpisodeData, HyperparamSet

_ALPHA = "log_alpha"


class Updates(NamedTuple):
    """What a Learner chooses between: check, the core's update, torch's."""

    check: Callable[..., object]
    native: Callable[..., Updated]
    reference: Callable[..., Updated]


class SoftActorCritic(Agent):
    """A squashed Gaussian policy within the environment's bounds, a learned temperature, and critics. An
    algorithm adds its model and its updates.

    Windows are stored whole, and each transition earns `updates_per_step` updates. Truncated episodes are
    bootstrapped from their true final observation. Until `learning_starts` steps have been acted, actions are
    uniform in the action space, unless weights have been loaded.

    Args:
        actor: observations → [mean ‖ log_std], [B, 2A]; log_std is clamped to [−5, 2].
        critics: observation ‖ action, [B, D + A] → the outputs of the algorithm's critics; where observations
            are no flat Box, critic(observations, actions).
        action_dim: A, values of an action.
        actor_optimizer, critic_optimizer: over the parameters of the actor, and of all critics.
        alpha_optimizer: of the kind and with the settings wanted for the temperature; the agent makes
            another one like it around its own parameter, log_alpha.
        hyperparams: see `config_type`; unknown keys are warned about once. learning_rate is written to all
            three optimizers.
        device: "auto" (CUDA where there is one), "cpu", "cuda", "cuda:N".
        action_space: binds the environment's space at once; otherwise the pipeline's set_agent does.
        seed: of the agent's random streams; None draws one from the operating system.
        backend: "auto" acts and updates in the compiled core where it serves these networks, these optimizers
            and these observations, else in torch; "native" raises with the reason instead of falling back;
            "torch" uses the reference. See `backend`.

    Raises:
        TypeError, ValueError: an argument of another kind or outside its range; an optimizer that trains
            parameters of the other side, see arguments.check_disjoint.
        RuntimeError: backend="native", and the core does not serve this agent.
    """

    LOG_STD_MIN, LOG_STD_MAX = LOG_STD_MIN, LOG_STD_MAX
    default_param_bounds = {  # noqa: RUF012 (the documented class attribute)
        "learning_rate": (1e-4, 1e-3),
        "gamma": (0.97, 0.999),
        "tau": (1e-3, 1e-1),
    }
    default_log_params = ["learning_rate", "tau"]  # noqa: RUF012
    streams_replay = True
    default_min_episodes_before_dormant = 30
    _updates_of: ClassVar[Updates]
    _model: Any
    _experience: Experience
    _uniform: UniformStart
    _learner: Learner[Any, ..., Updated]

    def __init__(
        self,
        actor: nn.Module,
        critics: Sequence[nn.Module],
        action_dim: int,
        actor_optimizer: torch.optim.Optimizer,
        critic_optimizer: torch.optim.Optimizer,
        alpha_optimizer: torch.optim.Optimizer,
        hyperparams: HyperparamSet,
        device: str | torch.device = "auto",
        *,
        action_space: Any = None,
        seed: int | None = None,
        backend: str = "auto",
    ) -> None:
        modules = {"actor": actor, **{f"critic{i}": critic for i, critic in enumerate(critics, 1)}}
        require(nn.Module, **modules)
        require(
            torch.optim.Optimizer, actor_optimizer=actor_optimizer, critic_optimizer=critic_optimizer,
            alpha_optimizer=alpha_optimizer,
        )  # fmt: skip
        require_count("action_dim", action_dim)
        check_disjoint(modules, actor_optimizer, critic_optimizer)
        super().__init__(hyperparams, seed, backend)
        config: SoftConfig = self._hyperparams.config()
        where = resolve_device(device)
        self._head = self._make_head(int(action_dim))
        self._width = int(action_dim)
        self._policy = Policy(actor, self._head, where)
        if action_space is not None:
            self._head.bind(action_space)
        for critic in critics:
            critic.to(where)
        first = next(actor.parameters(), None)
        log_alpha = nn.Parameter(
            torch.tensor(
                float(config.log_alpha_init), device=where, dtype=None if first is None else first.dtype
            )
        )
        self._model = self._make_model(
            critics, actor=actor, log_alpha=log_alpha, actor_optimizer=actor_optimizer,
            critic_optimizer=critic_optimizer, alpha_optimizer=optimizer_like(alpha_optimizer, log_alpha),
        )  # fmt: skip
        self._experience = Experience(config, self._root)
        self._uniform = UniformStart(self._head, config.first_update_at, self._hyperparams.config)
        self._acting = Acting(self._policy, self._streams, backend, self._uniform)
        self._learner = Learner(self._acting, self._model, *self._updates_of)
        self._check_config(config)
        self._apply(config, self._hyperparams.params)

    # --- what an algorithm consists of ------------------------------------------------------------

    def _make_head(self, width: int) -> SquashedHead | CategoricalHead:
        return SquashedHead(width)

    def _make_model(self, critics: Sequence[nn.Module], **parts: Any) -> SoftModel:
        """The model of these critics and the parts of a SoftModel."""
        raise NotImplementedError

    def _progress(self) -> tuple[int, ...]:
        """Further arguments of an update."""
        return ()

    @property
    def _is_discrete(self) -> bool:
        return not isinstance(self._head, SquashedHead)

    # --- parts --------------------------------------------------------------------------------------

    def _arguments(self) -> dict[str, Any]:
        return {"action_dim": self._width}

    @property
    def actor(self) -> nn.Module:
        """The network of the policy."""
        actor: nn.Module = self._model.actor
        return actor

    @property
    def critics(self) -> tuple[nn.Module, ...]:
        """The networks of the action values."""
        return tuple(self._model.critics)

    @property
    def _actor(self) -> nn.Module:
        """The actor, under the name that subclasses of the documented agents read."""
        return self.actor

    @property
    def alpha(self) -> float:
        """The temperature now."""
        return float(self._model.log_alpha.detach().exp())

    # --- learning -------------------------------------------------------------------------------

    @as_in_training
    def learn(self, episode_data: EpisodeData) -> dict[str, Any]:
        """Store a window and do the updates that its transitions have earned.

        Returns:
            Means over the updates of critic_loss, actor_loss, alpha_loss, q_value and entropy (of the
            policy, estimated from its samples), zero where no update was due; alpha, n_updates,
            buffer_size, episode_reward (the sum of the window's rewards), learning_rate.

        Raises:
            NonFiniteError: a reward, action or observation is NaN or infinite (nothing is stored), or a loss
                or gradient (networks, optimizers, temperature and priorities are as before the updates, which
                are lost).
            ValueError: the window is empty, does not fit what was stored before, or has other actions than
                the policy.
        """
        config: SoftConfig = self._hyperparams.config()
        due = self._experience.add(episode_data, config, raw_actions(self._head, episode_data))
        self.env_steps += episode_data.length
        self._renew_targets()
        target_entropy = config.target_entropy_of(self._width, self._is_discrete)
        width, means = 0 if self._is_discrete else self._width, Means(STATISTICS)
        for draws in self._experience.draws(due, config, 8 * width):
            noise = self._streams["update"].normal((draws.updates, 2, config.batch_size, width))
            done = self._learner.update(
                self._experience, draws, torch.from_numpy(noise), config, target_entropy, *self._progress()
            )
            self.updates += done.n_updates
            done.add_to(means)
        return {
            **means.all(),
            "alpha": self.alpha,
            "n_updates": due,
            "buffer_size": len(self._experience),
            "episode_reward": episode_data.total_reward,
            "learning_rate": float(self._model.actor_optimizer.param_groups[0]["lr"]),
        }

    # --- weights ------------------------------------------------------------------------------

    def _networks(self) -> dict[str, nn.Module]:
        return {**super()._networks(), _ALPHA: nn.ParameterDict({_ALPHA: self._model.log_alpha})}

    def _perturbed(self) -> list[nn.Parameter]:
        return unique_parameters([self.actor, *self.critics])

    def _read_network(self, path: str, name: str) -> dict[str, torch.Tensor]:
        older = Path(path) / "log_alpha.npy"
        if name != _ALPHA or not older.exists() or older.with_suffix(".safetensors").exists():
            return super()._read_network(path, name)
        try:
            value = np.load(older, allow_pickle=False)
            return {_ALPHA: torch.as_tensor(value, dtype=torch.float32).reshape(())}
        except Exception as error:
            raise ValueError(f"{older} cannot be read: {error}") from error


def temperature_optimizer(config: SoftConfig) -> torch.optim.Optimizer:
    """Adam, as a SoftActorCritic's alpha_optimizer."""
    return torch.optim.Adam([nn.Parameter(torch.zeros(()))], lr=config.learning_rate)
