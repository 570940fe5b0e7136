"""A snapshot that waits for its turn is on disk as soon as somebody asks where."""

from __future__ import annotations

import copy
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optix_fast.loop import CheckpointRegistry
from optix_fast.types import EvalMetrics, HyperparamSet, LoopCallback, PolicySnapshot


def waiting(directory: Path, agent: Any) -> tuple[CheckpointRegistry, PolicySnapshot]:
    """A snapshot that the clock keeps from the disk."""
    registry = CheckpointRegistry(directory, write_interval=1e9, run_id="run")
    registry.save(agent, EvalMetrics(1.0, {}, 0), HyperparamSet({"x": 1}))
    agent.version = 2
    snapshot = registry.save(agent, EvalMetrics(2.0, {"a": 0.5}, 1), HyperparamSet({"x": 1}))
    assert len(list(directory.glob("snapshot_*"))) == 1
    return registry, snapshot


def test_asking_for_the_path_writes_the_weights(tmp_path: Path, fake_agent: Any) -> None:
    _, snapshot = waiting(tmp_path, fake_agent)
    assert (Path(snapshot.weights_path) / "version.txt").read_text() == "2"


def test_path_exists_when_the_loop_tells_of_an_improvement(script: Any) -> None:
    found = []

    class Deploy(LoopCallback):
        def on_improvement(self, snapshot: PolicySnapshot) -> None:
            found.append((Path(snapshot.weights_path) / "version.txt").read_text())

    run = script(lambda version, window: float(version), max_episodes=4, callbacks=[Deploy()])
    run.registry.write_interval = 1e9
    run.run()
    assert found == ["1", "2", "3"]


def test_nothing_is_written_before_its_turn_if_nobody_asks(script: Any) -> None:
    writes = []

    class Count(LoopCallback):
        def on_improvement(self, snapshot: PolicySnapshot) -> None:
            writes.append(run.registry.writes)

    run = script(lambda version, window: float(version), max_episodes=4, callbacks=[Count()])
    run.registry.write_interval = 1e9
    run.run()
    assert writes == [1, 1, 1]


@pytest.mark.parametrize("how", [copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))])
def test_copies_are_plain_snapshots_of_the_same_fields(tmp_path: Path, fake_agent: Any, how: Any) -> None:
    registry, snapshot = waiting(tmp_path, fake_agent)
    other = how(snapshot)
    assert type(other) is PolicySnapshot
    assert other == snapshot
    assert snapshot == other
    assert snapshot == registry.best
    other.episode_id = 9
    assert snapshot != other


def test_snapshot_read_from_disk_equals_the_one_that_was_saved(tmp_path: Path, fake_agent: Any) -> None:
    registry, snapshot = waiting(tmp_path, fake_agent)
    registry.flush()
    read = CheckpointRegistry(tmp_path, run_id="run").best
    assert read is not None
    assert type(read) is PolicySnapshot
    assert (read.snapshot_id, read.weights_path) == (snapshot.snapshot_id, snapshot.weights_path)
    assert (read.eval_metrics.metrics, read.hyperparams.params) == ({"a": 0.5}, {"x": 1})


def test_diagnostics_of_the_policy_come_back_with_it(tmp_path: Path, fake_agent: Any) -> None:
    diagnostics = {"loss": np.float32(0.1), "n_updates": 40, "why": "kl", "kl": math.nan}
    registry = CheckpointRegistry(tmp_path, run_id="run", write_interval=0.0)
    registry.save(fake_agent, EvalMetrics(1.0, {}, 0), HyperparamSet({}), diagnostics)
    read = CheckpointRegistry(tmp_path).load_best(fake_agent)
    assert read is not None
    assert math.isnan(read.diagnostics.pop("kl"))
    assert read.diagnostics == {"loss": float(np.float32(0.1)), "n_updates": 40, "why": "kl"}
    assert type(read.diagnostics["n_updates"]) is int
