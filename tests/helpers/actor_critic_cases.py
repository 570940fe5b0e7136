"""What the tests of actor-critics' updates share: networks, and how far two models are apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from optix_fast.learners.model import Model
from optix_fast.networks import mlp

FEATURES, WIDTH = 5, 2
# Bounds of the design, §4.
AFTER_10, AFTER_200 = 1e-5, 1e-4


def adam(parameters: list[Any]) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=3e-4, eps=1e-5)


def networks_of(
    outputs: int,
    hidden: tuple[int, ...],
    activation: str,
    dtype: torch.dtype,
    features: int,
    width: int,
    critic_outputs: Sequence[int] = (1, 1),
    **blocks: Any,
) -> tuple[nn.Sequential, list[nn.Sequential]]:
    """An actor with so many outputs, and critics of actions of `width` values. blocks: of mlp()."""
    generator = torch.Generator().manual_seed(7)
    actor = mlp([features, *hidden, outputs], activation, 0.5, generator, **blocks).to(dtype)
    critics = [
        mlp([features + width, *hidden, m], activation, 1.0, generator, **blocks).to(dtype)
        for m in critic_outputs
    ]
    for net in (actor, *critics):
        for p in net.parameters():
            if p.ndim == 1:  # not zero: relative to what hardly moves from there, rounding is large
                p.data = 0.1 * torch.randn(p.shape, generator=generator, dtype=dtype)
    return actor, critics


def values_of(model: Model) -> list[Tensor]:
    nets = [p.detach() for net in model.modules().values() for p in net.parameters()]
    return [*nets, *(p.detach() for p in model.other_parameters().values())]


def moments_of(model: Model) -> list[dict[str, Tensor]]:
    """Adam's state of every trained parameter; zeros where it has none yet."""
    found = []
    for optimizer in model.optimizers().values():
        for p in (p for group in optimizer.param_groups for p in group["params"]):
            state = optimizer.state.get(p, {})
            like = {"step": torch.zeros(()), "exp_avg": p.detach(), "exp_avg_sq": p.detach()}
            found.append({key: state.get(key, torch.zeros_like(value)) for key, value in like.items()})
    return found


def state_of(model: Model) -> list[Tensor]:
    """Everything that an update changes."""
    return [*values_of(model), *(tensor for state in moments_of(model) for tensor in state.values())]


def distance(ours: Model, theirs: Model) -> float:
    """The largest ‖Δ‖/‖θ‖ over networks, other parameters and optimizer state. A mean of gradients counts
    relative to their size, as they may cancel in it."""
    triples = [(a, b, b) for a, b in zip(values_of(ours), values_of(theirs), strict=True)]
    for one, other in zip(moments_of(ours), moments_of(theirs), strict=True):
        triples += [(one[key], other[key], other[key]) for key in ("exp_avg_sq", "step")]
        triples.append((one["exp_avg"], other["exp_avg"], other["exp_avg_sq"].sqrt()))
    return max(float((a - b).norm() / size.norm().clamp_min(1e-12)) for a, b, size in triples)
