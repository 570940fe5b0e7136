"""Finding the number in an observation that is NaN or infinite."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from optix_fast.types import Array, Tree


class Fault(NamedTuple):
    """A number that is not finite: where it is in its array, and the name of that array, such as
    "observation" or "observation['speed']"."""

    name: str
    at: tuple[int, ...]
    value: float


def non_finite(tree: Tree, name: str = "observation") -> Fault | None:
    """The first NaN or infinity in a tree of arrays, None where all numbers are finite."""
    if isinstance(tree, Mapping):
        parts = [(f"{name}[{key!r}]", part) for key, part in tree.items()]
    elif isinstance(tree, tuple):
        parts = [(f"{name}[{i}]", part) for i, part in enumerate(tree)]
    else:
        return _in_array(np.asarray(tree), name)
    found = (non_finite(part, part_name) for part_name, part in parts)
    return next((fault for fault in found if fault is not None), None)


def _in_array(array: Array, name: str) -> Fault | None:
    if array.dtype.kind != "f":
        return None
    # A sum is not finite where one of the numbers is not, and takes a single pass without a copy.
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(array.sum()):
            return None
    wrong = np.argwhere(~np.isfinite(array))
    if not len(wrong):  # a sum of great numbers
        return None
    at = tuple(int(i) for i in wrong[0])
    return Fault(name, at, float(array[at]))
