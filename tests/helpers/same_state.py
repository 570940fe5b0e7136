"""States compared bit by bit."""

from __future__ import annotations

from typing import Any


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
