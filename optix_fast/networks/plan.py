"""What a network computes, as a list of layers that the compiled core knows.

Linear layers, activations, norms and their Sequentials are known by their classes. Any other module may
declare what its forward computes of them:

    class Block(nn.Module):
        def forward(self, x):
            return x + self.body(x)

        def native_plan(self, plan, x):
            return plan.add(x, plan(self.body, x))

`native_plan` is asked once, and again when the module's children or plain attributes have changed. What it
declares is compared with forward on random input, parameters and buffers. So a number that it reads from a
parameter or a buffer, which would be that of the moment, is found out: such a module is not served.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor, nn

from optix_fast.networks.batch_renorm import BatchRenorm

if TYPE_CHECKING:
    from optix_fast._C import Activation, LayerKind
    from optix_fast.networks.dropout import Masks
    from optix_fast.networks.flat_layout import FlatLayout

INPUT = -1  # as a source: what the network reads

# The names of csrc/mlp/mlp.h.
ACTIVATION_NAMES: dict[type[nn.Module], Activation] = {
    nn.Identity: "identity",
    nn.Tanh: "tanh",
    nn.ReLU: "relu",
    nn.LeakyReLU: "leaky_relu",
    nn.ELU: "elu",
    nn.CELU: "celu",
    nn.SELU: "selu",
    nn.Hardtanh: "hardtanh",
    nn.ReLU6: "hardtanh",
    nn.Sigmoid: "sigmoid",
    nn.SiLU: "silu",
    nn.GELU: "gelu",
    nn.Softplus: "softplus",
    nn.LogSigmoid: "log_sigmoid",
    nn.Mish: "mish",
    nn.Softsign: "softsign",
    nn.Hardsigmoid: "hardsigmoid",
    nn.Hardswish: "hardswish",
}
_SERVED = ", ".join(
    (
        "Linear",
        "LayerNorm",
        "RMSNorm",
        "BatchNorm1d",
        "BatchRenorm",
        "Dropout",
        *(k.__name__ for k in ACTIVATION_NAMES),
        "modules with native_plan",
    )
)
_MODULE_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
# What the layers above compute with, beside their parameters.
_NUMBERS = (
    "negative_slope", "alpha", "approximate", "min_val", "max_val", "beta", "threshold", "eps",
    "normalized_shape", "p", "in_features", "out_features", "num_embeddings", "embedding_dim", "padding_idx",
    "max_norm", "sparse", "scale_grad_by_freq", "num_features", "momentum", "track_running_stats", "features",
    "warmup_steps", "r_max", "d_max",
)  # fmt: skip
# Layers that compute something else in training than in evaluation.
_WITH_MODES = (nn.BatchNorm1d, BatchRenorm, nn.Dropout)


class UnsupportedError(Exception):
    """What the core does not serve; the message is the reason, in the user's words."""


class Value(NamedTuple):
    """What a layer has computed: its number, and the width of its rows. The width of the network's input is
    None until a layer that knows it reads it."""

    layer: int
    width: int | None


class Training(NamedTuple):
    """How a layer works on batches.

    active: whether the module is in training mode.
    momentum, r_max, d_max, warmup_steps: of a batch norm, see BatchRenorm.
    """

    active: bool
    momentum: float = 0.0
    r_max: float = 1.0
    d_max: float = 0.0
    warmup_steps: int = 0


