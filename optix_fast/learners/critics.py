"""Critics of actions: their values, one step of all of them, and what updates of actor and critics return."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from optix_fast.learners.experience import Means
from optix_fast.learners.optimizers import descend_finite
from optix_fast.types import Tree

# Statistics of the actor's updates, which may be fewer than the critics'.
OF_THE_ACTOR = ("actor_loss", "alpha_loss", "entropy")


class Updated(NamedTuple):
    """What K updates did: their number, the means of their statistics by name, and the actor's updates, over
    which alone the means of OF_THE_ACTOR are taken (zero where there were none)."""

    n_updates: int
    means: dict[str, float]
    actor_updates: int

    def add_to(self, means: Means) -> None:
        """Count these updates in the means of a window."""
        for name, mean in self.means.items():
            means.add(self.actor_updates if name in OF_THE_ACTOR else self.n_updates, **{name: mean})


def updated_of(names: Sequence[str], sums: Sequence[float], n_updates: int, actor_updates: int) -> Updated:
    """The means of the statistics of these names, from their sums."""
    counts = [max(actor_updates, 1) if name in OF_THE_ACTOR else n_updates for name in names]
    means = {name: total / n for name, total, n in zip(names, sums, counts, strict=True)}
    return Updated(n_updates, means, actor_updates)


def outputs_of(critic: nn.Module, observations: Tree, actions: Tensor) -> Tensor:
    """All that a critic returns, [B, M]: of observation ‖ action, or of both apart where observations are not
    [B, D]."""
    if isinstance(observations, Tensor) and observations.ndim == 2:
        output: Tensor = critic(torch.cat((observations, actions), dim=-1))
    else:
        output = critic(observations, actions)
    return output.reshape(len(actions), -1)


def value_of(critic: nn.Module, observations: Tree, actions: Tensor) -> Tensor:
    """Q(s, a) of a critic with one output, [B]."""
    return outputs_of(critic, observations, actions).squeeze(-1)


def least_value(critics: Iterable[nn.Module], observations: Tree, actions: Tensor) -> Tensor:
    """min_i Q_i(s, a), [B]; critics of equal value share the gradient."""
    return torch.stack([value_of(critic, observations, actions) for critic in critics]).amin(dim=0)


def critic_step(
    values: Sequence[Tensor],
    target: Tensor,
    weights: Tensor | None,
    factor: float,
    optimizer: torch.optim.Optimizer,
    max_grad_norm: float | None,
) -> tuple[Tensor, Tensor]:
    """One step of all critics down factor·Σ_i mean w·(Q_i − y)².

    Args:
        values: Q_i(s, a), [B] each.
        target: y, [B].
        weights: w, [B]; None where all are 1.

    Returns:
        The loss, and mean_i |δ_i| of the rows, [B].

    Raises:
        NonFiniteError: before anything has changed.
    """
    errors = torch.stack(list(values)) - target
    squares = errors.square().sum(dim=0)
    loss = factor * (squares if weights is None else weights * squares).mean()
    descend_finite("critic", loss, optimizer, max_grad_norm)
    return loss.detach(), errors.detach().abs().mean(dim=0)
