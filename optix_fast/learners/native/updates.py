"""What the native updates of off-policy agents share: parameters, the replay, what follows a call."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from optix_fast.buffers.ring import ReplayView
from optix_fast.learners.experience import Experience
from optix_fast.learners.model import Model
from optix_fast.learners.native.networks import Stack, UnsupportedError, note_step
from optix_fast.networks.plan import INPUT
from optix_fast.types import NonFiniteError


class Result(Protocol):
    """Of the core's updates."""

    @property
    def failed(self) -> str | None: ...
    @property
    def max_priority(self) -> float | None: ...


def parameters_of(*stacks: Stack) -> list[nn.Parameter]:
    """Weights and biases in the order of the layers."""
    return [parameter for stack in stacks for parameter in stack.parameters()]


def described(stacks: Sequence[Stack]) -> tuple[Any, ...]:
    """The networks for the core."""
    return tuple(stack.described() for stack in stacks)


def check_copy(network: Stack, target: Stack, message: str) -> None:
    """Raise UnsupportedError, with the message, unless the target's parameters have the network's shapes."""
    if [p.shape for p in network.parameters()] != [p.shape for p in target.parameters()]:
        raise UnsupportedError(message)


def check_trained(parameters: Iterable[nn.Parameter], message: str) -> None:
    """Raise UnsupportedError, with the message, where every parameter is frozen."""
    if not any(p.requires_grad for p in parameters):
        raise UnsupportedError(message)


def check_critics(actor: Stack, critics: Sequence[Stack], width: int) -> None:
    """Raise UnsupportedError unless each critic reads observation ‖ action, of `width` values, and has one
    output."""
    for critic in critics:
        if critic.features != actor.features + width:
            raise UnsupportedError("a critic does not read observations and actions side by side")
        if critic.outputs != 1:
            raise UnsupportedError("a critic has more than one output")
        if any(layer.kind == "product" and INPUT in (layer.source, layer.other) for layer in critic.layers):
            raise UnsupportedError("a critic multiplies its input by something")


def view_of(experience: Experience, network: Stack, message: str) -> ReplayView:
    """The stored transitions as the core reads them.

    Raises:
        UnsupportedError: the observations are not one float array, or, with the message, not one that the
            network reads.
    """
    try:
        view = experience.buffer.replay.view()
    except ValueError as error:
        raise UnsupportedError("the observations are not one float array") from error
    if view.observations.shape[1] != network.features:
        raise UnsupportedError(message)
    return view


def conclude(
    result: Result,
    model: Model,
    experience: Experience,
    trained: Iterable[tuple[Any, ...]],
    targets: Iterable[Tensor],
) -> None:
    """Tell torch, the optimizers and the replay what the core has done.

    Args:
        trained: what adam_parameters gave.
        targets: the target networks' parameters.

    Raises:
        NonFiniteError: the core has put everything back, because something was not finite.
    """
    # Written behind autograd's back, also when all was put back.
    torch.autograd.graph.increment_version([*(t for entry in trained for t in entry[:4]), *targets])
    if result.failed is not None:
        raise NonFiniteError(result.failed)
    if result.max_priority is not None:
        experience.buffer.max_priority = result.max_priority
    for optimizer in model.optimizers().values():
        note_step(optimizer)
