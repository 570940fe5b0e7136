"""How an action is distributed: the descriptions that :func:`optix_fast.ops.ppo_loss` takes.

``kind`` is the name by which the core knows the distribution (csrc/policy_kind.h), ``nvec`` the sizes of its
discrete components where the distribution itself fixes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

PolicyKind = Literal["categorical", "normal", "multi_discrete", "hybrid", "greedy"]


def _sizes(owner: str, nvec: Sequence[int]) -> tuple[int, ...]:
    sizes = tuple(int(n) for n in nvec)
    if not sizes or min(sizes) < 1:
        raise ValueError(
            f"{owner}: nvec must hold one number of actions, 1 or more, per component, got {nvec}"
        )
    return sizes


@dataclass(frozen=True)
class Categorical:
    """One of K actions: params are logits [B, K], actions int64 [B]."""

    kind: ClassVar[PolicyKind] = "categorical"
    components: ClassVar[int] = 1
    nvec: ClassVar[tuple[int, ...]] = ()


@dataclass(frozen=True)
class Normal:
    """A independent Gaussian dimensions: params are mean ‖ log_std [B, 2A], actions [B, A].

    For a squashed Gaussian the actions are those before the tanh: its Jacobian cancels in the ratio.
    """

    kind: ClassVar[PolicyKind] = "normal"
    components: ClassVar[int] = 1
    nvec: ClassVar[tuple[int, ...]] = ()


@dataclass(frozen=True)
class MultiDiscrete:
    """C independent categorical components of sizes nvec.

    params: logits [B, sum of nvec], those of the first component, then of the second, ...
    actions: int64 [B, C].
    """

    nvec: tuple[int, ...]
    kind: ClassVar[PolicyKind] = "multi_discrete"

    def __init__(self, nvec: Sequence[int]) -> None:
        object.__setattr__(self, "nvec", _sizes("MultiDiscrete", nvec))

    @property
    def components(self) -> int:
        return len(self.nvec)


@dataclass(frozen=True)
class Hybrid:
    """C categorical components of sizes nvec and, as component C, A Gaussian dimensions.

    params: [B, sum of nvec + 2A], MultiDiscrete's logits ‖ mean ‖ log_std; A follows from the width.
    actions: [B, C + A] of the type of params: the indices as whole numbers, then the Gaussian's sample before
        any squashing. One array, because a rollout stores one; float32 holds indices up to 2²⁴ exactly.
    """

    nvec: tuple[int, ...]
    kind: ClassVar[PolicyKind] = "hybrid"

    def __init__(self, nvec: Sequence[int]) -> None:
        object.__setattr__(self, "nvec", _sizes("Hybrid", nvec))

    @property
    def components(self) -> int:
        return len(self.nvec) + 1


Distribution = Categorical | Normal | MultiDiscrete | Hybrid
