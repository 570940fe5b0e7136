"""The order of a window, budgets, what is checkpointed, and who is told."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from same_state import assert_same

from optix_fast.types import EvalMetrics, LoopCallback, LoopState

# --- order --------------------------------------------------------------------------------------


def test_one_window_is_collect_score_checkpoint_learn_tell(script: Any) -> None:
    run = script([1.0, 2.0], max_episodes=2)
    run.run()
    assert run.events == [
        ("collect", "setup"),
        ("on_loop_start",),
        ("collect", 0),
        ("score", 0, 0.0),
        ("learn", 0),
        ("on_episode_end", 0, 1.0),
        ("collect", 1),
        ("score", 1, 1.0),
        ("on_improvement", 2.0),
        ("learn", 1),
        ("on_episode_end", 1, 2.0),
        ("load", 1),
        ("collect", "teardown"),
        ("on_loop_stop",),
    ]


def test_checkpoint_holds_the_policy_that_was_scored(script: Any) -> None:
    run = script(lambda version, window: 100.0 if version == 5 else float(version), max_episodes=9)
    run.run()
    assert run.best_version == 5
    assert run.agent.version == 5


def test_score_gets_the_diagnostics_of_the_learn_that_made_the_policy(script: Any) -> None:
    run = script(lambda version, window: float(version), max_episodes=5)
    run.run()
    assert run.named("score") == [(v, float(v)) for v in range(5)]


def test_learn_without_diagnostics_is_fine(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run = script([1.0, 2.0, 3.0], max_episodes=3)
    monkeypatch.setattr(run.agent, "learn", lambda data: None)
    assert run.run().windows == 3
    assert [diagnostics for _, diagnostics in run.named("score")] == [0.0, 0.0, 0.0]


def test_windows_are_numbered_for_evaluator_and_callbacks(script: Any) -> None:
    run = script([3.0, 2.0, 1.0, 1.0], max_episodes=4)
    run.run()
    assert run.named("on_episode_end") == [(0, 3.0), (1, 2.0), (2, 1.0), (3, None)]


# --- budgets ------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [1, 2, 7])
def test_max_episodes_is_exact_and_no_surplus_window_is_collected(script: Any, budget: int) -> None:
    run = script([1.0], max_episodes=budget)
    summary = run.run()
    assert run.learned == run.pipeline.collected == summary.windows == budget
    assert summary.stop_reason == "budget"


@pytest.mark.parametrize(("max_steps", "windows"), [(1, 1), (10, 1), (11, 2), (30, 3)])
def test_max_steps_ends_with_the_window_that_reaches_it(script: Any, max_steps: int, windows: int) -> None:
    run = script([1.0], rows=10, max_steps=max_steps)
    summary = run.run()
    assert (summary.windows, summary.env_steps, run.pipeline.collected) == (windows, 10 * windows, windows)


def test_pipeline_that_ends_is_a_normal_end(script: Any) -> None:
    run = script([1.0, 5.0, 2.0], length=3)
    summary = run.run()
    assert (summary.stop_reason, summary.windows, run.agent.version) == ("budget", 3, 1)


def test_second_run_has_its_own_budget_and_knows_the_best(script: Any) -> None:
    run = script(lambda version, window: 10.0 if window == 1 else 1.0, max_episodes=3)
    run.run()
    summary = run.run()
    assert summary.windows == 3
    assert run.learned == 6
    assert summary.best_score == 10.0
    assert run.agent.version == 1


# --- evaluation schedule ------------------------------------------------------------------------


def test_constant_score_is_evaluated_at_doubling_intervals_and_ends_dormant(script: Any) -> None:
    run = script([7.0])
    summary = run.run()
    evaluated = [window for window, score in run.named("on_episode_end") if score is not None]
    assert evaluated == [0, 1, 2, 4, 8, 16, 32]
    assert summary.stop_reason == "no_signal"
    assert run.controller.state is LoopState.DORMANT
    assert run.named("on_dormant") == [(32,)]
    assert run.named("on_plateau") == [(8, "COOLING"), (16, "COOLING")]
    assert run.learned == 33


def test_steady_ramp_is_evaluated_every_window_and_never_ends(script: Any) -> None:
    run = script(lambda version, window: 100.0 + 0.01 * window, max_episodes=400)
    run.registry.write_interval = 1e9
    assert run.run().stop_reason == "budget"
    assert len(run.named("score")) == 400


def test_keep_going_in_on_dormant_trains_on(script: Any) -> None:
    class Twice(LoopCallback):
        left = 2

        def on_dormant(self, episode_id: int) -> None:
            if self.left:
                self.left -= 1
                run.controller.keep_going()

    run = script([6.0, 7.0], callbacks=[Twice()])
    assert run.run().stop_reason == "converged"
    assert len(run.named("on_dormant")) == 3


def test_scores_are_smoothed_over_the_last_ones(script: Any, tmp_path: Any) -> None:
    path = tmp_path / "loop.log"
    run = script([1.0, 2.0, 6.0, 10.0], max_episodes=4, score_smoothing=3, verbose_log_file=path)
    run.run()
    smoothed = [float(line.split("smoothed=")[1].split()[0]) for line in path.read_text().splitlines()]
    assert smoothed == [1.0, 1.5, 3.0, 6.0]


# --- checkpoints --------------------------------------------------------------------------------


def test_gain_within_the_margin_is_not_checkpointed(script: Any) -> None:
    run = script([10.0, 11.9, 12.1], max_episodes=3, improvement_margin=2.0)
    run.run()
    assert run.named("on_improvement") == [(12.1,)]
    assert run.best_version == 2


def test_checkpoint_score_fn_alone_chooses_the_checkpoint(script: Any) -> None:
    seen = []

    def external(agent: Any) -> float:
        seen.append(agent.version)
        agent.act(0)
        return -float(agent.version)

    run = script(lambda version, window: float(version), max_episodes=4, checkpoint_score_fn=external)
    run.run()
    assert seen == [0, 1, 2, 3]
    assert run.agent.version == 0
    assert run.controller.best_snapshot.eval_metrics.metrics["checkpoint_score"] == 0.0
    # The training score still drives convergence: a ramp keeps the interval at 1.
    assert run.scheduler.current_interval == 1


def test_score_functions_act_without_recording(script: Any) -> None:
    run = script([1.0], max_episodes=2, checkpoint_score_fn=lambda agent: float(agent.act(0)))
    run.run()
    assert run.agent.acts == [True, False, True, False]


def test_score_function_must_return_a_number(script: Any) -> None:
    run = script([1.0], max_episodes=2, checkpoint_score_fn=lambda agent: "high")
    with pytest.raises(TypeError, match="checkpoint_score_fn"):
        run.run()


def test_agent_that_records_every_act_is_cleaned_after_learn(script: Any) -> None:
    run = script([1.0], max_episodes=1, checkpoint_score_fn=lambda agent: 1.0)
    run.agent.reset_cache = lambda: run.events.append(("reset_cache",))
    run.run()
    order = [event[0] for event in run.events]
    assert order.index("reset_cache") == order.index("learn") + 1


# --- NaN ----------------------------------------------------------------------------------------


def test_nan_score_is_no_evidence(script: Any, scripted_tuner: Any) -> None:
    nan = math.nan
    tuner = scripted_tuner()
    run = script([nan, nan, 4.0, nan, 5.0, nan], tuner=tuner, max_episodes=6)
    run.run()
    assert [entry["primary_score"] for entry in run.registry.entries()] == [5.0, 4.0]
    assert run.agent.version == 4
    assert run.scheduler.consecutive_non_improvements == 0
    assert [score for _, score in tuner.seen] == [4.0, 5.0]
    assert len(run.named("on_episode_end")) == 6


def test_nan_checkpoint_score_is_never_saved(script: Any) -> None:
    run = script([1.0, 2.0, 3.0], max_episodes=3, checkpoint_score_fn=lambda agent: math.nan)
    run.run()
    assert run.controller.best_snapshot is None


def test_run_without_any_score_restores_nothing_and_says_so(
    script: Any, caplog: pytest.LogCaptureFixture
) -> None:
    run = script([math.nan], max_episodes=3)
    assert math.isnan(run.run().best_score)
    assert run.agent.version == 3
    assert "no window of this run gave a finite score" in caplog.text


# --- the tuner ----------------------------------------------------------------------------------


def test_score_handed_to_the_tuner_was_earned_with_the_current_hyperparameters(
    script: Any, scripted_tuner: Any
) -> None:
    tuner = scripted_tuner()
    run = script([0.0], tuner=tuner, max_episodes=20)
    used: dict[int, Any] = {}
    run.agent.learn_hook = lambda data: used.update({run.agent.made + 1: run.agent.params["x"]})
    run.pipeline.score = lambda version, window: window + 100.0 * used.get(version, 0.0)
    run.run()
    assert len(tuner.seen) >= 5
    for x, score in tuner.seen:
        assert score // 100 == x // 1


@pytest.mark.parametrize("interval", [1, 2, 4])
def test_tuner_is_asked_only_on_evaluated_windows(script: Any, scripted_tuner: Any, interval: int) -> None:
    tuner = scripted_tuner(change=False)
    ramp = [float(i) for i in range(40)]
    run = script(ramp, tuner=tuner, max_episodes=40, schedule={"base_interval": interval})
    run.run()
    assert [score for _, score in tuner.seen] == [float(w) for w in range(1, 40) if w % interval == 0]


def test_hyperparam_update_is_told_only_when_something_changed(script: Any, scripted_tuner: Any) -> None:
    still = script([float(i) for i in range(6)], tuner=scripted_tuner(change=False), max_episodes=6)
    still.run()
    assert still.named("on_hyperparam_update") == []
    moving = script([float(i) for i in range(6)], tuner=scripted_tuner(), max_episodes=6)
    moving.run()
    assert moving.named("on_hyperparam_update") == [
        ({"x": 0.5}, {"x": 1}),
        ({"x": 1}, {"x": 2}),
        ({"x": 2}, {"x": 3}),
    ]


def test_tuner_hears_of_improvements_and_of_the_plateau(script: Any, scripted_tuner: Any) -> None:
    tuner = scripted_tuner(change=False)
    script([1.0, 5.0, 3.0], tuner=tuner).run()
    assert (tuner.improvements, tuner.plateaus) == (1, 1)


def test_tuner_that_suggests_something_else_is_a_type_error(script: Any, scripted_tuner: Any) -> None:
    tuner = scripted_tuner()
    tuner.suggest = lambda current, history: {"x": 1}
    with pytest.raises(TypeError, match=r"optimizer\.suggest"):
        script([1.0, 2.0], tuner=tuner, max_episodes=3).run()


# --- validation ---------------------------------------------------------------------------------


def test_validation_is_compared_with_validation_from_the_first_window(script: Any) -> None:
    run = script([100.0], val=lambda version, window: 5.0 + version, max_episodes=6)
    run.run()
    assert run.agent.version == 5
    assert run.named("on_degradation") == []
    best = run.controller.best_snapshot.eval_metrics
    assert (best.primary_score, best.metrics["train_score"]) == (10.0, 100.0)
    assert best.generalization_gap == 90.0


def test_validation_acts_with_the_scored_policy_without_recording_and_never_learns(script: Any) -> None:
    run = script([1.0], val=lambda version, window: float(version), max_episodes=3)
    run.run()
    assert run.named("validate") == [("setup",), (0,), (1,), (2,), ("teardown",)]
    assert run.val.recorded == [False, False, False]
    assert run.val.agent is run.agent
    assert run.learned == 3


def test_val_pipeline_that_ends_is_an_error(script: Any) -> None:
    run = script([1.0], val=[1.0], max_episodes=3)
    run.val.length = 1
    with pytest.raises(RuntimeError, match="val_pipeline ended"):
        run.run()


# --- callbacks ----------------------------------------------------------------------------------

HOOKS = [name for name in vars(LoopCallback) if name.startswith("on_")]


@pytest.mark.parametrize("hook", HOOKS)
def test_raising_hook_is_logged_by_name_and_changes_nothing(
    script: Any, scripted_tuner: Any, hook: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(LoopCallback):
        pass

    def fail(self: Any, *arguments: Any) -> None:
        raise RuntimeError("broken hook")

    setattr(Broken, hook, fail)
    scores = [float(i) for i in range(10)] + [1.0] * 3 + [9.0]
    run = script(scores, tuner=scripted_tuner(), callbacks=[Broken()])
    assert run.run().stop_reason == "converged"
    assert f"Broken.{hook} raised" in caplog.text


def test_keyboard_interrupt_in_a_hook_ends_the_run(script: Any) -> None:
    class Interrupt(LoopCallback):
        def on_episode_end(self, episode_id: int, eval_metrics: EvalMetrics | None) -> None:
            raise KeyboardInterrupt

    run = script([1.0], callbacks=[Interrupt()])
    with pytest.raises(KeyboardInterrupt):
        run.run()
    assert run.controller.stop_reason == "interrupted"


# --- verbose ------------------------------------------------------------------------------------


def test_verbose_prints_the_line_of_the_readme(script: Any, capsys: pytest.CaptureFixture[str]) -> None:
    run = script([-67.2, -91.9, -80.7, 0.0, 208.1, 0.0, 0.0], max_episodes=6, verbose=True)
    run.run()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "  [loop] ep=   0  raw=  -67.2  smoothed=  -67.2  state=ACTIVE  interval=1"
    assert lines[2] == "  [loop] ep=   2  raw=  -80.7  smoothed=  -86.3  state=ACTIVE  interval=2"
    assert lines[3].startswith("  [loop] ep=   4  raw=  208.1")
    assert lines[3].endswith("interval=4")
    assert lines[4].startswith("  [loop] ep=   5")
    assert lines[4].endswith("interval=1  ← improvement detected, reset")


def test_log_file_replaces_standard_output(
    script: Any, tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "loop.log"
    path.write_text("older")
    script([1.0], max_episodes=2, verbose=True, verbose_log_file=path).run()
    assert capsys.readouterr().out == ""
    assert len(path.read_text(encoding="utf-8").splitlines()) == 2


# --- state --------------------------------------------------------------------------------------


def test_resumed_loop_goes_on_as_if_it_had_not_stopped(script: Any, scripted_tuner: Any) -> None:
    rng = np.random.default_rng(3)
    scores = [float(x) for x in np.cumsum(rng.normal(0.1, 1.0, 60))]
    whole = script(scores, tuner=scripted_tuner(), max_episodes=60)
    whole.run()
    half = script(scores, tuner=scripted_tuner(), max_episodes=23)
    half.run()
    state = half.controller.state_dict()
    rest = script(scores, tuner=half.controller.tuner, max_episodes=60)
    rest.pipeline.collected = 23
    rest.agent.params = dict(half.agent.params)
    rest.controller.load_state_dict(state)
    rest.run()
    assert half.named("on_episode_end") + rest.named("on_episode_end") == whole.named("on_episode_end")
    assert rest.controller.scheduler.state_dict() == whole.controller.scheduler.state_dict()
    assert half.named("on_hyperparam_update") + rest.named("on_hyperparam_update") == whole.named(
        "on_hyperparam_update"
    )


def test_state_survives_serialization(script: Any, tmp_path: Any) -> None:
    from optix_fast.serialization import load_state, save_state

    run = script([1.0, 3.0, 2.0], max_episodes=3)
    run.run()
    save_state(tmp_path / "loop", run.controller.state_dict())
    loaded = load_state(tmp_path / "loop")
    fresh = script([1.0])
    fresh.controller.load_state_dict(loaded)
    assert_same(fresh.controller.state_dict()["run"], run.controller.state_dict()["run"], "run")
    assert fresh.controller.windows == 3
