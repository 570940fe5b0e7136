"""Updates of deep Q-learning in plain torch: the specification of what the core computes.

Mnih et al. 2015, "Human-level control through deep reinforcement learning"; double Q-learning: van Hasselt et
al. 2016; priorities: Schaul et al. 2016.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from optix_fast.learners.dqn.config import DQNConfig
from optix_fast.learners.experience import Draws, Experience, Transitions, check_masks, discounted
from optix_fast.learners.model import Model
from optix_fast.learners.optimizers import descend
from optix_fast.networks.modes import check_batch
from optix_fast.types import NonFiniteError


@dataclass
class DQNModel(Model):
    """Everything that an update changes.

    Args:
        q_network: observations → the value of each action, [B, K].
        target: a copy of it, which lags behind.
        optimizer: over the parameters of q_network.
    """

    q_network: nn.Module
    target: nn.Module
    optimizer: torch.optim.Optimizer

    TARGETS: ClassVar[Mapping[str, str]] = {"target": "q_network"}


class Updated(NamedTuple):
    """What K updates did: their number, copies of the target, and means of loss, |TD error| and Q(o, a)."""

    n_updates: int
    copies: int
    loss: float
    td_error: float
    q_value: float


def dqn_update(
    model: DQNModel, experience: Experience, draws: Draws, config: DQNConfig, updates_before: int
) -> Updated:
    """K updates from the experience, in place.

    Args:
        draws: the random numbers that say which transitions; see Draws.
        updates_before: updates since training began; the target is copied when their number reaches a
            multiple of target_update_freq.

    Raises:
        NonFiniteError: a target, loss or gradient is NaN or infinite; networks, optimizer and priorities are
            as before.
        ValueError: a batch of one row for a batch norm.
    """
    check_batch(model.networks().items(), draws.batch_size)
    collected: list[list[float]] = []
    copies = 0
    with model.undone_on_error(), experience.priorities_kept_on_error():
        for k in range(draws.updates):
            batch, indices = experience.batch(draws, k, next(model.q_network.parameters()))
            statistics, errors = dqn_step(model, batch, config)
            experience.update_priorities(indices, errors)
            collected.append(statistics)
            if config.tau:
                model.move_targets(config.tau)
            elif (updates_before + k + 1) % config.target_update_freq == 0:
                model.target.load_state_dict(model.q_network.state_dict())
                copies += 1
    n = max(len(collected), 1)
    loss, td_error, q_value = (sum(column) / n for column in zip(*collected, strict=True))
    return Updated(len(collected), copies, loss, td_error, q_value)


def dqn_step(model: DQNModel, batch: Transitions, config: DQNConfig) -> tuple[list[float], Tensor]:
    """One gradient step.

        y     R + discount·Q̄(o′, argmax_a Q(o′, a)), or with max_a Q̄(o′, a) without double_q; a over the
              actions that are allowed at o′
        loss  mean w·l(Q(o, a) − y)

    Returns:
        [loss, mean |TD error|, mean Q(o, a)], and the TD errors [B].

    Raises:
        NonFiniteError: before anything has changed.
        ValueError: the masks are of another number of actions.
    """
    with torch.no_grad():
        next_values = model.target(batch.next_observations)
        chooser = model.q_network(batch.next_observations) if config.double_q else next_values
        if batch.next_masks is not None:
            check_masks("dqn_update", batch.next_masks, chooser)
            chooser = chooser.masked_fill(~batch.next_masks, -math.inf)
        value = next_values.gather(1, chooser.argmax(dim=1, keepdim=True)).squeeze(1)
        target = batch.rewards + discounted(batch, value)
    if not bool(torch.isfinite(target).all()):
        raise NonFiniteError("target")
    values = model.q_network(batch.observations).gather(1, batch.actions[:, None]).squeeze(1)
    errors = values - target
    if config.loss == "huber":
        losses = nn.functional.huber_loss(values, target, reduction="none")
    else:
        losses = errors.square()
    loss = losses.mean() if batch.weights is None else (batch.weights * losses).mean()
    errors = errors.detach()
    statistics = [float(part.detach()) for part in (loss, errors.abs().mean(), values.mean())]
    if not math.isfinite(statistics[0]):
        raise NonFiniteError("loss")
    descend(loss, model.optimizer, config.max_grad_norm)
    return statistics, errors
