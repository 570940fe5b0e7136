"""Models and transitions for the tests of SAC."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from optix_fast.learners.experience import Draws, Experience, Transitions
from optix_fast.learners.sac.config import SACConfig
from optix_fast.learners.sac.update import SACModel
from optix_fast.random import RandomStream

MakeOptimizer = Callable[[list[Any]], torch.optim.Optimizer]


def plain_adam(parameters: list[Any]) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=0.1, eps=1e-12)


def soft_parts(
    actor: nn.Module, critics: Sequence[nn.Module], make_optimizer: MakeOptimizer, log_alpha: float
) -> dict[str, Any]:
    """Temperature and optimizers of a soft actor-critic."""
    temperature = nn.Parameter(torch.tensor(log_alpha, dtype=next(actor.parameters()).dtype))
    return {
        "log_alpha": temperature,
        "actor_optimizer": make_optimizer(list(actor.parameters())),
        "critic_optimizer": make_optimizer([p for net in critics for p in net.parameters()]),
        "alpha_optimizer": make_optimizer([temperature]),
    }


def make_model(
    actor: nn.Module,
    critics: Sequence[nn.Module],
    make_optimizer: MakeOptimizer = plain_adam,
    discrete: bool = False,
    log_alpha: float = 0.0,
) -> SACModel:
    """The networks with optimizers and target critics."""
    one, other = critics
    return SACModel(
        actor=actor, critic1=one, critic2=other, target1=copy.deepcopy(one), target2=copy.deepcopy(other),
        **soft_parts(actor, critics, make_optimizer, log_alpha), discrete=discrete,
    )  # fmt: skip


def smallest_model() -> SACModel:
    """μ = log σ = 0·s, Q_1 = s + 2a, Q_2 = 3s."""
    actor = nn.Linear(1, 2, bias=False)
    critics = [nn.Linear(2, 1, bias=False) for _ in range(2)]
    with torch.no_grad():
        actor.weight.zero_()
        critics[0].weight.copy_(torch.tensor([[1.0, 2.0]]))
        critics[1].weight.copy_(torch.tensor([[3.0, 0.0]]))
    return make_model(actor, critics)


def smallest_transition() -> Transitions:
    """From s = 1 by a = 0.5 and r = 1 to s' = 2, discounted by 0.9."""
    one = torch.ones(1)
    return Transitions(one[None], 0.5 * one[None], one, 2.0 * one[None], 0.9 * one)


def batch_for(
    n: int, features: int, width: int, dtype: torch.dtype = torch.float32, seed: int = 0
) -> tuple[Transitions, Tensor]:
    """Random transitions [n, …] and the noise of one update, [2, n, width]."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=dtype)

    batch = Transitions(
        normal(n, features), torch.tanh(normal(n, width)), normal(n), normal(n, features),
        0.99 * (torch.rand(n, generator=generator) < 0.9).to(dtype),
    )  # fmt: skip
    return batch, normal(2, n, width)


# Sums of few powers of two: float32 returns and discounts are then exact in double too.
GAMMA = 0.9375


def config_of(**params: Any) -> SACConfig:
    return SACConfig(**{"gamma": GAMMA, "batch_size": 32, "replay_capacity": 400, **params})


def random_experience(config: SACConfig, features: int = 5, width: int = 2, seed: int = 0) -> Experience:
    """A full replay of two environments: episodes that terminate, are cut, and go on."""
    rng = np.random.default_rng(seed)
    experience = Experience(config, RandomStream(seed))
    observation = rng.normal(size=(2, features)).astype(np.float32)
    for _ in range(config.replay_capacity // 2):
        next_observations = rng.normal(size=(2, features)).astype(np.float32)
        actions = np.tanh(rng.normal(size=(2, width))).astype(np.float32)
        rewards = rng.integers(-8, 9, 2).astype(np.float32) / 8
        ends = rng.random((2, 2)) < 0.05
        experience.buffer.push_rows(
            observation, actions, rewards, next_observations, ends[0], ends[1] & ~ends[0]
        )
        done = ends.any(axis=0)[:, None]
        observation = np.where(done, rng.normal(size=(2, features)), next_observations).astype(np.float32)
    return experience


def random_draws(
    updates: int, config: SACConfig, experience: Experience, width: int = 2, seed: int = 0
) -> tuple[Draws, Tensor]:
    """What is random in so many updates: transitions and noise."""
    (draws,) = experience.draws(updates, config)
    rng = np.random.default_rng(seed)
    shape = (updates, 2, config.batch_size, width)
    return draws, torch.from_numpy(rng.normal(size=shape).astype(np.float32))
