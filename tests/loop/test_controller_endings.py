"""However a run ends, the best policy is loaded and nothing is left open."""

from __future__ import annotations

import math
import os
import threading
from typing import Any

import pytest

from optix_fast.types import EvalMetrics, LoopCallback, NonFiniteError


def best_at_three(version: int, window: int) -> float:
    return 50.0 if version == 3 else float(version)


class At(LoopCallback):
    """Does something at the end of a window."""

    def __init__(self, window: int, action: Any) -> None:
        self.window, self.action = window, action

    def on_episode_end(self, episode_id: int, eval_metrics: EvalMetrics | None) -> None:
        if episode_id == self.window:
            self.action()


def interrupt() -> None:
    raise KeyboardInterrupt


# --- best loaded, whatever happened -------------------------------------------------------------


def test_budget_ends_with_the_best(script: Any) -> None:
    run = script(best_at_three, max_episodes=9)
    assert run.run().stop_reason == "budget"
    assert run.agent.version == run.best_version == 3


def test_convergence_ends_with_the_best(script: Any) -> None:
    run = script(lambda version, window: 50.0 if version == 4 else 1.0)
    assert run.run().stop_reason == "converged"
    assert run.agent.version == 4


def test_stop_ends_after_the_window_under_way_with_the_best(script: Any) -> None:
    run = script(best_at_three)
    run.controller.add_callback(At(6, run.controller.stop))
    summary = run.run()
    assert (summary.stop_reason, summary.windows, run.pipeline.collected) == ("stopped", 7, 7)
    assert run.agent.version == 3


def test_stop_from_another_thread_ends_the_run(script: Any) -> None:
    run = script(lambda version, window: float(window))
    timer = threading.Timer(0.2, run.controller.stop)
    timer.start()
    assert run.run().stop_reason == "stopped"
    timer.join()


def test_stop_in_on_loop_start_collects_nothing(script: Any) -> None:
    class Stop(LoopCallback):
        def on_loop_start(self) -> None:
            run.controller.stop()

    run = script([1.0], callbacks=[Stop()])
    assert run.run().windows == run.pipeline.collected == 0


def test_ctrl_c_ends_with_the_best_on_disk_and_is_passed_on(script: Any) -> None:
    run = script(best_at_three)
    run.registry.write_interval = 1e9  # nothing but the end may write
    run.controller.add_callback(At(5, interrupt))
    with pytest.raises(KeyboardInterrupt):
        run.run()
    assert run.agent.version == 3
    assert run.registry.entries()[0]["primary_score"] == 50.0
    assert run.controller.stop_reason == "interrupted"
    assert run.events[-2:] == [("collect", "teardown"), ("on_loop_stop",)]


