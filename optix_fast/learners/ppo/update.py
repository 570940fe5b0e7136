"""Updates of proximal policy optimisation in plain torch: the specification of what the core computes.

Schulman et al. 2017, "Proximal policy optimization algorithms".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from optix_fast import ops, reference
from optix_fast.learners.model import Model
from optix_fast.learners.optimizers import descend
from optix_fast.learners.ppo.batch import Batch
from optix_fast.learners.ppo.config import KL_STOP, PPOConfig
from optix_fast.learners.tensors import outputs_of
from optix_fast.networks.heads import PolicyHead
from optix_fast.networks.modes import check_batch, training_batch_norm
from optix_fast.ops import PPOLoss
from optix_fast.random import RandomStream
from optix_fast.types import NonFiniteError, Tree

STATISTICS = ("policy_loss", "value_loss", "entropy", "approx_kl", "clip_fraction")
_KL = STATISTICS.index("approx_kl")


@dataclass
class PPOModel(Model):
    """Everything that an update changes.

    Args:
        actor: returns what `head` expects.
        critic: returns [B, 1] or [B].
        optimizer: over the parameters of both, and of the head's free log_std where it has one.
        head: what the actor's outputs mean.
        is_loss_fused: whether the loss is the compiled op or the reference.
    """

    actor: nn.Module
    critic: nn.Module
    optimizer: torch.optim.Optimizer
    head: PolicyHead
    is_loss_fused: bool = False

    def other_parameters(self) -> dict[str, nn.Parameter]:
        """A free log_std."""
        return {} if self.log_std is None else {"log_std": self.log_std}

    @property
    def log_std(self) -> nn.Parameter | None:
        """The free log standard deviation, where the head has one."""
        return getattr(self.head, "log_std", None)

    def evaluate(self, observations: Tree, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        """Distribution parameters and values [B] of the dtype, with gradients."""
        values = outputs_of(self.critic, observations).reshape(-1).to(dtype)
        return self.head.params(outputs_of(self.actor, observations)).to(dtype), values

    def loss(self, batch: Batch, config: PPOConfig) -> PPOLoss:
        """The loss of a minibatch, with its statistics: STATISTICS, then the entropy of each component."""
        params, values = self.evaluate(batch.observations, batch.returns.dtype)
        loss: PPOLoss = (ops if self.is_loss_fused else reference).ppo_loss(
            self.head.dist, params, batch.actions, batch.log_probs, batch.advantages, values, batch.returns,
            batch.values if config.value_clip is not None else None, action_mask=batch.action_masks,
            **config.loss_options(),
        )  # fmt: skip
        return loss


class Updated(NamedTuple):
    """means: of the minibatches' STATISTICS; n_updates: minibatches used, fewer after a KL stop."""

    means: dict[str, float]
    n_updates: int


class Permutations:
    """The order of the rows in each epoch, [E, R], drawn ahead from a stream.

    `begun` puts the stream where it stands after the epochs that were begun: a KL stop may come early.
    """

    def __init__(self, stream: RandomStream, n_epochs: int, n_rows: int) -> None:
        self._stream, self._states = stream, []
        order = np.empty((n_epochs, n_rows), np.int64)
        for epoch in range(n_epochs):
            order[epoch] = stream.permutation(n_rows)
            self._states.append(stream.state_dict())
        self.order = torch.from_numpy(order)

    def begun(self, n_updates: int, per_epoch: int) -> None:
        """Leave the stream after the epochs of so many minibatches, `per_epoch` in each."""
        self._stream.load_state_dict(self._states[-(-max(n_updates, 1) // per_epoch) - 1])


def ppo_update(model: PPOModel, batch: Batch, permutations: Tensor, config: PPOConfig) -> Updated:
    """Every epoch and minibatch of a window, in place.

    Args:
        permutations: int64 [E, R], the order of the rows in each epoch; config's n_epochs is not read.

    Raises:
        NonFiniteError: a loss or gradient norm is NaN or infinite; what came before it has been changed.
        ValueError: minibatches of one row for a batch norm, see minibatch_sizes.
    """
    sizes = minibatch_sizes(model, len(batch.returns), config.minibatch_size)
    collected: list[list[float]] = []
    orders = permutations.to(batch.returns.device)
    for index in (part for order in orders for part in torch.split(order, sizes)):
        collected.append(ppo_step(model, batch.rows(index), config))
        if config.target_kl is not None and collected[-1][_KL] > KL_STOP * config.target_kl:
            break
    return updated_of(np.mean(np.asarray(collected), axis=0).tolist(), len(collected))


def minibatch_sizes(model: PPOModel, n_rows: int, minibatch_size: int) -> list[int]:
    """How many rows each minibatch of an epoch has; the last may be smaller.

    A batch norm in training mode cannot learn from one row: where the last minibatch would have one, it
    joins the minibatch before it.

    Raises:
        ValueError: a window or minibatches of one row for such a batch norm.
    """
    networks = model.networks().items()
    check_batch(networks, min(n_rows, minibatch_size))
    whole, rest = divmod(n_rows, minibatch_size)
    sizes = [minibatch_size] * whole
    if rest == 1 and whole > 0 and training_batch_norm(networks):
        sizes[-1] += 1
    elif rest > 0:
        sizes.append(rest)
    return sizes


def ppo_step(model: PPOModel, batch: Batch, config: PPOConfig) -> list[float]:
    """One step of the optimizer on a minibatch: surrogate + vf_coef·value loss − entropy_coef·entropy.

    Returns:
        The loss's statistics.
    """
    result = model.loss(batch, config)
    stats: list[float] = result.stats.tolist()
    if not all(map(math.isfinite, stats)):
        raise NonFiniteError("loss")
    descend(result.loss, model.optimizer, config.max_grad_norm)
    return stats


def updated_of(means: Sequence[float], n_updates: int) -> Updated:
    """STATISTICS by name."""
    return Updated({name: float(mean) for name, mean in zip(STATISTICS, means, strict=False)}, n_updates)
