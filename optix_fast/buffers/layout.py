"""What the rows of a buffer look like: element types, shapes, and the memory they take."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from optix_fast.types import Array, Tree, tree_leaves, tree_map

# A record begins with the link (int64), the reward (float32), two flags and two bytes to spare: ReplayRow in
# csrc/replay/replay.h.
NEXT, REWARD, TERMINATED, TRUNCATED, ACTION = 0, 8, 12, 13, 16
_LINE = 64  # bytes that memory is read in


def storage_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """float32 for floats; uint8 (images) stays; int64 for other integers and bool."""
    if dtype.kind == "f":
        return np.dtype(np.float32)
    if dtype.kind in "iub":
        return np.dtype(np.uint8 if dtype == np.uint8 else np.int64)
    raise TypeError(f"must be numbers, got {dtype}")


@dataclass(frozen=True)
class Column:
    """One array of a buffer: what a row of it is."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return math.prod(self.shape) * self.dtype.itemsize

    def fit(self, value: Any, n: int, name: str = "") -> Array:
        """n rows as a contiguous array of this column's type.

        Raises:
            ValueError: another shape, or numbers that would lose their meaning.
        """
        array = np.asarray(value)
        fits = array.dtype == self.dtype
        if array.shape != (n, *self.shape) or not (fits or np.can_cast(array.dtype, self.dtype, "same_kind")):
            raise ValueError(
                f"ReplayBuffer: {name or self.name} must be {self.dtype} [N, …] = {[n, *self.shape]}, "
                f"got {array.dtype} {list(array.shape)}"
            )
        if not fits:
            with np.errstate(over="ignore"):
                array = array.astype(self.dtype)
        return array if array.flags.c_contiguous else np.ascontiguousarray(array)

    def empty(self, n: int) -> Array:
        """Room for n rows."""
        return np.empty((n, *self.shape), self.dtype)


@dataclass(frozen=True)
class Layout:
    """observations: a Column, or a dict/tuple tree of them; actions: a Column; masks: of the actions that an
    observation allows, None where all are allowed."""

    observations: Tree
    actions: Column
    masks: Column | None = None

    @property
    def leaves(self) -> list[Column]:
        """The columns of the observations, then that of the masks, where there are any."""
        own = tree_leaves(self.observations)
        return own if self.masks is None else [*own, self.masks]

    def with_masks(self, n_actions: int) -> Layout:
        """This layout with room for masks of so many actions."""
        return replace(self, masks=Column("action_masks", (n_actions,), np.dtype(np.bool_)))

    def record(self) -> tuple[list[int], int]:
        """Where each leaf begins in a record, and how many bytes a record has."""
        offsets, end = [], ACTION + self.actions.row_bytes
        for leaf in self.leaves:
            offsets.append(_round_up(end, leaf.dtype.itemsize))
            end = offsets[-1] + leaf.row_bytes
        end = _round_up(end, 8)
        # Whole lines, where that costs little: fewer of them are touched.
        lines = _round_up(end, _LINE)
        return offsets, lines if lines - end <= end // 7 else end

    def bytes_for(self, capacity: int) -> int:
        """Of a full buffer at worst: every row with an observation of its own behind it."""
        return capacity * (self.record()[1] + sum(leaf.row_bytes for leaf in self.leaves) + 8)

    def fit(self, observations: Tree, n: int, name: str = "observations") -> list[Array]:
        """The leaves of n observations, in the layout's order."""
        if isinstance(self.observations, Column):
            return [self.observations.fit(observations, n, name)]
        try:
            _same_structure(self.observations, observations)
        except ValueError as error:
            raise ValueError(f"ReplayBuffer: {name} {error}") from None
        return tree_leaves(
            tree_map(lambda column, leaf: column.fit(leaf, n, name), self.observations, observations)
        )

    def tree(self, leaves: list[Array]) -> Tree:
        """The leaves as one observation tree."""
        if isinstance(self.observations, Column):
            return leaves[0]
        given = iter(leaves)
        return tree_map(lambda _: next(given), self.observations)


