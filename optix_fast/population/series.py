"""Numbers of short series of scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from optix_fast.types import EvalMetrics


class Line(NamedTuple):
    """The least-squares line over x = 0, 1, …: its slope, and the standard deviation of what it leaves."""

    slope: float
    residual: float


def line_of(values: Sequence[float]) -> Line:
    """Of at least two values."""
    y = np.asarray(values, np.float64)
    x = np.arange(len(y)) - 0.5 * (len(y) - 1)
    slope = float(x @ (y - y.mean()) / (x @ x))
    return Line(slope, float((y - y.mean() - slope * x).std()))


def scores_of(history: Sequence[EvalMetrics], window: int) -> list[float]:
    """The finite ones of the latest `window` primary scores."""
    scores = (float(metrics.primary_score) for metrics in history[-window:])
    return [score for score in scores if math.isfinite(score)]


def check_window(window: int) -> int:
    """`window`, a number of evaluations.

    Raises:
        TypeError, ValueError: it is no whole number of at least 3.
    """
    if isinstance(window, bool) or not isinstance(window, int):
        raise TypeError(f"window must be a whole number, got {window!r}")
    if window < 3:
        raise ValueError(f"window must be at least 3: a line through two points says nothing, got {window}")
    return window


def check_threshold(name: str, value: float) -> float:
    """`value`, a finite number of at least 0.

    Raises:
        TypeError, ValueError: it is not; it is named.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not 0.0 <= value < float("inf"):
        raise ValueError(f"{name} must be finite and at least 0, got {value}")
    return float(value)
