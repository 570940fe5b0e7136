"""RLOptimizer: construction, its checks, the defaults per kind of agent."""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

from optix_fast import BatchPipeline, RNDPipeline
from optix_fast.loop import RLOptimizer, TorchEvaluator
from optix_fast.types import LoopCallback, LoopState


@pytest.fixture
def make(tmp_path: Path, fake_agent: Any, fake_pipeline: Any) -> Any:
    def build(**options: Any) -> RLOptimizer:
        arguments = {"agent": fake_agent, "pipeline": fake_pipeline, "checkpoint_dir": tmp_path / "c"}
        return RLOptimizer(**{**arguments, **options})

    return build


def test_quick_start_runs_and_leaves_the_best_policy(make: Any, fake_agent: Any) -> None:
    optimizer = make(max_episodes=5)
    summary = optimizer.run()
    assert (summary.stop_reason, optimizer.stop_reason) == ("budget", "budget")
    assert (optimizer.windows, optimizer.env_steps) == (5, 20)
    assert fake_agent.version == 4
    assert optimizer.best_snapshot.eval_metrics.primary_score == 4.0
    assert optimizer.summary is summary


def test_before_the_run_there_is_a_state_and_no_best(make: Any) -> None:
    optimizer = make()
    assert optimizer.state is LoopState.ACTIVE
    assert optimizer.best_snapshot is None
    assert optimizer.stop_reason is None
    optimizer.stop()


def test_defaults_are_those_of_the_readme(make: Any) -> None:
    defaults = {name: p.default for name, p in inspect.signature(RLOptimizer).parameters.items()}
    expected = {
        "checkpoint_dir": "./checkpoints",
        "max_snapshots": 10,
        "max_episodes": None,
        "base_interval": 1,
        "backoff_factor": 2.0,
        "max_interval_episodes": 100,
        "plateau_threshold": 5,
        "dormant_threshold": 20,
        "score_smoothing": 2,
        "improvement_margin": 0.0,
        "noise_k": 2.0,
        "score_window": 20,
        "rollback_on_degradation": False,
        "degradation_threshold": 0.95,
        "min_episodes_before_dormant": 0,
        "min_episodes_before_degradation": 5,
        "verbose": False,
    }
    assert {name: defaults[name] for name in expected} == expected
    assert isinstance(make().controller.scorer.evaluator, TorchEvaluator)


def test_both_pipelines_get_the_agent(make: Any, fake_agent: Any, fake_pipeline: Any) -> None:
    val = type(fake_pipeline)(lambda version, window: 0.0, [])
    make(val_pipeline=val)
    assert fake_pipeline.agent is fake_agent
    assert val.agent is fake_agent


def test_callback_added_later_is_heard(make: Any) -> None:
    heard = []

    class Hear(LoopCallback):
        def on_loop_stop(self) -> None:
            heard.append(1)

    optimizer = make(max_episodes=1)
    optimizer.add_callback(Hear())
    optimizer.run()
    assert heard == [1]


# --- off-policy defaults ------------------------------------------------------------------------


@pytest.mark.parametrize(("class_default", "expected"), [(60, 60), (30, 30), (None, 100)])
def test_off_policy_agent_changes_the_defaults(
    make: Any, fake_agent: Any, class_default: int | None, expected: int
) -> None:
    fake_agent.on_policy = False
    if class_default is not None:
        fake_agent.default_min_episodes_before_dormant = class_default
    scheduler = make().scheduler
    assert (scheduler.dormant_threshold, scheduler.min_episodes_before_dormant) == (15, expected)


def test_off_policy_agent_leaves_what_the_user_set(make: Any, fake_agent: Any) -> None:
    fake_agent.on_policy = False
    scheduler = make(dormant_threshold=40, min_episodes_before_dormant=7).scheduler
    assert (scheduler.dormant_threshold, scheduler.min_episodes_before_dormant) == (40, 7)


def test_on_policy_agent_keeps_the_defaults(make: Any, fake_agent: Any) -> None:
    fake_agent.default_min_episodes_before_dormant = 60
    scheduler = make().scheduler
    assert (scheduler.dormant_threshold, scheduler.min_episodes_before_dormant) == (20, 0)


