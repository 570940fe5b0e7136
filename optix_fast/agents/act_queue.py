"""What a policy remembers of single `act()` calls, for windows that do not carry it."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import numpy as np

from optix_fast.types import Array, Tree, tree_leaves, tree_map


class Acted(NamedTuple):
    """One recorded call: the observation's bytes, and what the policy thought of it."""

    key: bytes
    log_prob: float
    value: float
    raw: Array


class ActQueue:
    """A bounded queue of recorded `act()` calls, matched to a window's rows by observation.

    Hand-written loops call `act()` and build windows themselves; such windows carry no log-probs.
    Calls that belong to no row of the window (an evaluation in between, a dropped episode) are
    skipped, so they cannot shift the others.

    Args:
        capacity: calls kept; older ones are forgotten first.
    """

    def __init__(self, capacity: int = 100_000) -> None:
        self._queue: deque[Acted] = deque(maxlen=capacity)

    def __len__(self) -> int:
        return len(self._queue)

    def push(self, observation: Tree, log_prob: float, value: float, raw: Array) -> None:
        """Record one call."""
        self._queue.append(Acted(_key(observation), log_prob, value, raw))

    def clear(self) -> None:
        """Forget everything."""
        self._queue.clear()

    def take(self, observations: Tree, n_rows: int) -> list[Acted]:
        """The calls behind a window's rows, in order. They and all older ones are forgotten.

        Raises:
            RuntimeError: "Cache underflow…" when a row has no recorded call; the queue is kept.
        """
        found: list[Acted] = []
        used = 0
        calls = list(self._queue)
        for row in range(n_rows):
            key = _key(tree_map(lambda leaf, row=row: leaf[row], observations))
            at = next((i for i in range(used, len(calls)) if calls[i].key == key), None)
            if at is None:
                raise RuntimeError(
                    f"Cache underflow: row {row} of {n_rows} has no recorded act() call "
                    f"({len(calls)} recorded); call act() once for every row, outside of evaluation"
                )
            found.append(calls[at])
            used = at + 1
        for _ in range(used):
            self._queue.popleft()
        return found


def _key(observation: Tree) -> bytes:
    return b"|".join(np.ascontiguousarray(leaf, np.float32).tobytes() for leaf in tree_leaves(observation))
