"""The models of off-policy agents as the core sees them, and what follows an update of the core."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import nn

from optix_fast.buffers.ring import ReplayView
from optix_fast.learners.experience import Experience
from optix_fast.learners.model import Model
from optix_fast.learners.native.networks import (
    Stack,
    UnsupportedError,
    check_batch_layers,
    check_distinct,
    check_surroundings,
    stack_of,
)
from optix_fast.learners.native.optimizers import Trained as TrainedParameters
from optix_fast.networks.layer import INPUT
from optix_fast.types import NonFiniteError

# Each parameter with its optimizer state, for the core.
Trained = list[tuple[Any, ...]]
_MOST_CRITICS = 16


class Result(Protocol):
    """Of the core's updates."""

    @property
    def failed(self) -> str | None: ...
    @property
    def max_priority(self) -> float | None: ...


class Recognised:
    """A model whose networks the core serves.

    Args:
        model: of an off-policy agent.
        create: whether the state of an optimizer is made where it is missing.
        names: of networks, in messages; the attributes where nothing is given.

    Raises:
        UnsupportedError: here and in the methods: the core does not serve the model; with the reason.
    """

    def __init__(self, model: Model, create: bool, names: Mapping[str, str] | None = None) -> None:
        self._model, self._create, self._names = model, create, names or {}
        check_surroundings()
        modules = dict(_single(model.modules()))
        self._stacks = {part: stack_of(net, self._name(part)) for part, net in modules.items()}
        # Each target network, and what it copies.
        self._followed = {
            target: network
            for pair in model.TARGETS.items()
            for target, network in zip(
                *(_names_of(part, model.modules()[part]) for part in pair), strict=True
            )
        }
        self.target_critics = [t for t, network in self._followed.items() if network.startswith("critic")]
        self.critics = [part for part in modules if part.startswith("critic")]
        check_distinct([*parameters_of(*self._stacks.values()), *model.other_parameters().values()])
        self._first = next(iter(self._stacks))
        check_batch_layers(*self._stacks.values())
        self._changed = [tensor for stack in self._stacks.values() for tensor in stack.statistics()]
        self._trained: dict[str, TrainedParameters] = {}

    @property
    def dtype(self) -> torch.dtype:
        """Of the networks."""
        return next(p.dtype for p in parameters_of(*self._stacks.values()))

    def outputs(self, network: str) -> int:
        """Width of a network's outputs."""
        return self._stacks[network].outputs

    def check_critics(self, width: int, outputs: int | None = 1) -> None:
        """Raise UnsupportedError unless each critic reads observation ‖ action, `width` values of it, and has
        so many outputs; None: as many as the others."""
        if len(self.critics) > _MOST_CRITICS:
            raise UnsupportedError(f"there are more than {_MOST_CRITICS} critics")
        features = self._stacks[self._first].features
        wanted = outputs or self.outputs(self.critics[0])
        for critic in (self._stacks[name] for name in (*self.critics, *self.target_critics)):
            if critic.features != features + width:
                raise UnsupportedError("a critic does not read observations and actions side by side")
            if critic.outputs != wanted:
                raise UnsupportedError(f"a critic has {critic.outputs} outputs, not {wanted}")
            if any(la.kind == "product" and INPUT in (la.source, la.other) for la in critic.layers):
                raise UnsupportedError("a critic multiplies its input by something")

    def trained(self, optimizer: str, *networks: str) -> Trained:
        """The parameters of the networks, which the optimizer trains."""
        parameters = parameters_of(*(self._stacks[name] for name in networks))
        if not any(p.requires_grad for p in parameters):
            raise UnsupportedError("every parameter of a network is frozen")
        return self.trained_by(optimizer, parameters)

    def trained_by(self, optimizer: str, parameters: list[nn.Parameter]) -> Trained:
        """Parameters with their state in the optimizer of this name."""
        found = TrainedParameters(self._model.optimizers()[optimizer], parameters, self._create)
        self._changed += found.tensors
        self._trained[optimizer] = found
        return found.described

    def targets(self, *names: str) -> list[nn.Parameter]:
        """The parameters of target networks, of the shapes of the networks that they follow."""
        for name in names:
            network = self._followed[name]
            stacks = (self._stacks[each] for each in (name, network))
            own, followed = ([t.shape for t in (*s.parameters(), *s.statistics())] for s in stacks)
            if own != followed:
                raise UnsupportedError(f"{self._name(name)} is not like {self._name(network)}")
        parameters = parameters_of(*(self._stacks[name] for name in names))
        self._changed += parameters
        return parameters

    def described(self, names: Iterable[str] | None = None) -> tuple[Any, ...]:
        """Networks for the core; all of them where no names are given."""
        masks = self._model.masks
        return tuple(
            self._stacks[name].described(masks) for name in (self._stacks if names is None else names)
        )

    def view_of(self, experience: Experience) -> ReplayView:
        """The stored transitions as the core reads them."""
        try:
            view = experience.buffer.replay.view()
        except ValueError as error:
            raise UnsupportedError("the observations are not one float array") from error
        if any(stack.layout != experience.layout for stack in self._stacks.values()):
            raise UnsupportedError("the networks read observations in another way than they are stored")
        if view.observations.shape[1] != self._stacks[self._first].features:
            raise UnsupportedError(f"{self._name(self._first)} does not read one flat observation")
        return view

    def conclude(self, result: Result, experience: Experience, idle: Sequence[str] = ()) -> None:
        """Tell torch, the replay and the optimizers what the core did. idle: optimizers that took no step.

        Raises:
            NonFiniteError: the core has put everything back, because something was not finite.
        """
        # Written behind autograd's back, also when all was put back.
        torch.autograd.graph.increment_version(self._changed)
        if result.failed is not None:
            raise NonFiniteError(result.failed)
        if result.max_priority is not None:
            experience.buffer.max_priority = result.max_priority
        for name, trained in self._trained.items():
            if name not in idle:
                trained.conclude()

    def _name(self, network: str) -> str:
        return self._names.get(network, network)


def parameters_of(*stacks: Stack) -> list[nn.Parameter]:
    """Weights and biases in the order of the layers."""
    return [parameter for stack in stacks for parameter in stack.parameters()]


def _names_of(part: str, network: nn.Module) -> list[str]:
    """The networks of a part of a model: itself, or critic1, critic2, … of a list `critics`."""
    if not isinstance(network, nn.ModuleList):
        return [part]
    return [f"{part.removesuffix('s')}{i}" for i in range(1, len(network) + 1)]


def _single(modules: Mapping[str, nn.Module]) -> Iterator[tuple[str, nn.Module]]:
    for part, network in modules.items():
        each = network if isinstance(network, nn.ModuleList) else [network]
        yield from zip(_names_of(part, network), each, strict=True)
