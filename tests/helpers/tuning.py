"""What tests of tuners hand them."""

from __future__ import annotations

from typing import Any

from optix_fast.types import EvalMetrics, HyperparamSet

BOUNDS = {"x": (0.0, 1.0), "n": (1, 100), "lr": (1e-4, 1e-2)}


def history(*scores: float) -> list[EvalMetrics]:
    return [EvalMetrics(score, {}, i) for i, score in enumerate(scores)]


def params(**values: Any) -> HyperparamSet:
    return HyperparamSet(dict(values), episode_id=7)
