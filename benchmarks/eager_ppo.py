"""PPO's update and action as plain torch code does them: the fixed reference for our speed.

Written the way CleanRL's ppo.py is, the most widely copied single-file implementation, with the fastest eager
optimizer there is (`Adam(fused=True)`). Do not make this file faster or slower: figures of different days are
compared by their ratio to it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Categorical


class Data(NamedTuple):
    """One window of R rows."""

    observations: Tensor
    actions: Tensor
    log_probs: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor


def networks(n_in: int, width: int, n_out: int) -> tuple[nn.Sequential, nn.Sequential]:
    """Actor and critic with two hidden tanh layers."""

    def net(outputs: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Linear(n_in, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, outputs)
        )

    return net(n_out), net(1)


def act(actor: nn.Module, critic: nn.Module, observation: np.ndarray) -> tuple[np.ndarray, Tensor, Tensor]:
    """Action, log-probability and value for a batch of observations, as in a rollout."""
    with torch.no_grad():
        obs = torch.Tensor(observation)
        probs = Categorical(logits=actor(obs))
        action = probs.sample()
        return action.cpu().numpy(), probs.log_prob(action), critic(obs)


def update(
    actor: nn.Module,
    critic: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: Data,
    n_epochs: int,
    minibatch_size: int,
    clip_coef: float = 0.2,
    ent_coef: float = 0.01,
    vf_coef: float = 0.5,
    max_grad_norm: float = 0.5,
) -> float:
    """All epochs and minibatches of one window; returns the last approximate KL."""
    parameters = [*actor.parameters(), *critic.parameters()]
    n_rows = len(data.actions)
    indices = np.arange(n_rows)
    clip_fractions = []
    for _ in range(n_epochs):
        np.random.shuffle(indices)
        for start in range(0, n_rows, minibatch_size):
            mb = indices[start : start + minibatch_size]
            probs = Categorical(logits=actor(data.observations[mb]))
            new_log_prob, entropy = probs.log_prob(data.actions[mb]), probs.entropy()
            new_value = critic(data.observations[mb]).view(-1)
            log_ratio = new_log_prob - data.log_probs[mb]
            ratio = log_ratio.exp()
            with torch.no_grad():
                approx_kl = ((ratio - 1) - log_ratio).mean()
                clip_fractions.append(((ratio - 1.0).abs() > clip_coef).float().mean().item())
            advantages = data.advantages[mb]
            advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
            policy_loss = torch.max(
                -advantages * ratio, -advantages * torch.clamp(ratio, 1 - clip_coef, 1 + clip_coef)
            ).mean()
            value_loss = 0.5 * ((new_value - data.returns[mb]) ** 2).mean()
            loss = policy_loss - ent_coef * entropy.mean() + value_loss * vf_coef
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, max_grad_norm)
            optimizer.step()
    return float(approx_kl.item())


def random_data(actor: nn.Module, critic: nn.Module, n_rows: int, n_in: int, seed: int = 0) -> Data:
    """Rows as a rollout of these networks would leave them, with random advantages."""
    generator = torch.Generator().manual_seed(seed)
    observations = torch.randn(n_rows, n_in, generator=generator)
    with torch.no_grad():
        probs = Categorical(logits=actor(observations))
        actions = torch.multinomial(probs.probs, 1, generator=generator).squeeze(1)
        log_probs, values = probs.log_prob(actions), critic(observations).view(-1)
    advantages = torch.randn(n_rows, generator=generator)
    return Data(observations, actions, log_probs, values, advantages, advantages + values)
