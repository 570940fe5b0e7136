"""One layer as the compiled core knows it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor, nn

if TYPE_CHECKING:
    from optix_fast._C import Activation, LayerKind
    from optix_fast.networks.dropout import Masks

INPUT = -1  # as a source: what the network reads
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")  # buffers of a batch norm
_WITH_OTHER = ("sum", "product", "concat", "dueling")


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
