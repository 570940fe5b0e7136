"""What a policy remembers of single `act()` calls, for windows that do not carry it."""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

import numpy as np

from optix_fast.types import Array, Tree, tree_leaves, tree_map


class Acted(NamedTuple):
    """One recorded call: the bytes of observation and action, and what the policy thought of them."""

    key: bytes
    log_prob: float
    value: float
    raw: Array


class ActQueue:
    """A bounded queue of recorded `act()` calls, matched to a window's rows by observation and action.

    Hand-written loops call `act()` and build windows themselves; such windows carry no log-probs.
    Calls that belong to no row of the window (a second call for one observation, a dropped episode)
    are skipped, so they cannot shift the others.

    Args:
        capacity: calls kept; older ones are forgotten first.
    """

    def __init__(self, capacity: int = 100_000) -> None:
        self._queue: deque[Acted] = deque(maxlen=capacity)

    def __len__(self) -> int:
        return len(self._queue)

    def push(self, observation: Tree, action: Any, log_prob: float, value: float, raw: Array) -> None:
        """Record one call; `action` is what act() returns."""
        self._queue.append(Acted(_bytes(observation) + _bytes(action), log_prob, value, raw))

    def clear(self) -> None:
        """Forget everything."""
        self._queue.clear()

    def take(self, observations: Tree, actions: Any, n_rows: int) -> list[Acted]:
        """The calls behind a window's rows, in order. They and all older ones are forgotten.

        Raises:
            RuntimeError: "Cache underflow…" when act() was not called for a row's observation, or
                returned another action than the row holds; the queue is kept.
        """
        found: list[Acted] = []
        used = 0
        calls = list(self._queue)
        for row in range(n_rows):
            seen = _bytes(tree_map(lambda leaf, row=row: leaf[row], observations))
            key = seen + _bytes(actions[row])
            at = next((i for i in range(used, len(calls)) if calls[i].key == key), None)
            if at is None:
                message = f"Cache underflow: row {row} of {n_rows} "
                # Observations of one policy are of one length.
                if any(call.key.startswith(seen) for call in calls[used:]):
                    raise RuntimeError(
                        f"{message}holds action {actions[row]}, which act() did not return for its "
                        "observation; store the actions that act() returns"
                    )
                raise RuntimeError(
                    f"{message}has no recorded act() call ({len(calls)} recorded); call act() once for "
                    "every row, outside of evaluation"
                )
            found.append(calls[at])
            used = at + 1
        for _ in range(used):
            self._queue.popleft()
        return found


def _bytes(tree: Tree) -> bytes:
    if isinstance(tree, np.ndarray | int):  # as tree_leaves would find, without its cost
        return np.ascontiguousarray(tree, np.float32).tobytes()
    return b"|".join(np.ascontiguousarray(leaf, np.float32).tobytes() for leaf in tree_leaves(tree))
