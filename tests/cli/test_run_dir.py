"""What lies in a run directory, whose it is, and how a run there goes on."""

from __future__ import annotations

import csv
import json
import math
import os
import re
import stat
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from optix_fast.buffers import ReplaySegments
from optix_fast.buffers.ring import Ring
from optix_fast.cli.run_dir import RunDir
from optix_fast.cli.train import TrainResult, make_env_fn, make_run_agent, resume, train
from optix_fast.config import TrainConfig
from optix_fast.loop import resume as state_of_run


def config(**changes: Any) -> TrainConfig:
    settings: dict[str, Any] = {
        "env_id": "CartPole-v1",
        "algo": "ppo",
        "steps": 128,
        "n_envs": 2,
        "n_steps": 16,
    }
    return TrainConfig.from_dict({**settings, "target_score": 1000.0, **changes})


def quick(where: Path, **changes: Any) -> TrainResult:
    return train(config(**changes), where, show_progress=False)


def rows(where: Path) -> list[dict[str, str]]:
    with (where / "progress.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_default_directories_name_the_algorithm_and_never_collide(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("time.strftime", lambda form: "20300102-030405")
    names = []
    for algo in ("ppo", "ppo", "dqn", "ppo"):
        run = RunDir.create(None, config(algo=algo, env_id="ALE/Pong-v5"))
        names.append(str(run.path))
        run.release()
    first = "runs/ALE-Pong-v5-ppo-seed0-20300102-030405"
    assert names == [first, f"{first}-2", first.replace("ppo", "dqn"), f"{first}-3"]


def test_directory_in_use_is_refused_with_its_holder(tmp_path: Path) -> None:
    holder = RunDir.create(tmp_path / "run", config())
    for attempt in (lambda: resume(tmp_path / "run"), lambda: quick(tmp_path / "run")):
        with pytest.raises(ValueError, match=r"in use by process \d+ on \S+ since "):
            attempt()
    holder.release()
    with pytest.raises(ValueError, match="already exists and is not empty"):
        quick(tmp_path / "run")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "config.yaml", "progress.csv", "tensorboard",
    ]  # fmt: skip


def test_run_that_was_killed_before_its_first_state_says_how_to_start_anew(tmp_path: Path) -> None:
    RunDir.create(tmp_path / "run", config()).release()
    with pytest.raises(ValueError, match=r"no run state to resume from: .* train --config .*config\.yaml"):
        resume(tmp_path / "run")


def test_finished_run_trains_on_only_with_a_larger_total(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert quick(run).windows == 4
    with pytest.raises(ValueError, match=r"has finished \(budget\) after 128 .* larger total"):
        resume(run)
    with pytest.raises(ValueError, match="has taken 128: it must be at least 130, got 128"):
        resume(run, steps=128)
    assert len(rows(run)) == 4
    further = resume(run, show_progress=False, steps=256)
    assert (further.stop_reason, further.windows, further.env_steps) == ("budget", 8, 256)
    assert [int(row["window"]) for row in rows(run)] == list(range(8))
    assert TrainConfig.from_yaml(run / "config.yaml").steps == 256


def test_policies_are_as_private_as_the_other_files_of_a_run(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        quick(tmp_path / "run")
    finally:
        os.umask(before)
    modes = {name: stat.S_IMODE((tmp_path / "run" / name).stat().st_mode) for name in ("best", "last")}
    assert modes == {"best": 0o750, "last": 0o750}


def test_solved_run_trains_on_without_its_target(tmp_path: Path) -> None:
    run = tmp_path / "run"
    solved = quick(run, target_score=1.0, confirm_episodes=2)
    assert solved.stop_reason == "solved"
    further = resume(run, show_progress=False, steps=128)
    assert (further.stop_reason, further.env_steps) == ("budget", 128)
    assert TrainConfig.from_yaml(run / "config.yaml").target_score is None


def test_run_killed_while_its_policy_was_chosen_does_not_train_on(tmp_path: Path) -> None:
    run = tmp_path / "run"
    solved = quick(run, target_score=1.0, confirm_episodes=2)
    (run / "summary.json").unlink()
    again = resume(run, show_progress=False)
    assert (again.stop_reason, again.windows) == ("solved", solved.windows)


def test_what_a_killed_process_left_half_written_is_deleted(tmp_path: Path) -> None:
    run = tmp_path / "run"
    quick(run)
    (run / "summary.json").unlink()
    (run / ".policy-abc").mkdir()
    (run / ".policy-abc" / "actor.safetensors").write_bytes(b"half")
    for name in (".summary.json.1-2.tmp", "checkpoints/.run_state-x.safetensors.1-2.tmp"):
        (run / name).write_bytes(b"half")
    (run / "checkpoints" / ".tmp_snapshot_1_2").mkdir()
    resume(run, show_progress=False)
    left = [p.name for p in (*run.iterdir(), *(run / "checkpoints").iterdir()) if p.name.startswith(".")]
    assert left in ([], [".lock"])


def test_no_part_of_a_run_copies_its_whole_replay_or_writes_it_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied: list[int] = []
    written: list[int] = []
    rows_between = Ring.rows_between

    def noted(ring: Ring, first: int, end: int) -> dict[str, Any]:
        written.append(end - first)
        return rows_between(ring, first, end)

    monkeypatch.setattr(Ring, "state_dict", lambda ring: copied.append(ring.size))
    monkeypatch.setattr(Ring, "rows_between", noted)
    monkeypatch.setattr(state_of_run, "ReplaySegments", partial(ReplaySegments, segment_bytes=10_000))
    options = {"algo": "dqn", "hyperparams": {"learning_starts": 1_000}, "state_interval": 0.0}
    windows = quick(tmp_path / "run", steps=1_280, n_steps=64, **options).windows
    assert windows == 10
    # With a window's rows, a write holds those that were in the newest segment already, some 100.
    assert 1_280 <= sum(written) < 2 * 1_280
    written.clear()
    resume(tmp_path / "run", show_progress=False, steps=1_280 + 128)
    assert 128 <= sum(written) < 3 * 128
    assert not copied


@pytest.mark.parametrize(("is_killed", "algo"), [(False, "ppo"), (True, "ppo"), (True, "sac")])
def test_run_in_which_no_episode_ended_keeps_its_last_policy(
    tmp_path: Path, is_killed: bool, algo: str
) -> None:
    run = tmp_path / "run"
    settings = config(env_id="Pendulum-v1", algo=algo, steps=128, target_score=None)
    result = train(settings, run, show_progress=False)
    assert math.isnan(result.best_score)
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["best_score"], summary["chosen_policy"]) == (None, "last")
    if is_killed:
        for name in ("best", "last"):
            for path in (run / name).iterdir():
                path.unlink()
            (run / name).rmdir()
        (run / "summary.json").unlink()
    env = make_env_fn(settings)()
    agent = make_run_agent(settings, env)
    remark = RunDir.open(run)[0].load_policy(agent)
    env.close()
    assert remark is not None and re.match(r"no episode (had )?ended in the run", remark)
    assert agent.env_steps == (128 if is_killed else 0)
