"""The state on disk that a run goes on from, and the snapshots that belong to it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from safetensors.numpy import load_file
from same_state import assert_same

from optix_fast import BatchPipeline, RLOptimizer, make_agent
from optix_fast.leftovers import owner_mark
from optix_fast.loop import CheckpointRegistry, resume
from optix_fast.loop.resume import RunStateFile, state_path
from optix_fast.serialization import load_state
from optix_fast.types import EvalMetrics

KILLABLE = str(Path(__file__).parents[1] / "helpers" / "killable_run.py")


def optimizer(directory: Path, windows: int, seed: int = 0, **options: Any) -> RLOptimizer:
    pipeline = BatchPipeline(gym.make("CartPole-v1"), window_size=64, seed=seed)
    agent = make_agent("ppo", pipeline, seed=seed)
    arguments = {"checkpoint_dir": directory, "max_episodes": windows, "state_interval": 0.0, **options}
    return RLOptimizer(agent, pipeline, **arguments)


def history(run: RLOptimizer) -> list[tuple[int, float]]:
    return [(m.episode_id, m.primary_score) for m in run.controller.history]


def test_run_resumed_with_a_larger_budget_goes_on_as_if_it_had_had_it(tmp_path: Path) -> None:
    whole = optimizer(tmp_path / "whole", 14)
    whole.run()
    optimizer(tmp_path / "half", 6).run()
    rest = optimizer(tmp_path / "elsewhere", 14, seed=5)
    rest.resume(tmp_path / "half")
    rest.run()
    assert history(rest) == history(whole)
    ids = [e["episode_id"] for e in rest.registry.entries()]
    assert ids == [e["episode_id"] for e in whole.registry.entries()]
    assert rest.registry.checkpoint_dir == str(tmp_path / "half")


def test_no_state_is_written_without_an_interval(tmp_path: Path) -> None:
    optimizer(tmp_path, 3, state_interval=None).run()
    assert not list(tmp_path.glob("run_state*"))


def test_state_that_cannot_be_saved_is_said_and_does_not_end_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = optimizer(tmp_path, 3)
    monkeypatch.setattr(run.controller.pipeline, "state_dict", lambda: {"env": object()})
    assert run.run().windows == 3
    assert "cannot be resumed if it is killed" in caplog.text
    assert not list(tmp_path.glob("run_state*"))


def test_every_run_in_a_directory_resumes_its_own_state(tmp_path: Path) -> None:
    optimizer(tmp_path, 5, run_id="first").run()
    optimizer(tmp_path, 3, seed=9, run_id="second/one").run()
    for name, windows in (("first", 5), ("second/one", 3)):
        by_constructor = optimizer(tmp_path, 9, run_id=name)
        by_constructor.resume()
        by_name = optimizer(tmp_path / "other", 9)
        by_name.resume(tmp_path, run_id=name)
        assert (by_constructor.windows, by_name.windows) == (windows, windows)
        assert by_name.registry.run_id == name


def test_run_that_has_no_state_here_is_refused_by_name(tmp_path: Path) -> None:
    optimizer(tmp_path, 2, run_id="first").run()
    with pytest.raises(ValueError, match="no state of the run 'third', but of 'first'"):
        optimizer(tmp_path, 9, run_id="third").resume()
    with pytest.raises(ValueError, match="no state of the run 'third', but of 'first'"):
        optimizer(tmp_path / "other", 9, run_id="third").resume(tmp_path)


def test_resume_without_a_name_takes_the_only_run_or_asks_which(tmp_path: Path) -> None:
    optimizer(tmp_path, 2, run_id="first").run()
    only = optimizer(tmp_path, 9)
    only.resume()
    assert (only.windows, only.registry.run_id) == (2, "first")
    optimizer(tmp_path, 3, run_id="second").run()
    with pytest.raises(ValueError, match=r"states of 2 runs: name one by run_id= \('second', 'first'\)"):
        optimizer(tmp_path, 9).resume()
    only.resume()  # its own run is known
    assert only.windows == 2


def test_state_file_of_the_older_name_is_taken_where_it_is_the_only_one_and_of_that_run(
    tmp_path: Path,
) -> None:
    optimizer(tmp_path, 2, run_id="first").run()
    older = tmp_path / "run_state.safetensors"
    state_path(tmp_path, "first").rename(older)
    with pytest.raises(ValueError, match="the state of the run 'first', not of 'second'"):
        optimizer(tmp_path, 4, run_id="second").resume()
    run = optimizer(tmp_path, 4)
    run.resume()
    run.run()
    assert [path.name for path in tmp_path.glob("run_state*")] == [state_path(tmp_path, "first").name]
    assert not older.exists()


def test_renamed_state_file_does_not_pass_for_another_run(tmp_path: Path) -> None:
    optimizer(tmp_path, 2, run_id="first").run()
    state_path(tmp_path, "first").rename(state_path(tmp_path, "second"))
    with pytest.raises(ValueError, match="the state of the run 'first', not of 'second'"):
        optimizer(tmp_path, 4, run_id="second").resume()


def test_resumed_run_does_not_call_its_own_snapshots_those_of_other_runs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = optimizer(tmp_path, 3)
    first.run()
    first.run()
    resumed = optimizer(tmp_path, 5)
    resumed.resume()
    resumed.run()
    assert resumed.windows == 5
    assert "other runs" not in caplog.text


def test_full_disk_under_the_state_is_warned_of_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = optimizer(tmp_path, 4, run_id="run")
    real, failures = resume.save_state, []

    def full(path: Path, state: Any) -> None:
        if state["loop"]["run"]["windows"] == 2:
            failures.append(path)
            raise OSError(28, "No space left on device")
        real(path, state)

    monkeypatch.setattr(resume, "save_state", full)
    assert run.run().stop_reason == "budget"
    assert len(failures) == 1
    assert "No space left" in caplog.text
    fresh = optimizer(tmp_path, 9, run_id="run")
    fresh.resume()
    assert fresh.windows == 4


def test_first_state_comes_soon_and_the_next_ones_ever_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr("time.perf_counter", lambda: 0.0)  # a write takes no time
    file = RunStateFile(30.0)
    written = []
    for step in range(1, 400):
        now[0] = 100.0 + step / 4
        if file.is_due:
            file.write(tmp_path / "state", dict)
            written.append(step / 4)
    assert written == [2.0, 4.0, 8.0, 16.0, 32.0, 62.0, 92.0]


@pytest.mark.parametrize("reason", ["solved", "converged"])
def test_run_that_is_over_does_not_train_on_when_it_is_resumed(tmp_path: Path, reason: str) -> None:
    ends = {"solved": {"target_score": -1.0}, "converged": {"dormant_threshold": 1, "plateau_threshold": 1}}
    options = {"base_interval": 2, **ends[reason]}
    first = optimizer(tmp_path, 400, **options)
    assert first.run().stop_reason == reason
    again = optimizer(tmp_path, 400, **options)
    again.resume()
    summary = again.run()
    assert (summary.stop_reason, summary.windows) == (reason, first.windows)
    assert history(again) == history(first)
    further = optimizer(tmp_path, first.windows + 3, base_interval=2)
    further.resume()
    further.keep_going()
    assert further.run().windows == first.windows + 3


def test_state_of_other_parts_is_refused(tmp_path: Path, fake_agent: Any, fake_pipeline: Any) -> None:
    optimizer(tmp_path / "a", 2).run()
    other = RLOptimizer(fake_agent, fake_pipeline, checkpoint_dir=tmp_path / "b")
    with pytest.raises(ValueError, match="agent had a state, but FakeAgent cannot load one"):
        other.resume(tmp_path / "a")
    with pytest.raises(ValueError, match="not a directory"):
        other.resume(tmp_path / "absent")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def weights(run: RLOptimizer, folder: Path) -> dict[str, dict[str, list[float]]]:
    # The tensors, not the files: every save marks its own.
    run.controller.agent.save_weights(str(folder))
    files = {path.name: load_file(path) for path in folder.iterdir()}
    return {name: {key: t.tolist() for key, t in tensors.items()} for name, tensors in files.items()}


def other_agent(directory: Path, kind: str, hidden_sizes: tuple[int, ...] = (64, 64)) -> RLOptimizer:
    pipeline = BatchPipeline(gym.make("CartPole-v1"), window_size=64, seed=3)
    agent = make_agent(kind, pipeline, hidden_sizes, seed=3)
    return RLOptimizer(agent, pipeline, checkpoint_dir=directory, max_episodes=2)


def test_state_of_another_kind_of_agent_names_both(tmp_path: Path) -> None:
    optimizer(tmp_path / "ppo", 2).run()
    with pytest.raises(ValueError, match="agent was a TorchPPOAgent, not a TorchDQNAgent"):
        other_agent(tmp_path / "dqn", "dqn").resume(tmp_path / "ppo")


def test_resume_that_fails_leaves_both_directories_and_the_agent_as_they_were(tmp_path: Path) -> None:
    optimizer(tmp_path / "old", 2).run()
    run = other_agent(tmp_path / "new", "ppo", (8,))
    run.run()
    before = weights(run, tmp_path / "before")
    old, new = contents(tmp_path / "old"), contents(tmp_path / "new")
    with pytest.raises(RuntimeError, match=r"has shape \[64, 4\], not \[8, 4\]"):
        run.resume(tmp_path / "old")
    assert weights(run, tmp_path / "after") == before
    assert contents(tmp_path / "new") == new
    run.run()  # a new run where the old one was
    assert run.registry.checkpoint_dir == str(tmp_path / "new")
    assert contents(tmp_path / "old") == old
    assert contents(tmp_path / "new") != new


def test_part_that_fails_after_others_were_loaded_takes_them_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    optimizer(tmp_path / "old", 3).run()
    run = optimizer(tmp_path / "new", 3, seed=7)
    before = weights(run, tmp_path / "before")
    load = run.controller.scheduler.load_state_dict

    def fail(state: Any) -> None:
        load(state)
        monkeypatch.undo()
        raise ValueError("no")

    monkeypatch.setattr(run.controller.scheduler, "load_state_dict", fail)
    with pytest.raises(ValueError, match="no"):
        run.resume(tmp_path / "old")
    assert weights(run, tmp_path / "after") == before
    assert (run.windows, run.controller.scheduler.total_episodes) == (0, 0)


@pytest.mark.slow
def test_off_policy_run_killed_at_random_moments_ends_with_the_same_bits(tmp_path: Path) -> None:
    runs = subprocess.run(
        [sys.executable, KILLABLE, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert runs.returncode == 0, runs.stdout
    wanted, found = (load_state(tmp_path / name / "final.safetensors") for name in ("whole", "killed"))
    assert_same(found, wanted, "last")
    assert wanted["experience"]["buffer"]["replay"]["rows"]["pushed"] > 300
    assert {path.name for path in (tmp_path / "killed").glob("*.replay/*")} == segments_of(
        tmp_path / "killed"
    )


def segments_of(directory: Path) -> set[str]:
    """The names of the segments that the state in a directory refers to."""
    (path,) = directory.glob("run_state-*.safetensors")
    rows = load_state(path)["agent"]["experience"]["buffer"]["replay"]["rows"]
    return {segment[0] for segment in rows["segments"]}


# --- what killed runs left ----------------------------------------------------------------------


def ended_mark() -> str:
    """The mark of a process that has ended, in the names of its files."""
    process = subprocess.Popen([sys.executable, "-S", "-c", ""])
    process.wait()
    return owner_mark().replace(f"-{os.getpid()}", f"-{process.pid}")


def test_next_run_in_a_directory_deletes_what_killed_ones_left_half_written(tmp_path: Path) -> None:
    mark, mine = ended_mark(), owner_mark()
    memory = Path(tempfile.gettempdir()) / f"optix_fast-{mark}-x"
    (memory / "weights").mkdir(parents=True)
    for who in (mark, mine):
        (tmp_path / f".tmp_snapshot_1_{who}" / "weights").mkdir(parents=True)
        (tmp_path / f".run_state-old.safetensors.{who}-12.tmp").touch()
        (tmp_path / f"run_state-none{who}.replay").mkdir()  # transitions that no state refers to
        (tmp_path / f"run_state-none{who}.replay" / f"rows-0-9-12{who}.safetensors").touch()
    of_state = tmp_path / "run_state-old.replay"
    of_state.mkdir()
    (tmp_path / "run_state-old.safetensors").touch()
    for name in (f"rows-0-9-12{mark}.safetensors", f".rows-9-12-1{mark}.safetensors.{mark}-1.tmp"):
        (of_state / name).touch()
    optimizer(tmp_path, 1, run_id="new").run()
    assert not memory.exists()
    assert not [path for path in tmp_path.rglob("*") if mark in path.name and path.parent != of_state]
    assert [path.name for path in of_state.iterdir()] == [f"rows-0-9-12{mark}.safetensors"]
    assert len([path for path in tmp_path.rglob("*") if mine in path.name]) == 4


# --- snapshots ----------------------------------------------------------------------------------


def save(registry: CheckpointRegistry, agent: Any, window: int, score: float) -> None:
    registry.save(agent, EvalMetrics(score, {}, window), agent.get_hyperparams())


def windows_of(registry: CheckpointRegistry) -> list[int]:
    return [entry["episode_id"] for entry in registry.entries()]


def test_snapshots_that_a_state_refers_to_are_kept_until_the_next_state(
    tmp_path: Path, fake_agent: Any
) -> None:
    registry = CheckpointRegistry(tmp_path, max_snapshots=1, write_interval=0.0)
    save(registry, fake_agent, 0, 1.0)
    registry.hold()
    save(registry, fake_agent, 1, 2.0)
    save(registry, fake_agent, 2, 3.0)
    assert windows_of(registry) == [2]
    assert len(list(tmp_path.glob("snapshot_*"))) == 2  # the best, and the one held back
    registry.release()
    assert len(list(tmp_path.glob("snapshot_*"))) == 1


def test_going_back_deletes_what_came_later_and_finds_what_was_there(tmp_path: Path, fake_agent: Any) -> None:
    registry = CheckpointRegistry(tmp_path, max_snapshots=1, write_interval=0.0)
    save(registry, fake_agent, 0, 1.0)
    registry.hold()
    save(registry, fake_agent, 5, 2.0)
    fresh = CheckpointRegistry(tmp_path, max_snapshots=1, write_interval=0.0, run_id=registry.run_id)
    fresh.go_back(registry.run_id, window=5)
    assert windows_of(fresh) == [0]
    assert fresh.best is not None and fresh.best.eval_metrics.primary_score == 1.0
    assert len(list(tmp_path.glob("snapshot_*"))) == 1