@dataclass(frozen=True)
class Layer:
    """One layer; the fields are those of csrc/mlp/mlp.h.

    parameters: of the module, where "weight" and "bias" are found at every call; None where it has none.
    buffers: of a batch norm, likewise.
    training: of a batch norm or dropout.
    name: of the module's class, for messages.
    entries: rows of an Embedding.
    """

    kind: LayerKind
    source: int
    out: int
    other: int = INPUT
    activation: Activation = "identity"
    constants: tuple[float, float] = (0.0, 0.0)
    number: float = 0.0
    first: int = 0
    parameters: dict[str, nn.Parameter | None] | None = None
    name: str = ""
    entries: int = 0
    buffers: dict[str, Tensor | None] | None = None
    training: Training | None = None

    def tensors(self) -> tuple[Tensor | None, Tensor | None]:
        """Weight and bias."""
        if self.parameters is None:
            return None, None
        return self.parameters.get("weight"), self.parameters.get("bias")

    def described_to_act(self) -> tuple[Any, ...]:
        """The same, with the places where weight and bias, if the layer has them, and running statistics are
        found at every call."""
        weight, bias = self.tensors()
        has = weight is not None, bias is not None
        return (*self._shape(), *has, self.buffers or {}, self.parameters or {}, self.entries)

    @property
    def sources(self) -> tuple[int, ...]:
        """The layers that it reads."""
        return (self.source, self.other) if self.kind in _WITH_OTHER else (self.source,)

    def weight_shape(self, features: int) -> tuple[int, ...]:
        """Of a layer that reads so many columns."""
        if self.kind == "dense":
            return self.out, features
        return (self.entries, self.out) if self.kind == "embedding" else (self.out,)

    def described(self, masks: Masks | None = None) -> tuple[Any, ...]:
        """For the core: the LayerParts of csrc/mlp/mlp_bind.h.

        Args:
            masks: what Dropout draws in training.
        """
        return (*self._shape(), *self.tensors(), self._state(masks))

    def statistics(self) -> tuple[Tensor, ...]:
        """Of a batch norm: running mean and variance, and how many batches moved them."""
        return () if self.buffers is None else tuple(self.buffers[key] for key in STATISTICS)  # type: ignore[misc]

    def _shape(self) -> tuple[Any, ...]:
        return (
            self.kind, self.source, self.other, self.out, self.activation, self.constants, self.number,
            self.first,
        )  # fmt: skip

    def _state(self, masks: Masks | None) -> tuple[Any, ...] | None:
        if self.training is None:
            return None
        if self.kind != "dropout":
            return (*self.training, *self.statistics())
        return self.training.active, 0 if masks is None else masks.key_of(self.parameters)

    def is_the_same(self, other: Layer) -> bool:
        """Whether both are one module's, reading the same."""
        return self.parameters is other.parameters and self.is_like(other)

    def is_like(self, other: Layer) -> bool:
        """Whether both compute the same, of parameters that may be others."""
        return replace(self, parameters=None, buffers=None) == replace(other, parameters=None, buffers=None)

    def moved(self, by: int) -> Layer:
        """The layer behind `by` fewer layers, the last of which has become the input."""
        return replace(self, source=max(self.source - by, INPUT), other=max(self.other - by, INPUT))


