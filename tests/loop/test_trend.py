"""Noise around a trend, and the trend itself."""

from __future__ import annotations

import math
import random

import pytest

from optix_fast.loop.trend import fit_trend, local_noise


def test_noise_of_three_points_by_hand() -> None:
    # 0, 3, 0: the middle is 3 above the line, 3 / √(¼ + ¼ + 1) = √6; times √(π/2).
    noise = local_noise([(0.0, 0.0), (1.0, 3.0), (2.0, 0.0)])
    assert noise is not None
    assert noise.sigma == pytest.approx(math.sqrt(6.0 * math.pi / 2.0))
    assert (noise.terms, noise.widening) == (1, 3.0)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_noise_needs_three_points(count: int) -> None:
    assert local_noise([(float(i), 1.0) for i in range(count)]) is None


def test_uneven_ramp_has_no_noise() -> None:
    noise = local_noise([(float(x), 2.0 * x - 7.0) for x in (0, 1, 2, 4, 8, 16, 100)])
    assert noise is not None
    assert noise.sigma == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("slope", [0.0, 50.0])
def test_noise_is_estimated_whatever_the_slope(slope: float) -> None:
    rng = random.Random(1)
    points = [(float(x), slope * x + rng.gauss(0.0, 3.0)) for x in range(2000)]
    noise = local_noise(points)
    assert noise is not None
    assert noise.sigma == pytest.approx(3.0, rel=0.06)


def test_trend_by_hand() -> None:
    trend = fit_trend([(0.0, 1.0), (1.0, 3.0), (2.0, 5.0), (4.0, 9.0)], sigma=2.0)
    # mean x = 1.75, Σ(x − mean)² = 8.75
    assert trend.slope == pytest.approx(2.0)
    assert trend.error == pytest.approx(2.0 / math.sqrt(8.75))
    assert trend.span == 4.0


def test_slope_error_is_the_spread_of_the_slopes() -> None:
    rng = random.Random(2)
    xs = [0, 1, 2, 4, 8, 16]
    slopes = [fit_trend([(float(x), rng.gauss(0, 1)) for x in xs], 1.0) for _ in range(3000)]
    spread = math.sqrt(sum(t.slope**2 for t in slopes) / len(slopes))
    assert spread == pytest.approx(slopes[0].error, rel=0.05)
