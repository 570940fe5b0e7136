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

from optix_fast.buffers.ring import Ring
from optix_fast.serialization import load_state, save_state
from optix_fast.types import Array, tree_map

_FORMAT = "optix_fast.replay/1"
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
        rows = max(1, self._segment_bytes // ring.layout.bytes_for(1))
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

    def _write(self, ring: Ring, first: int, end: int) -> tuple[str, str, int, int]:
        key = secrets.token_hex(8)
        name = f"rows-{first}-{end}-{key}.safetensors"
        save_state(self.directory / name, {"key": key, "rows": ring.rows_between(first, end)})
        return name, key, first, end

    def _drop(self, block: tuple[str, str, int, int] | None) -> None:
        """A segment that no state on disk refers to is worth nothing, and on a full disk in the way."""
        if block is not None and block[0] not in self._durable:
            (self.directory / block[0]).unlink(missing_ok=True)

    def forget(self) -> None:
        """Begin to note anew which segments are in use."""
        self._in_use = set()

    def clean(self) -> None:
        """Delete the segments that no ring saved since `forget` needs: the state that refers to those is on
        disk. What a killed process left goes, too."""
        self._durable = set(self._in_use)
        if self.directory.is_dir():
            for path in self.directory.iterdir():
                if path.name not in self._in_use:
                    path.unlink(missing_ok=True)


def with_rows(state: Any, directory: Path) -> Any:
    """The state with the rows in the place of what `ReplaySegments.save` gave.

    Raises:
        ValueError: a segment is missing or damaged.
    """
    if not isinstance(state, Mapping):
        return state
    if state.get("format") == _FORMAT:
        return _load(state, directory)
    return {key: with_rows(value, directory) for key, value in state.items()}


def _load(manifest: Mapping[str, Any], directory: Path) -> dict[str, Any]:
    """As Ring.state_dict would have given it."""
    capacity, pushed = int(manifest["capacity"]), int(manifest["pushed"])
    size = min(pushed, capacity)
    oldest = pushed - size
    out: dict[str, Any] = {}
    links, beside = np.full(size, -1, np.int64), np.ones(size, np.bool_)
    extra_parts: list[tuple[Array, Any]] = []
    reached = oldest
    for name, key, first, end in manifest["segments"]:
        rows = _read(directory / name, key)
        if first > reached or end <= reached or len(rows["links"]) != end - first:
            raise ValueError(f"{directory / name} does not hold the rows from {reached} on")
        skipped, slots = reached - first, np.arange(reached, end) % capacity
        for column in ("observations", "actions", "rewards", "terminated", "truncated", "masks"):
            _put(out, column, slots, rows[column], skipped, size)
        links[slots], beside[slots] = rows["links"][skipped:], rows["beside"][skipped:]
        numbers = np.flatnonzero(rows["beside"]) + first
        there = numbers >= oldest
        masks = () if rows["extra_masks"] is None else rows["extra_masks"]
        extra = tree_map(lambda leaf, there=there: leaf[there], (rows["extra"], masks))
        extra_parts.append((numbers[there] % capacity, extra))
        reached = end
    if reached != pushed:
        raise ValueError(f"{directory}: the segments end at row {reached}, the state at {pushed}")
    slots = np.asarray(manifest["open_rows"], np.int64) % capacity
    links[slots], beside[slots] = manifest["open_links"]
    return _assembled(out, links, beside, extra_parts, manifest, capacity)


def _assembled(
    out: dict[str, Any],
    links: npt.NDArray[np.int64],
    beside: npt.NDArray[np.bool_],
    extra_parts: list[tuple[Array, Any]],
    manifest: Mapping[str, Any],
    capacity: int,
) -> dict[str, Any]:
    slots = np.concatenate([part[0] for part in extra_parts])
    extra, extra_masks = tree_map(lambda *leaves: np.concatenate(leaves), *(part[1] for part in extra_parts))
    order = np.argsort(slots)
    order = order[beside[slots[order]]]  # the others were linked after their segment had been written
    own = np.flatnonzero(beside)
    heirs = np.where(links >= 0, links % capacity, -1)
    following = heirs.copy()
    following[own] = ~np.arange(len(own))
    masks = out.pop("masks")
    return {
        "observations": out["observations"],
        "extra": tree_map(lambda leaf: leaf[order], extra),
        "successor": heirs[own],
        "masks": None if masks is None else {"own": masks, "extra": extra_masks[order]},
        "actions": out["actions"],
        "rewards": out["rewards"],
        "terminated": out["terminated"],
        "truncated": out["truncated"],
        "next": following,
        "pending": np.array(manifest["pending"], np.int64),
        "pushed": int(manifest["pushed"]),
    }


def _put(out: dict[str, Any], name: str, slots: Array, rows: Any, skipped: int, size: int) -> None:
    if rows is None:
        out[name] = None
        return
    if name not in out:
        out[name] = tree_map(lambda leaf: np.empty((size, *leaf.shape[1:]), leaf.dtype), rows)

    def put(target: Array, leaf: Array) -> None:
        target[slots] = leaf[skipped:]

    tree_map(put, out[name], rows)


def _read(path: Path, key: str) -> Any:
    try:
        state = load_state(path)
    except FileNotFoundError:
        raise ValueError(f"{path} is missing: the state refers to it") from None
    if state["key"] != key:
        raise ValueError(f"{path} is not the segment that the state refers to")
    return state["rows"]
