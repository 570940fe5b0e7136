"""DQN's update as plain torch code does it: the fixed reference for our speed.

Written the way CleanRL's dqn.py is, the most widely copied single-file implementation, with a replay of plain
numpy arrays and the fastest eager optimizer there is (`Adam(fused=True)`). Do not make this file faster or
slower: figures of different days are compared by their ratio to it.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import nn


class Replay:
    """Arrays of transitions, as Stable-Baselines3 keeps them."""

    def __init__(self, capacity: int, n_in: int) -> None:
        self.observations = np.zeros((capacity, n_in), np.float32)
        self.next_observations = np.zeros((capacity, n_in), np.float32)
        self.actions = np.zeros((capacity, 1), np.int64)
        self.rewards = np.zeros((capacity, 1), np.float32)
        self.dones = np.zeros((capacity, 1), np.float32)
        self.size = 0

    def sample(self, n: int) -> list[torch.Tensor]:
        """observations, actions, next_observations, dones, rewards."""
        rows = np.random.randint(0, self.size, size=n)
        arrays = (self.observations, self.actions, self.next_observations, self.dones, self.rewards)
        return [torch.tensor(array[rows]) for array in arrays]


def networks(n_in: int, width: int, n_out: int) -> tuple[nn.Sequential, nn.Sequential]:
    """Q-network with two hidden ReLU layers, and its target."""
    network = nn.Sequential(
        nn.Linear(n_in, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, n_out)
    )
    return network, copy.deepcopy(network)


def act(network: nn.Module, observation: np.ndarray, epsilon: float, n_actions: int) -> np.ndarray:
    """Actions for a batch of observations."""
    if np.random.random() < epsilon:
        return np.random.randint(0, n_actions, size=len(observation))
    return torch.argmax(network(torch.Tensor(observation)), dim=1).cpu().numpy()


def update(
    network: nn.Module,
    target: nn.Module,
    optimizer: torch.optim.Optimizer,
    replay: Replay,
    n_updates: int,
    batch_size: int,
    target_update_freq: int,
    gamma: float = 0.99,
) -> float:
    """Gradient steps, the target copied after every target_update_freq-th; returns the last loss."""
    for step in range(1, n_updates + 1):
        observations, actions, next_observations, dones, rewards = replay.sample(batch_size)
        with torch.no_grad():
            target_max, _ = target(next_observations).max(dim=1)
            td_target = rewards.flatten() + gamma * target_max * (1 - dones.flatten())
        old_value = network(observations).gather(1, actions).squeeze()
        loss = nn.functional.mse_loss(td_target, old_value)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % target_update_freq == 0:
            for target_parameter, parameter in zip(target.parameters(), network.parameters(), strict=True):
                target_parameter.data.copy_(parameter.data)
    return loss.item()


def random_replay(capacity: int, n_in: int, n_actions: int, seed: int = 0) -> Replay:
    """A full replay of random transitions."""
    rng = np.random.default_rng(seed)
    replay = Replay(capacity, n_in)
    replay.observations[...] = rng.standard_normal((capacity, n_in))
    replay.next_observations[...] = rng.standard_normal((capacity, n_in))
    replay.actions[...] = rng.integers(0, n_actions, (capacity, 1))
    replay.rewards[...] = rng.standard_normal((capacity, 1))
    replay.dones[...] = rng.random((capacity, 1)) < 0.02
    replay.size = capacity
    return replay
