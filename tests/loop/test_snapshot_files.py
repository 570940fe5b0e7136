"""Files of a checkpoint directory that somebody else may have written: damage, never a crash or worse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from optix_fast.loop import CheckpointRegistry
from optix_fast.loop.snapshot_files import checksum
from optix_fast.types import EvalMetrics, HyperparamSet, NonFiniteError


class Weights:
    """An agent whose only weight is `value`."""

    def __init__(self, value: float = 0.0, dtype: Any = np.float32) -> None:
        self.value: Any = np.array([1.0, value], dtype)

    def save_weights(self, path: str) -> None:
        Path(path).mkdir(parents=True)
        save_file({"w": self.value}, str(Path(path) / "policy.safetensors"))

    def load_weights(self, path: str) -> None:
        self.loaded = Path(path).name


@pytest.fixture
def folder(tmp_path: Path, fake_agent: Any) -> Path:
    """A directory with two snapshots: versions 1 and 2, of those scores."""
    registry = CheckpointRegistry(tmp_path / "c", write_interval=0.0, run_id="run")
    for version in (1, 2):
        fake_agent.version = version
        registry.save(fake_agent, EvalMetrics(float(version), {}, version), HyperparamSet({}))
    return tmp_path / "c"


def restored(folder: Path, agent: Any) -> int:
    """The version that a fresh registry restores."""
    agent.version = 0
    snapshot = CheckpointRegistry(folder, run_id="run").load_best(agent)
    assert (snapshot is None) == (agent.version == 0)
    return int(agent.version)


DIGITS = "9" * 5_000_000
CRAFTED = {
    "infinite score": ("2.0,", "1e400,"),
    "score of a million digits": ("2.0,", f"{DIGITS},"),
    "score beyond the floats": ("2.0,", f"{'9' * 400},"),
    "boolean score": ("2.0,", "true,"),
    "text for a time": ('"timestamp": ', '"timestamp": "noon", "was": '),
    "infinite time": ('"timestamp": ', '"timestamp": -1e999, "was": '),
    "text for a window": ('"episode_id": 2', '"episode_id": "two"'),
    "fraction for a window": ('"episode_id": 2', '"episode_id": 2.5'),
    "number for a run": ('"run_id": "run"', '"run_id": 7'),
    "number for an id": ('"snapshot_id": "', '"snapshot_id": 7, "was": "'),
    "text for a flag": ('"confirmed": false', '"confirmed": "no"'),
    "list for checksums": ('"sha256": {', '"sha256": [], "was": {'),
    "number for a checksum": ('"metadata.json": "', '"metadata.json": 5, "was": "'),
    "folder above": ('"snapshot_dir": "', '"snapshot_dir": "..", "was": "'),
    "no folder": ('"snapshot_dir": "', '"snapshot_dir": "/", "was": "'),
    "file above": ('"sha256": {', '"sha256": {"../secret": "0", '),
    "file at the root": ('"sha256": {', '"sha256": {"/etc/passwd": "0", '),
}


@pytest.mark.parametrize("name", CRAFTED)
def test_crafted_line_of_a_manifest_is_damage(
    folder: Path, fake_agent: Any, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    manifest = folder / "manifest.json"
    old, new = CRAFTED[name]
    text = manifest.read_text()
    assert old in text
    manifest.write_text(text.replace(old, new))
    assert restored(folder, fake_agent) == 2
    assert "manifest.json is damaged" in caplog.text
    assert max(map(len, caplog.messages)) < 1000


@pytest.mark.parametrize("text", ["[" * 200_000, DIGITS, f"[{DIGITS}]", "1e400", "null"])
def test_manifest_that_breaks_a_parser_is_rebuilt(folder: Path, fake_agent: Any, text: str) -> None:
    (folder / "manifest.json").write_text(text)
    assert restored(folder, fake_agent) == 2


def test_missing_manifest_is_rebuilt_and_written_again(
    folder: Path, fake_agent: Any, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "manifest.json").unlink()
    assert restored(folder, fake_agent) == 2
    assert "manifest.json is missing" in caplog.text
    registry = CheckpointRegistry(folder, run_id="run", write_interval=0.0)
    registry.save(fake_agent, EvalMetrics(3.0, {}, 3), HyperparamSet({}))
    assert len(json.loads((folder / "manifest.json").read_text())) == 3


def test_new_directory_has_no_manifest_to_miss(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert CheckpointRegistry(tmp_path / "new").best is None
    assert caplog.text == ""


@pytest.mark.parametrize(
    "text",
    [
        "[" * 200_000,
        f'{{"primary_score": {DIGITS}}}',
        '{"primary_score": 1e400, "run_id": "run"}',
        '{"primary_score": 9.0, "run_id": "run", "sha256": "none"}',
        '{"primary_score": 9.0, "run_id": "run", "metrics": [1]}',
        '{"primary_score": 9.0, "run_id": "run", "hyperparams": "all"}',
        '{"primary_score": 9.0, "run_id": "run", "metrics": {"confirmed_score": "high"}}',
        '{"primary_score": 9.0, "run_id": "run", "metrics": {"checkpoint_score": 1e400}}',
    ],
)
def test_crafted_metadata_is_left_out_when_the_list_is_rebuilt(
    folder: Path, fake_agent: Any, text: str
) -> None:
    (best,) = (p.parent.parent for p in folder.glob("*/weights/version.txt") if p.read_text() == "2")
    (best / "metadata.json").write_text(text)
    (folder / "manifest.json").unlink()
    assert restored(folder, fake_agent) == 1


def test_metrics_of_any_size_are_read(folder: Path, fake_agent: Any) -> None:
    for path in folder.glob("*/metadata.json"):
        path.write_text(path.read_text().replace('"metrics": {}', f'"metrics": {{"a": {"9" * 400}}}'))
    (folder / "manifest.json").unlink()
    assert restored(folder, fake_agent) == 2


def test_nothing_outside_of_the_directory_is_deleted(folder: Path, fake_agent: Any) -> None:
    beside = folder.parent / "beside.txt"
    beside.write_text("mine")
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"snapshot_dir": "', '"snapshot_dir": "..", "was": "'))
    registry = CheckpointRegistry(folder, max_snapshots=1, run_id="run", write_interval=0.0)
    registry.save(fake_agent, EvalMetrics(3.0, {}, 3), HyperparamSet({}))
    assert beside.read_text() == "mine"
    assert len(list(folder.glob("snapshot_*"))) == 1


# --- NaN ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_policy_of_nan_is_never_a_checkpoint(tmp_path: Path, dtype: Any) -> None:
    registry = CheckpointRegistry(tmp_path)
    with pytest.raises(NonFiniteError, match=r"weight w in weights/policy\.safetensors"):
        registry.save(Weights(float("nan"), dtype), EvalMetrics(9.0, {}, 0), HyperparamSet({}))
    assert registry.best is None


def test_infinite_and_integer_weights_are_the_agents_business(tmp_path: Path) -> None:
    registry = CheckpointRegistry(tmp_path)
    registry.save(Weights(float("inf")), EvalMetrics(1.0, {}, 0), HyperparamSet({}))
    registry.save(Weights(7, np.int64), EvalMetrics(2.0, {}, 0), HyperparamSet({}))
    assert registry.best is not None


def test_nan_in_bfloat16_is_found(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file as save_torch

    class Half(Weights):
        def save_weights(self, path: str) -> None:
            Path(path).mkdir(parents=True)
            save_torch(
                {"w": torch.tensor([1.0, self.value[1]], dtype=torch.bfloat16)}, path + "/w.safetensors"
            )

    registry = CheckpointRegistry(tmp_path)
    registry.save(Half(float("-inf")), EvalMetrics(1.0, {}, 0), HyperparamSet({}))
    with pytest.raises(NonFiniteError):
        registry.save(Half(float("nan")), EvalMetrics(2.0, {}, 0), HyperparamSet({}))


def test_snapshot_of_nan_on_disk_is_damaged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    registry = CheckpointRegistry(tmp_path, write_interval=0.0, run_id="run")
    for score in (1.0, 2.0):
        registry.save(Weights(score), EvalMetrics(score, {}, 0), HyperparamSet({}))
    best = Path(registry.best.weights_path) / "policy.safetensors"  # type: ignore[union-attr]
    old = checksum(best.read_bytes())
    save_file({"w": np.full(2, np.nan, np.float32)}, str(best))
    manifest = tmp_path / "manifest.json"
    manifest.write_text(manifest.read_text().replace(old, checksum(best.read_bytes())))
    snapshot = CheckpointRegistry(tmp_path).load_best(Weights())
    assert snapshot is not None and snapshot.eval_metrics.primary_score == 1.0
    assert "non-finite weight w" in caplog.text


def test_loop_does_not_checkpoint_a_policy_of_nan(script: Any, caplog: pytest.LogCaptureFixture) -> None:
    run = script(lambda version, window: float(version), max_episodes=4)
    save = run.agent.save_weights

    def spoilt(path: str) -> None:
        save(path)
        value = np.full(3, np.nan if run.agent.version >= 2 else 0.0, np.float32)
        save_file({"w": value}, f"{path}/w.safetensors")

    run.agent.save_weights = spoilt
    summary = run.run()
    assert (summary.windows, summary.best_score) == (4, 1.0)
    assert run.agent.version == 1
    assert (
        "window 2: non-finite weight w in weights/w.safetensors: this policy is not checkpointed"
        in caplog.text
    )
