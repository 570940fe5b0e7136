"""The registry: what is kept, what is restored, and what survives damage."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optix_fast.loop import CheckpointRegistry
from optix_fast.types import EvalMetrics, HyperparamSet

LR = HyperparamSet({"lr": 0.1})


def metrics(score: float, window: int = 0, **more: float) -> EvalMetrics:
    return EvalMetrics(score, {"primary_score": score, **more}, window)


@pytest.fixture
def save(fake_agent: Any) -> Callable[..., Any]:
    """Save a policy whose version is its score."""

    def run(registry: CheckpointRegistry, *scores: float, **more: float) -> Any:
        snapshot = None
        for score in scores:
            fake_agent.version = int(score)
            snapshot = registry.save(
                fake_agent, metrics(score, int(score), **more), HyperparamSet({"lr": 0.1})
            )
        return snapshot

    return run


def registry_at(path: Path, **options: Any) -> CheckpointRegistry:
    return CheckpointRegistry(path / "c", **{"run_id": "run", "write_interval": 0.0, **options})


def stored(path: Path) -> list[int]:
    """Versions on disk, by the manifest."""
    entries = json.loads((path / "c" / "manifest.json").read_text())
    found = [int((path / "c" / e["snapshot_dir"] / "weights/version.txt").read_text()) for e in entries]
    folders = [name for name in os.listdir(path / "c") if name.startswith("snapshot_")]
    assert len(folders) == len(entries)
    return sorted(found)


# --- layout -------------------------------------------------------------------------------------


def test_layout_on_disk(tmp_path: Path, save: Any) -> None:
    snapshot = save(registry_at(tmp_path), 3.0)
    folder = tmp_path / "c" / f"snapshot_{snapshot.snapshot_id}"
    (entry,) = json.loads((tmp_path / "c" / "manifest.json").read_text())
    assert entry["snapshot_dir"] == folder.name
    assert {"snapshot_id", "primary_score", "episode_id", "timestamp", "run_id", "sha256"} <= set(entry)
    assert set(entry["sha256"]) == {"metadata.json", "weights/version.txt"}
    metadata = json.loads((folder / "metadata.json").read_text())
    assert metadata["hyperparams"] == {"lr": 0.1}
    assert metadata["weights_path"] == f"{folder.name}/weights"
    assert snapshot.weights_path == str(folder / "weights")
    assert (folder / "weights" / "version.txt").read_text() == "3"


def test_numbers_json_does_not_have_are_null_and_numpy_is_converted(tmp_path: Path, fake_agent: Any) -> None:
    registry = registry_at(tmp_path)
    values: Any = {"a": np.float32(0.5), "b": math.nan, "c": -math.inf, "d": np.int64(3)}
    hyperparams = HyperparamSet({"lr": np.float64(0.1), "sizes": (1, 2), "act": np.tanh, "w": np.ones(2)})
    registry.save(fake_agent, EvalMetrics(np.float64(1.0), values, 0), hyperparams)
    (metadata,) = (tmp_path / "c").glob("snapshot_*/metadata.json")
    text = metadata.read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    found = json.loads(text)
    assert found["metrics"] == {"a": 0.5, "b": None, "c": None, "d": 3}
    assert found["hyperparams"]["sizes"] == [1, 2]
    read = registry_at(tmp_path).best
    assert read is not None
    assert math.isnan(read.eval_metrics.metrics["b"])


# --- what is kept -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scores", "cap", "kept"),
    [((9, 1, 2), 2, [2, 9]), ((1, 2, 3), 1, [3]), ((3, 2, 1), 1, [3]), ((5, 1, 4, 2, 3), 3, [3, 4, 5])],
)
def test_the_best_are_kept_not_the_newest(
    tmp_path: Path, save: Any, scores: tuple[int, ...], cap: int, kept: list[int]
) -> None:
    registry = registry_at(tmp_path, max_snapshots=cap)
    save(registry, *scores)
    assert stored(tmp_path) == kept
    assert registry.best is not None
    assert registry.best.eval_metrics.primary_score == max(scores)


def test_best_is_by_score_not_the_last(tmp_path: Path, save: Any, fake_agent: Any) -> None:
    registry = registry_at(tmp_path)
    save(registry, 9.0, 2.0)
    restored = registry.load_best(fake_agent)
    assert restored is not None
    assert (restored.eval_metrics.primary_score, fake_agent.version) == (9.0, 9)


def test_confirmed_outranks_and_checkpoint_score_ranks(tmp_path: Path, save: Any, fake_agent: Any) -> None:
    registry = registry_at(tmp_path)
    save(registry, 50.0)
    save(registry, 7.0, checkpoint_score=60.0)
    registry.load_best(fake_agent)
    assert fake_agent.version == 7
    save(registry, 3.0, confirmed_score=1.0)
    registry.load_best(fake_agent)
    assert fake_agent.version == 3
    registry_at(tmp_path).load_best(fake_agent)
    assert fake_agent.version == 3


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_score_that_is_not_finite_is_never_a_checkpoint(
    tmp_path: Path, fake_agent: Any, score: float
) -> None:
    with pytest.raises(ValueError, match="never a checkpoint"):
        registry_at(tmp_path).save(fake_agent, metrics(score), HyperparamSet({}))


def test_empty_registry_has_no_best(tmp_path: Path, fake_agent: Any) -> None:
    registry = registry_at(tmp_path)
    assert registry.best is None
    assert registry.load_best(fake_agent) is None


def test_snapshot_keeps_its_own_copies(tmp_path: Path, fake_agent: Any) -> None:
    registry = registry_at(tmp_path)
    earned, params = metrics(1.0), HyperparamSet({"lr": 0.1})
    registry.save(fake_agent, earned, params)
    earned.metrics["primary_score"], params.params["lr"] = 99.0, 99.0
    assert registry.best is not None
    assert registry.best.eval_metrics.metrics["primary_score"] == 1.0
    assert registry.best.hyperparams.params["lr"] == 0.1


# --- memory first, disk later -------------------------------------------------------------------


def test_writes_are_spaced_and_the_best_wait_in_memory(
    tmp_path: Path, save: Any, fake_agent: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr("optix_fast.loop.checkpoints.time.monotonic", lambda: now[0])
    registry = registry_at(tmp_path, write_interval=1000.0, max_snapshots=2)
    save(registry, 1.0, 2.0, 4.0, 3.0)
    assert stored(tmp_path) == [1]
    registry.load_best(fake_agent)
    assert fake_agent.version == 4
    now[0] += 999.0
    registry.flush_if_due()
    assert registry.writes == 1
    now[0] += 2.0
    registry.flush_if_due()
    assert stored(tmp_path) == [1, 4]
    assert registry.writes == 2
    save(registry, 5.0)
    registry.flush()
    registry.flush()
    assert stored(tmp_path) == [4, 5]
    assert registry.writes == 3


@pytest.mark.parametrize("interval", [0.0, 1e9])
def test_the_best_are_kept_whatever_the_clock(tmp_path: Path, save: Any, interval: float) -> None:
    registry = registry_at(tmp_path, write_interval=interval, max_snapshots=3)
    save(registry, 5.0, 9.0, 6.0, 8.0, 7.0, 10.0)
    registry.flush()
    assert stored(tmp_path) == [8, 9, 10]


def test_weights_that_take_much_memory_do_not_wait(
    tmp_path: Path, save: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("optix_fast.loop.checkpoints._MOST_WAITING", 1)
    registry = registry_at(tmp_path, write_interval=1e9)
    save(registry, 1.0, 2.0)
    assert stored(tmp_path) == [1]
    save(registry, 3.0)
    assert stored(tmp_path) == [1, 2, 3]


def test_slow_disk_is_written_less_often(tmp_path: Path, save: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("optix_fast.loop.checkpoints.time.monotonic", lambda: clock[0])
    monkeypatch.setattr("optix_fast.loop.checkpoints.time.perf_counter", lambda: clock[0])
    synced = os.fsync

    def slow(handle: int) -> None:
        clock[0] += 1.0
        synced(handle)

    monkeypatch.setattr(os, "fsync", slow)
    registry = registry_at(tmp_path, write_interval=1.0)
    for score in range(1, 401):
        clock[0] += 2.0
        save(registry, float(score))
    assert registry.writes >= 2
    assert registry.disk_seconds < 0.05 * clock[0]


def test_write_time_is_counted(tmp_path: Path, save: Any) -> None:
    registry = registry_at(tmp_path)
    save(registry, 1.0)
    assert 0.0 < registry.disk_seconds < 60.0


# --- any agent ----------------------------------------------------------------------------------


class Naive:
    """Expects the folder to exist."""

    def save_weights(self, path: str) -> None:
        (Path(path) / "w").write_text("5")

    def load_weights(self, path: str) -> None:
        self.read = (Path(path) / "w").read_text()


class OneFile:
    """Takes the path for a file's name, and adds another beside it."""

    def save_weights(self, path: str) -> None:
        Path(path).write_text("main")
        Path(path + ".extra").write_text("extra")

    def load_weights(self, path: str) -> None:
        self.read = Path(path).read_text() + Path(path + ".extra").read_text()