def _round_up(n: int, unit: int) -> int:
    return -(-n // unit) * unit


def _same_structure(columns: Tree, given: Tree) -> None:
    if isinstance(columns, Mapping):
        if not isinstance(given, Mapping) or set(given) != set(columns):
            raise ValueError(f"must be a dict with the keys {', '.join(columns)}")
        for key, column in columns.items():
            _same_structure(column, given[key])
    elif isinstance(columns, tuple):
        if not isinstance(given, tuple) or len(given) != len(columns):
            raise ValueError(f"must be a tuple of {len(columns)}")
        for column, part in zip(columns, given, strict=True):
            _same_structure(column, part)


def layout_of_rows(observations: Tree, actions: Any) -> Layout:
    """From rows, [N, …] each, that are about to be stored."""

    def column(name: str, leaf: Any) -> Column:
        array = np.asarray(leaf)
        if array.ndim == 0:
            raise ValueError(f"ReplayBuffer: {name} must have one row for each transition, got a number")
        return Column(name, array.shape[1:], _dtype(name, array.dtype))

    return Layout(
        tree_map(lambda leaf: column("observations", leaf), observations), column("actions", actions)
    )


def layout_of_spaces(observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> Layout:
    """From the spaces of one environment."""
    if isinstance(action_space, spaces.Dict | spaces.Tuple):
        raise TypeError(f"ReplayBuffer: actions must be one array, got the space {action_space}")
    return Layout(_columns(observation_space), _leaf("actions", action_space))


def _columns(space: spaces.Space[Any]) -> Tree:
    if isinstance(space, spaces.Dict):
        return {key: _columns(part) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(_columns(part) for part in space.spaces)
    return _leaf("observations", space)


def _leaf(name: str, space: spaces.Space[Any]) -> Column:
    if space.shape is None or space.dtype is None:
        raise TypeError(f"ReplayBuffer: {name} must be of a fixed shape, got the space {space}")
    return Column(name, space.shape, _dtype(name, np.dtype(space.dtype)))


def _dtype(name: str, dtype: np.dtype[Any]) -> np.dtype[Any]:
    if name == "actions" and dtype == np.uint8:
        return np.dtype(np.int64)
    try:
        return storage_dtype(dtype)
    except TypeError as error:
        raise TypeError(f"ReplayBuffer: {name} {error}") from None


def fit_vector(name: str, values: Any, dtype: np.dtype[Any], n: int) -> Array:
    """n numbers or flags as a contiguous array of that type."""
    array = np.asarray(values)
    if array.shape != (n,):
        raise ValueError(f"ReplayBuffer: {name} must be {dtype} [N] = [{n}], got {list(array.shape)}")
    if array.dtype != dtype:
        with np.errstate(over="ignore"):
            array = array.astype(dtype)
    return array if array.flags.c_contiguous else np.ascontiguousarray(array)


# --- memory -------------------------------------------------------------------------------------


def available_memory() -> int | None:
    """Bytes that this process could still take, None where the system does not say."""
    found = []
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                found.append(int(line.split()[1]) * 1024)
    except OSError:
        pass
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        if limit != "max":
            found.append(int(limit))
    except (OSError, ValueError):
        pass
    if not found and hasattr(os, "sysconf"):
        with contextlib.suppress(OSError, ValueError):
            found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return min(found, default=None)


def require_memory(capacity: int, n_bytes: int) -> None:
    """Raise where a buffer will not fit, before anything is allocated.

    Raises:
        MemoryError: names capacity, what it needs and what there is.
    """
    available = available_memory()
    if available is not None and n_bytes > available:
        raise MemoryError(
            f"ReplayBuffer: capacity {capacity} needs up to {n_bytes / 1e9:.3g} GB, "
            f"{available / 1e9:.3g} GB are available; choose a smaller capacity"
        )


def entry_of(state: Mapping[str, Any], key: str) -> Any:
    """state[key], or a ValueError that names it."""
    if key not in state:
        raise ValueError(f"ReplayBuffer: the state has no {key!r}")
    return state[key]
