"""Which policies are checkpointed, and which one is the best."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from optix_fast.loop import CheckpointRegistry
from optix_fast.loop.best_policy import BestPolicy
from optix_fast.loop.callbacks import CallbackList
from optix_fast.loop.evaluators import TorchEvaluator
from optix_fast.loop.run_state import RunState
from optix_fast.loop.scoring import PolicyScorer
from optix_fast.types import EvalMetrics, LoopCallback


class Told(LoopCallback):
    def __init__(self) -> None:
        self.scores: list[float] = []

    def on_improvement(self, snapshot: Any) -> None:
        self.scores.append(snapshot.eval_metrics.primary_score)


@pytest.fixture
def build(tmp_path: Path, fake_agent: Any) -> Callable[..., tuple[BestPolicy, Told]]:
    """A BestPolicy on one directory and one run."""

    def make(margin: float = 0.0, target: float | None = None, **functions: Any) -> tuple[BestPolicy, Told]:
        registry = CheckpointRegistry(tmp_path, run_id="run", write_interval=0.0)
        scorer = PolicyScorer(fake_agent, TorchEvaluator(), **functions)
        best = BestPolicy(fake_agent, scorer, registry, CallbackList([told := Told()]), margin, target)
        best.begin()
        return best, told

    return make


def judge(best: BestPolicy, *scores: float) -> list[bool]:
    """Each score is that of a new policy, whose version is its place."""
    found = []
    for window, score in enumerate(scores):
        best.agent.version = window
        found.append(best.judge(EvalMetrics(score, {}, window), {"made": float(window)}))
    return found


def saved(best: BestPolicy) -> list[int]:
    return sorted(entry["episode_id"] for entry in best.registry.entries())


def test_only_gains_are_checkpointed_and_told_of_after_the_first(build: Any) -> None:
    best, told = build()
    assert judge(best, 1.0, 3.0, 3.0, 2.0, 4.0, math.nan, math.inf) == [False] * 7
    assert saved(best) == [0, 1, 4]
    assert best.registry.best.eval_metrics.metrics == {}
    assert told.scores == [3.0, 4.0]
    assert best.score == 4.0


def test_gain_must_exceed_the_margin(build: Any) -> None:
    best, _ = build(margin=1.0)
    judge(best, 1.0, 2.0, 2.5)
    assert saved(best) == [0, 2]


def test_there_is_no_score_before_the_first_policy(build: Any) -> None:
    best, _ = build()
    assert math.isnan(best.score)
    assert best.restore(RunState(1)) is False


def test_target_must_be_reached_and_confirmed(build: Any) -> None:
    confirmed = {1: 8.9, 2: 9.0}
    best, _ = build(target=9.0, target_confirm_fn=lambda agent: confirmed[agent.version])
    assert judge(best, 8.99, 9.0, 9.0) == [False, False, True]
    assert best.score == 9.0
    assert best.registry.best.eval_metrics.metrics == {"confirmed_score": 9.0}


def test_infinite_score_reaches_no_target(build: Any) -> None:
    best, _ = build(target=9.0)
    assert judge(best, math.inf, math.nan) == [False, False]
    assert best.registry.best is None


def test_no_unconfirmed_policy_follows_a_confirmed_one(build: Any) -> None:
    best, told = build(target=9.0, target_confirm_fn=lambda agent: 9.0 if agent.version == 1 else 0.0)
    assert judge(best, 1.0, 9.5, 50.0, 80.0) == [False, True, False, False]
    assert (saved(best), told.scores, best.score) == ([0, 1], [9.5], 9.0)
    again, told = build()
    assert again.score == 9.0
    judge(again, 100.0)
    assert (saved(again), told.scores) == ([0, 1], [])


def test_checkpoint_score_ranks_in_place_of_the_score(build: Any) -> None:
    best, _ = build(checkpoint_score_fn=lambda agent: [1.0, 0.5, math.nan, 2.0][agent.version])
    judge(best, 1.0, 9.0, 9.0, 0.0)
    assert saved(best) == [0, 3]
    assert best.score == 2.0


def test_restore_loads_the_best_and_tells_the_run_of_it(build: Any) -> None:
    best, _ = build()
    judge(best, 1.0, 3.0, 2.0)
    run = RunState(2)
    run.smoothed(7.0)
    assert best.restore(run) is True
    assert best.agent.version == 1
    assert run.diagnostics == {"made": 1.0}
    assert run.smoothed(3.0) == 3.0
    later, _ = build()
    later.agent.version = 9
    assert later.restore(run) is True
    assert (later.agent.version, run.diagnostics) == (1, {"made": 1.0})


def test_training_state_of_the_best_goes_with_it(build: Any) -> None:
    best, _ = build()
    best.agent.moments = 0.0
    best.agent.state_dict = lambda: {"moments": best.agent.moments}
    best.agent.load_state_dict = lambda state: setattr(best.agent, "moments", state["moments"])
    judge(best, 1.0)
    best.agent.moments = 5.0
    judge(best, 3.0)
    best.agent.moments = 9.0
    best.restore(RunState(1))
    assert best.agent.moments == 5.0