class Plan:
    """Records layers. Calling it with a module and a value records what the module computes of it.

    Args:
        name: of the network, for messages.
    """

    def __init__(self, name: str = "the network") -> None:
        self.name = name
        self.layers: list[Layer] = []
        self.features: int | None = None
        self.is_declared = False  # a module has told by native_plan what it computes
        self.layout: FlatLayout | None = None  # where the network reads more than one array
        self.input = Value(INPUT, None)

    def __call__(self, module: nn.Module, x: Value) -> Value:
        """What the module makes of x.

        Raises:
            UnsupportedError: the core does not serve it; with the reason.
        """
        self.check_unhooked(module)
        kind = type(module)
        if kind is nn.Sequential:
            for child in module._modules.values():  # children() names a module once that is used twice
                assert child is not None
                x = self(child, x)
            return x
        if kind in ACTIVATION_NAMES:
            return x if kind is nn.Identity else self._activated(module, x)
        build: Callable[[Plan, Any, Value], Value] | None = _BUILDERS.get(kind)
        if build is not None:
            return build(self, module, x)
        declared = getattr(module, "native_plan", None)
        if declared is None:
            raise self.error(f"{kind.__name__} is not served (a Sequential of {_SERVED} is)")
        self.is_declared = True
        try:
            result: Value = declared(self, x)
        except UnsupportedError:
            raise
        except Exception as error:
            raise self.error(f"native_plan of {kind.__name__} failed: {error}") from error
        if type(result) is not Value or result.layer >= len(self.layers):
            raise self.error(f"native_plan of {kind.__name__} must return what the plan gave it")
        return result

    # --- what native_plan is made of -------------------------------------------------------------

    def add(self, x: Value, other: Value, factor: float = 1.0) -> Value:
        """x + factor·other."""
        width = self._same_width(x, other, "add")
        return self._record(Layer("sum", x.layer, width, other.layer, number=float(factor)))

    def multiply(self, x: Value, other: Value) -> Value:
        """x·other, element by element."""
        return self._record(Layer("product", x.layer, self._same_width(x, other, "multiply"), other.layer))

    def concatenate(self, *values: Value) -> Value:
        """Side by side."""
        if not values:
            raise self.error("concatenate needs values")
        joined = values[0]
        for value in values[1:]:
            width = self._width(joined) + self._width(value)
            joined = self._record(Layer("concat", joined.layer, width, value.layer))
        return joined

    def columns(self, x: Value, first: int, n: int, factor: float = 1.0) -> Value:
        """factor·x[:, first:first + n]."""
        if first < 0 or n < 1 or first + n > self._width(x):
            raise self.error(f"columns {first} to {first + n} are not there")
        return self._record(Layer("columns", x.layer, n, first=first, number=float(factor)))

    def one_hot(self, x: Value, column: int, n: int, start: int = 0) -> Value:
        """1 in column x[:, column] − start of n, else 0. Of the network's input alone."""
        self._require_input(x, "one_hot")
        self._check_column(x, column)
        return self._record(Layer("one_hot", INPUT, n, first=column, number=float(start)))

    def embed(self, embedding: nn.Embedding, x: Value, column: int, start: int = 0) -> Value:
        """The embedding's row x[:, column] − start. Of the network's input alone."""
        self._require_input(x, "embed")
        self.check_unhooked(embedding)
        is_plain = embedding.padding_idx is None and embedding.max_norm is None
        if type(embedding) is not nn.Embedding or not is_plain:
            raise self.error("an Embedding with padding_idx or max_norm is not served")
        if embedding.sparse or embedding.scale_grad_by_freq:
            raise self.error("an Embedding with sparse gradients or scale_grad_by_freq is not served")
        self._check_column(x, column)
        return self._record(
            Layer(
                "embedding", INPUT, embedding.embedding_dim, first=column, number=float(start),
                parameters=embedding._parameters, name="Embedding", entries=embedding.num_embeddings,
            )
        )  # fmt: skip

    def dueling(self, values: Value, advantages: Value) -> Value:
        """values + advantages − mean of advantages; values of width 1."""
        if self._width(values) != 1:
            raise self.error("dueling needs values of width 1")
        return self._record(Layer("dueling", advantages.layer, self._width(advantages), values.layer))

    def expect(self, x: Value, width: int) -> Value:
        """x, of which it is known now how wide it is."""
        if x.layer == INPUT:
            self.features = width if self.features is None else self.features
            x = Value(INPUT, self.features)
        if x.width != width:
            raise self.error("the widths of its layers do not fit together")
        return x

    def flattened(self, x: Value, layout: FlatLayout, more: int = 0) -> Value:
        """x, which stands for observations in flat rows of a layout, and `more` columns behind them."""
        self._require_input(x, "an encoder")
        if self.layout is not None and self.layout != layout:
            raise self.error("it reads observations in two ways")
        self.layout = layout
        return self.expect(x, layout.features + more)

    # --- the layers, as the core takes them ---------------------------------------------------------

    def finished(self, result: Value) -> list[Layer]:
        """All layers up to the result's, activations joined to the layers before them where nobody else reads
        those.

        Raises:
            UnsupportedError: there is nothing to compute, or something that the result does not depend on.
        """
        if result.layer == INPUT or self.features is None:
            raise self.error("has no Linear layer", "")
        readers = [0] * len(self.layers)
        for layer in self.layers:
            for source in layer.sources:
                readers[source] += source != INPUT
        if result.layer != len(self.layers) - 1 or readers.count(0) > 1:
            raise self.error("its plan computes something that its result does not depend on")
        place: list[int] = []  # of each layer, among those that are left
        kept: list[Layer] = []
        for layer in self.layers:
            source, other = layer.source, layer.other
            moved = replace(
                layer,
                source=INPUT if source == INPUT else place[source],
                other=INPUT if other == INPUT else place[other],
            )
            joins = layer.name == _ACTIVATION and source != INPUT and readers[source] == 1
            if joins and kept[moved.source].activation == "identity":
                joined = replace(kept[moved.source], activation=layer.activation, constants=layer.constants)
                kept[moved.source] = joined
                place.append(moved.source)
            else:
                kept.append(moved)
                place.append(len(kept) - 1)
        return kept

    def error(self, what: str, separator: str = ":") -> UnsupportedError:
        """Names the network."""
        return UnsupportedError(f"{self.name}{separator} {what}")

    def _record(self, layer: Layer) -> Value:
        self.layers.append(layer)
        return Value(len(self.layers) - 1, layer.out)

    def _activated(self, module: nn.Module, x: Value) -> Value:
        activation, constants = _activation(module, self)
        layer = Layer("columns", x.layer, self._width(x), number=1.0, name=_ACTIVATION)
        return self._record(replace(layer, activation=activation, constants=constants))

    def _width(self, x: Value) -> int:
        width = self.features if x.layer == INPUT else x.width
        if width is None:
            raise self.error("the width of its input is not known; begin with plan.expect(x, width)")
        return width

    def _same_width(self, x: Value, other: Value, what: str) -> int:
        width = self._width(x)
        if width != self._width(other):
            raise self.error(f"{what} needs two values of one width, got {width} and {self._width(other)}")
        return width

    def _check_column(self, x: Value, column: int) -> None:
        if not 0 <= column < self._width(x):
            raise self.error(f"column {column} is not there")

    def _require_input(self, x: Value, what: str) -> None:
        if x.layer != INPUT:
            raise self.error(f"{what} reads the network's input only")

    def check_unhooked(self, module: nn.Module) -> None:
        """Raise UnsupportedError where something else than the module's class decides what it computes."""
        if any(getattr(module, hooks) for hooks in _MODULE_HOOKS):
            raise self.error(f"{type(module).__name__} has a hook")
        if "forward" in module.__dict__:
            raise self.error(f"{type(module).__name__} has a forward of its own")


