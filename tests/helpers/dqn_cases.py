"""What the tests of the DQN agent share: models, experience, draws, comparisons."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from optix_fast.learners.dqn.config import DQNConfig
from optix_fast.learners.dqn.update import DQNModel
from optix_fast.learners.experience import Draws, Experience
from optix_fast.learners.model import target_of
from optix_fast.networks import mlp
from optix_fast.random import RandomStream

FEATURES = 5


def model_of(
    outputs: int = 3,
    hidden: tuple[int, ...] = (64, 64),
    activation: str = "tanh",
    dtype: torch.dtype = torch.float32,
    features: int = FEATURES,
    make_optimizer: Callable[[list[Any]], torch.optim.Optimizer] | None = None,
    network: nn.Module | None = None,
) -> DQNModel:
    if network is None:
        network = mlp([features, *hidden, outputs], activation, 1.0, torch.Generator().manual_seed(7))
    network.to(dtype)
    target = target_of(network)
    with torch.no_grad():
        for parameter in target.parameters():
            parameter.mul_(0.9)
    make_optimizer = make_optimizer or (lambda p: torch.optim.Adam(p, lr=3e-4))
    return DQNModel(network, target, make_optimizer(list(network.parameters())))


def config_of(**params: Any) -> DQNConfig:
    # gamma and rewards are sums of few powers of two, so that float32 returns are exact in double too.
    defaults = {"batch_size": 32, "gamma": 0.9375, "target_update_freq": 7, "replay_capacity": 600}
    return DQNConfig(**{**defaults, **params})


def experience_of(
    config: DQNConfig, n: int = 500, outputs: int = 3, features: int = FEATURES, n_envs: int = 3
) -> Experience:
    """n transitions of environments whose episodes end at random, some of them cut."""
    experience, rng = Experience(config, RandomStream(1)), np.random.default_rng(0)
    observations = rng.standard_normal((n_envs, features)).astype(np.float32)
    for _ in range(-(-n // n_envs)):
        next_observations = rng.standard_normal((n_envs, features)).astype(np.float32)
        ends = rng.random((2, n_envs)) < 0.1
        actions, rewards = (
            rng.integers(0, outputs, n_envs),
            rng.integers(-8, 9, n_envs).astype(np.float32) / 8,
        )
        experience.buffer.push_rows(
            observations, actions, rewards, next_observations, ends[0], ends[1] & ~ends[0]
        )
        fresh = rng.standard_normal((n_envs, features)).astype(np.float32)
        observations = np.where(ends.any(axis=0)[:, None], fresh, next_observations)
    return experience


def draws_of(experience: Experience, config: DQNConfig, updates: int) -> Draws:
    (draws,) = experience.draws(updates, config)
    return draws


def twin(model: DQNModel) -> DQNModel:
    return copy.deepcopy(model)


def tensors_of(model: DQNModel) -> list[torch.Tensor]:
    """Network, target, Adam state."""
    kept = [p.detach() for net in (model.q_network, model.target) for p in net.parameters()]
    for p in model.q_network.parameters():
        kept += list(model.optimizer.state[p].values())
    return kept


def distance(one: DQNModel, other: DQNModel) -> float:
    """The greatest ‖Δ‖/‖θ‖ over the parameters of networks and targets."""
    worst = 0.0
    for mine, theirs in ((one.q_network, other.q_network), (one.target, other.target)):
        for p, q in zip(mine.parameters(), theirs.parameters(), strict=True):
            worst = max(worst, float((p - q).detach().norm() / q.detach().norm().clamp(min=1e-3)))
    return worst


def leaves_of(experience: Experience) -> torch.Tensor:
    tree = experience.buffer.tree
    return tree.priorities(torch.arange(tree.capacity))


def q_agent_network(outputs: int = 2) -> nn.Sequential:
    return mlp([4, 16, outputs], "relu", 1.0, torch.Generator().manual_seed(0))
