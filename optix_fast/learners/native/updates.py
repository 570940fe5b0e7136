"""The models of off-policy agents as the core sees them, and what follows an update of the core."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import nn

from optix_fast.buffers.ring import ReplayView
from optix_fast.learners.experience import Experience
from optix_fast.learners.model import Model
from optix_fast.learners.native.networks import (
    Stack,
    UnsupportedError,
    adam_parameters,
    check_batch_layers,
    check_distinct,
    check_surroundings,
    note_step,
    stack_of,
)
from optix_fast.networks.layer import INPUT
from optix_fast.types import NonFiniteError

# Each parameter with its optimizer state, as adam_parameters gives them.
Trained = list[tuple[Any, ...]]


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
        serves_batches: whether the update serves batch norms and Dropout in training.

    Raises:
        UnsupportedError: here and in the methods: the core does not serve the model; with the reason.
    """

    def __init__(
        self,
        model: Model,
        create: bool,
        names: Mapping[str, str] | None = None,
        serves_batches: bool = False,
    ) -> None:
        self._model, self._create, self._names = model, create, names or {}
        check_surroundings()
        self._stacks = {part: stack_of(net, self._name(part)) for part, net in model.modules().items()}
        check_distinct([*parameters_of(*self._stacks.values()), *model.other_parameters().values()])
        self._first = next(iter(self._stacks))
        check_batch_layers(*self._stacks.values())
        if not serves_batches and any(la.training for stack in self._stacks.values() for la in stack.layers):
            raise UnsupportedError("the networks hold a batch norm or Dropout (PPO and DQN serve them)")
        self._changed = [tensor for stack in self._stacks.values() for tensor in stack.statistics()]

    @property
    def dtype(self) -> torch.dtype:
        """Of the networks."""
        return next(p.dtype for p in parameters_of(*self._stacks.values()))

    def outputs(self, network: str) -> int:
        """Width of a network's outputs."""
        return self._stacks[network].outputs

    def check_critics(self, width: int, *names: str) -> None:
        """Raise UnsupportedError unless each critic has one output and reads observation ‖ action, `width`
        values of it."""
        features = self._stacks[self._first].features
        for critic in (self._stacks[name] for name in names):
            if critic.features != features + width:
                raise UnsupportedError("a critic does not read observations and actions side by side")
            if critic.outputs != 1:
                raise UnsupportedError("a critic has more than one output")
            if any(la.kind == "product" and INPUT in (la.source, la.other) for la in critic.layers):
                raise UnsupportedError("a critic multiplies its input by something")

    def trained(self, optimizer: str, *networks: str) -> Trained:
        """The parameters of the networks, which the optimizer trains."""
        parameters = parameters_of(*(self._stacks[name] for name in networks))
        if not any(p.requires_grad for p in parameters):
            raise UnsupportedError("every parameter of a network is frozen")
        return self.adam(optimizer, parameters)

    def adam(self, optimizer: str, parameters: list[nn.Parameter]) -> Trained:
        """Parameters with their state in the optimizer of this name."""
        found = adam_parameters(self._model.optimizers()[optimizer], parameters, self._create)
        self._changed += [tensor for entry in found for tensor in entry[:4]]
        return found

    def targets(self, *names: str) -> list[nn.Parameter]:
        """The parameters of target networks, of the shapes of the networks that they follow."""
        for name in names:
            network = self._model.TARGETS[name]
            stacks = (self._stacks[each] for each in (name, network))
            own, followed = ([t.shape for t in (*s.parameters(), *s.statistics())] for s in stacks)
            if own != followed:
                raise UnsupportedError(f"{self._name(name)} is not like {self._name(network)}")
        parameters = parameters_of(*(self._stacks[name] for name in names))
        self._changed += parameters
        return parameters

    def described(self) -> tuple[Any, ...]:
        """The networks for the core."""
        return tuple(stack.described(self._model.masks) for stack in self._stacks.values())

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

    def conclude(self, result: Result, experience: Experience) -> None:
        """Tell torch, the optimizers and the replay what the core has done.

        Raises:
            NonFiniteError: the core has put everything back, because something was not finite.
        """
        # Written behind autograd's back, also when all was put back.
        torch.autograd.graph.increment_version(self._changed)
        if result.failed is not None:
            raise NonFiniteError(result.failed)
        if result.max_priority is not None:
            experience.buffer.max_priority = result.max_priority
        for optimizer in self._model.optimizers().values():
            note_step(optimizer)

    def _name(self, network: str) -> str:
        return self._names.get(network, network)


def parameters_of(*stacks: Stack) -> list[nn.Parameter]:
    """Weights and biases in the order of the layers."""
    return [parameter for stack in stacks for parameter in stack.parameters()]
