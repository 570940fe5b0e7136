"""What soft actor-critics (SAC, TQC, CrossQ) share: a squashed Gaussian policy with a learned temperature.

The steps follow one another as in Stable-Baselines3: temperature and actions from the actor as it is, then
critics, actor, target critics.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from optix_fast.learners.config import SoftConfig
from optix_fast.learners.critics import Updated, updated_of
from optix_fast.learners.experience import Draws, Experience, Transitions
from optix_fast.learners.model import Model
from optix_fast.learners.optimizers import descend_finite
from optix_fast.networks.heads import LOG_STD_MAX, LOG_STD_MIN
from optix_fast.networks.modes import check_batch
from optix_fast.reference.tanh_normal import tanh_normal_of_noise
from optix_fast.types import Tree

STATISTICS = ("critic_loss", "actor_loss", "alpha_loss", "q_value", "entropy")


@dataclass(kw_only=True)
class SoftModel(Model):
    """What every soft actor-critic has beside its critics.

    Args:
        actor: observations → [mean ‖ log_std], [B, 2A].
        log_alpha: logarithm of the temperature, [].
        actor_optimizer, critic_optimizer, alpha_optimizer: over the parameters of each.
    """

    actor: nn.Module
    log_alpha: nn.Parameter
    actor_optimizer: torch.optim.Optimizer
    critic_optimizer: torch.optim.Optimizer
    alpha_optimizer: torch.optim.Optimizer


class Step(NamedTuple):
    """Those of STATISTICS that an update has, by name, and the TD errors of its rows, [B]."""

    statistics: dict[str, float]
    td_errors: Tensor


class Fitted(NamedTuple):
    """A step of the critics: loss, TD errors of the rows [B], mean value of the actions taken."""

    loss: Tensor
    td_errors: Tensor
    q_value: Tensor


def soft_updates(
    model: SoftModel, experience: Experience, draws: Draws, step: Callable[[int, Transitions], Step]
) -> Updated:
    """K updates from the experience, in place. step(k, transitions) does one.

    Raises:
        NonFiniteError: a loss or gradient is NaN or infinite; model and priorities are as before.
        ValueError: a batch of one row for a batch norm.
    """
    check_batch(model.networks().items(), draws.batch_size)
    sums, actor_updates = dict.fromkeys(STATISTICS, 0.0), 0
    with model.undone_on_error(), experience.priorities_kept_on_error():
        for k in range(draws.updates):
            batch, indices = experience.batch(draws, k, model.log_alpha)
            done = step(k, batch)
            experience.update_priorities(indices, done.td_errors)
            for name, value in done.statistics.items():
                sums[name] += value
            actor_updates += "actor_loss" in done.statistics
    return updated_of(STATISTICS, list(sums.values()), draws.updates, actor_updates)


def soft_step(
    model: SoftModel,
    batch: Transitions,
    noise: Tensor,
    config: SoftConfig,
    target_entropy: float,
    fit: Callable[[Tensor, Tensor], Fitted],
    value: Callable[[Tensor], Tensor],
) -> Step:
    """One update of temperature, critics and actor.

        log α  −log α · mean (log π(â|s) + target entropy)
        critics by `fit`, for a' from the policy
        actor  mean α·log π(â|s) − V(s, â),  V by `value`, â from the policy by its noise

    Args:
        noise: [2, B, A], normal: of a' and of â.
        fit: (a' [B, A], α·log π(a'|s') [B]) → one step of the critics.
        value: â [B, A] → what the critics, after their step, say of it, [B].

    Raises:
        NonFiniteError: a loss or gradient is NaN or infinite; what came before it has been changed.
    """
    alpha = model.log_alpha.detach().exp()
    with torch.no_grad():
        next_actions, next_log_prob = sample(model.actor, batch.next_observations, noise[0])
    actions, log_prob = sample(model.actor, batch.observations, noise[1])
    alpha_loss = temperature_step(model, log_prob, config, target_entropy)
    fitted = fit(next_actions, alpha * next_log_prob)
    actor_loss = actor_step(model, alpha * log_prob - value(actions), config)
    return step_of(fitted, actor_loss, alpha_loss, -log_prob.mean())


def sample(actor: nn.Module, observations: Tree, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Actions [B, A] from normal noise, and their log π [B]."""
    mean, log_std = actor(observations).chunk(2, dim=-1)
    log_std = log_std.clamp(LOG_STD_MIN, LOG_STD_MAX)
    action, log_prob, _ = tanh_normal_of_noise(mean, log_std, noise)
    return action, log_prob


def temperature_step(
    model: SoftModel, log_prob: Tensor, config: SoftConfig, target_entropy: float | Tensor
) -> Tensor:
    """A step down −log α · mean (log π + target entropy), unless the temperature is fixed; the loss."""
    loss = -(model.log_alpha * (log_prob.detach() + target_entropy)).mean()
    if config.learn_alpha:
        descend_finite("temperature", loss, model.alpha_optimizer, None)
    return loss.detach()


def actor_step(model: SoftModel, losses: Tensor, config: SoftConfig) -> Tensor:
    """A step of the actor down the mean of losses [B], which is returned."""
    loss = losses.mean()
    descend_finite("actor", loss, model.actor_optimizer, config.max_grad_norm)
    return loss.detach()


def step_of(fitted: Fitted, actor_loss: Tensor, alpha_loss: Tensor, entropy: Tensor) -> Step:
    """A step with all of STATISTICS."""
    parts = (fitted.loss, actor_loss, alpha_loss, fitted.q_value, entropy)
    numbers = torch.stack([part.detach() for part in parts]).tolist()
    return Step(dict(zip(STATISTICS, numbers, strict=True)), fitted.td_errors)
