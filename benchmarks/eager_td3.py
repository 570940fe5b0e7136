"""TD3's update as plain torch code does it: the fixed reference for our speed.

Written the way CleanRL's td3_continuous_action.py is, the most widely copied single-file implementation, with
the fastest eager optimizer there is (`Adam(fused=True)`), an actor step after every second critic step, and
rows drawn from tensors. Do not make this file faster or slower: figures of different days are compared by
their ratio to it.
"""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from eager_sac import Data, SoftQNetwork
from torch import Tensor, nn
from torch.nn import functional

QNetwork = SoftQNetwork


class Networks(NamedTuple):
    """What an update changes."""

    actor: nn.Module
    qf1: nn.Module
    qf2: nn.Module
    target_actor: nn.Module
    qf1_target: nn.Module
    qf2_target: nn.Module
    actor_optimizer: torch.optim.Optimizer
    q_optimizer: torch.optim.Optimizer


class Actor(nn.Module):
    """A deterministic policy in (−1, 1)."""

    def __init__(self, n_in: int, width: int, n_actions: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(n_in, width)
        self.fc2 = nn.Linear(width, width)
        self.fc_mu = nn.Linear(width, n_actions)
        self.register_buffer("action_scale", torch.ones(n_actions))
        self.register_buffer("action_bias", torch.zeros(n_actions))

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.fc1(x))
        x = functional.relu(self.fc2(x))
        x = torch.tanh(self.fc_mu(x))
        return x * self.action_scale + self.action_bias


def networks(n_in: int, width: int, n_actions: int, rate: float = 3e-4) -> Networks:
    """Networks of two hidden layers, ReLU, with their optimizers."""
    actor = Actor(n_in, width, n_actions)
    qf1, qf2 = (QNetwork(n_in, width, n_actions) for _ in range(2))
    return Networks(
        actor, qf1, qf2, copy.deepcopy(actor), copy.deepcopy(qf1), copy.deepcopy(qf2),
        torch.optim.Adam(actor.parameters(), lr=rate, fused=True),
        torch.optim.Adam([*qf1.parameters(), *qf2.parameters()], lr=rate, fused=True),
    )  # fmt: skip


def update(
    nets: Networks,
    data: Data,
    batch_size: int,
    step: int,
    gamma: float = 0.99,
    tau: float = 0.005,
    policy_noise: float = 0.2,
    noise_clip: float = 0.5,
    policy_frequency: int = 2,
) -> None:
    """One update of the critics, and where policy_frequency divides `step` of the rest."""
    rows = torch.randint(len(data.rewards), (batch_size,))
    observations, actions, rewards, next_observations, dones = (part[rows] for part in data)
    with torch.no_grad():
        clipped_noise = (torch.randn_like(actions) * policy_noise).clamp(-noise_clip, noise_clip)
        next_actions = (nets.target_actor(next_observations) + clipped_noise).clamp(-1.0, 1.0)
        qf1_next = nets.qf1_target(next_observations, next_actions)
        qf2_next = nets.qf2_target(next_observations, next_actions)
        next_q = rewards + (1 - dones) * gamma * torch.min(qf1_next, qf2_next).view(-1)
    qf1_loss = functional.mse_loss(nets.qf1(observations, actions).view(-1), next_q)
    qf2_loss = functional.mse_loss(nets.qf2(observations, actions).view(-1), next_q)
    nets.q_optimizer.zero_grad()
    (qf1_loss + qf2_loss).backward()
    nets.q_optimizer.step()

    if step % policy_frequency == 0:
        actor_loss = -nets.qf1(observations, nets.actor(observations)).mean()
        nets.actor_optimizer.zero_grad()
        actor_loss.backward()
        nets.actor_optimizer.step()
        for net, target in (
            (nets.actor, nets.target_actor),
            (nets.qf1, nets.qf1_target),
            (nets.qf2, nets.qf2_target),
        ):
            for param, target_param in zip(net.parameters(), target.parameters(), strict=True):
                target_param.data.copy_(tau * param.data + (1 - tau) * target_param.data)
