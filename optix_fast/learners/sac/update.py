"""Updates of soft actor-critic in plain torch: the specification of what the core computes.

Haarnoja et al. 2018, "Soft actor-critic algorithms and applications": twin critics, reparameterised policy
gradient, learned temperature. The steps follow one another as in Stable-Baselines3: temperature and actions
from the actor as it is, then critics, actor, target critics.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from optix_fast.learners.critics import critic_step, least_value, value_of
from optix_fast.learners.experience import Draws, Experience, Transitions, check_masks, discounted
from optix_fast.learners.model import Model
from optix_fast.learners.optimizers import descend_finite
from optix_fast.learners.sac.config import SACConfig
from optix_fast.networks.heads import LOG_STD_MAX, LOG_STD_MIN
from optix_fast.reference.tanh_normal import tanh_normal_of_noise
from optix_fast.types import Tree

STATISTICS = ("critic_loss", "actor_loss", "alpha_loss", "q_value", "entropy")


@dataclass
class SACModel(Model):
    """Everything that an update changes.

    Args:
        actor: observations → [mean ‖ log_std], [B, 2A]; of a categorical policy logits, [B, K].
        critic1, critic2: observation ‖ action → [B, 1] or [B]; of a categorical policy, observation → [B, K].
            Observations that are not [B, D] are handed over apart: critic(observations, actions).
        target1, target2: copies of the critics.
        log_alpha: logarithm of the temperature, [].
        actor_optimizer, critic_optimizer, alpha_optimizer: over the parameters of each.
        discrete: whether the policy is categorical.
    """

    actor: nn.Module
    critic1: nn.Module
    critic2: nn.Module
    target1: nn.Module
    target2: nn.Module
    log_alpha: nn.Parameter
    actor_optimizer: torch.optim.Optimizer
    critic_optimizer: torch.optim.Optimizer
    alpha_optimizer: torch.optim.Optimizer
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


class Updated(NamedTuple):
    """What K updates did: their number, and the means of STATISTICS by name."""

    n_updates: int
    means: dict[str, float]


class Step(NamedTuple):
    """STATISTICS of an update, and ½(|δ₁| + |δ₂|) of its rows, [B]."""

    statistics: list[float]
    td_errors: Tensor


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
        noise: normal numbers [K, 2, B, A], see sac_step; a categorical policy reads none.

    Raises:
        NonFiniteError: a loss or gradient is NaN or infinite; model and priorities are as before.
    """
    collected: list[list[float]] = []
    with model.undone_on_error(), experience.priorities_kept_on_error():
        for k in range(draws.updates):
            batch, indices = experience.batch(draws, k, model.log_alpha)
            if model.discrete:
                step = discrete_sac_step(model, batch, config, target_entropy)
            else:
                step = sac_step(model, batch, noise[k].to(model.log_alpha), config, target_entropy)
            experience.update_priorities(indices, step.td_errors)
            collected.append(step.statistics)
    return Updated(
        len(collected), means_of([sum(column) for column in zip(*collected, strict=True)], len(collected))
    )


def means_of(sums: Sequence[float], n: int) -> dict[str, float]:
    """STATISTICS by name, from their sums over n updates."""
    return {name: total / n for name, total in zip(STATISTICS, sums, strict=True)}


def sac_step(
    model: SACModel, batch: Transitions, noise: Tensor, config: SACConfig, target_entropy: float
) -> Step:
    """One update of a Gaussian policy.

        y      r + discount·(min_i Q̄_i(s', a') − α·log π(a'|s')),  a' from the policy
        critics ½·Σ_i mean w·(Q_i(s, a) − y)²
        actor  mean α·log π(â|s) − min_i Q_i(s, â),  â from the policy by its noise
        log α  −log α · mean (log π(â|s) + target entropy)

    Args:
        noise: [2, B, A], normal: of a' and of â.

    Raises:
        NonFiniteError: a loss or gradient is NaN or infinite; what came before it has been changed.
    """
    alpha = model.log_alpha.detach().exp()
    actions, log_prob = _sample(model, batch.observations, noise[1])
    alpha_loss = _temperature_step(model, log_prob, config, target_entropy)
    with torch.no_grad():
        next_actions, next_log_prob = _sample(model, batch.next_observations, noise[0])
        next_q = least_value(model.targets, batch.next_observations, next_actions)
        target = batch.rewards + discounted(batch, next_q - alpha * next_log_prob)
    values = [value_of(critic, batch.observations, batch.actions) for critic in model.critics]
    critic_loss, td_errors = critic_step(
        values, target, batch.weights, 0.5, model.critic_optimizer, config.max_grad_norm
    )
    actor_loss = (alpha * log_prob - least_value(model.critics, batch.observations, actions)).mean()
    descend_finite("actor", actor_loss, model.actor_optimizer, config.max_grad_norm)
    model.move_targets(config.tau)
    q_value = 0.5 * (values[0].mean() + values[1].mean())
    return _step(critic_loss, actor_loss, alpha_loss, q_value, -log_prob.mean(), td_errors)


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
    alpha_loss = _temperature_step(model, mean_log_p, config, attainable)
    with torch.no_grad():
        next_p, next_log_p = _probabilities(model.actor(batch.next_observations), batch.next_masks)
        next_q = torch.min(*(net(batch.next_observations) for net in model.targets))
        next_value = (next_p * (next_q - alpha * next_log_p)).sum(dim=-1)
        target = batch.rewards + discounted(batch, next_value)
    taken = batch.actions[:, None]
    values = [net(batch.observations).gather(-1, taken).squeeze(-1) for net in model.critics]
    critic_loss, td_errors = critic_step(
        values, target, batch.weights, 0.5, model.critic_optimizer, config.max_grad_norm
    )
    with torch.no_grad():
        least = torch.min(*(net(batch.observations) for net in model.critics))
    actor_loss = (p * (alpha * log_p - least)).sum(dim=-1).mean()
    descend_finite("actor", actor_loss, model.actor_optimizer, config.max_grad_norm)
    model.move_targets(config.tau)
    q_value = 0.5 * (values[0].mean() + values[1].mean())
    return _step(critic_loss, actor_loss, alpha_loss, q_value, -mean_log_p.mean(), td_errors)


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


def _sample(model: SACModel, observations: Tree, noise: Tensor) -> tuple[Tensor, Tensor]:
    mean, log_std = model.actor(observations).chunk(2, dim=-1)
    log_std = log_std.clamp(LOG_STD_MIN, LOG_STD_MAX)
    action, log_prob, _ = tanh_normal_of_noise(mean, log_std, noise)
    return action, log_prob


def _temperature_step(
    model: SACModel, log_prob: Tensor, config: SACConfig, target_entropy: float | Tensor
) -> Tensor:
    loss = -(model.log_alpha * (log_prob.detach() + target_entropy)).mean()
    if config.learn_alpha:
        descend_finite("temperature", loss, model.alpha_optimizer, None)
    return loss.detach()


def _step(
    critic_loss: Tensor, actor_loss: Tensor, alpha_loss: Tensor, q_value: Tensor, entropy: Tensor,
    td_errors: Tensor,
) -> Step:  # fmt: skip
    parts = (critic_loss, actor_loss, alpha_loss, q_value, entropy)
    return Step(torch.stack([part.detach() for part in parts]).tolist(), td_errors)
