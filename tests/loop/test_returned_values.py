"""What the user's pipeline, evaluator and agent hand to the loop, when it is not what it should be."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from optix_fast.loop import CheckpointRegistry
from optix_fast.types import EvalMetrics

# --- windows ------------------------------------------------------------------------------------


def changed(run: Any, pipeline: Any, monkeypatch: pytest.MonkeyPatch, **fields: Any) -> None:
    windows = pipeline.episodes
    monkeypatch.setattr(pipeline, "episodes", lambda: (replace(w, **fields) for w in windows()))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"terminated": [False] * 3}, "terminated must have 4 rows, one for each reward, got 3"),
        ({"truncated": np.zeros(5, bool)}, "truncated must have 4 rows, one for each reward, got 5"),
        ({"observations": np.zeros((2, 6))}, "observations must have 4 rows, one for each reward, got 2"),
        ({"observations": {"x": np.zeros(4), "y": np.zeros(3)}}, "observations must have 4 rows"),
        ({"actions": [0] * 5}, "actions must have 4 rows, one for each reward, got 5"),
    ],
)
@pytest.mark.parametrize("which", ["pipeline", "val_pipeline"])
def test_window_with_a_column_of_another_length_names_it(
    script: Any, monkeypatch: pytest.MonkeyPatch, which: str, fields: Any, message: str
) -> None:
    run = script([1.0], val=[1.0])
    changed(run, run.pipeline if which == "pipeline" else run.val, monkeypatch, **fields)
    with pytest.raises(ValueError, match=f"^{which} yielded a malformed window: {message}"):
        run.run()
    assert run.learned == 0


@pytest.mark.parametrize(("rewards", "kind"), [(None, "NoneType"), (3.0, "float")])
def test_window_whose_rewards_are_no_sequence_is_a_type_error(
    script: Any, monkeypatch: pytest.MonkeyPatch, rewards: Any, kind: str
) -> None:
    run = script([1.0])
    changed(run, run.pipeline, monkeypatch, rewards=rewards)
    with pytest.raises(TypeError, match=f"rewards must be a sequence .* got {kind}"):
        run.run()


@pytest.mark.parametrize("which", ["pipeline", "val_pipeline"])
def test_none_is_no_window_and_no_end_either(
    script: Any, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    run = script([1.0], val=[1.0])
    monkeypatch.setattr(run.pipeline if which == "pipeline" else run.val, "episodes", lambda: iter([None]))
    with pytest.raises(TypeError, match=f"{which} must yield EpisodeData, got NoneType"):
        run.run()


# --- scores -------------------------------------------------------------------------------------


def answer(run: Any, monkeypatch: pytest.MonkeyPatch, score: Any, metrics: Any) -> None:
    evaluator = run.controller.scorer.evaluator
    monkeypatch.setattr(evaluator, "score", lambda data, diagnostics: EvalMetrics(score, metrics, 0))


@pytest.mark.parametrize("score", [None, "high", [1.0, 2.0]])
def test_score_that_is_no_number_names_the_evaluator(
    script: Any, monkeypatch: pytest.MonkeyPatch, score: Any
) -> None:
    run = script([1.0])
    answer(run, monkeypatch, score, {})
    with pytest.raises(TypeError, match="evaluator.score must return a number as primary_score, got"):
        run.run()


def test_metrics_that_are_no_dict_name_the_evaluator(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run = script([1.0])
    answer(run, monkeypatch, 1.0, None)
    with pytest.raises(TypeError, match="evaluator.score must return metrics in a dict, got NoneType"):
        run.run()


@pytest.mark.parametrize("score", [torch.tensor(2.5), np.float32(2.5), np.array(2.5)])
def test_score_of_numpy_or_torch_is_a_number_on_disk_too(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, score: Any
) -> None:
    run = script([1.0], max_episodes=1)
    answer(run, monkeypatch, score, {})
    run.run()
    assert json.loads((tmp_path / "checkpoints/manifest.json").read_text())[0]["primary_score"] == 2.5
    best = CheckpointRegistry(tmp_path / "checkpoints", resume=True).best
    assert best is not None and best.eval_metrics.primary_score == 2.5


# --- diagnostics --------------------------------------------------------------------------------


@pytest.mark.parametrize("returned", [[1, 2], 3.0, "loss"])
def test_diagnostics_that_are_no_dict_name_the_agent(
    script: Any, monkeypatch: pytest.MonkeyPatch, returned: Any
) -> None:
    run = script([1.0])
    monkeypatch.setattr(run.agent, "learn", lambda data: returned)
    with pytest.raises(TypeError, match="agent.learn must return a dict of diagnostics, got"):
        run.run()