class Deep:
    """Nests folders."""

    def save_weights(self, path: str) -> None:
        (Path(path) / "a" / "b").mkdir(parents=True)
        (Path(path) / "a" / "b" / "w").write_text("deep")

    def load_weights(self, path: str) -> None:
        self.read = (Path(path) / "a" / "b" / "w").read_text()


class Nothing:
    """Has no weights at all."""

    def save_weights(self, path: str) -> None:
        pass

    def load_weights(self, path: str) -> None:
        self.read = str(os.listdir(path))


@pytest.mark.parametrize(
    ("kind", "read"), [(Naive, "5"), (OneFile, "mainextra"), (Deep, "deep"), (Nothing, "[]")]
)
def test_any_way_of_saving_comes_back_from_memory_and_disk(tmp_path: Path, kind: Any, read: str) -> None:
    agent = kind()
    registry = registry_at(tmp_path)
    registry.save(agent, metrics(1.0), HyperparamSet({}))
    registry.load_best(agent)
    assert agent.read == read
    fresh = kind()
    registry_at(tmp_path).load_best(fresh)
    assert fresh.read == read


def test_agent_that_cannot_save_leaves_nothing(tmp_path: Path, fake_agent: Any) -> None:
    def broken(path: str) -> None:
        Path(path).mkdir()
        (Path(path) / "half").write_text("half")
        raise RuntimeError("cannot save")

    fake_agent.save_weights = broken
    registry = registry_at(tmp_path)
    with pytest.raises(RuntimeError, match="cannot save"):
        registry.save(fake_agent, metrics(1.0), HyperparamSet({}))
    assert os.listdir(tmp_path / "c") == []
    assert registry.best is None


