"""Soft actor-critic (Haarnoja et al. 2018) for Box action spaces, and for Discrete ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from gymnasium import spaces
from torch import nn

from optix_fast.agents.building import Algorithm, Options, Parts, adam, is_bounded_box, outputs_of
from optix_fast.agents.hyperparams import read_config
from optix_fast.agents.soft_actor_critic import SoftActorCritic, Updates, temperature_optimizer
from optix_fast.learners.model import target_of
from optix_fast.learners.sac import native
from optix_fast.learners.sac.config import PRESETS, SACConfig
from optix_fast.learners.sac.update import SACModel, sac_update
from optix_fast.networks.heads import CategoricalHead, SquashedHead
from optix_fast.types import HyperparamSet


class TorchSACAgent(SoftActorCritic):
    """SAC with twin critics, a squashed Gaussian within the environment's bounds and a learned temperature
    (seed 003); for Discrete action spaces with a categorical policy.

    Windows are stored whole, and each transition earns `updates_per_step` updates. Truncated episodes are
    bootstrapped from their true final observation. Until `learning_starts` steps have been acted, actions are
    uniform in the action space, unless weights have been loaded.

    Args:
        actor: observations → [mean ‖ log_std], [B, 2A]; log_std is clamped to [−5, 2]. Discrete: logits,
            [B, K].
        critic1, critic2: observation ‖ action, [B, D + A] → [B, 1] or [B]; where observations are no flat
            Box, critic(observations, actions). Discrete: observations → [B, K].
        action_dim: A, values of an action; K of a Discrete space.
        discrete: whether the policy is categorical; a Discrete action_space says so too.
        actor_optimizer, critic_optimizer, alpha_optimizer, hyperparams, device, action_space, seed, backend:
            see SoftActorCritic; the hyperparameters are those of SACConfig.

    Raises:
        TypeError, ValueError, RuntimeError: see SoftActorCritic.
    """

    algorithm = "sac"
    config_type = SACConfig
    _updates_of = Updates(native.recognise, native.sac_update, sac_update)
    _model: SACModel

    def __init__(
        self,
        actor: nn.Module,
        critic1: nn.Module,
        critic2: nn.Module,
        action_dim: int,
        actor_optimizer: torch.optim.Optimizer,
        critic_optimizer: torch.optim.Optimizer,
        alpha_optimizer: torch.optim.Optimizer,
        hyperparams: HyperparamSet,
        device: str | torch.device = "auto",
        *,
        action_space: Any = None,
        discrete: bool = False,
        seed: int | None = None,
        backend: str = "auto",
    ) -> None:
        self._discrete = discrete or isinstance(action_space, spaces.Discrete)
        super().__init__(
            actor, (critic1, critic2), action_dim, actor_optimizer, critic_optimizer, alpha_optimizer,
            hyperparams, device, action_space=action_space, seed=seed, backend=backend,
        )  # fmt: skip

    def _make_head(self, width: int) -> SquashedHead | CategoricalHead:
        return CategoricalHead(width) if self._discrete else super()._make_head(width)

    def _make_model(self, critics: Sequence[nn.Module], **parts: Any) -> SACModel:
        one, other = critics
        return SACModel(
            critic1=one, critic2=other, target1=target_of(one), target2=target_of(other),
            discrete=self._discrete, **parts,
        )  # fmt: skip

    def _arguments(self) -> dict[str, Any]:
        return {**super()._arguments(), "discrete": self._discrete}


def _build(parts: Parts, options: Options) -> TorchSACAgent:
    config, space = read_config(SACConfig, parts.params), parts.action_space
    discrete, width = isinstance(space, spaces.Discrete), outputs_of(space)
    actor = parts.network(width if discrete else 2 * width, None)
    one, other = (parts.network(width, None) if discrete else parts.critic(width) for _ in range(2))
    return TorchSACAgent(
        actor, one, other, width, adam(config, actor), adam(config, one, other),
        temperature_optimizer(config),
        **parts.common(config),
    )  # fmt: skip


ALGORITHM = Algorithm(
    SACConfig, _build, "a Box action space with finite bounds, or a Discrete one",
    lambda space: is_bounded_box(space) or isinstance(space, spaces.Discrete), presets=PRESETS,
)  # fmt: skip