# --- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["agent", "pipeline"])
def test_missing_part_is_a_value_error(make: Any, name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}="):
        make(**{name: None})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("agent", object()),
        ("agent", LoopCallback),
        ("pipeline", object()),
        ("pipeline", [1, 2]),
        ("val_pipeline", "validation"),
        ("evaluator", TorchEvaluator),
        ("evaluator", lambda data: 1.0),
        ("optimizer", "spsa"),
        ("callbacks", [print]),
        ("callbacks", [LoopCallback]),
        ("callbacks", LoopCallback()),
        ("checkpoint_score_fn", 3.0),
        ("max_episodes", 2.5),
        ("max_steps", True),
        ("score_smoothing", "2"),
        ("improvement_margin", None),
        ("target_score", "475"),
        ("base_interval", 1.5),
        ("backoff_factor", "2"),
        ("rollback_on_degradation", "no"),
        ("verbose", "no"),
        ("checkpoint_dir", None),
        ("checkpoint_dir", 3),
    ],
)
def test_wrong_type_is_a_type_error_that_names_the_argument(make: Any, name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=name):
        make(**{name: value})


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"max_episodes": 0}, ["max_episodes"]),
        ({"max_steps": -1}, ["max_steps"]),
        ({"max_snapshots": 0}, ["max_snapshots"]),
        ({"improvement_margin": -1.0}, ["improvement_margin"]),
        ({"target_score": float("nan")}, ["target_score"]),
        ({"target_confirm_fn": len}, ["target_confirm_fn", "target_score"]),
        ({"plateau_threshold": 30}, ["plateau_threshold", "dormant_threshold"]),
        ({"base_interval": 200}, ["base_interval", "max_interval_episodes"]),
        ({"degradation_threshold": 1.5}, ["degradation_threshold"]),
    ],
)
def test_value_out_of_range_or_contradiction_is_named(make: Any, options: Any, names: list[str]) -> None:
    with pytest.raises(ValueError, match=".*".join(names)):
        make(**options)


@pytest.mark.parametrize("wrapped", [False, True])
def test_validation_in_the_training_environment_is_refused(make: Any, wrapped: bool) -> None:
    env = gym.make("CartPole-v1")
    pipeline = BatchPipeline(env)
    with pytest.raises(ValueError, match="val_pipeline must have an environment of its own.* pipeline"):
        make(pipeline=RNDPipeline(pipeline, 4) if wrapped else BatchPipeline(env), val_pipeline=pipeline)


def test_validation_on_the_training_pipeline_is_refused(make: Any, fake_pipeline: Any) -> None:
    with pytest.raises(ValueError, match="val_pipeline"):
        make(val_pipeline=fake_pipeline)


# --- runs ---------------------------------------------------------------------------------------


def test_new_run_in_an_old_directory_restores_only_its_own(
    make: Any, fake_agent: Any, fake_pipeline: Any, caplog: pytest.LogCaptureFixture
) -> None:
    fake_pipeline.score = lambda version, window: 1000.0
    make(max_episodes=1).run()
    fake_agent.version = 0
    fake_pipeline.score = lambda version, window: float(window)
    second = make(max_episodes=3)
    second.run()
    assert caplog.text.count("snapshots of other runs") == 1
    assert second.summary.best_score < 1000.0
    assert len([name for name in os.listdir(second.registry.checkpoint_dir) if "snapshot" in name]) >= 2


def test_run_id_goes_on_with_an_earlier_run(make: Any, fake_pipeline: Any, fake_agent: Any) -> None:
    fake_pipeline.score = lambda version, window: 1000.0
    first = make(max_episodes=1)
    first.run()
    fake_agent.version = 77
    fake_pipeline.score = lambda version, window: 1.0
    second = make(max_episodes=2, run_id=first.registry.run_id)
    second.load_state_dict(first.state_dict())
    second.run()
    assert fake_agent.version == 0
    assert second.windows == 2
