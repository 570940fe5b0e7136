"""Which networks the compiled learners serve, and their description for the core.

Recognised anew before each window and each update: modules stay the user's, who may change them at any time.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules import module as nn_module

from optix_fast import _native
from optix_fast.networks.dropout import Masks
from optix_fast.networks.flat_layout import FlatLayout
from optix_fast.networks.layer import STATISTICS, Layer
from optix_fast.networks.modes import evaluating
from optix_fast.networks.plan import Plan, entries_of, sizes_of
from optix_fast.networks.plan import UnsupportedError as UnsupportedError

_core = _native.core
_GLOBAL_MODULE_HOOKS = (
    "_global_forward_hooks", "_global_forward_pre_hooks", "_global_backward_hooks",
    "_global_backward_pre_hooks",
)  # fmt: skip


class Stack(NamedTuple):
    """Layers that follow one another, the width of what they read, and, where that is no plain array, what
    makes flat rows of it."""

    layers: Sequence[Layer]
    features: int
    layout: FlatLayout | None = None

    @property
    def outputs(self) -> int:
        """Width of the last layer's output; of no layers, that of the input."""
        return self.layers[-1].out if self.layers else self.features

    def described(self, masks: Masks | None = None) -> list[tuple[Any, ...]]:
        """For the core. masks: what Dropout draws in training."""
        return [layer.described(masks) for layer in self.layers]

    @property
    def depends_on_batch(self) -> bool:
        """Whether a batch norm or a Dropout is in training mode. Rows of several batches must not be joined
        in one pass then."""
        return any(layer.training is not None and layer.training.active for layer in self.layers)

    def statistics(self) -> list[Tensor]:
        """The running statistics of batch norms, which updates change."""
        return [tensor for layer in self.layers for tensor in layer.statistics()]

    def parameters(self) -> list[nn.Parameter]:
        """Weights and biases in the order of the layers."""
        return [p for layer in self.layers for p in layer.tensors() if p is not None]  # type: ignore[misc]


class Networks(NamedTuple):
    """Actor and critic as layers: those that both share, and what each has of its own. Where nothing but the
    actor is asked for, the critic has none."""

    trunk: Stack
    actor: Stack
    critic: Stack

    def described(self, masks: Masks | None = None) -> tuple[list[Any], ...]:
        """For the core; see Stack."""
        return tuple(part.described(masks) for part in self)

    def parameters(self) -> Iterator[nn.Parameter]:
        """Each once, in the order of the layers."""
        for part in self:
            yield from part.parameters()

    def statistics(self) -> list[Tensor]:
        """See Stack."""
        return [tensor for part in self for tensor in part.statistics()]

    @property
    def features(self) -> int:
        """Width of the observations."""
        return self.trunk.features

    @property
    def layout(self) -> FlatLayout | None:
        """What makes flat rows of observations that are no plain array."""
        return self.trunk.layout

    @property
    def outputs(self) -> int:
        """Width of the actor's outputs."""
        return self.actor.outputs


def networks_of(actor: nn.Module, critic: nn.Module | None) -> Networks:
    """Actor and critic, or an actor alone, as the core sees them.

    Raises:
        UnsupportedError: with the reason.
    """
    check_surroundings()
    if critic is None:
        alone = stack_of(actor, "the network")
        networks = Networks(Stack([], alone.features, alone.layout), alone, Stack([], alone.outputs))
        check_distinct(alone.parameters())
        check_batch_layers(alone)
        return networks
    one, other = stack_of(actor, "actor"), stack_of(critic, "critic")
    shared = _shared_layers(one.layers, other.layers)
    trunk = Stack(one.layers[:shared], one.features, one.layout)
    networks = Networks(trunk, *(_behind(trunk, net.layers[shared:]) for net in (one, other)))
    if not networks.actor.layers or not networks.critic.layers:
        raise UnsupportedError("actor or critic has no layer of its own")
    check_distinct(list(networks.parameters()))
    check_batch_layers(*networks)
    if trunk.depends_on_batch:
        # Torch runs them twice, which moves the statistics twice and draws two masks.
        raise UnsupportedError("actor and critic share a batch norm or Dropout in training mode")
    if one.features != other.features:
        raise UnsupportedError("actor and critic read observations of different widths")
    if one.layout != other.layout:
        raise UnsupportedError("actor and critic read observations in different ways")
    if networks.critic.outputs != 1:
        raise UnsupportedError("the critic has more than one output")
    return networks


def _shared_layers(one: Sequence[Layer], other: Sequence[Layer]) -> int:
    """How many leading layers are the same ones, and read by the others through the last of them alone."""
    shared = 0
    for mine, theirs in zip(one, other, strict=False):
        if not mine.is_the_same(theirs):
            break
        shared += 1
    while True:
        # What falls out of the trunk may read still earlier layers.
        behind = (*one[shared:], *other[shared:])
        least = min([shared, *(min(layer.sources) + 1 for layer in behind)])
        if least == shared:
            return shared
        shared = least


def _behind(trunk: Stack, layers: Sequence[Layer]) -> Stack:
    return Stack([layer.moved(len(trunk.layers)) for layer in layers], trunk.outputs)


