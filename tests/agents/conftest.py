"""For the tests of what the core computes: every instruction set that this machine has."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from optix_fast import _native


def _simd_paths() -> list[str]:
    if _native.core is None:
        return []
    in_use, found = _native.core.build_info()["simd"], []
    for path in _native.core.build_info()["simd_compiled"]:
        try:
            _native.core.select_simd(path)
        except ValueError:  # this processor lacks it
            continue
        found.append(path)
    _native.core.select_simd(in_use)
    return found


@pytest.fixture(params=_simd_paths())
def every_simd_path(request: pytest.FixtureRequest) -> Iterator[str]:
    """The test runs once on each of them."""
    in_use = _native.core.build_info()["simd"]  # type: ignore[union-attr]
    _native.core.select_simd(request.param)  # type: ignore[union-attr]
    yield request.param
    _native.core.select_simd(in_use)  # type: ignore[union-attr]
