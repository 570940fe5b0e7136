"""Looking at the score of every window, due or not."""

from __future__ import annotations

from typing import Any

import pytest

from optix_fast.types import LoopCallback

# The interval doubles after every score that is no improvement: windows 0, 1, 2, 4, 8 and 16 are due.
PEAK_BETWEEN_EVALUATIONS = [5.0, 4.0, 3.0, 9.0, 3.0, 3.0, 3.0, 3.0, 3.0]


def test_best_policy_between_two_evaluations_is_checkpointed(script: Any) -> None:
    run = script(PEAK_BETWEEN_EVALUATIONS, max_episodes=9, judge_every_window=True)
    run.run()
    assert run.best_version == run.agent.version == 3
    assert run.named("on_improvement") == [(9.0,)]
    assert [score for _, score in run.named("on_episode_end")] == PEAK_BETWEEN_EVALUATIONS


def test_windows_that_are_not_due_do_not_count_as_evaluations(script: Any, scripted_tuner: Any) -> None:
    ends = []
    for every in (False, True):
        tuner = scripted_tuner(change=False)
        run = script(PEAK_BETWEEN_EVALUATIONS, tuner=tuner, max_episodes=9, judge_every_window=every)
        run.run()
        history = [metrics.episode_id for metrics in run.controller.history]
        ends.append((history, tuner.seen, run.scheduler.state_dict(), run.controller.last_evaluated))
    assert ends[0] == ends[1]
    assert ends[0][0] == [0, 1, 2, 4, 8]


@pytest.mark.parametrize("source", ["val", "checkpoint_score_fn"])
def test_scores_that_cost_something_are_asked_for_when_due_only(script: Any, source: str) -> None:
    asked: list[int] = []

    def costly(*_: Any) -> float:
        asked.append(len(asked))
        return 1.0

    run = script([1.0], max_episodes=9, judge_every_window=True, **{source: costly})
    run.run()
    assert len(asked) == 5
    assert [window for window, score in run.named("on_episode_end") if score is None] == [3, 5, 6, 7]


def test_training_has_ended_before_the_best_policy_is_loaded(script: Any) -> None:
    held: list[int] = []

    class Hook(LoopCallback):
        def on_training_end(self) -> None:
            held.append(run.agent.version)

    run = script([5.0, 1.0, 1.0], max_episodes=3, callbacks=[Hook()])
    run.run()
    assert (held, run.agent.version) == ([3], 0)

    def fail(data: Any) -> None:
        raise KeyboardInterrupt

    run.agent.learn_hook = fail
    with pytest.raises(KeyboardInterrupt):
        run.run()
    assert held == [3, 0]
