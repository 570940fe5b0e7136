"""What the loop counts and remembers, alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from optix_fast.loop.run_state import RunState
from optix_fast.serialization import load_state, save_state
from optix_fast.types import EvalMetrics


def test_scores_are_smoothed_over_the_last_ones_and_afresh_after_a_restore() -> None:
    run = RunState(score_smoothing=3)
    assert [run.smoothed(score) for score in (9.0, 6.0, 3.0, 0.0)] == [9.0, 7.5, 6.0, 3.0]
    run.policy_restored({"loss": 0.5})
    assert run.diagnostics == {"loss": 0.5}
    assert [run.smoothed(score) for score in (90.0, 60.0)] == [90.0, 75.0]


def test_restored_diagnostics_are_a_copy() -> None:
    run, diagnostics = RunState(1), {"loss": 0.5}
    run.policy_restored(diagnostics)
    run.diagnostics["loss"] = 1.0
    assert diagnostics == {"loss": 0.5}


def test_state_comes_back_whole(tmp_path: Path) -> None:
    run = RunState(score_smoothing=3)
    run.windows, run.env_steps, run.last_evaluated = 7, 700, 6
    run.tuned_after, run.probed_until, run.restores, run.ended = 4, 5, 2, "converged"
    run.raws.extend([1.0, 2.0])
    run.history.append(EvalMetrics(2.0, {"a": 1.0}, 6))
    values: dict[str, Any] = {
        "loss": 0.5, "n": 3, "why": "text", "flag": True, "single": np.float32(0.1),
        "array": np.arange(3.0), "tensor": torch.ones(2), "none": None,
    }  # fmt: skip
    run.diagnostics = {**values, "object": object(), "set": {1}}
    save_state(tmp_path / "state", run.state_dict())
    other = RunState(score_smoothing=3)
    other.raws.append(99.0)
    other.load_state_dict(load_state(tmp_path / "state"))
    assert other.diagnostics.keys() == values.keys()
    assert other.diagnostics["single"] == np.float32(0.1)
    assert other.diagnostics["array"].tolist() == [0.0, 1.0, 2.0]
    names = ("windows", "env_steps", "last_evaluated", "tuned_after", "probed_until", "restores", "ended")
    assert [getattr(other, name) for name in names] == [getattr(run, name) for name in names]
    assert (list(other.raws), other.history) == (list(run.raws), run.history)
    assert other.smoothed(6.0) == 3.0
