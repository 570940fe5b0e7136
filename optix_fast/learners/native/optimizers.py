"""Which optimizers the compiled learners serve, and their description for the core.

Checked before each update: the optimizer stays the user's, who may change it at any time.
"""

from __future__ import annotations

import operator
import weakref
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import optimizer as optim_module

from optix_fast import _native
from optix_fast.networks.plan import UnsupportedError
from optix_fast.optimizers import RMSpropTF

_core = _native.core
_OPTIMIZER_HOOKS = ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")
_GLOBAL_OPTIMIZER_HOOKS = ("_global_optimizer_pre_hooks", "_global_optimizer_post_hooks")
_OPTIMIZER_FLAGS = ("amsgrad", "maximize", "capturable", "differentiable")
Group = Mapping[str, Any]


class _Kind(NamedTuple):
    """An optimizer that the core serves.

    name: of its step in the core, for a group.
    state: the tensors like their parameter that a group's step changes, and what each starts from.
    counts: whether the state holds the number of steps.
    """

    name: Callable[[Group], str]
    state: Callable[[Group], dict[str, float]]
    counts: bool = True


def _adam_name(group: Group) -> str:
    return "adamw" if group.get("decoupled_weight_decay") else "adam"


def _adam_state(group: Group) -> dict[str, float]:
    return {"exp_avg": 0.0, "exp_avg_sq": 0.0}


def _sgd_state(group: Group) -> dict[str, float]:
    return {"momentum_buffer": 0.0} if group["momentum"] != 0.0 else {}


def _rmsprop_state(group: Group) -> dict[str, float]:
    names = {"momentum_buffer": group["momentum"] > 0.0, "grad_avg": group["centered"]}
    return {"square_avg": 0.0, **{name: 0.0 for name, used in names.items() if used}}


_KINDS: dict[type[torch.optim.Optimizer], _Kind] = {
    torch.optim.Adam: _Kind(_adam_name, _adam_state),
    torch.optim.AdamW: _Kind(_adam_name, _adam_state),
    torch.optim.SGD: _Kind(lambda group: "sgd", _sgd_state, counts=False),
    torch.optim.RMSprop: _Kind(lambda group: "rmsprop", _rmsprop_state),
    RMSpropTF: _Kind(lambda group: "rmsprop_tf", lambda group: {**_rmsprop_state(group), "square_avg": 1.0}),
}
# What a step reads of a group, in the core's order; zero where the optimizer does not have it.
_NUMBERS = ("lr", "weight_decay", "eps", "alpha", "momentum", "dampening")


