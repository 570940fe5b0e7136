"""Updates of CrossQ in plain torch: the specification of what the core computes.

Bhatt et al. 2024, "CrossQ: batch normalization in deep reinforcement learning for greater sample efficiency
and simplicity". What is not said here is SAC's; the order of the steps and the modes of the networks are
those of sb3-contrib and SBX.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from optix_fast.learners.critics import Updated, critic_step, least_value, value_of
from optix_fast.learners.crossq.config import CrossQConfig
from optix_fast.learners.experience import Draws, Experience, Transitions, discounted
from optix_fast.learners.squashed_policy import (
    Fitted,
    SoftModel,
    Step,
    actor_step,
    sample,
    soft_updates,
    step_of,
    temperature_step,
)
from optix_fast.networks.modes import evaluating_batch_norms
from optix_fast.types import tree_map


@dataclass(kw_only=True)
class CrossQModel(SoftModel):
    """Everything that an update changes. There are no target networks.

    Args:
        critics: observation ‖ action → [B, 1] or [B]. Observations that are not [B, D] are handed over apart:
            critic(observations, actions).
    """

    critics: nn.ModuleList


def crossq_update(
    model: CrossQModel,
    experience: Experience,
    draws: Draws,
    noise: Tensor,
    config: CrossQConfig,
    target_entropy: float,
    updates_before: int,
) -> Updated:
    """K updates from the experience, in place.

    Args:
        draws: the random numbers that say which transitions; see Draws.
        noise: normal numbers [K, 2, B, A], see crossq_step.
        updates_before: updates since training began; actor and temperature are updated when their number
            reaches a multiple of policy_delay.

    Raises:
        NonFiniteError: a loss or gradient is NaN or infinite; model and priorities are as before.
        ValueError: a batch of one row for a batch norm.
    """

    def step(k: int, batch: Transitions) -> Step:
        delayed = (updates_before + k + 1) % config.policy_delay == 0
        return crossq_step(model, batch, noise[k].to(model.log_alpha), config, target_entropy, delayed)

    return soft_updates(model, experience, draws, step)


def crossq_step(
    model: CrossQModel,
    batch: Transitions,
    noise: Tensor,
    config: CrossQConfig,
    target_entropy: float,
    delayed: bool,
) -> Step:
    """One update.

        Q      one pass of each critic over (s, a) and (s', a') together: a batch norm sees both; a' from the
               actor, whose batch norms evaluate; a number of s' that is not finite (of a terminated row) is
               s's
        y      r + discount·(min_i Q_i(s', a') − α·log π(a'|s')), without gradient
        critics ½·Σ_i mean w·(Q_i(s, a) − y)²

    and where `delayed`:

        log α  −log α · mean (log π(â|s) + target entropy)
        actor  mean α·log π(â|s) − min_i Q_i(s, â), the critics' batch norms evaluate

    Other layers, Dropout among them, keep their modes in all of these passes.

    Args:
        noise: [2, B, A], normal: of a' and of â.
        delayed: whether the actor and the temperature are updated, too.

    Raises:
        NonFiniteError: a loss or gradient is NaN or infinite; what came before it has been changed.
    """
    alpha = model.log_alpha.detach().exp()
    following = tree_map(
        lambda now, then: torch.where(torch.isfinite(then), then, now),
        batch.observations, batch.next_observations,
    )  # fmt: skip
    with torch.no_grad(), evaluating_batch_norms(model.actor):
        next_actions, next_log_prob = sample(model.actor, following, noise[0])
    both = tree_map(lambda *parts: torch.cat(parts), batch.observations, following)
    actions = torch.cat((batch.actions, next_actions))
    values, next_values = zip(*(value_of(net, both, actions).chunk(2) for net in model.critics), strict=True)
    next_q = torch.stack(next_values).detach().amin(dim=0)
    target = batch.rewards + discounted(batch, next_q - alpha * next_log_prob)
    q_value = torch.stack(values).detach().mean()
    loss, td_errors = critic_step(
        values, target, batch.weights, 0.5, model.critic_optimizer, config.max_grad_norm
    )
    if not delayed:
        return Step({"critic_loss": float(loss), "q_value": float(q_value)}, td_errors)
    actions, log_prob = sample(model.actor, batch.observations, noise[1])
    alpha_loss = temperature_step(model, log_prob, config, target_entropy)
    with evaluating_batch_norms(*model.critics):
        value = least_value(model.critics, batch.observations, actions)
    actor_loss = actor_step(model, alpha * log_prob - value, config)
    return step_of(Fitted(loss, td_errors, q_value), actor_loss, alpha_loss, -log_prob.mean())