# --- runs ---------------------------------------------------------------------------------------


def test_other_runs_are_named_and_neither_restored_nor_deleted(
    tmp_path: Path, save: Any, fake_agent: Any, caplog: pytest.LogCaptureFixture
) -> None:
    snapshot = save(registry_at(tmp_path, run_id="first"), 100.0)
    second = registry_at(tmp_path, run_id="second", max_snapshots=1)
    assert second.best is None
    assert second.load_best(fake_agent) is None
    assert caplog.text == ""
    save(second, 1.0, 2.0)
    assert caplog.text.count(snapshot.snapshot_id) == 1
    assert stored(tmp_path) == [2, 100]
    second.load_best(fake_agent)
    assert fake_agent.version == 2


def test_fresh_registry_deploys_the_best_that_is_there(tmp_path: Path, save: Any, fake_agent: Any) -> None:
    save(registry_at(tmp_path, run_id="first"), 5.0)
    save(registry_at(tmp_path, run_id="second"), 4.0)
    fake_agent.version = 0
    restored = CheckpointRegistry(tmp_path / "c").load_best(fake_agent)
    assert restored is not None
    assert (fake_agent.version, restored.eval_metrics.primary_score) == (5, 5.0)
    assert [e["primary_score"] for e in CheckpointRegistry(tmp_path / "c").entries()] == [5.0, 4.0]


