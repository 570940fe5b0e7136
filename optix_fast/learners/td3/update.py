"""Updates of twin delayed deep deterministic policy gradient (TD3) in plain torch: the specification of what
the core computes.

Fujimoto et al. 2018, "Addressing function approximation error in actor-critic methods".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from optix_fast.learners.critics import Updated, critic_step, least_value, updated_of, value_of
from optix_fast.learners.experience import Draws, Experience, Transitions, discounted
from optix_fast.learners.model import Model
from optix_fast.learners.optimizers import descend_finite
from optix_fast.learners.td3.config import TD3Config
from optix_fast.networks.modes import check_batch
from optix_fast.types import Tree

STATISTICS = ("critic_loss", "actor_loss", "q_value")


@dataclass
class TD3Model(Model):
    """Everything that an update changes.

    Args:
        actor: observations → the action before tanh, [B, A].
        critic1, critic2: observation ‖ action → [B, 1] or [B]. Observations that are not [B, D] are handed
            over apart: critic(observations, actions).
        target_actor, target1, target2: copies of the three.
        actor_optimizer, critic_optimizer: over the parameters of each.
    """

    actor: nn.Module
    critic1: nn.Module
    critic2: nn.Module
    target_actor: nn.Module
    target1: nn.Module
    target2: nn.Module
    actor_optimizer: torch.optim.Optimizer
    critic_optimizer: torch.optim.Optimizer

    TARGETS: ClassVar[Mapping[str, str]] = {
        "target_actor": "actor",
        "target1": "critic1",
        "target2": "critic2",
    }

    @property
    def critics(self) -> tuple[nn.Module, nn.Module]:
        """Both critics."""
        return self.critic1, self.critic2


def td3_update(
    model: TD3Model,
    experience: Experience,
    draws: Draws,
    noise: Tensor,
    config: TD3Config,
    updates_before: int,
) -> Updated:
    """K updates from the experience, in place.

    Args:
        draws: the random numbers that say which transitions; see Draws.
        noise: normal numbers [K, B, A], of the target actor's actions.
        updates_before: updates since training began; the actor is updated when their number reaches a
            multiple of policy_delay.

    Raises:
        NonFiniteError: a loss or gradient is NaN or infinite; model and priorities are as before.
        ValueError: a batch of one row for a batch norm.
    """
    check_batch(model.networks().items(), draws.batch_size)
    sums, actor_updates = [0.0, 0.0, 0.0], 0
    like = next(model.actor.parameters())
    with model.undone_on_error(), experience.priorities_kept_on_error():
        for k in range(draws.updates):
            batch, indices = experience.batch(draws, k, like)
            critic_loss, q_value, td_errors = td3_critic_step(model, batch, noise[k].to(like), config)
            experience.update_priorities(indices, td_errors)
            sums[0] += critic_loss
            sums[2] += q_value
            if (updates_before + k + 1) % config.policy_delay == 0:
                sums[1] += td3_actor_step(model, batch.observations, config)
                model.move_targets(config.tau)
                actor_updates += 1
    return updated_of(STATISTICS, sums, draws.updates, actor_updates)


def td3_critic_step(
    model: TD3Model, batch: Transitions, noise: Tensor, config: TD3Config
) -> tuple[float, float, Tensor]:
    """One update of the critics.

        a'     clip(tanh π̄(s') + clip(target_noise·ε, ±target_noise_clip), ±1)
        y      r + discount·min_i Q̄_i(s', a')
        loss   Σ_i mean w·(Q_i(s, a) − y)²

    Args:
        noise: ε, [B, A], normal.

    Returns:
        The loss, mean ½(Q_1 + Q_2)(s, a), and ½(|δ_1| + |δ_2|) of the rows, [B].

    Raises:
        NonFiniteError: before anything has changed.
    """
    with torch.no_grad():
        bound = config.target_noise_clip
        smoothing = (config.target_noise * noise).clamp(-bound, bound)
        actions = (torch.tanh(model.target_actor(batch.next_observations)) + smoothing).clamp(-1.0, 1.0)
        next_q = least_value((model.target1, model.target2), batch.next_observations, actions)
        target = batch.rewards + discounted(batch, next_q)
    values = [value_of(critic, batch.observations, batch.actions) for critic in model.critics]
    q_value = 0.5 * (values[0].mean() + values[1].mean())
    loss, td_errors = critic_step(
        values, target, batch.weights, 1.0, model.critic_optimizer, config.max_grad_norm
    )
    return float(loss), float(q_value.detach()), td_errors


def td3_actor_step(model: TD3Model, observations: Tree, config: TD3Config) -> float:
    """One update of the actor: −mean Q_1(s, tanh π(s)).

    Raises:
        NonFiniteError: before anything has changed.
    """
    loss = -value_of(model.critic1, observations, torch.tanh(model.actor(observations))).mean()
    descend_finite("actor", loss, model.actor_optimizer, config.max_grad_norm)
    return float(loss.detach())
