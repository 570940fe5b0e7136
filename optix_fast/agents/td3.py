"""Twin delayed deep deterministic policy gradient (Fujimoto et al. 2018) for bounded Box action spaces."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from optix_fast.agents.arguments import check_disjoint, require, require_count, resolve_device
from optix_fast.agents.base import Agent
from optix_fast.agents.building import Algorithm, Options, Parts, adam, is_bounded_box, outputs_of
from optix_fast.agents.guards import as_in_training
from optix_fast.agents.hyperparams import read_config
from optix_fast.learners.acting import Acting
from optix_fast.learners.actions import raw_actions
from optix_fast.learners.critics import Updated
from optix_fast.learners.experience import Experience, Means
from optix_fast.learners.learner import Learner
from optix_fast.learners.model import target_of
from optix_fast.learners.policy import Policy
from optix_fast.learners.td3 import native
from optix_fast.learners.td3.config import PRESETS, TD3Config
from optix_fast.learners.td3.update import STATISTICS, TD3Model, td3_update
from optix_fast.learners.uniform_start import UniformStart
from optix_fast.networks.heads import DeterministicHead
from optix_fast.random import RandomStream
from optix_fast.types import Array, EpisodeData, HyperparamSet


class TorchTD3Agent(Agent):
    """TD3: a deterministic actor, twin critics, delayed updates of the actor and of all targets.

    Windows are stored whole, and each transition earns `updates_per_step` updates. Truncated episodes are
    bootstrapped from their true final observation. Until `learning_starts` steps have been acted, actions are
    uniform in the action space, unless weights have been loaded; later ones carry Gaussian noise.

    Args:
        actor: observations → the action before tanh, [B, A].
        critic1, critic2: observation ‖ action, [B, D + A] → [B, 1] or [B]; where observations are no flat
            Box, critic(observations, actions).
        action_dim: A, values of an action.
        actor_optimizer, critic_optimizer: over the parameters of the actor, and of both critics.
        hyperparams: see TD3Config; unknown keys are warned about once. learning_rate is written to both
            optimizers.
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

    default_param_bounds = {  # noqa: RUF012 (the documented class attribute)
        "learning_rate": (1e-4, 1e-3),
        "gamma": (0.97, 0.999),
        "tau": (1e-3, 1e-1),
    }
    default_log_params = ["learning_rate", "tau"]  # noqa: RUF012
    streams_replay = True
    default_min_episodes_before_dormant = 30
    algorithm = "td3"
    config_type = TD3Config
    _model: TD3Model
    _experience: Experience
    _uniform: UniformStart
    _learner: Learner[TD3Model, ..., Updated]

    def __init__(
        self,
        actor: nn.Module,
        critic1: nn.Module,
        critic2: nn.Module,
        action_dim: int,
        actor_optimizer: torch.optim.Optimizer,
        critic_optimizer: torch.optim.Optimizer,
        hyperparams: HyperparamSet,
        device: str | torch.device = "auto",
        *,
        action_space: Any = None,
        seed: int | None = None,
        backend: str = "auto",
    ) -> None:
        modules = {"actor": actor, "critic1": critic1, "critic2": critic2}
        require(nn.Module, **modules)
        require(torch.optim.Optimizer, actor_optimizer=actor_optimizer, critic_optimizer=critic_optimizer)
        require_count("action_dim", action_dim)
        check_disjoint(modules, actor_optimizer, critic_optimizer)
        super().__init__(hyperparams, seed, backend)
        config: TD3Config = self._hyperparams.config()
        self._head = DeterministicHead(int(action_dim))
        if action_space is not None:
            self._head.bind(action_space)
        self._policy = Policy(actor, self._head, resolve_device(device))
        critic1.to(self._policy.device), critic2.to(self._policy.device)
        self._model = TD3Model(
            actor, critic1, critic2, target_of(actor), target_of(critic1), target_of(critic2),
            actor_optimizer, critic_optimizer,
        )  # fmt: skip
        self._experience = Experience(config, self._root)
        self._uniform = UniformStart(self._head, config.first_update_at, self._hyperparams.config)
        self._acting = Acting(self._policy, self._streams, backend, self._uniform, self._with_noise)
        self._learner = Learner(self._acting, self._model, native.recognise, native.td3_update, td3_update)
        self._apply(config, self._hyperparams.params)

    def _arguments(self) -> dict[str, Any]:
        return {"action_dim": self._head.action_dim}

    @property
    def actor(self) -> nn.Module:
        """The network of the policy."""
        return self._model.actor

    @property
    def critics(self) -> tuple[nn.Module, nn.Module]:
        """The two networks of the action values."""
        return self._model.critics

    def _with_noise(self, actions: Array, stream: RandomStream) -> Array:
        return self._head.with_noise(actions, self._hyperparams.config().exploration_noise, stream)

    # --- learning -------------------------------------------------------------------------------

    @as_in_training
    def learn(self, episode_data: EpisodeData) -> dict[str, Any]:
        """Store a window and do the updates that its transitions have earned.

        Returns:
            Means over the updates of critic_loss and q_value, and over the actor's of actor_loss, zero where
            none was due; n_updates, buffer_size, episode_reward (the sum of the window's rewards),
            learning_rate.

        Raises:
            NonFiniteError: a reward, action or observation is NaN or infinite (nothing is stored), or a loss
                or gradient (networks, optimizers and priorities are as before the updates, which are lost).
            ValueError: the window is empty, does not fit what was stored before, or has other actions than
                the policy.
        """
        config: TD3Config = self._hyperparams.config()
        due = self._experience.add(episode_data, config, raw_actions(self._head, episode_data))
        self.env_steps += episode_data.length
        self._renew_targets()
        width, means = self._head.action_dim, Means(STATISTICS)
        for draws in self._experience.draws(due, config, 4 * width):
            noise = self._streams["update"].normal((draws.updates, config.batch_size, width))
            done = self._learner.update(
                self._experience, draws, torch.from_numpy(noise), config, self.updates
            )
            self.updates += done.n_updates
            done.add_to(means)
        return {
            **means.all(),
            "n_updates": due,
            "buffer_size": len(self._experience),
            "episode_reward": episode_data.total_reward,
            "learning_rate": float(self._model.actor_optimizer.param_groups[0]["lr"]),
        }


def _build(parts: Parts, options: Options) -> TorchTD3Agent:
    config, width = read_config(TD3Config, parts.params), outputs_of(parts.action_space)
    actor, one, other = parts.network(width, None), parts.critic(width), parts.critic(width)
    return TorchTD3Agent(
        actor, one, other, width, adam(config, actor), adam(config, one, other), **parts.common(config)
    )


ALGORITHM = Algorithm(
    TD3Config, _build, "a Box action space with finite bounds", is_bounded_box, presets=PRESETS
)