def test_registry_that_has_saved_restores_its_own_run_only(
    tmp_path: Path, save: Any, fake_agent: Any
) -> None:
    save(registry_at(tmp_path, run_id="first"), 5.0)
    fresh = registry_at(tmp_path, run_id=None)
    save(fresh, 1.0)
    assert fresh.best is not None and fresh.best.eval_metrics.primary_score == 1.0
    fresh.load_best(fake_agent)
    assert fake_agent.version == 1


def test_resume_restores_the_best_of_all_and_goes_on_as_the_last_run(
    tmp_path: Path, save: Any, fake_agent: Any, caplog: pytest.LogCaptureFixture
) -> None:
    save(registry_at(tmp_path, run_id="first"), 100.0)
    save(registry_at(tmp_path, run_id="second"), 1.0)
    caplog.clear()
    resumed = registry_at(tmp_path, run_id=None, resume=True)
    assert resumed.run_id == "second"
    assert "other runs" not in caplog.text
    resumed.load_best(fake_agent)
    assert fake_agent.version == 100


def test_two_registries_of_one_run_agree(tmp_path: Path, save: Any, fake_agent: Any) -> None:
    one, two = registry_at(tmp_path), registry_at(tmp_path)
    save(one, 1.0)
    assert two.best is not None
    assert two.best.eval_metrics.primary_score == 1.0
    save(one, 9.0)
    save(two, 5.0)
    for registry in (one, two):
        assert registry.best is not None
        assert registry.best.eval_metrics.primary_score == 9.0
        registry.load_best(fake_agent)
        assert fake_agent.version == 9
    assert [e["primary_score"] for e in one.entries()] == [9.0, 5.0, 1.0]
    assert one.entries() == two.entries()


def test_directory_can_be_moved(tmp_path: Path, save: Any, fake_agent: Any) -> None:
    save(registry_at(tmp_path), 4.0)
    (tmp_path / "elsewhere").mkdir()
    shutil.move(str(tmp_path / "c"), str(tmp_path / "elsewhere" / "c"))
    moved = registry_at(tmp_path / "elsewhere")
    restored = moved.load_best(fake_agent)
    assert fake_agent.version == 4
    assert restored is not None
    assert Path(restored.weights_path).is_dir()


