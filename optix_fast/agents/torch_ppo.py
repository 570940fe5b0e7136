"""The two PPO agents of seed 003: discrete and Gaussian."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from gymnasium import spaces
from torch import nn

from optix_fast.agents.arguments import require_count, resolve_device
from optix_fast.agents.files.agent_card import Parts
from optix_fast.agents.ppo import PPOAgent
from optix_fast.envs.normalizers import ObsNormalizer, RewardNormalizer
from optix_fast.networks.heads import CategoricalHead, MultiDiscreteHead, NormalHead, component_sizes
from optix_fast.types import HyperparamSet


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

    @classmethod
    def _from_parts(cls, parts: Parts) -> TorchPPOAgent:
        return cls(
            parts.networks["actor"], parts.networks["critic"], parts.optimizers["optimizer"],
            parts.hyperparams, reward_normalizer=parts.reward_normalizer,
            obs_normalizer=parts.obs_normalizer, action_space=parts.action_space, **parts.options,
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

    @classmethod
    def _from_parts(cls, parts: Parts) -> TorchGaussianPPOAgent:
        return cls(
            parts.networks["actor"], parts.networks["critic"], parts.optimizers["optimizer"],
            hyperparams=parts.hyperparams, reward_normalizer=parts.reward_normalizer,
            obs_normalizer=parts.obs_normalizer, action_space=parts.action_space,
            **parts.arguments, **parts.options,
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
