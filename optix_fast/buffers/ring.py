"""The memory of a replay buffer: a ring of records, the links between them, the observations beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from optix_fast import _native
from optix_fast.buffers.layout import (
    ACTION,
    NEXT,
    REWARD,
    TERMINATED,
    TRUNCATED,
    Column,
    Layout,
    entry_of,
    fit_vector,
    layout_of_rows,
    require_memory,
)
from optix_fast.buffers.links import Links
from optix_fast.reference import replay as _reference
from optix_fast.types import Array, Tree

# The core and the reference fill and read the same arrays.
_Replay: Any = _native.core.Replay if _native.backend() == "native" else _reference.Replay

# How a row relates to its environment's previous one: ReplayJoin in csrc/replay/replay.h.
BEGINS, GOES_ON, IF_SAME = 0, 1, 2

# Of the observations and of the others that are pushed with them: bool [n, K] and [n_others, K].
Masks = tuple[Array, Array]

_FLAG, _REWARD, _LINK = np.dtype(np.bool_), np.dtype(np.float32), np.dtype(np.int64)


class _Rows(NamedTuple):
    observations: Tree  # [B, …]
    actions: Array  # int64 [B] or float32 [B, A]
    rewards: npt.NDArray[np.float32]  # Σ γ^k·r over n_steps rows
    next_observations: Tree  # [B, …], n_steps later
    discounts: npt.NDArray[np.float32]  # γ^n_steps, 0 where terminated
    terminated: npt.NDArray[np.bool_]
    n_steps: npt.NDArray[np.int32]  # at most n_step: fewer at an episode's end and at the newest row
    indices: npt.NDArray[np.int64]


class ReplayBatch(_Rows):
    """Rows of a buffer with their targets, B of them, in the order in which callers take them apart.

    The target of row b is rewards[b] + discounts[b]·V(next_observations[b]).

    Attributes:
        action_masks, next_action_masks: bool [B, K], the actions that observations and next_observations
            allow; None where no mask was ever stored. After a terminated row everything is allowed.
    """

    action_masks: npt.NDArray[np.bool_] | None = None
    next_action_masks: npt.NDArray[np.bool_] | None = None


class ReplayView(NamedTuple):
    """A buffer's own memory as tensors, for the native learners. Valid until the next push.

    Where next[i] ≥ 0, what follows row i is row next[i] of the observations, else row ~next[i] of extra
    (csrc/replay/replay.h).
    """

    observations: torch.Tensor  # float32 [C, D]
    extra: torch.Tensor  # float32 [E, D]
    next: torch.Tensor  # int64 [C]
    actions: torch.Tensor  # int64 [C] or float32 [C, A]
    rewards: torch.Tensor  # float32 [C]
    terminated: torch.Tensor  # bool [C]
    truncated: torch.Tensor  # bool [C]
    size: int  # rows that may be drawn: the first `size` ones
    records: torch.Tensor  # uint8 [C, bytes]: all the above but extra are fields of it
    layout: tuple[int, int, int]  # D, A (0: int64), and where the observation begins in a record
    successor: torch.Tensor  # int64 [E]: the row that goes on from the one whose o′ is in extra, or −1
    mask_extra: torch.Tensor | None  # bool [E, K]: the masks of extra; None: there are no masks
    mask_offset: int  # where the mask begins in a record


class Ring:
    """The newest ``capacity`` rows; what the arrays mean is in csrc/replay/replay.h.

    Args:
        capacity: C.
        layout: of a row.
        n_extra: E to begin with; it grows as it must.

    Raises:
        MemoryError: it will not fit.
    """

    def __init__(self, capacity: int, layout: Layout, n_extra: int = 1) -> None:
        self.capacity, self.layout, self._leaves = capacity, layout, layout.leaves
        require_memory(capacity, layout.bytes_for(capacity))
        try:
            offsets, n_bytes = layout.record()
            memory = np.empty(capacity * n_bytes + 64, np.uint8)
            aligned = -memory.ctypes.data % 64
            self._records = memory[aligned : aligned + capacity * n_bytes].reshape(capacity, n_bytes)
            self._extra = [np.zeros((n_extra, *c.shape), c.dtype) for c in self._leaves]
        except MemoryError as error:
            raise MemoryError(f"ReplayBuffer: capacity {capacity} could not be allocated: {error}") from error
        columns = zip(self._leaves, offsets, strict=True)
        self._rows = [self._field(offset, leaf.dtype, leaf.shape) for leaf, offset in columns]
        self._actions = self._field(ACTION, layout.actions.dtype, layout.actions.shape)
        self._rewards = self._field(REWARD, _REWARD)
        self._terminated = self._field(TERMINATED, _FLAG)
        self._truncated = self._field(TRUNCATED, _FLAG)
        self._next = self._field(NEXT, _LINK)
        self._free = np.arange(n_extra)[::-1].copy()
        self._successor = np.full(n_extra, -1, np.int64)
        self._pending = np.full(1, -1, np.int64)
        self._counts = np.array([0, n_extra])
        self._connect()

    def _field(self, offset: int, dtype: np.dtype[Any], shape: tuple[int, ...] = ()) -> Array:
        """A field of every record, [C, *shape]."""
        steps = [dtype.itemsize * math.prod(shape[i + 1 :]) for i in range(len(shape))]
        strides = (self._records.shape[1], *steps)
        return np.ndarray((self.capacity, *shape), dtype, self._records.data, offset, strides)

    @property
    def pushed(self) -> int:
        """Rows that ever came."""
        return int(self._counts[0])

    @property
    def size(self) -> int:
        """Rows that are there: the first ones of every array."""
        return min(int(self._counts[0]), self.capacity)

    def push(
        self,
        observations: Tree,
        others: Tree,
        n_others: int,
        envs: npt.NDArray[np.int64],
        next_index: npt.NDArray[np.int64],
        actions: Any,
        rewards: Any,
        terminated: Any,
        truncated: Any,
        joins: npt.NDArray[np.uint8],
        n_envs: int,
        masks: Masks | None,
    ) -> None:
        """Appends rows; what followed row r is observation next_index[r], or ~next_index[r] of the others.

        Args:
            joins: uint8 [n], how a row relates to its environment's previous one: BEGINS, GOES_ON or IF_SAME.
            masks: of the observations and of the others; None: every action is allowed.
        """
        n, layout = len(envs), self.layout
        own, after = layout.fit(observations, n), layout.fit(others, n_others, "next_observations")
        if layout.masks is not None:
            column = layout.masks
            for leaves, given, count in zip((own, after), masks or (None, None), (n, n_others), strict=True):
                all_allowed = given is None
                leaves.append(
                    np.ones((count, *column.shape), _FLAG) if all_allowed else column.fit(given, count)
                )
        arguments = (
            own,
            after,
            envs,
            next_index,
            layout.actions.fit(actions, n),
            fit_vector("rewards", rewards, _REWARD, n),
            fit_vector("terminated", terminated, _FLAG, n),
            fit_vector("truncated", truncated, _FLAG, n),
            joins,
        )
        self._make_room(n, n_envs)
        self._core.push(*arguments)

    def cut(self) -> None:
        """Nothing pushed later continues what is here."""
        self._pending[:] = -1

    def gather(self, indices: npt.NDArray[np.int64], n_step: int, gamma: float) -> ReplayBatch:
        """The rows at the positions, with their targets."""
        layout = self.layout
        n = len(indices)
        leaves = [column.empty(n) for column in self._leaves]
        next_leaves = [column.empty(n) for column in self._leaves]
        actions = layout.actions.empty(n)
        rewards, discounts = np.empty(n, np.float32), np.empty(n, np.float32)
        terminated, n_steps = np.empty(n, np.bool_), np.empty(n, np.int32)
        self._core.gather(
            indices,
            n_step,
            gamma,
            leaves,
            next_leaves,
            actions,
            rewards,
            discounts,
            terminated,
            n_steps,
        )
        batch = ReplayBatch(
            layout.tree(leaves),
            actions,
            rewards,
            layout.tree(next_leaves),
            discounts,
            terminated,
            n_steps,
            indices,
        )
        if layout.masks is not None:
            batch.action_masks, batch.next_action_masks = leaves[-1], next_leaves[-1]
        return batch

    def view(self) -> ReplayView:
        """The memory itself."""
        layout = self.layout
        column = layout.observations
        if not isinstance(column, Column) or column.dtype != np.float32:
            raise ValueError("ReplayBuffer: only observations of one float array can be viewed")

        def flat(rows: Array) -> torch.Tensor:
            return torch.from_numpy(rows.reshape(len(rows), math.prod(rows.shape[1:])))

        whole = layout.actions.dtype == np.int64
        width = 0 if whole else layout.actions.row_bytes // 4
        actions = self._actions if whole else flat(self._actions)
        offsets, _ = layout.record()
        return ReplayView(
            flat(self._rows[0]),
            flat(self._extra[0]),
            torch.from_numpy(self._next),
            torch.as_tensor(actions),
            torch.from_numpy(self._rewards),
            torch.from_numpy(self._terminated),
            torch.from_numpy(self._truncated),
            self.size,
            torch.from_numpy(self._records),
            (column.row_bytes // 4, width, offsets[0]),
            torch.from_numpy(self._successor),
            None if layout.masks is None else torch.from_numpy(self._extra[-1]),
            offsets[-1],
        )

    # --- state ----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The live rows, copied."""
        size = self.size
        next_index = self._next[:size].copy()
        own = next_index < 0
        extra = ~next_index[own]
        # Which extra row an observation lies in plays no part: they are saved in the order of their rows.
        next_index[own] = ~np.arange(len(extra))
        leaves, extra_leaves = (
            [leaf[:size].copy() for leaf in self._rows],
            [leaf[extra] for leaf in self._extra],
        )
        masks = None if self.layout.masks is None else {"own": leaves[-1], "extra": extra_leaves[-1]}
        return {
            "observations": self.layout.tree(leaves),
            "extra": self.layout.tree(extra_leaves),
            "successor": self._successor[extra],
            "masks": masks,
            "actions": self._actions[:size].copy(),
            "rewards": self._rewards[:size].copy(),
            "terminated": self._terminated[:size].copy(),
            "truncated": self._truncated[:size].copy(),
            "next": next_index,
            "pending": self._pending.copy(),
            "pushed": self.pushed,
        }

    @property
    def pending(self) -> npt.NDArray[np.int64]:
        """Of each environment, the number of its last row, or −1 where nothing may go on from it."""
        return self._pending

    def newest_rows(self) -> npt.NDArray[np.int64]:
        """Numbers of the rows that another one may still go on from."""
        return self._pending[self._pending >= max(0, self.pushed - self.capacity)]

    def links_of(self, numbers: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """Of rows by their numbers: the number of the row that goes on from each, or −1; and whether what
        followed it lies beside the ring, in an extra row."""
        slots = numbers % self.capacity
        next_index = self._next[slots]
        beside = next_index < 0
        next_index[beside] = self._successor[~next_index[beside]]
        # The rows of a link are less than a round of the ring apart.
        links = np.where(next_index < 0, -1, numbers + (next_index - slots) % self.capacity)
        return links, beside

    def rows_between(self, first: int, end: int) -> dict[str, Any]:
        """Rows number first … end − 1, copied, with what followed those that have it beside the ring."""
        numbers = np.arange(first, end)
        slots = numbers % self.capacity
        links, beside = self.links_of(numbers)
        extra = ~self._next[slots[beside]]
        leaves, after = [leaf[slots] for leaf in self._rows], [leaf[extra] for leaf in self._extra]
        has_masks = self.layout.masks is not None
        return {
            "observations": self.layout.tree(leaves),
            "masks": leaves[-1] if has_masks else None,
            "extra": self.layout.tree(after),
            "extra_masks": after[-1] if has_masks else None,
            "actions": self._actions[slots],
            "rewards": self._rewards[slots],
            "terminated": self._terminated[slots],
            "truncated": self._truncated[slots],
            "links": links,
            "beside": beside,
        }

    @classmethod
    def from_state(cls, capacity: int, rows: Mapping[str, Any], expected: Layout | None) -> Ring:
        """What `state_dict` gave.

        Raises:
            ValueError: something is missing, of another layout than expected, or leads nowhere.
        """
        own_masks, extra_masks = None, None
        masks = rows.get("masks")  # states of older versions have neither masks nor successors
        if masks is not None:
            own_masks, extra_masks = masks["own"], masks["extra"]
        ring = cls.empty_for(capacity, {**rows, "masks": own_masks}, expected)
        links = Links.of(rows, capacity)
        ring.put(np.arange(len(links.next_index)), {**rows, "masks": own_masks})
        ring.link(links, entry_of(rows, "extra"), extra_masks)
        return ring

    @classmethod
    def empty_for(cls, capacity: int, rows: Mapping[str, Any], expected: Layout | None) -> Ring:
        """A ring for rows like these: observations, actions, masks or None.

        Raises:
            ValueError: something is missing, or of another layout than expected.
        """
        layout = layout_of_rows(entry_of(rows, "observations"), entry_of(rows, "actions"))
        if expected is not None and layout != replace(expected, masks=None):
            raise ValueError(f"ReplayBuffer: the state holds {layout}, the buffer {expected}")
        if rows["masks"] is not None:
            layout = layout.with_masks(np.shape(rows["masks"])[-1])
        return cls(capacity, layout)

    def put(self, slots: npt.NDArray[np.int64], rows: Mapping[str, Any]) -> None:
        """Fill positions with the columns of rows, as many as there are; `link` is still to come."""
        n, layout = len(slots), self.layout
        leaves = layout.fit(rows["observations"], n)
        if layout.masks is not None:
            leaves.append(layout.masks.fit(rows["masks"], n))
        columns = (
            layout.actions.fit(rows["actions"], n),
            fit_vector("rewards", entry_of(rows, "rewards"), _REWARD, n),
            fit_vector("terminated", entry_of(rows, "terminated"), _FLAG, n),
            fit_vector("truncated", entry_of(rows, "truncated"), _FLAG, n),
        )
        own = (self._actions, self._rewards, self._terminated, self._truncated)
        for target, source in zip((*self._rows, *own), (*leaves, *columns), strict=True):
            target[slots] = source

    def link(self, links: Links, extra: Tree, extra_masks: Any) -> None:
        """Link the rows that were put in, and take in what lies beside them."""
        n_extra, layout = len(links.successor), self.layout
        leaves = layout.fit(extra, n_extra, "extra")
        if layout.masks is not None:
            leaves.append(layout.masks.fit(extra_masks, n_extra))
        room = max(1, n_extra)
        self._extra = [np.zeros((room, *column.shape), column.dtype) for column in self._leaves]
        for target, source in zip(self._extra, leaves, strict=True):
            target[:n_extra] = source
        self._next[: len(links.next_index)] = links.next_index
        self._successor = np.full(room, -1, np.int64)
        self._successor[:n_extra] = links.successor
        self._pending = links.pending
        self._free = np.zeros(room, np.int64)
        self._free[: room - n_extra] = np.arange(n_extra, room)
        self._counts[:] = links.pushed, room - n_extra
        self._connect()

    # --- memory ---------------------------------------------------------------------------------

    def with_masks(self, n_actions: int) -> Ring:
        """The same rows with masks of so many actions, all of which are allowed so far."""
        fresh = Ring(self.capacity, self.layout.with_masks(n_actions), len(self._free))
        size = self.size
        own, other = (
            [*r._rows, r._actions, r._rewards, r._terminated, r._truncated, r._next] for r in (self, fresh)
        )
        masks = other.pop(len(self._rows))
        for target, source in zip(other, own, strict=True):
            target[:size] = source[:size]
        masks[:size], fresh._extra[-1][:] = True, True
        fresh._extra = [*self._extra, fresh._extra[-1]]
        fresh._free, fresh._successor = self._free, self._successor
        fresh._pending, fresh._counts = self._pending, self._counts
        fresh._connect()
        return fresh

    def _connect(self) -> None:
        self._core = _Replay(
            self.capacity,
            self._rows,
            self._extra,
            self._actions,
            self._rewards,
            self._terminated,
            self._truncated,
            self._next,
            self._free,
            self._pending,
            self._counts,
            self._successor,
            len(self._leaves) - (self.layout.masks is not None),
        )

    def _make_room(self, n: int, n_envs: int) -> None:
        """Extra rows and environments enough for a push of n rows."""
        have = len(self._free)
        n_free = int(self._counts[1])
        needed = min(self.capacity, have - n_free + n)
        if needed <= have and n_envs <= len(self._pending):
            return
        if needed > have:
            more = min(self.capacity, max(2 * have, needed)) - have
            self._extra = [np.concatenate([e, np.zeros((more, *e.shape[1:]), e.dtype)]) for e in self._extra]
            fresh = np.arange(have + more - 1, have - 1, -1)
            self._free = np.concatenate([self._free[:n_free], fresh, self._free[n_free:]])
            self._successor = np.concatenate([self._successor, np.full(more, -1)])
            self._counts[1] += more
        if n_envs > len(self._pending):
            fresh = np.full(n_envs - len(self._pending), -1, np.int64)
            self._pending = np.concatenate([self._pending, fresh])
        self._connect()
