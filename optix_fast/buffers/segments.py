"""The rows of a replay on disk, in segments beside the state of a run: a write costs what is new.

A segment holds the rows whose numbers lie in one block of a fixed size. A full one is never written again;
only the newest, which still fills up, is replaced by a longer one under another name. What a state refers to
stays until the next state has been written, so a run that is killed at any moment finds all of its last one.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from optix_fast.buffers.layout import Layout
from optix_fast.buffers.links import Links
from optix_fast.buffers.ring import Ring
from optix_fast.leftovers import owner_mark
from optix_fast.serialization import load_state, save_state
from optix_fast.types import Array, Tree, tree_map

_FORMAT = "optix_fast.replay/1"
_COLUMNS = ("observations", "actions", "rewards", "terminated", "truncated", "masks")
_SEGMENT_BYTES = 1 << 23  # what a write holds in memory beside the replay, about


@dataclass
class _Written:
    """What is on disk of one ring. Blocks: number → (file, key, first row, last row + 1)."""

    layout: Any
    blocks: dict[int, tuple[str, str, int, int]] = field(default_factory=dict)
    # Rows that were their environment's newest when their block was written: what goes on from them was not
    # known then.
    open_rows: dict[int, npt.NDArray[np.int64]] = field(default_factory=dict)


class ReplaySegments:
    """Writes rings into a directory, piece by piece.

    Args:
        directory: made when first written to; nothing else may be in it.
        segment_bytes: of a segment, about.
    """

    def __init__(self, directory: Path, segment_bytes: int = _SEGMENT_BYTES) -> None:
        self.directory = directory
        self._segment_bytes = segment_bytes
        self._written: WeakKeyDictionary[Ring, _Written] = WeakKeyDictionary()
        self._in_use: set[str] = set()
        self._durable: set[str] = set()  # what the state on disk refers to

    def save(self, ring: Ring) -> dict[str, Any]:
        """Write what is new in the ring; what a state needs to refer to all of it.

        Raises:
            OSError: it could not be written; what was written before stays in use.
        """
        written = self._written.get(ring)
        if written is None or written.layout != ring.layout:
            written = self._written[ring] = _Written(ring.layout)
        rows = self._block_rows(ring)
        oldest, pushed = ring.pushed - ring.size, ring.pushed
        for number in [number for number in written.blocks if (number + 1) * rows <= oldest]:
            del written.blocks[number], written.open_rows[number]
        self.directory.mkdir(parents=True, exist_ok=True)
        for number in range(oldest // rows, -(-pushed // rows)):
            first, end = max(oldest, number * rows), min(pushed, (number + 1) * rows)
            if number not in written.blocks or written.blocks[number][3] < end:
                self._drop(written.blocks.pop(number, None))
                written.blocks[number] = self._write(ring, first, end)
                newest = ring.newest_rows()
                written.open_rows[number] = newest[(newest >= first) & (newest < end)]
        still_there = [rows[rows >= oldest] for rows in written.open_rows.values()]
        open_rows = np.concatenate([*still_there, np.empty(0, np.int64)])
        self._in_use.update(block[0] for block in written.blocks.values())
        return {
            "format": _FORMAT,
            "segments": [list(written.blocks[number]) for number in sorted(written.blocks)],
            "capacity": ring.capacity,
            "pushed": pushed,
            "pending": ring.pending.copy(),
            "open_rows": open_rows,
            "open_links": ring.links_of(open_rows),
        }

    def adopt(self, ring: Ring, manifest: Mapping[str, Any]) -> None:
        """Take what is on disk for written: `manifest` refers to it, and the ring was read from it."""
        self._durable.update(block[0] for block in manifest["segments"])
        rows, open_rows = self._block_rows(ring), np.array(manifest["open_rows"], np.int64)
        written = _Written(ring.layout)
        for name, key, first, end in manifest["segments"]:
            number = first // rows
            if number in written.blocks or (end - 1) // rows != number:
                return  # of segments of another size: everything is written again
            written.blocks[number] = name, key, first, end
            written.open_rows[number] = open_rows[(open_rows >= first) & (open_rows < end)]
        self._written[ring] = written

    def _block_rows(self, ring: Ring) -> int:
        return max(1, self._segment_bytes // ring.layout.bytes_for(1))

    def _write(self, ring: Ring, first: int, end: int) -> tuple[str, str, int, int]:
        key = secrets.token_hex(8)
        name = f"rows-{first}-{end}-{key}{owner_mark()}.safetensors"
        save_state(self.directory / name, {"key": key, "rows": ring.rows_between(first, end)})
        return name, key, first, end

    def _drop(self, block: tuple[str, str, int, int] | None) -> None:
        """A segment that no state on disk refers to is worth nothing, and on a full disk in the way."""
        if block is not None and block[0] not in self._durable:
            (self.directory / block[0]).unlink(missing_ok=True)

    def forget(self) -> None:
        """Start a new record of the segments in use."""
        self._in_use = set()

    def clean(self) -> None:
        """Delete the segments that no ring saved since `forget` needs: the state that refers to those is on
        disk. What a killed process left goes, too."""
        self._durable = set(self._in_use)
        if self.directory.is_dir():
            for path in self.directory.iterdir():
                if path.name not in self._in_use:
                    path.unlink(missing_ok=True)


@dataclass(frozen=True)
class StoredRows:
    """Rows on disk that a state refers to: read when a buffer loads the state, one segment at a time.

    Args:
        manifest: what `ReplaySegments.save` gave.
        segments: where they lie. It writes those of them that are still right no second time.
    """

    manifest: Mapping[str, Any]
    segments: ReplaySegments

    def load(self, capacity: int, expected: Layout | None) -> Ring:
        """The ring that was saved.

        Raises:
            ValueError: a segment is missing or damaged, or the rows are of another layout than expected.
        """
        manifest, directory = self.manifest, self.segments.directory
        pushed = int(manifest["pushed"])
        size = min(pushed, capacity)
        oldest = pushed - size
        ring: Ring | None = None
        links, beside = np.full(size, -1, np.int64), np.ones(size, np.bool_)
        extra_parts: list[tuple[Array, Any]] = []
        reached = oldest
        for name, key, first, end in manifest["segments"]:
            rows = _read(directory / name, key)
            if first > reached or end <= reached or len(rows["links"]) != end - first:
                raise ValueError(f"{directory / name} does not hold the rows from {reached} on")
            if ring is None:
                ring = Ring.empty_for(capacity, rows, expected)
            skipped, slots = reached - first, np.arange(reached, end) % capacity
            columns = {name: rows[name] for name in _COLUMNS if rows[name] is not None}
            ring.put(slots, tree_map(lambda leaf, skipped=skipped: leaf[skipped:], columns))
            links[slots], beside[slots] = rows["links"][skipped:], rows["beside"][skipped:]
            numbers = np.flatnonzero(rows["beside"]) + first
            there = numbers >= oldest
            masks = () if rows["extra_masks"] is None else rows["extra_masks"]
            extra = tree_map(lambda leaf, there=there: leaf[there], (rows["extra"], masks))
            extra_parts.append((numbers[there] % capacity, extra))
            reached = end
        if ring is None or reached != pushed:
            raise ValueError(f"{directory}: the segments end at row {reached}, the state at {pushed}")
        slots = np.asarray(manifest["open_rows"], np.int64) % capacity
        links[slots], beside[slots] = manifest["open_links"]
        own = np.flatnonzero(beside)
        heirs = np.where(links >= 0, links % capacity, -1)
        next_index = heirs.copy()
        next_index[own] = ~np.arange(len(own))
        found = {
            "next": next_index,
            "successor": heirs[own],
            "pending": manifest["pending"],
            "pushed": pushed,
        }
        ring.link(Links.of(found, capacity), *_extra(extra_parts, beside))
        self.segments.adopt(ring, manifest)
        return ring


def with_rows(state: Any, segments: ReplaySegments) -> Any:
    """The state with `StoredRows` in the place of what `ReplaySegments.save` gave."""
    if not isinstance(state, Mapping):
        return state
    if state.get("format") == _FORMAT:
        return StoredRows(state, segments)
    return {key: with_rows(value, segments) for key, value in state.items()}


def _extra(parts: list[tuple[Array, Any]], beside: npt.NDArray[np.bool_]) -> tuple[Tree, Any]:
    """What followed the rows that have it beside the ring, and its masks, in the order of those rows."""
    slots = np.concatenate([part[0] for part in parts])
    order = np.argsort(slots)
    order = order[beside[slots[order]]]  # the others were linked after their segment had been written
    joined = tree_map(lambda *leaves: np.concatenate(leaves)[order], *(part[1] for part in parts))
    return joined[0], joined[1]


def _read(path: Path, key: str) -> Any:
    try:
        state = load_state(path)
    except FileNotFoundError:
        raise ValueError(f"{path} is missing: the state refers to it") from None
    if state["key"] != key:
        raise ValueError(f"{path} is not the segment that the state refers to")
    return state["rows"]
