"""Dict, Tuple and discrete observations as flat rows of numbers, which the compiled core reads."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from gymnasium import spaces
from torch import Tensor

from optix_fast.networks.plan import UnsupportedError
from optix_fast.types import Array, Tree

_EXACT = 2**24  # up to it, float32 holds every whole number


@dataclass(frozen=True)
class Leaf:
    """One part of an observation, in columns first … first + width of its row.

    path: keys and positions that lead to it.
    shape: of one observation's part.
    sizes: of a Discrete or MultiDiscrete part, how many values each column has, counted from `starts`; empty
        for a part that is numbers.
    is_integer: whether torch is given the part as int64.
    """

    path: tuple[str | int, ...]
    first: int
    shape: tuple[int, ...]
    sizes: tuple[int, ...] = ()
    starts: tuple[int, ...] = ()
    is_integer: bool = False

    @property
    def width(self) -> int:
        """Columns."""
        return math.prod(self.shape)

    @property
    def name(self) -> str:
        """As the user reaches it."""
        return "observation" + "".join(f"[{key!r}]" for key in self.path)


@dataclass(frozen=True)
class FlatLayout:
    """The columns of a flat row: the values of Boxes and MultiBinaries, one number for each Discrete and for
    each component of a MultiDiscrete. Layouts of equal spaces are equal."""

    leaves: tuple[Leaf, ...]

    @classmethod
    def of(cls, space: spaces.Space[Any]) -> FlatLayout:
        """The layout of a space; the Dict key `action_mask` is not in it.

        Raises:
            UnsupportedError: the space holds images (uint8), whole numbers that float32 rounds, or a space of
                another kind.
        """
        leaves: list[Leaf] = []
        for path, sub in _walk(space, ()):
            first = leaves[-1].first + leaves[-1].width if leaves else 0
            if isinstance(sub, spaces.Discrete):
                leaf = Leaf(path, first, (), (int(sub.n),), (int(sub.start),), True)
                largest = max(abs(int(sub.start)), abs(int(sub.start + sub.n)))
            elif isinstance(sub, spaces.MultiDiscrete):
                sizes, starts = (tuple(map(int, part.reshape(-1))) for part in (sub.nvec, sub.start))
                leaf = Leaf(path, first, tuple(sub.shape), sizes, starts, True)
                largest = max(abs(start) + n for start, n in zip(starts, sizes, strict=True))
            elif isinstance(sub, spaces.MultiBinary):
                leaf, largest = Leaf(path, first, tuple(sub.shape), is_integer=True), 1
            elif isinstance(sub, spaces.Box) and sub.dtype != np.uint8:
                is_integer = np.dtype(sub.dtype).kind != "f"
                leaf, largest = Leaf(path, first, tuple(sub.shape), is_integer=is_integer), 0
                if is_integer:
                    largest = max(abs(int(bound)) for bound in (*sub.low.flat, *sub.high.flat, 0))
            else:
                what = "images (uint8)" if isinstance(sub, spaces.Box) else f"a {type(sub).__name__}"
                raise UnsupportedError(f"the observations hold {what}, which torch reads")
            if largest > _EXACT:
                raise UnsupportedError(f"{leaf.name} may be greater than 2^24, which float32 rounds")
            leaves.append(leaf)
        return cls(tuple(leaves))

    @cached_property
    def features(self) -> int:
        """Width of a row."""
        return self.leaves[-1].first + self.leaves[-1].width if self.leaves else 0

    def flatten(self, observations: Tree) -> Array:
        """Observations [N, …] as float32 rows [N, features].

        Raises:
            ValueError, KeyError, TypeError: they are not of the space.
        """
        flat: Array | None = None
        n = 0
        for leaf, columns in self._columns:
            part = observations
            for key in leaf.path:
                part = part[key]
            array = part.numpy() if isinstance(part, Tensor) else np.asarray(part)
            if flat is None:
                n = len(array)
                flat = np.empty((n, self.features), np.float32)
            if array.shape != (n, *leaf.shape):
                got = list(array.shape[1:])
                raise ValueError(f"{leaf.name} must have shape {list(leaf.shape)}, got {got}")
            flat[columns] = array if array.ndim == 2 else array.reshape(n, leaf.width)
        if flat is None:
            raise ValueError("the observations have no parts")
        return flat

    @cached_property
    def _columns(self) -> list[tuple[Leaf, tuple[slice, slice]]]:
        """Where each leaf goes."""
        return [(leaf, (slice(None), slice(leaf.first, leaf.first + leaf.width))) for leaf in self.leaves]

    def unflatten(self, flat: Tensor) -> Tree:
        """The observations that rows [N, features] stand for: floats as they are, whole numbers as int64."""
        if len(self.leaves) == 1 and not self.leaves[0].path:
            return self._part(flat, self.leaves[0])
        tree: Any = {}
        for leaf in self.leaves:
            place = tree
            for key in leaf.path[:-1]:
                place = place.setdefault(key, {})
            place[leaf.path[-1]] = self._part(flat, leaf)
        return _with_tuples(tree)

    def _part(self, flat: Tensor, leaf: Leaf) -> Tensor:
        part = flat[:, leaf.first : leaf.first + leaf.width].reshape(len(flat), *leaf.shape)
        return part.long() if leaf.is_integer else part

    def check(self, flat: Array) -> None:
        """Raise ValueError where a row has a value outside of its Discrete or MultiDiscrete space."""
        for leaf in self.leaves:
            for i, (n, start) in enumerate(zip(leaf.sizes, leaf.starts, strict=True)):
                column = flat[:, leaf.first + i]
                wrong = ~((column >= start) & (column < start + n))
                if wrong.any():
                    raise ValueError(
                        f"{leaf.name} must be between {start} and {start + n - 1}, got {column[wrong][0]:g}"
                    )


def _walk(
    space: spaces.Space[Any], path: tuple[str | int, ...]
) -> Iterator[tuple[tuple[str | int, ...], spaces.Space[Any]]]:
    if isinstance(space, spaces.Dict):
        for key, sub in space.spaces.items():
            if key != "action_mask":
                yield from _walk(sub, (*path, key))
    elif isinstance(space, spaces.Tuple):
        for i, sub in enumerate(space.spaces):
            yield from _walk(sub, (*path, i))
    else:
        yield path, space


def _with_tuples(tree: Any) -> Any:
    """Dicts that are counted from 0 become the tuples that they stand for."""
    if not isinstance(tree, dict):
        return tree
    parts = {key: _with_tuples(part) for key, part in tree.items()}
    return tuple(parts.values()) if all(isinstance(key, int) for key in parts) else parts
