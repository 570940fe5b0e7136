"""Hyperparameters in the unit cube."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optix_fast.tuners.search_space import SearchSpace, is_same, score_spread
from optix_fast.types import EvalMetrics


def test_linear_and_logarithmic_places_by_hand() -> None:
    space = SearchSpace({"a": (10.0, 20.0), "lr": (1e-4, 1e-2)}, ["lr"])
    assert space.to_unit("a", 12.5) == 0.25
    assert space.to_value("a", 0.75) == 17.5
    assert space.to_unit("lr", 1e-3) == pytest.approx(0.5)
    assert space.to_value("lr", 0.25) == pytest.approx(10**-3.5)


def test_only_numbers_within_their_bounds_are_tuned() -> None:
    space = SearchSpace(dict.fromkeys("abcde", (0.0, 1.0)))
    names = space.fix({"a": 0.5, "b": True, "c": None, "d": 1.5, "x": 0.5})
    assert names == ("a",)
    assert space.fix({"a": 0.5, "e": 0.5}) == ("a",)  # fixed at the first call


def test_integers_stay_integers_and_move_by_one_at_least() -> None:
    space = SearchSpace({"n": (1, 10)})
    space.fix({"n": 4})
    x = space.to_unit("n", 4)
    assert [space.to_value("n", space.moved("n", x, step)) for step in (0.01, -0.01, 0.5)] == [5, 3, 8]
    assert isinstance(space.to_value("n", 0.3), int)
    assert space.to_value("n", space.moved("n", 1.0, 0.01)) == 10


@settings(deadline=None)
@given(
    low=st.floats(1e-6, 1e3),
    width=st.floats(1e-3, 1e3),
    x=st.floats(-1.0, 2.0),
    logarithmic=st.booleans(),
)
def test_values_stay_within_bounds_and_places_come_back(
    low: float, width: float, x: float, logarithmic: bool
) -> None:
    space = SearchSpace({"p": (low, low + width)}, ["p"] if logarithmic else [])
    value = space.to_value("p", x)
    assert low <= value <= low + width
    assert space.to_unit("p", value) == pytest.approx(min(max(x, 0.0), 1.0), abs=1e-6)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [([], 0.0), ([3.0], 0.0), ([5.0, 5.0, 5.0], 0.0), ([0.0, 2.0, 0.0], math.sqrt(math.pi))],
)
def test_spread_by_hand(scores: list[float], expected: float) -> None:
    assert score_spread([EvalMetrics(s, {}, i) for i, s in enumerate(scores)]) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("bounds", "log_params", "error"),
    [
        ({"p": (1.0, 0.0)}, None, ValueError),
        ({"p": (0.0, math.inf)}, None, ValueError),
        ({"p": 3.0}, None, TypeError),
        ({"p": ("a", "b")}, None, TypeError),
        ({"p": (0.0, 1.0)}, ["p"], ValueError),
    ],
)
def test_wrong_bounds_name_the_parameter(bounds: Any, log_params: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="'p'"):
        SearchSpace(bounds, log_params)


@pytest.mark.parametrize(
    ("value", "other", "same"),
    [
        (0.1, np.float32(0.1), True),
        (3e-4, float(np.float32(3e-4)), True),
        (1.0, 1.0 + 1e-5, False),
        (0.0, 1e-12, False),
        (10_000_000, 10_000_001, False),
        (3, 3.0, True),
        (None, 0.5, False),
        ("a", "a", True),
        (True, 1.0000001, False),
    ],
)
def test_values_are_the_same_if_float32_cannot_tell_them_apart(value: Any, other: Any, same: bool) -> None:
    assert is_same(value, other) is same
    assert is_same(other, value) is same


def test_bound_that_float32_has_rounded_is_within_the_bounds() -> None:
    space = SearchSpace({"lr": (1e-4, 3e-3), "x": (0.1, 1.0)})
    assert space.fix({"lr": float(np.float32(3e-3)), "x": 0.0999}) == ("lr",)
