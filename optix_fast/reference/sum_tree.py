"""The sum tree in plain torch: running sums over the leaves instead of a tree."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from optix_fast.reference.checks import check_like

if TYPE_CHECKING:
    from optix_fast.random import RandomStream

_OP = "SumTree"


class SumTree:
    """The tree of :class:`optix_fast.ops.SumTree`; its random numbers come from ``stream``."""

    def __init__(self, capacity: int, device: torch.device | str, stream: RandomStream) -> None:
        self._capacity = capacity
        self._device = torch.device(device)
        self._stream = stream
        try:
            self._leaves = torch.zeros(capacity, dtype=torch.float32, device=self._device)
        except RuntimeError as error:
            raise MemoryError(f"SumTree: capacity {capacity} could not be allocated: {error}") from error

    def update(
        self,
        indices: torch.Tensor | npt.NDArray[np.int64],
        priorities: torch.Tensor | npt.NDArray[np.float32] | float,
        *,
        check: bool = True,
    ) -> None:
        index = self._vector("indices", indices, torch.int64)
        if isinstance(priorities, (float, int)):
            priorities = torch.full(index.shape, float(priorities), dtype=torch.float64, device=self._device)
            priorities = priorities.float()
        priority = self._vector("priorities", priorities, torch.float32, len(index))
        bad_index = (index < 0) | (index >= self._capacity)
        bad_priority = ~((priority >= 0) & (priority < math.inf))
        faults = torch.nonzero(bad_index | bad_priority)
        if len(faults):
            at = int(faults[0])
            if bad_index[at]:
                _refuse_index(int(index[at]), self._capacity, at)
            _refuse("priorities", "finite and not negative", float(priority[at]), at)
        # The greatest position of each index wins; elsewhere a write of equal numbers in any order.
        winner = torch.full((self._capacity,), -1, dtype=torch.int64, device=self._device)
        position = torch.arange(len(index), device=self._device)
        winner.scatter_reduce_(0, index, position, "amax")
        self._leaves[index] = priority[winner[index]] + 0.0

    def priorities(self, indices: torch.Tensor | npt.NDArray[np.int64]) -> torch.Tensor:
        index = self._vector("indices", indices, torch.int64)
        faults = torch.nonzero((index < 0) | (index >= self._capacity))
        if len(faults):
            _refuse_index(int(index[faults[0]]), self._capacity, int(faults[0]))
        return self._leaves[index]

    def find(self, mass: torch.Tensor | npt.NDArray[np.float64]) -> torch.Tensor:
        masses = self._vector("mass", mass, torch.float64)
        total = self._positive_total()
        faults = torch.nonzero(~((masses >= 0) & (masses <= total)))
        if len(faults):
            at = int(faults[0])
            _refuse("mass", f"in [0, total] = [0, {total!r}]", float(masses[at]), at)
        return self._leaf_of(masses)

    def sample(self, n: int) -> tuple[torch.Tensor, torch.Tensor]:
        total = self._positive_total()
        # One 53-bit uniform number for each of n equal strata.
        uniform = torch.from_numpy(self._stream.integers(0, 2**53, n) * 2.0**-53).to(self._device)
        strata = torch.arange(n, dtype=torch.float64, device=self._device)
        indices = self._leaf_of((strata + uniform) * (total / max(n, 1)))
        return indices, self._leaves[indices]

    def sample_weighted(self, n: int, beta: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        indices, priorities = self.sample(n)
        if n == 0:
            return indices, priorities, priorities.clone()
        least = priorities.double().min()
        weights = (least / priorities.double()) ** beta
        return indices, priorities, weights.float()

    @property
    def total(self) -> float:
        return float(self._leaves.double().sum())

    def __len__(self) -> int:
        return int((self._leaves > 0).sum())

    def state_dict(self) -> dict[str, Any]:
        return {"priorities": self._leaves.clone(), "stream": self._stream.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._stream.load_state_dict(state["stream"])
        self._leaves.copy_(state["priorities"])

    def _leaf_of(self, masses: torch.Tensor) -> torch.Tensor:
        # Zero leaves are left out first, so that no rounding can find one.
        positive = torch.nonzero(self._leaves).squeeze(1)
        running = torch.cumsum(self._leaves[positive].double(), 0)
        index = torch.searchsorted(running, masses, right=True).clamp_(max=len(positive) - 1)
        return positive[index]

    def _positive_total(self) -> float:
        total = self.total
        if total == 0.0:
            raise ValueError(f"{_OP}: nothing to draw: every priority is zero")
        return total

    def _vector(self, name: str, value: object, dtype: torch.dtype, n: int | None = None) -> torch.Tensor:
        """A one-dimensional argument as a tensor on the tree's device; numpy arrays on the CPU only."""
        if isinstance(value, np.ndarray):
            expected = np.dtype(str(dtype).removeprefix("torch."))
            if self._device.type != "cpu" or value.dtype != expected or not value.flags.c_contiguous:
                raise ValueError(
                    f"{_OP}: {name} must be {expected}, contiguous and, on cpu, an array or a tensor, "
                    f"got {value.dtype} {list(value.shape)} for a tree on {self._device}"
                )
            value = torch.from_numpy(value.copy())
        if not isinstance(value, torch.Tensor):
            raise TypeError(
                f"{_OP}: {name} must be a torch.Tensor or a numpy array, got {type(value).__name__}"
            )
        length = n if n is not None else (len(value) if value.ndim == 1 else 0)
        return check_like(_OP, name, value.detach(), dtype, "[B]", (length,), self._leaves.device)


def _refuse(name: str, expected: str, got: float, at: int) -> None:
    raise ValueError(f"{_OP}: {name} must be {expected}, got {got!r} at position {at}")


def _refuse_index(index: int, capacity: int, at: int) -> None:
    _refuse("indices", f"in [0, capacity) = [0, {capacity})", index, at)
