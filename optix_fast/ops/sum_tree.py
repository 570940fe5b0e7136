"""The sum tree: priorities that can be drawn in proportion to their size."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from optix_fast import _native, reference
from optix_fast.random import RandomStream

_core = _native.core
_HAS_CUDA = bool(_native.build_info().get("cuda"))

Indices = torch.Tensor | npt.NDArray[np.int64]
_MAX_CAPACITY = 2**40


class SumTree:
    """``capacity`` priorities p ≥ 0, all zero at first; leaf i is drawn with probability p_i / Σp.

    update, find and each drawn leaf cost O(log capacity), and the sums never drift: each is recomputed from
    its children in float64. A leaf of priority zero is never drawn, whatever the rounding. Safe to use from
    several threads at once.

    ``len(tree)`` is the number of leaves with a positive priority: the items of a replay buffer that can be
    drawn. (Write 0 to take one out.)

    Every call returns tensors on the tree's device. Arguments are contiguous one-dimensional tensors there;
    a tree on the CPU takes numpy arrays as well.

    Args:
        capacity: number of leaves, any number from 1 to 2⁴⁰ that fits into memory (about 4.7 bytes a leaf on
            the CPU, 8.6 on CUDA).
        device: where the tree lives.
        seed: of the draws; None takes one from the operating system.

    Raises:
        ValueError, TypeError: an argument of another kind, element type, shape or device; an index outside
            [0, capacity); a negative, NaN or infinite priority; a draw while every priority is zero. Nothing
            has then changed. On CUDA such a batch changes nothing either, but its error waits for the next
            call that reads from the device (``total``, ``len``, ``state_dict``), or comes at once with
            ``check=True``.
        MemoryError: the capacity does not fit.

    Source: Schaul et al., "Prioritized experience replay", 2016.
    """

    def __init__(self, capacity: int, device: torch.device | str = "cpu", seed: int | None = None) -> None:
        if isinstance(capacity, bool):
            raise TypeError("SumTree: capacity must be an integer, got bool")
        capacity = _integer("capacity", capacity)
        if not 1 <= capacity <= _MAX_CAPACITY:
            raise ValueError(f"SumTree: capacity must be in [1, 2**40], got {capacity}")
        self.capacity = capacity
        stream = RandomStream(seed, "sum_tree")
        position = stream.state_dict()
        self._tree: Any = None
        self._leaves: torch.Tensor | None = None  # of the tree on CUDA, in its storage
        self._reference: reference.SumTree | None = None
        self.device = torch.device(device)
        if _native.backend() == "native" and self.device.type == "cpu":
            self._tree = _core.SumTree(capacity, position["key"], position["offset"])
        elif _HAS_CUDA and self.device.type == "cuda":
            try:
                storage = torch.zeros(
                    _core.SumTreeCuda.bytes(capacity), dtype=torch.uint8, device=self.device
                )
            except torch.OutOfMemoryError as error:
                raise MemoryError(f"SumTree: capacity {capacity} could not be allocated: {error}") from error
            self.device = storage.device
            self._tree = _core.SumTreeCuda(storage, capacity, position["key"], position["offset"])
            start = self._tree.leaves_offset()
            self._leaves = storage[start : start + 4 * capacity].view(torch.float32)
        else:
            self._reference = reference.SumTree(capacity, self.device, stream)
        # What new_empty makes outputs like: a microsecond less for each batch than naming type and device.
        self._int64 = torch.empty(0, dtype=torch.int64, device=self.device)
        self._float32 = torch.empty(0, dtype=torch.float32, device=self.device)

    def update(
        self,
        indices: Indices,
        priorities: torch.Tensor | npt.NDArray[np.float32] | float,
        *,
        check: bool = False,
    ) -> None:
        """Sets p at each index; of equal indices the last one counts.

        Args:
            indices: int64 [B], in [0, capacity).
            priorities: float32 [B], or one number for all; finite, 0 or more.
            check: on CUDA, wait and raise here what is wrong. The CPU always does.
        """
        if self._reference is not None:
            self._reference.update(indices, priorities)
            return
        if self._leaves is not None and isinstance(priorities, (float, int)):
            one = torch.full((1,), float(priorities), dtype=torch.float64, device=self.device)
            priorities = one.float().repeat(_length(indices))
        self._tree.update(indices, priorities)
        if check:
            self._tree.total()

    def priorities(self, indices: Indices) -> torch.Tensor:
        """p at each of the indices, int64 [B] → float32 [B]."""
        if self._reference is not None:
            return self._reference.priorities(indices)
        out = self._float32.new_empty(_length(indices))
        self._tree.priorities(indices, out)
        return out

    def find(self, mass: torch.Tensor | npt.NDArray[np.float64]) -> torch.Tensor:
        """The first leaf whose running sum p_0 + … + p_i exceeds the mass: float64 [B] → int64 [B].

        A mass lies in [0, total]; the total itself, which a product with a uniform number may round to, finds
        the last positive leaf.
        """
        if self._reference is not None:
            return self._reference.find(mass)
        out = self._int64.new_empty(_length(mass))
        self._tree.find(mass, out)
        return out

    def sample(self, n: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Draws n leaves in proportion to their priorities, one from each of n strata of equal mass.

        Returns:
            (indices, priorities): int64 [n] in ascending order, float32 [n].
        """
        n = _count(n)
        if self._reference is not None:
            return self._reference.sample(n)
        indices, priorities = self._int64.new_empty(n), self._float32.new_empty(n)
        self._tree.sample(indices, priorities, None, 0.0)
        return indices, priorities

    def sample_weighted(self, n: int, beta: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """:meth:`sample` with importance weights (N·p/Σp)^−β, divided by the greatest of the batch.

        What is left after the division is (min p / p)^β: neither N nor Σp plays a part.

        Args:
            beta: how much of the bias to correct, from 0 (none: all weights 1) to 1 (all of it); any finite
                number from 0 up is taken.

        Returns:
            (indices, priorities, weights): int64 [n], float32 [n], float32 [n] in [0, 1].
        """
        n = _count(n)
        if not 0.0 <= beta < math.inf:
            raise ValueError(f"SumTree: beta must be finite and not negative, got {beta}")
        if self._reference is not None:
            return self._reference.sample_weighted(n, beta)
        indices, priorities = self._int64.new_empty(n), self._float32.new_empty(n)
        weights = self._float32.new_empty(n)
        self._tree.sample(indices, priorities, weights, beta)
        return indices, priorities, weights

    @property
    def native(self) -> Any:
        """The core's tree, which its learners draw from by themselves; None where the reference runs."""
        return self._tree

    @property
    def total(self) -> float:
        """Σp."""
        return self._reference.total if self._reference is not None else float(self._tree.total())

    def __len__(self) -> int:
        return len(self._reference) if self._reference is not None else int(self._tree.positive())

    def state_dict(self) -> dict[str, Any]:
        """``priorities``, float32 [capacity] (a copy), and ``stream``, the state of the random stream."""
        if self._reference is not None:
            return self._reference.state_dict()
        if self._leaves is not None:
            key, offset = self._tree.save()
            priorities = self._leaves.clone()
        else:
            priorities = self._float32.new_empty(self.capacity)
            key, offset = self._tree.save(priorities)
        return {"priorities": priorities, "stream": {"key": key, "offset": offset}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues exactly where that state was taken, on this device or another; all or nothing."""
        if set(state) != {"priorities", "stream"}:
            raise ValueError(f"SumTree: state must have exactly priorities and stream, got {sorted(state)}")
        priorities = state["priorities"]
        if not isinstance(priorities, torch.Tensor):
            raise TypeError(f"SumTree: priorities must be a torch.Tensor, got {type(priorities).__name__}")
        if priorities.dtype != torch.float32 or tuple(priorities.shape) != (self.capacity,):
            raise ValueError(
                f"SumTree: priorities must be float32 [capacity] = [{self.capacity}], "
                f"got {str(priorities.dtype).removeprefix('torch.')} {list(priorities.shape)}"
            )
        if not bool(((priorities >= 0) & (priorities < math.inf)).all()):
            raise ValueError("SumTree: priorities must be finite and not negative")
        stream = RandomStream(0)
        stream.load_state_dict(state["stream"])
        position = stream.state_dict()
        if self._reference is not None:
            self._reference.load_state_dict({"priorities": priorities, "stream": position})
        elif self._leaves is not None:
            self._leaves.copy_(priorities.detach())
            self._tree.load(position["key"], position["offset"])
        else:
            self._tree.load(priorities.detach().cpu().contiguous(), position["key"], position["offset"])

    def __repr__(self) -> str:
        return f"SumTree(capacity={self.capacity}, device={str(self.device)!r})"


def _integer(name: str, value: object) -> int:
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"SumTree: {name} must be an integer, got {type(value).__name__}") from None


def _count(n: object) -> int:
    n = _integer("n", n)
    if n < 0:
        raise ValueError(f"SumTree: n must be 0 or more, got {n}")
    return n


def _length(value: object) -> int:
    """How long the output is; what has no length is the core's to refuse, with its words."""
    try:
        return len(value)  # type: ignore[arg-type]
    except TypeError:
        return 0
