"""For the tests of what the core computes: every instruction set that this machine has."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from optix_fast import _native


def _simd_paths() -> list[Any]:
    """The one in use first; the others are for the slow tests, which CI runs."""
    if _native.core is None:
        return []
    in_use = _native.core.build_info()["simd"]
    found: list[Any] = [in_use]
    for path in sorted(set(_native.core.build_info()["simd_compiled"]) - {in_use}):
        try:
            _native.core.select_simd(path)
        except ValueError:  # this processor lacks it
            continue
        found.append(pytest.param(path, marks=pytest.mark.slow))
    _native.core.select_simd(in_use)
    return found


@pytest.fixture(params=_simd_paths())
def every_simd_path(request: pytest.FixtureRequest) -> Iterator[str]:
    """The test runs once on each of them."""
    in_use = _native.core.build_info()["simd"]  # type: ignore[union-attr]
    _native.core.select_simd(request.param)  # type: ignore[union-attr]
    yield request.param
    _native.core.select_simd(in_use)  # type: ignore[union-attr]