_ACTIVATION = "activation"  # the name of a layer that is nothing but one
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")  # buffers of a batch norm
_WITH_OTHER = ("sum", "product", "concat", "dueling")


def _linear(plan: Plan, module: nn.Linear, x: Value) -> Value:
    if module.in_features < 1 or module.out_features < 1:
        raise plan.error("a Linear's weight is not [out_features, in_features]")
    x = plan.expect(x, module.in_features)
    return plan._record(
        Layer("dense", x.layer, module.out_features, parameters=module._parameters, name="Linear")
    )


def _norm(plan: Plan, module: nn.LayerNorm | nn.RMSNorm, x: Value) -> Value:
    name = type(module).__name__
    if len(module.normalized_shape) != 1:
        raise plan.error(f"{name} over more than one dimension is not served")
    x = plan.expect(x, module.normalized_shape[0])
    eps = -1.0 if module.eps is None else module.eps  # RMSNorm's default depends on the dtype
    kind: LayerKind = "layer_norm" if isinstance(module, nn.LayerNorm) else "rms_norm"
    return plan._record(
        Layer(kind, x.layer, plan._width(x), number=float(eps), parameters=module._parameters, name=name)
    )


def _batch_norm(plan: Plan, module: nn.BatchNorm1d | BatchRenorm, x: Value) -> Value:
    name = type(module).__name__
    kind: LayerKind = "batch_norm"
    if isinstance(module, BatchRenorm):
        kind = "batch_renorm"
        training = Training(module.training, module.momentum, module.r_max, module.d_max, module.warmup_steps)
        x = plan.expect(x, module.features)
    else:
        if not module.track_running_stats or module.momentum is None:
            raise plan.error(f"{name} without running statistics, or with momentum=None, is not served")
        training = Training(module.training, module.momentum)
        x = plan.expect(x, module.num_features)
    return plan._record(
        Layer(
            kind, x.layer, plan._width(x), number=float(module.eps), parameters=module._parameters, name=name,
            buffers=module._buffers, training=training,
        )
    )  # fmt: skip


