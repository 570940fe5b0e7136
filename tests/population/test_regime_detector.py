"""Regimes by hand."""

from __future__ import annotations

from typing import Any

import pytest
from tuning import history

from optix_fast import RegimeDetector


def regime(*scores: float, **kwargs: Any) -> str:
    return RegimeDetector(**kwargs).detect(history(*scores))


def test_few_scores_say_nothing() -> None:
    assert regime() == regime(1.0) == regime(1.0, 100.0) == "ranging"


def test_a_steady_rise_is_a_trend_however_far_it_goes() -> None:
    assert regime(10.0, 20.0, 30.0, 40.0) == "trending"  # slope 10, mean 25: 0.4


@pytest.mark.parametrize(("threshold", "expected"), [(0.39, "trending"), (0.41, "ranging")])
def test_the_slope_is_measured_against_the_mean(threshold: float, expected: str) -> None:
    assert regime(10.0, 20.0, 30.0, 40.0, trend_threshold=threshold) == expected
    # A mean below zero counts by its size.
    assert regime(-40.0, -30.0, -20.0, -10.0, trend_threshold=threshold) == expected


def test_a_decline_is_no_trend() -> None:
    assert regime(40.0, 30.0, 20.0, 10.0) == "ranging"


# 1, 3, 1, 3: mean 2; x̄ = 1.5, slope = (−1.5·−1 + −0.5·1 + 0.5·−1 + 1.5·1)/5 = 0.4; the line leaves
# −0.4, 1.2, −1.2, 0.4: √(3.2/4) = 0.8944, or 0.4472 of the mean.
@pytest.mark.parametrize(("threshold", "expected"), [(0.4471, "volatile"), (0.4473, "trending")])
def test_volatility_is_what_the_line_leaves(threshold: float, expected: str) -> None:
    assert regime(1.0, 3.0, 1.0, 3.0, volatility_threshold=threshold) == expected


def test_scores_that_are_no_numbers_do_not_count() -> None:
    assert regime(1.0, 50.0, 2.0, float("nan"), 60.0, 3.0) == regime(1.0, 50.0, 2.0, 60.0, 3.0) == "volatile"


def test_only_the_latest_scores_count() -> None:
    assert regime(1.0, 50.0, 2.0, 30.0, 30.0, 30.0, window=3) == "ranging"
    assert regime(1.0, 50.0, 2.0, 30.0, 30.0, 30.0, window=6) == "volatile"


@pytest.mark.parametrize(
    ("name", "value"),
    [("window", 2), ("window", 3.0), ("volatility_threshold", -0.1), ("trend_threshold", float("nan")),
     ("trend_threshold", "0.1"), ("volatility_threshold", True)],
)  # fmt: skip
def test_wrong_arguments_are_named(name: str, value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=name):
        RegimeDetector(**{name: value})
