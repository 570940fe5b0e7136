"""A run that is killed and resumed ends with the same bits as one that is not."""

from __future__ import annotations

import csv
import json
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from command_line import Command, cli
from safetensors.numpy import load_file
from same_state import assert_same, part_with_rows

from optix_fast.cli.train import resume

SETTINGS = """\
env_id: {env_id}
algo: {algo}
steps: {steps}
n_envs: 2
n_steps: 64
tuner: {tuner}
max_snapshots: 2
target_score: 100000.0
state_interval: 0
seed: 7
hyperparams: {hyperparams}
"""


def start(where: Path, config: Path) -> Command:
    return Command("train", "--config", str(config), "--quiet", "--run-dir", str(where), cwd=config.parent)


def evaluations(where: Path) -> list[dict[str, str]]:
    with (where / "progress.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if k not in ("seconds", "steps_per_second")} for row in rows]


def stop_reason_of(where: Path) -> str:
    return str(json.loads((where / "summary.json").read_text())["stop_reason"])


def weights_in(folder: Path) -> dict[str, dict[str, bytes]]:
    # The tensors, not the files: safetensors writes the keys of a header's metadata in any order.
    files = {path.name: load_file(path) for path in folder.iterdir()}
    return {name: {key: array.tobytes() for key, array in file.items()} for name, file in files.items()}


def last_state(where: Path) -> dict[str, Any]:
    return {part: part_with_rows(where / "checkpoints", part) for part in ("agent", "pipeline")}


def kill_after(process: Command, where: Path, rows: int, how: signal.Signals = signal.SIGKILL) -> int:
    progress = where / "progress.csv"
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if progress.is_file() and progress.read_text().count("\n") > rows:
            break
        time.sleep(0.002)
    assert process.poll() is None, "the run ended before it could be killed"
    process.send_signal(how)
    return process.wait()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("env_id", "algo", "tuner", "steps", "hyperparams"),
    [
        ("CartPole-v1", "ppo", "spsa", 4_000, "{learning_rate: 0.001}"),
        ("Pendulum-v1", "ppo", "backoff", 4_000, "{learning_rate: 0.001}"),
        ("CartPole-v1", "dqn", "spsa", 3_000, "{learning_starts: 500, n_step: 3, per_alpha: 0.6}"),
    ],
)
def test_killed_run_resumed_gives_the_same_bits(
    tmp_path: Path, env_id: str, algo: str, tuner: str, steps: int, hyperparams: str
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        SETTINGS.format(env_id=env_id, algo=algo, tuner=tuner, steps=steps, hyperparams=hyperparams)
    )
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert start(whole, config).wait() == 0
    kill_after(start(killed, config), killed, rows=3)
    assert not (killed / "summary.json").exists()
    assert int(evaluations(killed)[-1]["env_steps"]) < steps
    result = resume(killed, show_progress=False)
    assert result.stop_reason == stop_reason_of(whole)
    assert evaluations(killed) == evaluations(whole)
    assert weights_in(killed / "best") == weights_in(whole / "best")
    assert_same(last_state(whole), last_state(killed), "last")
    assert weights_in(killed / "last") == weights_in(whole / "last")


def test_a_run_killed_after_its_last_window_still_keeps_its_last_state(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    hyperparams = "{learning_starts: 100}"
    config.write_text(
        SETTINGS.format(env_id="CartPole-v1", algo="dqn", tuner="none", steps=2_000, hyperparams=hyperparams)
    )
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert start(whole, config).wait() == 0
    # As it stood when the last state was written and nothing had been chosen yet.
    shutil.copytree(whole, killed, ignore=shutil.ignore_patterns("summary.json", "last", "best"))
    resume(killed, show_progress=False)
    assert_same(last_state(whole), last_state(killed), "last")
    assert weights_in(killed / "last") == weights_in(whole / "last")
    assert weights_in(killed / "best") == weights_in(whole / "best")


def test_interrupted_run_resumed_gives_the_same_bits(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        SETTINGS.format(env_id="CartPole-v1", algo="ppo", tuner="none", steps=4_000, hyperparams="{}")
    )
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert start(whole, config).wait() == 0
    assert kill_after(start(cut, config), cut, rows=3, how=signal.SIGINT) == 130
    assert stop_reason_of(cut) == "interrupted"
    assert resume(cut, show_progress=False).stop_reason == stop_reason_of(whole)
    assert evaluations(cut) == evaluations(whole)
    assert weights_in(cut / "best") == weights_in(whole / "best")
    with pytest.raises(ValueError, match="has finished"):
        resume(cut)


def test_what_cannot_be_resumed_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a run directory"):
        resume(tmp_path)
    config = tmp_path / "config.yaml"
    config.write_text(
        SETTINGS.format(env_id="CartPole-v1", algo="ppo", tuner="none", steps=400, hyperparams="{}")
    )
    done = tmp_path / "done"
    assert start(done, config).wait() == 0
    with pytest.raises(ValueError, match="has finished"):
        resume(done)
    (done / "summary.json").unlink()
    (state,) = (done / "checkpoints").glob("run_state-*.safetensors")
    whole = state.read_bytes()
    state.write_bytes(whole[:-3])
    with pytest.raises(ValueError, match="not an intact state file"):
        resume(done)
    state.unlink()
    with pytest.raises(ValueError, match="no run state to resume from"):
        resume(done)


def test_resume_takes_no_other_settings(tmp_path: Path) -> None:
    done = cli("train", "--resume", str(tmp_path), "--seed", "3", cwd=tmp_path)
    assert done.returncode == 2
    assert "--resume takes the run's own settings, not --seed" in done.stderr