@pytest.mark.parametrize("where", ["learn", "collect", "score"])
def test_exception_ends_with_the_best_and_is_passed_on(
    script: Any, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = script(best_at_three)

    def fail_late(*arguments: Any) -> None:
        if run.agent.made >= 6:
            raise RuntimeError("broken part")

    if where == "learn":
        run.agent.learn_hook = fail_late
    elif where == "collect":
        run.pipeline.score = lambda version, window: fail_late() or best_at_three(version, window)
    else:
        run.controller.scorer.evaluator.primary_score_fn = lambda data, d: (
            fail_late() or data.metadata["episode_returns"][0]
        )
    with pytest.raises(RuntimeError, match="broken part"):
        run.run()
    assert run.agent.version == 3
    assert run.controller.stop_reason == "failed"
    assert ("collect", "teardown") in run.events


def test_everything_is_torn_down_even_if_the_best_cannot_be_loaded(
    script: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = script([1.0], val=[1.0], max_episodes=2)

    def broken(path: str) -> None:
        raise RuntimeError("weights of another architecture")

    monkeypatch.setattr(run.agent, "load_weights", broken)
    with pytest.raises(RuntimeError, match="another architecture"):
        run.run()
    assert run.events[-3:] == [("collect", "teardown"), ("validate", "teardown"), ("on_loop_stop",)]


def test_error_while_ending_does_not_hide_the_first_one(
    script: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = script([1.0])
    run.controller.add_callback(At(2, interrupt))

    def broken() -> None:
        raise OSError("environment would not close")

    monkeypatch.setattr(run.pipeline, "teardown", broken)
    with pytest.raises(KeyboardInterrupt):
        run.run()
    assert "environment would not close" in caplog.text


def test_setup_that_fails_is_torn_down(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run = script([1.0])

    def broken() -> None:
        raise RuntimeError("no environment")

    monkeypatch.setattr(run.pipeline, "setup", broken)
    with pytest.raises(RuntimeError, match="no environment"):
        run.run()
    assert run.events == [("collect", "teardown")]


def test_full_disk_ends_the_run_with_the_best_from_memory(
    script: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = script(best_at_three)
    synced = os.fsync

    def full(handle: int) -> None:
        if run.agent.version >= 3:
            raise OSError(28, "No space left on device")
        synced(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"could not be written.*No space left"):
        run.run()
    assert run.agent.version == 3
    assert run.registry.entries()[0]["primary_score"] == 2.0


def test_best_score_is_known_though_its_first_save_fails(
    script: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = script([7.0])

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        run.run()
    assert run.controller.summary.best_score == 7.0


def test_window_that_is_no_window_is_a_type_error(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run = script([1.0])
    monkeypatch.setattr(run.pipeline, "episodes", lambda: iter([{"rewards": []}]))
    with pytest.raises(TypeError, match="EpisodeData, got dict"):
        run.run()


def test_summary_says_what_the_run_took(script: Any) -> None:
    summary = script([1.0, 8.0, 3.0], rows=5, max_episodes=3).run()
    assert (summary.windows, summary.env_steps, summary.best_score) == (3, 15, 8.0)
    assert 0.0 < summary.disk_seconds < summary.seconds


# --- solved -------------------------------------------------------------------------------------


def test_target_ends_the_run_with_the_very_policy_that_reached_it(script: Any) -> None:
    run = script(lambda version, window: float(version), target_score=4.0)
    summary = run.run()
    assert (summary.stop_reason, summary.windows, run.learned) == ("solved", 5, 5)
    assert run.agent.version == run.best_version == 4


def test_target_must_be_confirmed(script: Any) -> None:
    asked = []

    def confirm(agent: Any) -> float:
        asked.append(agent.version)
        agent.act(0)
        return 5.5 if agent.version == 6 else 3.0

    run = script(lambda version, window: float(version), target_score=4.0, target_confirm_fn=confirm)
    assert run.run().stop_reason == "solved"
    assert asked == [4, 5, 6]
    assert run.agent.acts.count(False) == 3
    assert run.controller.best_snapshot.eval_metrics.metrics["confirmed_score"] == 5.5


def test_confirmed_policy_outranks_a_higher_score_that_was_not_confirmed(script: Any) -> None:
    run = script(
        [1.0, 90.0, 2.0, 50.0],
        target_score=50.0,
        target_confirm_fn=lambda agent: 50.0 if agent.version == 3 else 49.0,
    )
    summary = run.run()
    assert (summary.stop_reason, summary.best_score) == ("solved", 50.0)
    assert run.agent.version == 3
    assert [entry["confirmed"] for entry in run.registry.entries()] == [True, False, False]


def test_target_is_noticed_in_a_window_that_was_not_due(script: Any) -> None:
    # Windows 3, 5, 6 and 7 of a flat score are not evaluated.
    run = script([1.0] * 6 + [9.0], target_score=9.0)
    summary = run.run()
    assert (summary.stop_reason, summary.windows) == ("solved", 7)
    assert run.agent.version == 6


def test_window_score_is_compared_with_the_target_unsmoothed(script: Any) -> None:
    run = script([0.0, 10.0], target_score=9.0, max_episodes=5, score_smoothing=5)
    assert run.run().windows == 2


def test_validation_score_decides_about_the_target(script: Any) -> None:
    run = script([100.0], val=lambda version, window: float(version), target_score=3.0)
    run.run()
    assert run.agent.version == 3


def test_nan_never_reaches_the_target(script: Any) -> None:
    run = script([math.nan], target_score=-1e9, max_episodes=4)
    assert run.run().stop_reason == "budget"


def test_unconfirmed_target_is_logged(script: Any, caplog: pytest.LogCaptureFixture) -> None:
    script([9.0], max_episodes=1, target_score=8.0, target_confirm_fn=lambda agent: 7.0).run()
    assert "window 0: score 9, but 7 in the confirmation" in caplog.text


# --- rollback -----------------------------------------------------------------------------------


def collapse(version: int, window: int) -> float:
    return 100.0 + version if version < 10 else 20.0


def test_degradation_rolls_back_to_the_best_after_the_window_was_learned_from(script: Any) -> None:
    run = script(collapse, max_episodes=12, rollback_on_degradation=True)
    run.run()
    at = run.events.index(("on_degradation", 10))
    assert run.events[at - 2 : at] == [("learn", 10), ("load", 9)]
    # The policy of the next window is the best, with the diagnostics of the learn() that made it.
    assert run.events[at + 2 : at + 4] == [("collect", 9), ("score", 9, 9.0)]
    assert run.learned == 12


def test_evaluator_that_needs_the_diagnostics_gets_them_after_every_restore(script: Any) -> None:
    run = script(collapse, max_episodes=30, rollback_on_degradation=True)
    broken_updates(run, range(5, 7))
    score = run.controller.scorer.evaluator.score
    run.controller.scorer.evaluator.score = lambda data, diagnostics: score(
        data, {"made": 0.0} if data.episode_id == 0 else {"made": diagnostics["made"]}
    )
    run.run()
    assert all(version == made for version, made in run.named("score"))
    assert run.named("on_degradation")


def test_update_that_fails_before_there_is_a_best_keeps_the_diagnostics(script: Any) -> None:
    run = script([math.nan], max_episodes=4)
    broken_updates(run, range(2, 3))
    run.run()
    assert run.named("score") == [(0, 0.0), (1, 1.0), (2, 2.0), (2, 2.0)]


def test_degradation_is_told_but_not_rolled_back_by_default(script: Any) -> None:
    run = script(collapse, max_episodes=12)
    run.run()
    assert run.named("on_degradation")[0] == (10,)
    assert run.named("load") == [(9,)]  # at the end only


def test_collapse_without_rollback_still_ends_dormant(script: Any) -> None:
    run = script(collapse, max_episodes=2000)
    assert run.run().stop_reason == "converged"


def test_endless_collapse_and_rollback_ends_dormant(script: Any) -> None:
    run = script(
        lambda version, window: 100.0 if version == 0 else 20.0,
        max_episodes=2000,
        rollback_on_degradation=True,
        schedule={"min_episodes_before_degradation": 0},
    )
    assert run.run().stop_reason == "converged"


def test_off_policy_agent_is_never_rolled_back(script: Any) -> None:
    run = script(collapse, max_episodes=40, rollback_on_degradation=True)
    run.agent.on_policy = False
    run.run()
    assert run.named("on_degradation") == []
    assert run.named("load") == [(9,)]


def test_probing_tuner_is_not_a_degradation(script: Any, scripted_tuner: Any) -> None:
    tuner = scripted_tuner(change=False)
    tuner.probing = True
    run = script(collapse, tuner=tuner, max_episodes=40, rollback_on_degradation=True)
    run.run()
    assert run.named("on_degradation") == []


def test_score_that_a_probe_has_earned_is_no_degradation_after_the_probe_either(
    script: Any, scripted_tuner: Any
) -> None:
    # The tuner stops probing at window 9; the policy of window 10 has still learned with the probe.
    tuner = scripted_tuner()
    run = script(collapse, tuner=tuner, max_episodes=13)
    original = tuner.suggest

    def suggest(current: Any, history: Any) -> Any:
        suggested = original(current, history)
        tuner.probing = history[-1].episode_id < 9
        return suggested

    tuner.suggest = suggest
    run.run()
    assert run.named("on_hyperparam_update")[-1][1]["x"] == len(tuner.seen)
    assert run.named("on_degradation") == [(12,)]


# --- non-finite ---------------------------------------------------------------------------------


def broken_updates(run: Any, windows: range) -> None:
    def hook(data: Any) -> None:
        if data.episode_id in windows:
            raise NonFiniteError("policy_loss")

    run.agent.learn_hook = hook


@pytest.mark.parametrize("count", [1, 2, 3])
def test_non_finite_update_restores_the_best_and_trains_on(script: Any, count: int) -> None:
    run = script(best_at_three, max_episodes=12)
    broken_updates(run, range(5, 5 + count))
    assert run.run().windows == 12
    assert run.named("load") == [(3,)] * (count + 1)


def test_fourth_non_finite_update_in_a_row_is_passed_on_with_the_best_loaded(script: Any) -> None:
    run = script(best_at_three)
    broken_updates(run, range(5, 9))
    with pytest.raises(NonFiniteError, match="policy_loss"):
        run.run()
    assert run.learned == 9
    assert run.agent.version == 3


def test_non_finite_updates_that_are_not_in_a_row_are_forgiven(script: Any) -> None:
    run = script(best_at_three, max_episodes=30)
    run.agent.learn_hook = lambda data: _raise_if(data.episode_id % 3 == 1)
    assert run.run().stop_reason == "budget"


def _raise_if(condition: bool) -> None:
    if condition:
        raise NonFiniteError("gradient")


def test_non_finite_reward_names_the_window(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run = script([1.0, 2.0, 3.0])
    collect = run.pipeline.episodes

    def windows() -> Any:
        for data in collect():
            data.rewards = [math.inf if run.agent.made == 2 else 0.0] * 4
            yield data

    monkeypatch.setattr(run.pipeline, "episodes", windows)
    with pytest.raises(NonFiniteError, match="reward in window 2"):
        run.run()
    assert run.agent.version == 1


def test_confirmed_policy_stays_the_best_in_a_later_run(script: Any) -> None:
    run = script(lambda version, window: 9.0 if version == 2 else 1.0, target_score=9.0)
    assert run.run().stop_reason == "solved"
    run.controller.best_policy.target_score, run.controller.max_episodes = None, 3
    run.pipeline.score = lambda version, window: 50.0
    known = run.registry.entries()
    assert run.run().best_score == 9.0
    assert run.agent.version == run.best_version == 2
    assert run.registry.entries() == known