class Trained:
    """Parameters and the state of their optimizer, which the core changes in place.

    State that is missing is made here as torch makes it, and becomes the optimizer's in `conclude`: a call
    that fails leaves no trace.

    Args:
        optimizer: over just these parameters, but for those that are frozen.
        create: whether missing state is made; without, only the checks are of use.

    Raises:
        UnsupportedError: the core does not serve the optimizer; with the reason.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], create: bool
    ) -> None:
        _check_surroundings(optimizer)
        self._optimizer = optimizer
        found = _described.get(optimizer)
        if found is None or not found.holds(optimizer, parameters):
            found = _Description(optimizer, parameters, create)
            _described.pop(optimizer, None)
            if create and not found.begun:
                _described[optimizer] = found
        self._begun = found.begun
        # What the core writes to.
        self.tensors = found.tensors
        # For the core: a parameter with its state and its group's numbers, or a frozen one alone.
        self.described = found.described

    def conclude(self) -> None:
        """Tell torch of steps that succeeded: the optimizer gets the state that began with them, and a
        learning-rate scheduler sees that it stepped."""
        for parameter, state in self._begun:
            self._optimizer.state[parameter].update(state)
        note_step(self._optimizer)


class _Description:
    """What Trained hands to the core, and whether it still holds at the next call."""

    def __init__(
        self, optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], create: bool
    ) -> None:
        groups = _check_groups(optimizer, parameters)
        self._state_of, self._create, self._kind = optimizer.state, create, _KINDS[type(optimizer)]
        self.begun: list[tuple[nn.Parameter, dict[str, Tensor]]] = []
        self.tensors: list[Tensor] = list(parameters)
        self.described = [
            (p, *self._describe(p, groups[id(p)])) if p.requires_grad else (p,) for p in parameters
        ]
        states = [optimizer.state.get(p, ...) for p in parameters]
        dicts = [*optimizer.param_groups, *(state for state in states if state is not ...)]
        self._guards = _core.Guards(
            [(each, len(each)) for each in dicts],
            [(each, key, value) for each in dicts for key, value in each.items()]
            + [(optimizer.state, p, state) for p, state in zip(parameters, states, strict=True)],
        )
        self._objects = _objects_of(optimizer, parameters)
        self._facts = _facts_of(parameters)

    def holds(self, optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter]) -> bool:
        """Whether a new one would be the same. The core itself checks the memory of the state."""
        objects = _objects_of(optimizer, parameters)
        return (
            len(objects) == len(self._objects)
            and all(map(operator.is_, objects, self._objects))
            and _facts_of(parameters) == self._facts
            and self._guards.hold()
        )

    def _describe(self, parameter: nn.Parameter, group: dict[str, Any]) -> tuple[Any, ...]:
        step, state, begins = self._state(parameter, group)
        self.tensors += state if step is None else (step, *state)
        beta1, beta2 = group.get("betas", (0.0, 0.0))
        flags = bool(group.get("nesterov")), bool(group.get("centered"))
        numbers = (*(float(group.get(name, 0.0)) for name in _NUMBERS), float(beta1), float(beta2), *flags)
        return self._kind.name(group), step, state, begins, numbers

    def _state(
        self, parameter: nn.Parameter, group: dict[str, Any]
    ) -> tuple[Tensor | None, tuple[Tensor, ...], bool]:
        """The step counter, the tensors like the parameter, and whether they begin with this call."""
        starts, counts = self._kind.state(group), self._kind.counts
        state = self._state_of.get(parameter) or {}
        # SGD has no buffer before its first step with momentum; the others have all of their state or none.
        begins = state.get("momentum_buffer") is None if not counts else not state
        if begins and starts:
            if counts and torch.get_default_dtype() != torch.float32:
                raise UnsupportedError("torch's default dtype is not float32")
            if not self._create:
                return None, (), True
            state = {
                name: torch.full_like(parameter, start, memory_format=torch.preserve_format)
                for name, start in starts.items()
            }
            if counts:
                state["step"] = torch.tensor(0.0)
            self.begun.append((parameter, state))
        if not starts.keys() <= state.keys() or (counts and "step" not in state):
            raise UnsupportedError(f"the optimizer's state holds {', '.join(sorted(state))}")
        for name in starts:
            _check_like(state[name], parameter, name)
        step = state["step"] if counts else None
        if counts and (
            not isinstance(step, Tensor)
            or step.dtype != torch.float32
            or step.device.type != "cpu"
            or step.ndim
        ):
            raise UnsupportedError("the optimizer's step counter is not a float32 number on the cpu")
        return step, tuple(state[name] for name in starts), begins


# By what describes an optimizer nothing leads back to it, so that it goes when its user lets it go.
_described: weakref.WeakKeyDictionary[torch.optim.Optimizer, _Description] = weakref.WeakKeyDictionary()


def _objects_of(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter]) -> list[Any]:
    held = [p for group in optimizer.param_groups for p in group["params"]]
    return [optimizer.state, *optimizer.param_groups, *parameters, *(p for p in held if p.requires_grad)]


def _facts_of(parameters: list[nn.Parameter]) -> list[Any]:
    return [(p.requires_grad, p.dtype, p.shape) for p in parameters]


def check_optimizer(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter]) -> None:
    """The optimizer is one that the core knows, over just these parameters.

    Raises:
        UnsupportedError: with the reason.
    """
    _check_surroundings(optimizer)
    _check_groups(optimizer, parameters)


def _check_surroundings(optimizer: torch.optim.Optimizer) -> None:
    if type(optimizer) not in _KINDS:
        served = ", ".join(kind.__name__ for kind in _KINDS)
        raise UnsupportedError(f"the optimizer is {type(optimizer).__name__} (served: {served})")
    if any(getattr(optim_module, name) for name in _GLOBAL_OPTIMIZER_HOOKS):
        raise UnsupportedError("a global optimizer hook is registered")
    if any(getattr(optimizer, name) for name in _OPTIMIZER_HOOKS):
        raise UnsupportedError("the optimizer has a step hook")
    # A learning-rate scheduler wraps step() to note that it was called, see note_step.
    step = optimizer.__dict__.get("step")
    if step is not None and not getattr(step, "_wrapped_by_lr_sched", False):
        raise UnsupportedError("the optimizer has a step() of its own")


def _check_groups(
    optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter]
) -> dict[int, dict[str, Any]]:
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    if any(p.requires_grad and id(p) not in groups for p in parameters):
        raise UnsupportedError("the optimizer does not hold every parameter of the networks")
    own = {id(p) for p in parameters}
    if any(p.requires_grad and id(p) not in own for g in optimizer.param_groups for p in g["params"]):
        raise UnsupportedError("the optimizer holds parameters that are not the policy's")
    for group in optimizer.param_groups:
        _check_group(group)
    return groups


def note_step(optimizer: torch.optim.Optimizer) -> None:
    """What a learning-rate scheduler wants to know: that the optimizer has stepped."""
    if "step" in optimizer.__dict__:
        optimizer._opt_called = True  # type: ignore[attr-defined]


def _check_group(group: dict[str, Any]) -> None:
    for flag in _OPTIMIZER_FLAGS:
        if group.get(flag):
            raise UnsupportedError(f"the optimizer is set to {flag}")
    for key, number in group.items():
        if isinstance(number, Tensor):
            raise UnsupportedError(f"the optimizer's {key} is a tensor")
    if any(isinstance(beta, Tensor) for beta in group.get("betas", ())):
        raise UnsupportedError("the optimizer's betas are tensors")


def _check_like(state: Any, parameter: nn.Parameter, name: str) -> None:
    if (
        not isinstance(state, Tensor)
        or state.dtype != parameter.dtype
        or state.device != parameter.device
        or state.shape != parameter.shape
        or not state.is_contiguous()
    ):
        raise UnsupportedError(f"the optimizer's {name} is not like its parameter")
