"""Models and transitions for the tests of TD3."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from sac_cases import GAMMA, MakeOptimizer, plain_adam
from torch import Tensor, nn

from optix_fast.learners.experience import Draws, Experience
from optix_fast.learners.model import target_of
from optix_fast.learners.td3.config import TD3Config
from optix_fast.learners.td3.update import TD3Model
from optix_fast.random import RandomStream


def make_model(
    actor: nn.Module, critics: Sequence[nn.Module], make_optimizer: MakeOptimizer = plain_adam
) -> TD3Model:
    """The networks with optimizers and targets."""
    one, other = critics
    return TD3Model(
        actor, one, other, target_of(actor), target_of(one), target_of(other),
        make_optimizer(list(actor.parameters())),
        make_optimizer([*one.parameters(), *other.parameters()]),
    )  # fmt: skip


def smallest_model(weight: float = 0.0) -> TD3Model:
    """π = weight·s, Q_1 = s + 2a, Q_2 = 3s."""
    actor = nn.Linear(1, 1, bias=False)
    critics = [nn.Linear(2, 1, bias=False) for _ in range(2)]
    with torch.no_grad():
        actor.weight.fill_(weight)
        critics[0].weight.copy_(torch.tensor([[1.0, 2.0]]))
        critics[1].weight.copy_(torch.tensor([[3.0, 0.0]]))
    return make_model(actor, critics)


def smallest_experience(config: TD3Config) -> Experience:
    """One transition: from s = 1 by a = 0.5 and r = 1 to s' = 2."""
    experience = Experience(config, RandomStream(0))
    experience.buffer.push(np.ones(1), np.array([0.5], np.float32), 1.0, np.array([2.0]), False)
    return experience


def config_of(**params: Any) -> TD3Config:
    return TD3Config(**{"gamma": GAMMA, "batch_size": 32, "replay_capacity": 400, **params})


def random_draws(
    updates: int, config: TD3Config, experience: Experience, width: int = 2, seed: int = 0
) -> tuple[Draws, Tensor]:
    """What is random in so many updates: transitions and noise."""
    (draws,) = experience.draws(updates, config)
    shape = (updates, config.batch_size, width)
    return draws, torch.from_numpy(np.random.default_rng(seed).normal(size=shape).astype(np.float32))
