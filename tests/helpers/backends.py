"""Agents on both backends."""

from __future__ import annotations

import pytest

# For the argument `backend` of what makes an agent. "auto" is the torch reference where that runs everything,
# which CI does too; so "torch" beside it is for the slow tests.
both_backends = pytest.mark.parametrize("backend", ["auto", pytest.param("torch", marks=pytest.mark.slow)])
