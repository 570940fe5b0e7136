"""What to do when a run has stopped improving."""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping, Sequence
from typing import Any

from optix_fast.population.series import check_threshold, check_window, line_of, scores_of
from optix_fast.types import EvalMetrics

_LEAST = 3


class MetaAction(enum.Enum):
    """What a MetaController may decide."""

    NO_OP = 1
    SPAWN = 2
    PRUNE = 3
    STOP = 4


class MetaController:
    """Decides by generalization gap and improvement (seed 003, "MetaController").

    The first of these that holds, over the latest `window` evaluations:

        STOP    status["budget_exhausted"]
        NO_OP   fewer than three evaluations with a finite score
        PRUNE   mean gap > gap_threshold, where gap = (train_score − val_score) / |val_score|
        PRUNE   slope of the gap > gap_slope_threshold: it overfits more and more
        SPAWN   slope of the scores / |mean| < improvement_threshold (a mean of 0: no improvement)
        NO_OP   it improves

    Evaluations without both scores, or with a val_score of 0, have no gap.

    Args:
        gap_threshold, gap_slope_threshold, improvement_threshold: see above; at least 0.
        window: evaluations that are looked at; at least 3.

    Raises:
        TypeError, ValueError: an argument is wrong; it is named.
    """

    def __init__(
        self,
        gap_threshold: float = 0.2,
        gap_slope_threshold: float = 0.02,
        improvement_threshold: float = 0.01,
        window: int = 10,
    ) -> None:
        self.gap_threshold = check_threshold("gap_threshold", gap_threshold)
        self.gap_slope_threshold = check_threshold("gap_slope_threshold", gap_slope_threshold)
        self.improvement_threshold = check_threshold("improvement_threshold", improvement_threshold)
        self.window = check_window(window)

    def decide(self, history: Sequence[EvalMetrics], status: Mapping[str, Any]) -> MetaAction:
        """What to do next.

        Args:
            history: the run's evaluations.
            status: of the population; "budget_exhausted" is read.
        """
        if status.get("budget_exhausted", False):
            return MetaAction.STOP
        scores = scores_of(history, self.window)
        if len(scores) < _LEAST:
            return MetaAction.NO_OP
        gaps = _gaps(history[-self.window :])
        if gaps and sum(gaps) / len(gaps) > self.gap_threshold:
            return MetaAction.PRUNE
        if len(gaps) >= _LEAST and line_of(gaps).slope > self.gap_slope_threshold:
            return MetaAction.PRUNE
        scale = abs(sum(scores) / len(scores))
        improvement = line_of(scores).slope / scale if scale > 0.0 else 0.0
        return MetaAction.SPAWN if improvement < self.improvement_threshold else MetaAction.NO_OP


def _gaps(history: Sequence[EvalMetrics]) -> list[float]:
    gaps = []
    for metrics in history:
        gap, val = metrics.generalization_gap, metrics.metrics.get("val_score")
        if gap is not None and math.isfinite(gap) and val:
            gaps.append(gap / abs(float(val)))
    return gaps