def check_surroundings() -> None:
    """Nothing outside of the networks changes what they compute.

    Raises:
        UnsupportedError: with the reason.
    """
    for name in _GLOBAL_MODULE_HOOKS:
        if getattr(nn_module, name):
            raise UnsupportedError("a global module hook is registered")
    if torch.is_autocast_enabled("cpu"):
        raise UnsupportedError("autocast is enabled")


def check_distinct(parameters: list[nn.Parameter]) -> None:
    """Each parameter has memory of its own, and all have one dtype.

    Raises:
        UnsupportedError: with the reason.
    """
    if len({parameter.data_ptr() for parameter in parameters}) < len(parameters):
        raise UnsupportedError("a parameter is used in more than one place")
    if any(parameter.dtype != parameters[0].dtype for parameter in parameters):
        raise UnsupportedError("the networks mix dtypes")


def check_batch_layers(*stacks: Stack) -> None:
    """Each batch norm and Dropout is computed once in a pass.

    Raises:
        UnsupportedError: with the reason.
    """
    layers = [layer for stack in stacks for layer in stack.layers if layer.training is not None]
    if len({id(layer.parameters) for layer in layers}) < len(layers):
        raise UnsupportedError("a batch norm or Dropout is used in more than one place")


class _Recognised(NamedTuple):
    guards: _core.Guards
    stack: Stack
    parameters: _core.Guards  # they were checked, and so were buffers


# A network whose attributes lead back to itself (a bound method of its own) would stay here for good, so the
# number is limited.
_recognised: weakref.WeakKeyDictionary[nn.Module, _Recognised] = weakref.WeakKeyDictionary()
_MOST_RECOGNISED = 512


def stack_of(module: nn.Module, name: str) -> Stack:
    """A network as layers. Its structure is looked at once, and again when it has changed; its parameters at
    every call.

    Raises:
        UnsupportedError: the core does not serve it; with the reason.
    """
    found = _recognised.get(module)
    if found is None or not found.guards.hold():
        found = _recognise(module, name)
        if len(_recognised) >= _MOST_RECOGNISED:
            _recognised.clear()
        _recognised[module] = found
    elif not found.parameters.hold():
        _check_parameters(found.stack, name)
        _recognised[module] = found._replace(parameters=_guards_of_parameters(found.stack))
    return found.stack


def _recognise(module: nn.Module, name: str) -> _Recognised:
    plan = Plan(name)
    for each in module.modules():
        plan.check_unhooked(each)
    layers = plan.finished(plan(module, plan.input))
    assert plan.features is not None
    stack = Stack(layers, plan.features, plan.layout)
    _check_parameters(stack, name)
    if plan.is_declared:
        _check_declaration(module, stack, name)
    guards = _core.Guards(list(sizes_of(module)), list(entries_of(module)))
    return _Recognised(guards, stack, _guards_of_parameters(stack))


def _guards_of_parameters(stack: Stack) -> _core.Guards:
    dicts = [d for layer in stack.layers for d in (layer.parameters, layer.buffers) if d is not None]
    entries = [(each, key, value) for each in dicts for key, value in each.items()]
    tensors = [*stack.parameters(), *stack.statistics()]
    return _core.Guards([(each, len(each)) for each in dicts], entries, tensors)


def guards_of(module: nn.Module) -> _core.Guards:
    """What tells that a network, which stack_of has served, is still the same."""
    return _recognised[module].guards


def _check_parameters(stack: Stack, name: str) -> None:
    for layer in stack.layers:
        if layer.parameters is None or layer.kind == "dropout":
            continue
        read = stack.features if layer.source < 0 else stack.layers[layer.source].out
        shape = layer.weight_shape(read)
        for key in ("weight", "bias"):
            if key not in layer.parameters:
                if key == "bias" and layer.kind != "dense":
                    continue
                raise UnsupportedError(f"{name}: the {key} of a {layer.name} is computed, not a parameter")
            parameter = layer.parameters[key]
            if parameter is None:
                continue
            check_parameter(parameter, f"{name}: the {key} of a {layer.name}")
            if key == "weight" and parameter.shape != shape:
                raise UnsupportedError(f"{name}: a {layer.name}'s weight is not {list(shape)}")
        if layer.buffers is not None:
            _check_statistics(layer, next((p.dtype for p in stack.parameters()), torch.float32), name)


def _check_statistics(layer: Layer, dtype: torch.dtype, name: str) -> None:
    expected = dict(zip(STATISTICS, ((layer.out,), (layer.out,), ()), strict=True))
    assert layer.buffers is not None
    for key, shape in expected.items():
        tensor = layer.buffers.get(key)
        kind = dtype if shape else torch.int64
        if type(tensor) is not Tensor or tensor.dtype != kind or tensor.shape != shape:
            expected_is = f"{str(kind).removeprefix('torch.')} {list(shape)}"
            raise UnsupportedError(f"{name}: the {key} of a {layer.name} is not {expected_is}")
        if tensor.device.type != "cpu" or not tensor.is_contiguous():
            raise UnsupportedError(f"{name}: the {key} of a {layer.name} is not contiguous on the cpu")


