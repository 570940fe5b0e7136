"""Twin critics of actions: their values and one step of both, for what learns with them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from optix_fast.learners.optimizers import descend_finite
from optix_fast.types import Tree


def value_of(critic: nn.Module, observations: Tree, actions: Tensor) -> Tensor:
    """Q(s, a), [B]: of observation ‖ action, or of both apart where observations are not [B, D]."""
    if isinstance(observations, Tensor) and observations.ndim == 2:
        output: Tensor = critic(torch.cat((observations, actions), dim=-1))
    else:
        output = critic(observations, actions)
    return output.reshape(-1)


def least_value(critics: Sequence[nn.Module], observations: Tree, actions: Tensor) -> Tensor:
    """min_i Q_i(s, a), [B]."""
    one, other = (value_of(critic, observations, actions) for critic in critics)
    return torch.min(one, other)


def critic_step(
    values: Sequence[Tensor],
    target: Tensor,
    weights: Tensor | None,
    factor: float,
    optimizer: torch.optim.Optimizer,
    max_grad_norm: float | None,
) -> tuple[Tensor, Tensor]:
    """One step of both critics down factor·Σ_i mean w·(Q_i − y)².

    Args:
        values: Q_i(s, a), [B] each.
        target: y, [B].
        weights: w, [B]; None where all are 1.

    Returns:
        The loss, and ½(|δ_1| + |δ_2|) of the rows, [B].

    Raises:
        NonFiniteError: before anything has changed.
    """
    errors = [value - target for value in values]
    squares = errors[0].square() + errors[1].square()
    loss = factor * (squares if weights is None else weights * squares).mean()
    descend_finite("critic", loss, optimizer, max_grad_norm)
    return loss.detach(), 0.5 * (errors[0].detach().abs() + errors[1].detach().abs())
