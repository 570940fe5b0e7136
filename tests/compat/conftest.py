"""install() for one test."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from optix_fast.compat import install


@pytest.fixture
def installed() -> Iterator[None]:
    """`import tensor_optix` is optix_fast's, until the test ends."""
    finders = list(sys.meta_path)
    install()
    yield
    sys.meta_path[:] = finders
    for name in [name for name in sys.modules if name.split(".")[0] == "tensor_optix"]:
        del sys.modules[name]