def test_relative_directory_survives_a_change_of_directory(
    tmp_path: Path, save: Any, fake_agent: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    registry = CheckpointRegistry("relative", write_interval=0.0)
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    save(registry, 4.0)
    assert (tmp_path / "relative" / "manifest.json").exists()


def test_directory_of_the_older_package_is_left_alone_and_can_be_resumed(
    tmp_path: Path, save: Any, fake_agent: Any
) -> None:
    folder = tmp_path / "c" / "snapshot_0a1b2c3d"
    (folder / "weights").mkdir(parents=True)
    (folder / "weights" / "version.txt").write_text("12")
    (folder / "metadata.json").write_text(json.dumps({"metrics": {"a": 1.0}, "hyperparams": {"lr": 0.1}}))
    entry = {"snapshot_id": "0a1b2c3d", "snapshot_dir": "./gone/c/snapshot_0a1b2c3d"}
    entry |= {"primary_score": 12.0, "episode_id": 3, "timestamp": 1.0}
    (tmp_path / "c" / "manifest.json").write_text(json.dumps([entry]))
    assert registry_at(tmp_path).best is None
    registry_at(tmp_path, resume=True).load_best(fake_agent)
    assert fake_agent.version == 12


# --- damage -------------------------------------------------------------------------------------


def weights_file(path: Path, version: int) -> Path:
    for file in (path / "c").glob("snapshot_*/weights/version.txt"):
        if file.read_text() == str(version):
            return file
    raise AssertionError(f"version {version} is not on disk")


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete file", "delete folder", "metadata"])
def test_damaged_snapshot_is_named_and_the_next_best_is_used(
    tmp_path: Path, save: Any, fake_agent: Any, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    snapshot = save(registry_at(tmp_path), 1.0, 2.0, 3.0)
    file = weights_file(tmp_path, 3)
    if damage == "flip":
        file.write_text("8")
    elif damage == "truncate":
        file.write_bytes(b"")
    elif damage == "delete file":
        file.unlink()
    elif damage == "delete folder":
        shutil.rmtree(file.parents[1])
    else:
        (file.parents[1] / "metadata.json").write_text("{}")
    registry = registry_at(tmp_path)
    restored = registry.load_best(fake_agent)
    assert restored is not None
    assert (fake_agent.version, restored.eval_metrics.primary_score) == (2, 2.0)
    assert f"checkpoint {snapshot.snapshot_id} is damaged" in caplog.text


def test_damaged_snapshot_is_not_the_best(tmp_path: Path, save: Any, fake_agent: Any) -> None:
    save(registry_at(tmp_path), 1.0, 2.0, 3.0)
    weights_file(tmp_path, 3).write_text("8")
    best = registry_at(tmp_path).best
    assert best is not None and best.eval_metrics.primary_score == 2.0


def test_damage_on_disk_does_not_touch_the_best_in_memory(tmp_path: Path, save: Any, fake_agent: Any) -> None:
    registry = registry_at(tmp_path)
    save(registry, 3.0)
    shutil.rmtree(tmp_path / "c")
    fake_agent.version = 0
    registry.load_best(fake_agent)
    assert fake_agent.version == 3
    save(registry, 4.0)
    assert stored(tmp_path) == [4]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[{",
        '{"a": 1}',
        "[1, 2]",
        "\x00\xff",
        '[{"snapshot_dir": 3}]',
        '[{"snapshot_dir": "a", "primary_score": "b"}]',
    ],
)
def test_damaged_manifest_is_rebuilt_from_the_snapshots(
    tmp_path: Path, save: Any, fake_agent: Any, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    save(registry_at(tmp_path), 1.0, 3.0)
    (tmp_path / "c" / "manifest.json").write_text(text)
    registry = registry_at(tmp_path)
    registry.load_best(fake_agent)
    assert fake_agent.version == 3
    assert "manifest.json is damaged" in caplog.text
    save(registry, 5.0)
    assert stored(tmp_path) == [1, 3, 5]


def test_weights_of_another_architecture_are_an_error_not_damage(tmp_path: Path, save: Any) -> None:
    save(registry_at(tmp_path), 1.0)

    class Other:
        def load_weights(self, path: str) -> None:
            raise RuntimeError("missing weight: layers.9")

    with pytest.raises(RuntimeError, match=r"layers\.9"):
        registry_at(tmp_path).load_best(Other())


# --- atomicity ----------------------------------------------------------------------------------


def everything(folder: Path) -> dict[str, bytes]:
    names = [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in names}


# Two files, their two folders and the rename; the manifest, its rename and its folder.
STEPS_OF_A_WRITE = 8


@pytest.mark.parametrize("after", range(STEPS_OF_A_WRITE))
def test_full_disk_at_any_point_leaves_the_directory_as_it_was(
    tmp_path: Path, save: Any, fake_agent: Any, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    registry = registry_at(tmp_path, max_snapshots=1)
    save(registry, 1.0)
    before = everything(tmp_path / "c")
    calls = [0]

    def limited(real: Any) -> Any:
        def run(*arguments: Any) -> Any:
            calls[0] += 1
            if calls[0] > after:
                raise OSError(28, "No space left on device")
            return real(*arguments)

        return run

    with monkeypatch.context() as full:
        full.setattr(os, "fsync", limited(os.fsync))
        full.setattr(os, "replace", limited(os.replace))
        with pytest.raises(OSError, match=f"{tmp_path / 'c'}.*No space left"):
            save(registry, 2.0)
    # Only the last fsync of all comes after the manifest was replaced.
    if everything(tmp_path / "c")["manifest.json"] == before["manifest.json"]:
        assert everything(tmp_path / "c") == before
    else:
        assert after == STEPS_OF_A_WRITE - 1
    assert len(stored(tmp_path)) == 1
    fake_agent.version = 0
    registry.load_best(fake_agent)
    assert fake_agent.version == 2
    registry.flush()
    assert stored(tmp_path) == [2]
    assert [name for name in os.listdir(tmp_path / "c") if "tmp" in name] == []


# --- ensembles ----------------------------------------------------------------------------------


class Averaging:
    def __init__(self) -> None:
        self.version = 0
        self.averaged: list[int] = []

    def save_weights(self, path: str) -> None:
        Path(path).mkdir()
        (Path(path) / "version.txt").write_text(str(self.version))

    def load_weights(self, path: str) -> None:
        self.version = int((Path(path) / "version.txt").read_text())

    def average_weights(self, paths: list[str]) -> None:
        self.averaged = [int((Path(path) / "version.txt").read_text()) for path in paths]


@pytest.mark.parametrize(
    ("scores", "top_k", "band", "averaged"),
    [
        ([100, 95, 91, 50], 3, 0.1, [100, 95, 91]),
        ([100, 95, 91, 50], 2, 0.1, [100, 95]),
        ([100, 95, 91, 50], 9, 0.5, [100, 95, 91, 50]),
        ([-100, -105, -120], 3, 0.1, [-100, -105]),
        ([100, 50], 3, 0.1, []),
        ([100], 3, 0.1, []),
    ],
)
def test_ensemble_averages_the_best_within_the_band(
    tmp_path: Path, scores: list[int], top_k: int, band: float, averaged: list[int]
) -> None:
    agent = Averaging()
    registry = registry_at(tmp_path, write_interval=1e9)
    for score in sorted(scores):
        agent.version = score
        registry.save(agent, metrics(float(score)), HyperparamSet({}))
        registry.flush()
    agent.version = 0
    snapshot = registry.load_ensemble(agent, top_k, band)
    assert snapshot is not None
    assert snapshot.eval_metrics.primary_score == max(scores)
    assert agent.averaged == averaged
    if not averaged:
        assert agent.version == max(scores)


def test_ensemble_leaves_damaged_snapshots_out(tmp_path: Path) -> None:
    agent, registry = Averaging(), registry_at(tmp_path)
    for score in (98, 99, 100):
        agent.version = score
        registry.save(agent, metrics(float(score)), HyperparamSet({}))
    weights_file(tmp_path, 99).write_text("1")
    registry.load_ensemble(agent)
    assert agent.averaged == [100, 98]


def test_ensemble_of_an_agent_that_cannot_average_is_the_best(
    tmp_path: Path, save: Any, fake_agent: Any, caplog: pytest.LogCaptureFixture
) -> None:
    registry = registry_at(tmp_path)
    save(registry, 99.0, 100.0, 98.0)
    registry.load_ensemble(fake_agent)
    assert fake_agent.version == 100
    assert "cannot average" in caplog.text


def test_ensemble_of_an_empty_registry_is_none(tmp_path: Path) -> None:
    assert registry_at(tmp_path).load_ensemble(Averaging()) is None


# --- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"max_snapshots": 0}, {"max_snapshots": 2.5}, {"write_interval": -1.0}])
def test_wrong_argument_is_named(tmp_path: Path, options: Any) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        CheckpointRegistry(tmp_path, **options)


@pytest.mark.parametrize("options", [{"top_k": 0}, {"score_band": -0.1}])
def test_wrong_ensemble_argument_is_named(tmp_path: Path, options: Any) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        registry_at(tmp_path).load_ensemble(Averaging(), **options)


def test_file_in_place_of_the_directory_is_an_os_error(tmp_path: Path) -> None:
    (tmp_path / "c").write_text("file")
    with pytest.raises(OSError, match="c"):
        registry_at(tmp_path)


def test_snapshot_of_another_kind_of_agent_is_named(tmp_path: Path, save: Any, fake_agent: Any) -> None:
    registry = CheckpointRegistry(tmp_path, write_interval=0.0)
    registry.save(fake_agent, EvalMetrics(1.0, {}, 0), fake_agent.get_hyperparams())

    class OtherAgent(type(fake_agent)):  # type: ignore[misc]
        def load_weights(self, path: str) -> None:
            raise FileNotFoundError("q_network.safetensors")

    fresh = CheckpointRegistry(tmp_path, resume=True)
    with pytest.raises(RuntimeError, match=r"is of a FakeAgent, not of a OtherAgent: q_network"):
        fresh.load_best(OtherAgent([]))
