"""A run in which nothing ever differed has not converged."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from typer.testing import CliRunner

from optix_fast import BatchPipeline, RLOptimizer, make_agent
from optix_fast.cli.main import app
from optix_fast.loop.learning_signal import LearningSignal
from optix_fast.types import EpisodeData, EvalMetrics


def window(*returns: float, known: bool = True) -> EpisodeData:
    metadata = {"episode_returns": list(returns)} if known else {}
    return EpisodeData([0], [0], [0.0], [False], [False], [{}], 0, metadata=metadata)


def seen(*windows: tuple[EpisodeData, float | None]) -> LearningSignal:
    signal = LearningSignal()
    for data, score in windows:
        signal.see(data, None if score is None else EvalMetrics(score, {}, 0))
    return signal


# --- alone --------------------------------------------------------------------------------------


def test_equal_returns_and_scores_are_no_signal() -> None:
    signal = seen(
        (window(-200.0, -200.0, -200.0), -200.0), (window(), None), (window(-200.0, -200.0), -200.0)
    )
    assert signal.constant == -200.0
    assert signal.message == "no learning signal: every episode returned -200"


@pytest.mark.parametrize("count", [0, 1, 4])
def test_few_values_prove_nothing(count: int) -> None:
    signal = seen((window(*[1.0] * count), None))
    assert signal.constant is None
    assert signal.message is None


@pytest.mark.parametrize(
    "windows",
    [
        [(window(*[0.0] * 9, 1.0), None)],  # one return differs
        [(window(*[-1.0] * 9, -2.0), None)],
        [(window(0.0, 2.0), 1.0)] * 9,  # the means are equal, the episodes are not
        [(window(1.0), 5.0)] * 9 + [(window(1.0), 6.0)],  # a score of another kind differs
    ],
)
def test_any_difference_is_a_signal(windows: Any) -> None:
    assert seen(*windows).constant is None


def test_differences_of_rounding_are_none() -> None:
    assert seen((window(0.3, 0.1 + 0.2, 0.3, 0.3, 0.3), math.fsum([0.1] * 3))).constant == pytest.approx(0.3)


def test_without_known_returns_the_scores_decide() -> None:
    signal = seen(*[(window(known=False), 0.25)] * 5)
    assert signal.message == "no learning signal: every score was 0.25"
    assert seen(*[(window(known=False), float(i)) for i in range(9)]).constant is None


def test_what_solves_the_task_every_time_is_no_lack_of_a_signal() -> None:
    for solved_at, constant in ((None, 500.0), (500.1, 500.0), (500.0, None), (475.0, None)):
        signal = LearningSignal(solved_at)
        signal.see(window(*[500.0] * 9), None)
        assert signal.constant == constant
    # What the environment's registration says counts where there is no target.
    registered = EpisodeData(
        [0], [0], [0.0], [False], [False], [{}], 0,
        metadata={"episode_returns": [500.0] * 9, "reward_threshold": 475.0},
    )  # fmt: skip
    assert seen((registered, None)).constant is None
    strict = LearningSignal(501.0)
    strict.see(registered, None)
    assert strict.constant == 500.0


def test_nan_is_no_value() -> None:
    assert seen(*[(window(1.0), math.nan)] * 9).constant == 1.0


def test_state_comes_back() -> None:
    for signal in (seen((window(*[1.0] * 4), 1.0)), seen((window(1.0, 2.0), 1.5)), LearningSignal()):
        other = LearningSignal()
        other.load_state_dict(signal.state_dict())
        for one in (signal, other):
            one.see(window(1.0), None)
        assert other.state_dict() == signal.state_dict()
        assert other.message == signal.message


# --- in the loop --------------------------------------------------------------------------------


def test_run_with_a_budget_goes_on_to_it_and_says_so(script: Any, caplog: pytest.LogCaptureFixture) -> None:
    run = script([-200.0], max_episodes=150)
    summary = run.run()
    assert (summary.stop_reason, summary.windows, summary.constant_return) == ("budget", 150, -200.0)
    assert run.named("on_dormant") == []
    assert caplog.text.count("every episode returned -200 so far; training goes on to its budget") == 1
    assert "no learning signal: every episode returned -200; what may help: more steps" in caplog.text


@pytest.mark.parametrize("options", [{"max_steps": 600}, {"length": 150}])
def test_every_budget_counts(script: Any, options: Any) -> None:
    run = script([-200.0], **options)
    run.pipeline.max_steps = 600 if "length" in options else None
    assert (run.run().stop_reason, run.learned) == ("budget", 150)


def test_run_at_its_unconfirmed_target_converges(script: Any) -> None:
    summary = script([-200.0], target_score=-200.0, target_confirm_fn=lambda agent: -201.0).run()
    assert (summary.stop_reason, summary.constant_return) == ("converged", None)


def test_run_without_a_budget_ends_for_that_reason(script: Any) -> None:
    run = script([-200.0])
    summary = run.run()
    assert (summary.stop_reason, summary.windows, summary.constant_return) == ("no_signal", 33, -200.0)


def test_signal_that_comes_late_is_learned_from_and_converges(script: Any) -> None:
    run = script([0.0] * 100 + [1.0], max_episodes=400)
    summary = run.run()
    assert (summary.stop_reason, summary.best_score, summary.constant_return) == ("converged", 1.0, None)
    assert summary.windows > 100


def test_signal_between_two_evaluations_counts(script: Any) -> None:
    scores = [0.0] * 400
    scores[7] = 1.0  # windows 5, 6 and 7 are not due
    summary = script(scores, max_episodes=400).run()
    assert (summary.stop_reason, summary.constant_return) == ("converged", None)


def test_resumed_run_remembers_that_there_was_a_signal(script: Any, tmp_path: Path) -> None:
    run = script([1.0, 2.0], max_episodes=2)
    run.run()
    rest = script([2.0])
    rest.controller.load_state_dict(run.controller.state_dict())
    assert rest.run().stop_reason == "converged"


def test_tuner_is_named_in_the_summary(script: Any, scripted_tuner: Any) -> None:
    assert script([1.0], max_episodes=1).run().tuner == "none"
    assert script([1.0], max_episodes=1, tuner=scripted_tuner()).run().tuner == "ScriptedTuner"


@pytest.mark.slow
def test_mountain_car_has_not_converged(tmp_path: Path) -> None:
    pipeline = BatchPipeline(gym.make("MountainCar-v0"), window_size=1000, seed=0, max_steps=40_000)
    agent = make_agent("ppo", pipeline, seed=0)
    summary = RLOptimizer(agent, pipeline, checkpoint_dir=tmp_path, state_interval=None).run()
    assert (summary.stop_reason, summary.constant_return) == ("budget", -200.0)
    assert summary.tuner == "spsa"


def test_command_line_reports_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    options = ["--algo", "ppo", "--steps", "8000", "--quiet", "--run-dir", str(tmp_path / "run")]
    done = CliRunner().invoke(app, ["train", "MountainCar-v0", *options])
    assert "budget (no learning signal: every episode returned -200): MountainCar-v0" in done.stdout
    assert "what may help: more steps, an exploration bonus" in caplog.text
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["constant_return"] == -200.0
