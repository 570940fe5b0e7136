"""The replay on disk in segments: what comes back is what a state holds, and a write costs what is new."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from replay_cases import assert_same_state

from optix_fast.buffers import PrioritizedReplayBuffer, ReplayBuffer, ReplaySegments, with_rows
from optix_fast.buffers import segments as module


def push_some(buffer: Any, rng: np.random.Generator, masks: bool = False, tree: bool = False) -> None:
    """Rows of one to four environments, some of them normalized anew in between, some ended or flushed."""
    n = int(rng.integers(1, 5))
    start, end = rng.normal(size=(2, n, 3)).astype(np.float32)
    if rng.random() < 0.6 and len(buffer) >= n and not tree:
        newest = buffer._ring.newest_rows()
        if len(newest):
            buffer_row = newest[0] % buffer.capacity
            start[0] = buffer._ring._extra[0][~buffer._ring._next[buffer_row]]
    given: dict[str, Any] = {}
    if masks:
        allowed = rng.random((2, n, 2)) < 0.5
        allowed[..., 0] |= ~allowed.any(axis=-1)
        given = {"action_masks": allowed[0], "next_action_masks": allowed[1]}
    shown = ({"x": start, "n": np.arange(n)}, {"x": end, "n": np.arange(n)}) if tree else (start, end)
    ends = rng.random((2, n)) < 0.15
    buffer.push_rows(shown[0], rng.integers(0, 2, n), rng.normal(size=n), shown[1], *ends, **given)
    if rng.random() < 0.05:
        buffer.flush_episode()


def loaded(state: dict[str, Any], segments: ReplaySegments | Path, capacity: int = 50) -> ReplayBuffer:
    buffer = ReplayBuffer(capacity, seed=1)
    stored = ReplaySegments(segments) if isinstance(segments, Path) else segments
    buffer.load_state_dict(with_rows(state, stored))
    return buffer


def save(buffer: Any, segments: ReplaySegments) -> dict[str, Any]:
    segments.forget()
    state: dict[str, Any] = buffer.state_dict(segments)
    return state


@pytest.mark.parametrize(
    ("capacity", "segment_bytes", "tree", "masks"),
    [
        *[(capacity, size, False, False) for capacity in (1, 7, 40, 1000) for size in (1, 700, 10**6)],
        (7, 700, True, True), (40, 1, True, True), (1000, 10**6, True, True),
    ],
)  # fmt: skip
def test_what_comes_back_is_what_the_state_holds(
    capacity: int, segment_bytes: int, masks: bool, tree: bool, tmp_path: Path
) -> None:
    rng = np.random.default_rng(capacity)
    buffer, segments = ReplayBuffer(capacity, seed=0), ReplaySegments(tmp_path / "rows", segment_bytes)
    for i in range(60):
        push_some(buffer, rng, masks and i > 20, tree)
        if i % 4:
            continue
        state = save(buffer, segments)
        segments.clean()
        # Goes on in the place of the old one, now and then, and writes what is new.
        other = ReplaySegments(tmp_path / "rows", segment_bytes)
        fresh = loaded(state, other, capacity)
        assert_same_state(_plain(fresh.state_dict()), _plain(buffer.state_dict()))
        if i % 3 == 0:
            buffer, segments = fresh, other


def _plain(state: dict[str, Any]) -> dict[str, Any]:
    rows = state["rows"]
    return {**state, "rows": {**rows, "masks": rows["masks"] or {}}}


def test_a_full_segment_is_written_once_and_goes_when_the_ring_has_passed_it(tmp_path: Path) -> None:
    buffer, segments = ReplayBuffer(100, seed=0), ReplaySegments(tmp_path, 20 * 100)
    written: dict[str, int] = {}
    for i in range(1, 400):
        buffer.push(np.full(4, i, np.float32), 0, 1.0, np.full(4, i + 1, np.float32), False)
        if i % 7 == 0:
            save(buffer, segments)
            segments.clean()
            there = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
            assert all(there[name] == written[name] for name in there.keys() & written.keys())
            firsts = sorted(int(name.split("-")[1]) for name in there)
            assert len(set(firsts)) == len(firsts)
            # One segment is new, those of rows that are no more have gone.
            assert len(there.keys() - written.keys()) <= 2
            assert min(int(name.split("-")[2]) for name in there) > buffer.pushed - 100
            written = there


def test_until_the_next_state_is_written_the_last_one_can_be_read(tmp_path: Path) -> None:
    buffer, segments = ReplayBuffer(50, seed=0), ReplaySegments(tmp_path, 900)
    rng = np.random.default_rng(0)
    for _ in range(10):
        push_some(buffer, rng)
    state, wanted = save(buffer, segments), buffer.state_dict()
    segments.clean()
    for _ in range(3):  # written, but the process dies before the state that refers to it is
        for _ in range(30):
            push_some(buffer, rng)
        save(buffer, segments)
        assert_same_state(_plain(loaded(state, tmp_path).state_dict()), _plain(wanted))
    # The next process knows of none of this; once its own state is there, the rest goes.
    other = ReplaySegments(tmp_path, 900)
    (tmp_path / ".rows-0-9-abc.safetensors.1-2.tmp").touch()
    state = save(buffer, other)
    other.clean()
    assert {path.name for path in tmp_path.iterdir()} == {segment[0] for segment in state["rows"]["segments"]}
    assert_same_state(_plain(loaded(state, tmp_path).state_dict()), _plain(buffer.state_dict()))


def test_a_write_that_fails_leaves_no_orphans_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    buffer, segments = ReplayBuffer(50, seed=0), ReplaySegments(tmp_path)
    rng = np.random.default_rng(0)
    push_some(buffer, rng)
    state, wanted = save(buffer, segments), buffer.state_dict()
    segments.clean()
    for _ in range(20):  # the disk has room for the segment, but not for the state
        push_some(buffer, rng)
        save(buffer, segments)
    assert len(list(tmp_path.iterdir())) == 2
    monkeypatch.setattr(module, "save_state", _no_space)
    push_some(buffer, rng)
    with pytest.raises(OSError, match="full"):
        save(buffer, segments)
    monkeypatch.undo()
    assert_same_state(_plain(loaded(state, tmp_path).state_dict()), _plain(wanted))
    state = save(buffer, segments)
    segments.clean()
    assert_same_state(_plain(loaded(state, tmp_path).state_dict()), _plain(buffer.state_dict()))


def _no_space(path: Path, state: Any) -> None:
    raise OSError("the disk is full")


def test_missing_damaged_and_exchanged_segments_are_named(tmp_path: Path) -> None:
    buffer = ReplayBuffer(50, seed=0)
    rng = np.random.default_rng(0)
    for _ in range(10):
        push_some(buffer, rng)
    state = save(buffer, ReplaySegments(tmp_path / "a", 700))
    other = save(buffer, ReplaySegments(tmp_path / "b", 700))
    first = tmp_path / "a" / state["rows"]["segments"][0][0]
    intact = first.read_bytes()
    first.write_bytes((tmp_path / "b" / other["rows"]["segments"][0][0]).read_bytes())
    with pytest.raises(ValueError, match=r"rows-0-.* is not the segment that the state refers to"):
        loaded(state, tmp_path / "a")
    first.write_bytes(intact[:-5])
    with pytest.raises(ValueError, match=r"rows-0-.* is not an intact state file"):
        loaded(state, tmp_path / "a")
    first.unlink()
    with pytest.raises(ValueError, match=r"rows-0-.* is missing: the state refers to it"):
        loaded(state, tmp_path / "a")


def large_buffer() -> PrioritizedReplayBuffer:
    """Full, of 40 000 rows of some 300 bytes."""
    buffer = PrioritizedReplayBuffer(40_000, seed=0)
    observations = np.zeros((1000, 64), np.float32)
    for _ in range(40):
        buffer.push_rows(
            observations, np.zeros(1000, np.int64), np.zeros(1000), observations, np.zeros(1000, bool)
        )
    return buffer


def test_a_write_takes_a_bounded_amount_of_memory_beside_the_replay(tmp_path: Path) -> None:
    buffer, segments = PrioritizedReplayBuffer(40_000, seed=0), ReplaySegments(tmp_path, 1 << 20)
    observations = np.zeros((1000, 64), np.float32)
    for _ in range(40):
        buffer.push_rows(
            observations, np.zeros(1000, np.int64), np.zeros(1000), observations, np.ones(1000, bool)
        )
    tracemalloc.start()
    try:
        buffer.state_dict(segments)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert 40_000 * 64 * 4 > 10e6 > peak  # less than the rows themselves


def test_priorities_come_back_with_the_rows(tmp_path: Path) -> None:
    buffer, segments = PrioritizedReplayBuffer(30, alpha=0.6, seed=0), ReplaySegments(tmp_path, 500)
    rng = np.random.default_rng(0)
    for _ in range(30):
        push_some(buffer.replay, rng)
    buffer.update_priorities(np.arange(30), rng.normal(size=30))
    fresh = PrioritizedReplayBuffer(30, alpha=0.6, seed=1)
    fresh.load_state_dict(with_rows(buffer.state_dict(segments), segments))
    for one, other in zip(fresh.sample(16), buffer.sample(16), strict=True):
        np.testing.assert_array_equal(one, other)
    assert fresh.max_priority == buffer.max_priority > 1


@pytest.mark.parametrize("passed", [0, 130], ids=["", "wrapped"])
def test_what_was_read_is_not_written_again(passed: int, tmp_path: Path) -> None:
    buffer, segments = ReplayBuffer(100, seed=0), ReplaySegments(tmp_path, 700)
    rng = np.random.default_rng(0)
    for _ in range(20 + passed):
        push_some(buffer, rng)
    state = save(buffer, segments)
    segments.clean()
    written = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    resumed = ReplaySegments(tmp_path, 700)
    fresh = loaded(state, resumed, 100)
    push_some(fresh, rng)
    state = save(fresh, resumed)
    assert all(path.exists() for path in written)  # the state that refers to them is still the last one
    resumed.clean()
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert len(written) > 3
    assert len(kept.keys() - written.keys()) <= 2  # the newest was longer by a row or two
    assert len(written.keys() - kept.keys()) <= 2
    assert_same_state(_plain(loaded(state, tmp_path, 100).state_dict()), _plain(fresh.state_dict()))


def test_segments_of_another_size_are_written_anew(tmp_path: Path) -> None:
    buffer, segments = ReplayBuffer(100, seed=0), ReplaySegments(tmp_path, 1500)
    rng = np.random.default_rng(0)
    for _ in range(40):
        push_some(buffer, rng)
    state = save(buffer, segments)
    segments.clean()
    for size in (700, 5000):
        resumed = ReplaySegments(tmp_path, size)
        fresh = loaded(state, resumed, 100)
        state = save(fresh, resumed)
        resumed.clean()
        assert_same_state(_plain(loaded(state, tmp_path, 100).state_dict()), _plain(fresh.state_dict()))


def test_a_read_holds_one_segment_beside_the_replay(tmp_path: Path) -> None:
    buffer, segments = large_buffer(), ReplaySegments(tmp_path, 1 << 20)
    state = save(buffer, segments)
    whole = 40_000 * buffer.replay._ring._records.shape[1]  # type: ignore[union-attr]
    del buffer
    fresh = PrioritizedReplayBuffer(40_000, seed=1)
    tracemalloc.start()
    try:
        fresh.load_state_dict(with_rows(state, segments))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(fresh) == 40_000
    assert peak < 1.7 * whole


def test_loading_a_state_does_not_copy_the_rows_that_it_replaces() -> None:
    buffer = large_buffer()
    small = PrioritizedReplayBuffer(40_000, seed=1)
    small.push_rows(np.zeros((1, 64), np.float32), [0], [0.0], np.zeros((1, 64), np.float32), [True])
    state = small.state_dict()
    whole = 40_000 * buffer.replay._ring._records.shape[1]  # type: ignore[union-attr]
    tracemalloc.start()
    try:
        buffer.load_state_dict(state)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(buffer) == 1
    assert peak < 1.7 * whole  # the new memory alone
