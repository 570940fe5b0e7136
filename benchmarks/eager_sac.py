"""SAC's update as plain torch code does it: the fixed reference for our speed.

Written the way CleanRL's sac_continuous_action.py is, the most widely copied single-file implementation, with
the fastest eager optimizer there is (`Adam(fused=True)`), an actor step after every critic step, and rows
drawn from tensors. Do not make this file faster or slower: figures of different days are compared by their
ratio to it.
"""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

LOG_STD_MIN, LOG_STD_MAX = -5, 2


class Networks(NamedTuple):
    """What an update changes."""

    actor: nn.Module
    qf1: nn.Module
    qf2: nn.Module
    qf1_target: nn.Module
    qf2_target: nn.Module
    log_alpha: Tensor
    actor_optimizer: torch.optim.Optimizer
    q_optimizer: torch.optim.Optimizer
    a_optimizer: torch.optim.Optimizer


class Data(NamedTuple):
    """Stored transitions."""

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    next_observations: Tensor
    dones: Tensor


class SoftQNetwork(nn.Module):
    """Q(s, a)."""

    def __init__(self, n_in: int, width: int, n_actions: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(n_in + n_actions, width)
        self.fc2 = nn.Linear(width, width)
        self.fc3 = nn.Linear(width, 1)

    def forward(self, x: Tensor, a: Tensor) -> Tensor:
        x = torch.cat([x, a], 1)
        x = functional.relu(self.fc1(x))
        x = functional.relu(self.fc2(x))
        return self.fc3(x)


class Actor(nn.Module):
    """A squashed Gaussian."""

    def __init__(self, n_in: int, width: int, n_actions: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(n_in, width)
        self.fc2 = nn.Linear(width, width)
        self.fc_mean = nn.Linear(width, n_actions)
        self.fc_logstd = nn.Linear(width, n_actions)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = functional.relu(self.fc1(x))
        x = functional.relu(self.fc2(x))
        log_std = torch.tanh(self.fc_logstd(x))
        return self.fc_mean(x), LOG_STD_MIN + 0.5 * (LOG_STD_MAX - LOG_STD_MIN) * (log_std + 1)

    def get_action(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = self(x)
        normal = torch.distributions.Normal(mean, log_std.exp())
        x_t = normal.rsample()
        y_t = torch.tanh(x_t)
        log_prob = normal.log_prob(x_t) - torch.log(1 - y_t.pow(2) + 1e-6)
        return y_t, log_prob.sum(1, keepdim=True)


def networks(n_in: int, width: int, n_actions: int, rate: float = 3e-4) -> Networks:
    """Networks of two hidden layers, ReLU, with their optimizers."""
    actor = Actor(n_in, width, n_actions)
    qf1, qf2 = (SoftQNetwork(n_in, width, n_actions) for _ in range(2))
    log_alpha = torch.zeros(1, requires_grad=True)
    return Networks(
        actor, qf1, qf2, copy.deepcopy(qf1), copy.deepcopy(qf2), log_alpha,
        torch.optim.Adam(actor.parameters(), lr=rate, fused=True),
        torch.optim.Adam([*qf1.parameters(), *qf2.parameters()], lr=rate, fused=True),
        torch.optim.Adam([log_alpha], lr=rate, fused=True),
    )  # fmt: skip


def update(nets: Networks, data: Data, batch_size: int, gamma: float = 0.99, tau: float = 0.005) -> None:
    """One update of everything."""
    rows = torch.randint(len(data.rewards), (batch_size,))
    observations, actions, rewards, next_observations, dones = (part[rows] for part in data)
    alpha = nets.log_alpha.exp().item()
    with torch.no_grad():
        next_actions, next_log_pi = nets.actor.get_action(next_observations)
        qf1_next = nets.qf1_target(next_observations, next_actions)
        qf2_next = nets.qf2_target(next_observations, next_actions)
        min_next = torch.min(qf1_next, qf2_next) - alpha * next_log_pi
        next_q = rewards + (1 - dones) * gamma * min_next.view(-1)
    qf1_loss = functional.mse_loss(nets.qf1(observations, actions).view(-1), next_q)
    qf2_loss = functional.mse_loss(nets.qf2(observations, actions).view(-1), next_q)
    nets.q_optimizer.zero_grad()
    (qf1_loss + qf2_loss).backward()
    nets.q_optimizer.step()

    pi, log_pi = nets.actor.get_action(observations)
    min_qf_pi = torch.min(nets.qf1(observations, pi), nets.qf2(observations, pi))
    actor_loss = (alpha * log_pi - min_qf_pi).mean()
    nets.actor_optimizer.zero_grad()
    actor_loss.backward()
    nets.actor_optimizer.step()

    alpha_loss = (-nets.log_alpha.exp() * (log_pi.detach() - actions.shape[1])).mean()
    nets.a_optimizer.zero_grad()
    alpha_loss.backward()
    nets.a_optimizer.step()

    for net, target in ((nets.qf1, nets.qf1_target), (nets.qf2, nets.qf2_target)):
        for param, target_param in zip(net.parameters(), target.parameters(), strict=True):
            target_param.data.copy_(tau * param.data + (1 - tau) * target_param.data)


def random_data(n_rows: int, n_in: int, n_actions: int, seed: int = 0) -> Data:
    """Transitions of nothing in particular."""
    generator = torch.Generator().manual_seed(seed)
    observations, next_observations = (torch.randn(n_rows, n_in, generator=generator) for _ in range(2))
    actions = torch.tanh(torch.randn(n_rows, n_actions, generator=generator))
    rewards = torch.randn(n_rows, generator=generator)
    dones = (torch.rand(n_rows, generator=generator) < 0.01).float()
    return Data(observations, actions, rewards, next_observations, dones)
