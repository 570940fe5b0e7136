"""States compared bit by bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from optix_fast.buffers.segments import StoredRows
from optix_fast.loop.resume import read_part


def assert_same(one: Any, other: Any, where: str) -> None:
    """Fail unless two nested states are equal; `where` names the place in what is shown."""
    assert type(one) is type(other), where
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_same(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for i, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_same(a, b, f"{where}[{i}]")
    elif hasattr(one, "tobytes"):
        assert one.tobytes() == other.tobytes(), where
    elif hasattr(one, "numpy"):
        assert one.numpy().tobytes() == other.numpy().tobytes(), where
    else:
        assert one == other or one != one, where


def part_with_rows(directory: Path, name: str) -> Any:
    """A part of the state in a directory of checkpoints, transitions included: the files that those lie in
    have other names in every run."""
    return _with_rows(read_part(directory, name))


def _with_rows(state: Any) -> Any:
    if isinstance(state, StoredRows):
        return state.load(state.manifest["capacity"], None).state_dict()
    return {key: _with_rows(value) for key, value in state.items()} if isinstance(state, dict) else state