def _check_declaration(module: nn.Module, stack: Stack, name: str) -> None:
    """What native_plan has declared is what forward computes, of random input, parameters and buffers: not of
    those of the moment alone; in the modules' own modes, and evaluated."""
    own = {id(p): key for key, p in (*module.named_parameters(), *module.named_buffers())}
    dtype = next((p.dtype for p in stack.parameters()), torch.float32)
    generator = torch.Generator().manual_seed(0)

    def numbers(*shape: int) -> Tensor:
        return 2.0 * torch.rand(shape, generator=generator, dtype=dtype) - 1.0

    given = numbers(5, stack.features)
    for leaf in stack.layout.leaves if stack.layout is not None else ():
        if leaf.is_integer:
            columns = given[:, leaf.first : leaf.first + leaf.width]
            columns.copy_(torch.randint(2, columns.shape, generator=generator))
    for layer in stack.layers:
        if layer.kind in ("one_hot", "embedding"):
            n = layer.out if layer.kind == "one_hot" else layer.entries
            given[:, layer.first] = layer.number + torch.randint(n, (5,), generator=generator)
    variances = {id(layer.statistics()[1]) for layer in stack.layers if layer.buffers is not None}
    tensors = {key: numbers(*p.shape) for key, p in module.named_parameters()}
    for key, b in module.named_buffers():
        tensors[key] = numbers(*b.shape) if b.is_floating_point() else b.clone()
        if id(b) in variances:
            tensors[key] = tensors[key] + 2.0
    for evaluated in (True, False):
        # A forward may write to what it is given.
        of_torch, of_core = ({key: t.clone() for key, t in tensors.items()} for _ in range(2))
        masks, declared = Masks(0, [module]), torch.empty(5, stack.outputs, dtype=dtype)
        try:
            with torch.no_grad(), evaluating(module) if evaluated else masks.in_torch():
                expected = functional_call(module, of_torch, _arguments(stack, given.clone()))
            layers = [_with_tensors(layer, masks, own, of_core) for layer in stack.layers]
            _core.mlp(layers, False, evaluated, given, declared, None, [], None)
        except Exception as error:
            raise UnsupportedError(f"{name}: forward failed on [5, {stack.features}]: {error}") from error
        _check_same(declared, expected, stack, name)


def _check_same(declared: Tensor, expected: Any, stack: Stack, name: str) -> None:
    if not isinstance(expected, Tensor) or expected.numel() != declared.numel():
        shape = [5, stack.outputs]
        raise UnsupportedError(f"{name}: forward returns another shape than native_plan, {shape}")
    difference = float((declared - expected.reshape(declared.shape)).abs().max())
    if not difference <= 1e-3 * float(expected.abs().max()):
        raise UnsupportedError(f"{name}: what native_plan declares differs from forward by {difference:.3g}")


def _with_tensors(
    layer: Layer, masks: Masks, names: Mapping[int, str], tensors: Mapping[str, Tensor]
) -> tuple[Any, ...]:
    """The layer for the core, with other parameters and buffers."""
    *parts, weight, bias, state = layer.described(masks)

    def other(part: Any) -> Any:
        return tensors[names[id(part)]] if isinstance(part, Tensor) else part

    return (*parts, other(weight), other(bias), None if state is None else tuple(map(other, state)))


def _arguments(stack: Stack, rows: Tensor) -> tuple[Any, ...]:
    """What forward takes in place of rows: observations, and what lies behind them apart."""
    if stack.layout is None:
        return (rows,)
    width = stack.layout.features
    observations = stack.layout.unflatten(rows[:, :width])
    return (observations,) if width == stack.features else (observations, rows[:, width:])


def check_parameter(parameter: Any, what: str) -> None:
    """Raise unless it is a plain parameter in the CPU's memory.

    Raises:
        UnsupportedError: with the reason.
    """
    if type(parameter) is not nn.Parameter:
        raise UnsupportedError(f"{what} is a {type(parameter).__name__}")
    if parameter.device.type != "cpu":
        raise UnsupportedError(f"{what} is on {parameter.device}")
    if parameter.dtype not in (torch.float32, torch.float64):
        raise UnsupportedError(f"{what} is {str(parameter.dtype).removeprefix('torch.')}")
    if parameter.layout != torch.strided or not parameter.is_contiguous():
        raise UnsupportedError(f"{what} is not contiguous")
    if parameter._backward_hooks or getattr(parameter, "_post_accumulate_grad_hooks", None):
        raise UnsupportedError(f"{what} has a hook")


def trained_parameters(networks: Networks, log_std: nn.Parameter | None) -> list[nn.Parameter]:
    """What an update changes: everything that is not frozen.

    Raises:
        UnsupportedError: with the reason.
    """
    parameters = list(networks.parameters())
    if log_std is not None:
        check_parameter(log_std, "log_std")
        if log_std.dtype != parameters[0].dtype:
            raise UnsupportedError("log_std has another dtype than the networks")
        parameters.append(log_std)
    trained = [p for p in parameters if p.requires_grad]
    if not trained:
        raise UnsupportedError("every parameter is frozen")
    return trained
