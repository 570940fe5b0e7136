"""Updates of soft actor-critic in plain torch: the specification of what the core computes.

Haarnoja et al. 2018, "Soft actor-critic algorithms and applications": twin critics, reparameterised policy
gradient, learned temperature.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from optix_fast.learners.critics import Updated, critic_step, least_value, value_of
from optix_fast.learners.experience import Draws, Experience, Transitions, check_masks, discounted
from optix_fast.learners.sac.config import SACConfig
from optix_fast.learners.squashed_policy import (
    Fitted,
    SoftModel,
    Step,
    actor_step,
    soft_step,
    soft_updates,
    step_of,
    temperature_step,
)


@dataclass(kw_only=True)
class SACModel(SoftModel):
    """Everything that an update changes.

    Args:
        actor: of a categorical policy: observations → logits, [B, K].
        critic1, critic2: observation ‖ action → [B, 1] or [B]; of a categorical policy, observation → [B, K].
            Observations that are not [B, D] are handed over apart: critic(observations, actions).
        target1, target2: copies of the critics.
        discrete: whether the policy is categorical.
    """

    critic1: nn.Module
    critic2: nn.Module
    target1: nn.Module
    target2: nn.Module
    discrete: bool = False

    TARGETS: ClassVar[Mapping[str, str]] = {"target1": "critic1", "target2": "critic2"}

    @property
    def critics(self) -> tuple[nn.Module, nn.Module]:
        """Both critics."""
        return self.critic1, self.critic2

    @property
    def targets(self) -> tuple[nn.Module, nn.Module]:
        """Their copies."""
        return self.target1, self.target2


def sac_update(
    model: SACModel,
    experience: Experience,
    draws: Draws,
    noise: Tensor,
    config: SACConfig,
    target_entropy: float,
) -> Updated:
    """K updates from the experience, in place.

    Args:
        draws: the random numbers that say which transitions; see Draws.
        noise: normal numbers [K, 2, B, A], see soft_step; a categorical policy reads none.

    Raises:
        NonFiniteError: a loss or gradient is NaN or infinite; model and priorities are as before.
    """

    def step(k: int, batch: Transitions) -> Step:
        if model.discrete:
            return discrete_sac_step(model, batch, config, target_entropy)
        return sac_step(model, batch, noise[k].to(model.log_alpha), config, target_entropy)

    return soft_updates(model, experience, draws, step)


def sac_step(
    model: SACModel, batch: Transitions, noise: Tensor, config: SACConfig, target_entropy: float
) -> Step:
    """One update of a Gaussian policy, see soft_step.

        y      r + discount·(min_i Q̄_i(s', a') − α·log π(a'|s'))
        critics ½·Σ_i mean w·(Q_i(s, a) − y)²
        V      min_i Q_i(s, â)

    Raises:
        NonFiniteError: a loss or gradient is NaN or infinite; what came before it has been changed.
    """

    def fit(next_actions: Tensor, next_entropy_cost: Tensor) -> Fitted:
        with torch.no_grad():
            next_q = least_value(model.targets, batch.next_observations, next_actions)
            target = batch.rewards + discounted(batch, next_q - next_entropy_cost)
        values = [value_of(critic, batch.observations, batch.actions) for critic in model.critics]
        return _fitted(model, values, target, batch, config)

    def value(actions: Tensor) -> Tensor:
        return least_value(model.critics, batch.observations, actions)

    step = soft_step(model, batch, noise, config, target_entropy, fit, value)
    model.move_targets(config.tau)
    return step


def _fitted(
    model: SACModel, values: list[Tensor], target: Tensor, batch: Transitions, config: SACConfig
) -> Fitted:
    q_value = 0.5 * (values[0].mean() + values[1].mean())
    loss, td_errors = critic_step(
        values, target, batch.weights, 0.5, model.critic_optimizer, config.max_grad_norm
    )
    return Fitted(loss, td_errors, q_value)


def discrete_sac_step(model: SACModel, batch: Transitions, config: SACConfig, target_entropy: float) -> Step:
    """One update of a categorical policy: expectations over its actions in place of samples (Christodoulou
    2019, "Soft actor-critic for discrete action settings").

    Actions that a mask forbids have probability zero, at s and at s', as when they are drawn. Where it
    allows n of K actions, log n / log K of the target entropy is aimed at: no policy could have all of it.

    Raises:
        ValueError: the masks are of another number of actions.
        NonFiniteError: a loss or gradient is NaN or infinite; what came before it has been changed.
    """
    alpha = model.log_alpha.detach().exp()
    p, log_p = _probabilities(model.actor(batch.observations), batch.masks)
    mean_log_p = (p * log_p).sum(dim=-1)
    attainable = _attainable(target_entropy, batch.masks, log_p)
    alpha_loss = temperature_step(model, mean_log_p, config, attainable)
    with torch.no_grad():
        next_p, next_log_p = _probabilities(model.actor(batch.next_observations), batch.next_masks)
        next_q = torch.min(*(net(batch.next_observations) for net in model.targets))
        next_value = (next_p * (next_q - alpha * next_log_p)).sum(dim=-1)
        target = batch.rewards + discounted(batch, next_value)
    taken = batch.actions[:, None]
    values = [net(batch.observations).gather(-1, taken).squeeze(-1) for net in model.critics]
    fitted = _fitted(model, values, target, batch, config)
    with torch.no_grad():
        least = torch.min(*(net(batch.observations) for net in model.critics))
    actor_loss = actor_step(model, (p * (alpha * log_p - least)).sum(dim=-1), config)
    model.move_targets(config.tau)
    return step_of(fitted, actor_loss, alpha_loss, -mean_log_p.mean())


def _probabilities(logits: Tensor, masks: Tensor | None) -> tuple[Tensor, Tensor]:
    """p and log p, [B, K]; both zero, and without gradient, for a forbidden action."""
    if masks is None:
        log_p = torch.log_softmax(logits, dim=-1)
        return log_p.exp(), log_p
    check_masks("sac_update", masks, logits)
    log_p = torch.log_softmax(logits.masked_fill(~masks, -math.inf), dim=-1)
    return log_p.exp(), log_p.masked_fill(~masks, 0.0)


def _attainable(target_entropy: float, masks: Tensor | None, like: Tensor) -> float | Tensor:
    """The target entropy of each row [B], in proportion to the entropy of its allowed actions."""
    if masks is None or masks.shape[-1] == 1:
        return target_entropy
    return target_entropy * masks.sum(dim=-1).to(like).log() / math.log(masks.shape[-1])