def _dropout(plan: Plan, module: nn.Dropout, x: Value) -> Value:
    if not module.training or module.p == 0.0:
        return x
    if not 0.0 < module.p < 1.0:
        raise plan.error(f"Dropout with p = {module.p} is not served")
    return plan._record(
        Layer(
            "dropout", x.layer, plan._width(x), number=float(module.p), parameters=module._parameters,
            name="Dropout", training=Training(True),
        )
    )  # fmt: skip


_BUILDERS: dict[type[nn.Module], Callable[[Plan, Any, Value], Value]] = {
    nn.Linear: _linear,
    nn.LayerNorm: _norm,
    nn.RMSNorm: _norm,
    nn.BatchNorm1d: _batch_norm,
    BatchRenorm: _batch_norm,
    nn.Dropout: _dropout,
}


def _activation(module: nn.Module, plan: Plan) -> tuple[Activation, tuple[float, float]]:
    kind = type(module)
    activation, first, second = ACTIVATION_NAMES[kind], 0.0, 0.0
    served = True
    if isinstance(module, nn.LeakyReLU):
        first = module.negative_slope
        served = first >= 0
    elif isinstance(module, nn.ELU):
        first = module.alpha
        served = first >= 0
    elif isinstance(module, nn.CELU):
        first = module.alpha
        served = first > 0
    elif kind is nn.ReLU6:  # whatever its inherited bounds say
        second = 6.0
    elif isinstance(module, nn.Hardtanh):
        first, second = module.min_val, module.max_val
        served = first < second
    elif isinstance(module, nn.Softplus):
        first, second = module.beta, module.threshold
        served = first > 0
    elif isinstance(module, nn.GELU) and module.approximate == "tanh":
        activation = "gelu_tanh"
    if not served:
        raise plan.error(f"{module} (such numbers are not served)")
    return activation, (first, second)


# --- what a plan depends on ----------------------------------------------------------------------------


def sizes_of(network: nn.Module) -> Iterator[tuple[dict[Any, Any], int]]:
    """Dicts and how many entries they must keep: no hooks; no child, parameter or buffer more or less."""
    for module in network.modules():
        for name in _MODULE_HOOKS:
            yield getattr(module, name), 0
        for own in (module._modules, module._parameters, module._buffers):
            yield own, len(own)


def entries_of(network: nn.Module) -> Iterator[tuple[dict[str, Any], str, Any]]:
    """Entries of dicts that must stay: the children, no forward of a module's own (`...`), the numbers of
    layers, their mode where it matters, and the plain attributes of modules that declare a plan."""
    for module in network.modules():
        for key, child in module._modules.items():
            yield module._modules, key, child
        own = module.__dict__
        yield own, "forward", ...
        declares = hasattr(module, "native_plan")
        for key in [key for key in own if not key.startswith("_")] if declares else _NUMBERS:
            if key in own:
                yield own, key, own[key]
        if type(module) in _WITH_MODES:
            yield own, "training", module.training
