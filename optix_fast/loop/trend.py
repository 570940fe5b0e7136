"""How noisy a series of scores is, and whether it rises: plain statistics of a few points."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

Point = tuple[float, float]  # (window number, score)

_NORMAL = math.sqrt(math.pi / 2.0)  # standard deviation / mean size, of a normal distribution


class Noise(NamedTuple):
    """Standard deviation of the scores around their local trend, and how many terms it rests on."""

    sigma: float
    terms: int

    @property
    def widening(self) -> float:
        """Factor on critical values for an estimate from few terms, 1 + 2/terms: a cheap stand-in
        for the quantiles of Student's t."""
        return 1.0 + 2.0 / self.terms


class Trend(NamedTuple):
    """A least-squares line: its slope per window, that slope's standard error, and its reach."""

    slope: float
    error: float
    span: float


def local_noise(points: Sequence[Point]) -> Noise | None:
    """The noise of a series that may have any smooth trend; None for fewer than three points.

    Each inner point is compared with the straight line between its neighbours, a and b being the
    weights of the interpolation (Gasser, Sroka & Jennen-Steinmetz 1986):

        σ = √(π/2) · mean |a·yᵢ₋₁ + b·yᵢ₊₁ − yᵢ| / √(a² + b² + 1)

    so a steady ramp of any slope has no noise, and unevenly spaced points are no problem. The
    mean of sizes (exact for a normal distribution), not of squares, because a single jump of the
    scores, or one lucky window, would rule a mean of squares.
    """
    total = 0.0
    for (x0, y0), (x1, y1), (x2, y2) in zip(points, points[1:], points[2:], strict=False):
        a = (x2 - x1) / (x2 - x0)
        b = 1.0 - a
        total += abs(a * y0 + b * y2 - y1) / math.sqrt(a * a + b * b + 1.0)
    terms = len(points) - 2
    return Noise(_NORMAL * total / terms, terms) if terms > 0 else None


def fit_trend(points: Sequence[Point], sigma: float) -> Trend:
    """The least-squares line through at least two points whose noise is `sigma`."""
    n = len(points)
    mean_x = sum(x for x, _ in points) / n
    mean_y = sum(y for _, y in points) / n
    spread = sum((x - mean_x) * (x - mean_x) for x, _ in points)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread
    return Trend(slope, sigma / math.sqrt(spread), points[-1][0] - points[0][0])
