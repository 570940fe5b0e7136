"""The replay ring in plain numpy: what ``csrc/replay/replay.h`` says, one row after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from optix_fast.types import Array

_OP = "ReplayBuffer"


class Replay:
    """Pushes to and gathers from a buffer's arrays, which it shares with whoever made them.

    Args:
        capacity: C.
        rows, extra: the leaves of the observations, [C, …] and [E, …] each.
        actions, rewards, terminated, truncated, next: [C, …].
        free: int64 [E], a stack of the unused extra rows.
        pending: int64 [N], how many rows had come before the last one of each environment, or −1.
        counts: int64 [2], rows that ever came, free extra rows.
        successor: int64 [E], the row that goes on from the one whose o′ is that extra row, or −1.
        n_compared: how many of the leaves, the first ones, say whether a row begins where another ended.
    """

    def __init__(
        self,
        capacity: int,
        rows: list[Array],
        extra: list[Array],
        actions: Array,
        rewards: npt.NDArray[np.float32],
        terminated: npt.NDArray[np.bool_],
        truncated: npt.NDArray[np.bool_],
        next: npt.NDArray[np.int64],
        free: npt.NDArray[np.int64],
        pending: npt.NDArray[np.int64],
        counts: npt.NDArray[np.int64],
        successor: npt.NDArray[np.int64],
        n_compared: int,
    ) -> None:
        self._capacity = capacity
        self._successor, self._n_compared = successor, n_compared
        self._rows, self._extra = rows, extra
        self._actions, self._rewards = actions, rewards
        self._terminated, self._truncated = terminated, truncated
        self._next, self._free, self._pending, self._counts = next, free, pending, counts

    def push(
        self,
        observations: Sequence[Array],
        others: Sequence[Array],
        envs: npt.NDArray[np.int64],
        next_index: npt.NDArray[np.int64],
        actions: Array,
        rewards: npt.NDArray[np.float32],
        terminated: npt.NDArray[np.bool_],
        truncated: npt.NDArray[np.bool_],
        joins: npt.NDArray[np.uint8],
    ) -> None:
        """Appends rows; o′ of row r is observation next_index[r], or ~next_index[r] of the others. A row
        starts a new chain (joins 0), goes on from its environment's previous one (1), or does so if it begins
        with the bytes of that row's o′ (2)."""
        faults = np.flatnonzero(~np.isfinite(rewards))
        if len(faults):
            at = int(faults[0])
            raise ValueError(f"{_OP}: rewards must be finite, got {float(rewards[at])!r} at position {at}")
        for r in range(len(rewards)):
            number = int(self._counts[0])
            slot = number % self._capacity
            if number >= self._capacity and self._next[slot] < 0:
                self._release(~self._next[slot])
            if joins[r] != 0:
                pending, observation = int(self._pending[envs[r]]), [leaf[r] for leaf in observations]
                self._link(pending, number, slot, observation, anyway=joins[r] == 1)
            self._counts[1] -= 1
            extra = self._free[self._counts[1]]
            self._successor[extra] = -1
            source = observations if next_index[r] >= 0 else others
            at = next_index[r] if next_index[r] >= 0 else ~next_index[r]
            for own, own_extra, leaf, after in zip(
                self._rows, self._extra, observations, source, strict=True
            ):
                own[slot] = leaf[r]
                own_extra[extra] = after[at]
            self._actions[slot], self._rewards[slot] = actions[r], rewards[r]
            self._terminated[slot], self._truncated[slot] = terminated[r], truncated[r]
            self._next[slot] = ~extra
            self._pending[envs[r]] = -1 if terminated[r] or truncated[r] else number
            self._counts[0] += 1

    def _link(self, pending: int, number: int, slot: int, observation: list[Array], anyway: bool) -> None:
        if pending < 0 or pending <= number - self._capacity:
            return
        previous = pending % self._capacity
        extra = ~self._next[previous]
        pairs = list(zip(self._extra, observation, strict=True))[: self._n_compared]
        if all(leaf[extra].tobytes() == part.tobytes() for leaf, part in pairs):
            self._next[previous] = slot
            self._release(extra)
        elif anyway:
            self._successor[extra] = slot

    def _release(self, extra: int) -> None:
        self._free[self._counts[1]] = extra
        self._counts[1] += 1

    def gather(
        self,
        indices: npt.NDArray[np.int64],
        n_step: int,
        gamma: float,
        observations: Sequence[Array],
        next_observations: Sequence[Array],
        actions: Array,
        rewards: npt.NDArray[np.float32],
        discounts: npt.NDArray[np.float32],
        terminated: npt.NDArray[np.bool_],
        n_steps: npt.NDArray[np.int32],
    ) -> None:
        """Fills the arrays with the rows at ``indices`` and their n-step targets."""
        size = min(int(self._counts[0]), self._capacity)
        faults = np.flatnonzero((indices < 0) | (indices >= size))
        if len(faults):
            at = int(faults[0])
            raise ValueError(
                f"{_OP}: indices must be in [0, size) = [0, {size}), got {indices[at]} at position {at}"
            )
        chain = (self._next, self._rewards, self._terminated, self._truncated)
        after, rewards[:], discounts[:], terminated[:], n_steps[:] = replay_follow(
            *chain, indices, n_step, gamma, self._successor
        )
        actions[:] = self._actions[indices]
        for i, leaf in enumerate(self._rows):
            observations[i][:] = leaf[indices]
            next_observations[i][:] = rows_after(leaf, self._extra[i], after)


def replay_follow(
    next: npt.NDArray[np.int64],
    rewards: npt.NDArray[np.float32],
    terminated: npt.NDArray[np.bool_],
    truncated: npt.NDArray[np.bool_],
    indices: npt.NDArray[np.int64],
    n_step: int,
    gamma: float,
    successor: npt.NDArray[np.int64] | None = None,
) -> tuple[Any, Any, Any, Any, Any]:
    """(where o′ lies, Σ γ^k·r, γ^m·(1 − terminated), terminated, m) of the chain from each row; float64."""
    row = indices.copy()
    total = rewards[row].astype(np.float64)
    power = np.full(len(row), gamma, np.float64)
    steps = np.ones(len(row), np.int32)
    for _ in range(n_step - 1):
        leads_to = next[row]
        if successor is not None:
            apart = leads_to < 0
            leads_to[apart] = successor[~leads_to[apart]]
        goes_on = ~terminated[row] & ~truncated[row] & (leads_to >= 0) & (steps < n_step)
        going = np.flatnonzero(goes_on)
        if len(going) == 0:
            break
        row[going] = leads_to[going]
        total[going] += power[going] * rewards[row[going]]
        power[going] *= gamma
        steps[going] += 1
    ended = terminated[row]
    return next[row], total, np.where(ended, 0.0, power), ended, steps


def rows_after(rows: Array, extra: Array, after: npt.NDArray[np.int64]) -> Array:
    """Row a of ``rows`` for a ≥ 0, row ~a of ``extra`` for a < 0."""
    out = rows[np.maximum(after, 0)]
    out[after < 0] = extra[~after[after < 0]]
    return out
