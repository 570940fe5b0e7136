"""Whether scores rise, stand still, or jump about."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from optix_fast.population.series import check_threshold, check_window, line_of, scores_of
from optix_fast.types import EvalMetrics

Regime = Literal["trending", "ranging", "volatile"]
_LEAST = 3


class RegimeDetector:
    """Names what a run's latest scores do (seed 003, "Detrended Volatility").

        volatile   std(scores − their least-squares line) / (|mean| + 1e-8) > volatility_threshold
        trending   otherwise, where slope / (|mean| + 1e-8) > trend_threshold
        ranging    otherwise, a decline included; and while there are fewer than three scores

    A steady rise is not volatile: the line is taken off first.

    Args:
        volatility_threshold, trend_threshold: see above; at least 0.
        window: evaluations that are looked at, the latest; at least 3.

    Raises:
        TypeError, ValueError: an argument is wrong; it is named.
    """

    def __init__(
        self, volatility_threshold: float = 0.15, trend_threshold: float = 0.05, window: int = 10
    ) -> None:
        self.volatility_threshold = check_threshold("volatility_threshold", volatility_threshold)
        self.trend_threshold = check_threshold("trend_threshold", trend_threshold)
        self.window = check_window(window)

    def detect(self, history: Sequence[EvalMetrics]) -> Regime:
        """The regime of the latest evaluations."""
        scores = scores_of(history, self.window)
        if len(scores) < _LEAST:
            return "ranging"
        line, scale = line_of(scores), abs(sum(scores) / len(scores)) + 1e-8
        if line.residual / scale > self.volatility_threshold:
            return "volatile"
        return "trending" if line.slope / scale > self.trend_threshold else "ranging"
