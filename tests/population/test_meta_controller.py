"""Decisions by hand."""

from __future__ import annotations

from typing import Any

import pytest
from tuning import history

from optix_fast import MetaAction, MetaController
from optix_fast.types import EvalMetrics

OPEN: dict[str, Any] = {"budget_exhausted": False}


def pairs(*train_and_val: tuple[float, float]) -> list[EvalMetrics]:
    """Evaluations with a held-out score."""
    return [
        EvalMetrics(val, {"train_score": train, "val_score": val}, i)
        for i, (train, val) in enumerate(train_and_val)
    ]


def test_an_exhausted_budget_comes_before_everything() -> None:
    assert MetaController().decide([], {"budget_exhausted": True}) is MetaAction.STOP
    assert MetaController().decide(pairs((9.0, 1.0), (9.0, 1.0), (9.0, 1.0)), {"budget_exhausted": True}) is (
        MetaAction.STOP
    )


def test_two_evaluations_decide_nothing() -> None:
    assert MetaController().decide(pairs((9.0, 1.0), (9.0, 1.0)), OPEN) is MetaAction.NO_OP
    assert MetaController().decide(history(1.0, 1.0), {}) is MetaAction.NO_OP


# Gaps 0.1, 0.2, 0.3 of the held-out score: 0.2 in the mean, rising by 0.1.
@pytest.mark.parametrize(("threshold", "expected"), [(0.19, MetaAction.PRUNE), (0.21, MetaAction.SPAWN)])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_large_gap_prunes(threshold: float, expected: MetaAction, sign: float) -> None:
    seen = [(sign * 10.0 + gap, sign * 10.0) for gap in (1.0, 2.0, 3.0)]
    controller = MetaController(gap_threshold=threshold, gap_slope_threshold=0.5)
    assert controller.decide(pairs(*seen), OPEN) is expected


@pytest.mark.parametrize(("threshold", "expected"), [(0.09, MetaAction.PRUNE), (0.11, MetaAction.SPAWN)])
def test_a_growing_gap_prunes(threshold: float, expected: MetaAction) -> None:
    controller = MetaController(gap_threshold=1.0, gap_slope_threshold=threshold)
    assert controller.decide(pairs((11.0, 10.0), (12.0, 10.0), (13.0, 10.0)), OPEN) is expected


# 10, 11, 12: slope 1, mean 11.
@pytest.mark.parametrize(("threshold", "expected"), [(0.090, MetaAction.NO_OP), (0.092, MetaAction.SPAWN)])
def test_too_little_improvement_spawns(threshold: float, expected: MetaAction) -> None:
    controller = MetaController(improvement_threshold=threshold)
    assert controller.decide(history(10.0, 11.0, 12.0), OPEN) is expected


def test_scores_around_zero_and_falling_ones_do_not_improve() -> None:
    assert MetaController().decide(history(-1.0, 0.0, 1.0), OPEN) is MetaAction.SPAWN
    assert MetaController().decide(history(3.0, 2.0, 1.0), OPEN) is MetaAction.SPAWN


def test_a_held_out_score_of_zero_has_no_gap() -> None:
    controller = MetaController(gap_threshold=0.0, improvement_threshold=0.0)
    assert controller.decide(pairs((5.0, 0.0), (5.0, 0.0), (5.0, 0.0)), OPEN) is MetaAction.NO_OP


def test_only_the_latest_evaluations_count() -> None:
    seen = [(90.0, 10.0), (90.0, 10.0), (10.0, 10.0), (12.0, 12.0), (14.0, 14.0)]
    assert MetaController(window=3).decide(pairs(*seen), OPEN) is MetaAction.NO_OP
    assert MetaController(window=5).decide(pairs(*seen), OPEN) is MetaAction.PRUNE


@pytest.mark.parametrize(
    ("name", "value"),
    [("window", 1), ("gap_threshold", -1.0), ("gap_slope_threshold", None), ("improvement_threshold", "x")],
)
def test_wrong_arguments_are_named(name: str, value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=name):
        MetaController(**{name: value})


def test_a_gap_at_its_threshold_is_no_reason_yet() -> None:
    controller = MetaController(gap_threshold=0.25, improvement_threshold=0.0)
    assert controller.decide(pairs((12.5, 10.0), (12.5, 10.0), (12.5, 10.0)), OPEN) is MetaAction.NO_OP
