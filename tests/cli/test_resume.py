"""A run that is killed and resumed ends with the same bits as one that is not."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from interruptible import heed_interrupts
from safetensors.numpy import load_file

from optix_fast.cli.train import resume
from optix_fast.serialization import load_state

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


def start(where: Path, config: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "optix_fast.cli.main", "train", "--config", str(config), "--quiet"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    # Not in the source tree, which would be imported in place of what is installed.
    return subprocess.Popen(
        [*command, "--run-dir", str(where)], cwd=config.parent, preexec_fn=heed_interrupts, **quiet
    )


def evaluations(where: Path) -> list[dict[str, str]]:
    with (where / "progress.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if k not in ("seconds", "steps_per_second")} for row in rows]


def weights_in(folder: Path) -> dict[str, dict[str, bytes]]:
    # The tensors, not the files: safetensors writes the keys of a header's metadata in any order.
    files = {path.name: load_file(path) for path in folder.iterdir()}
    return {name: {key: array.tobytes() for key, array in file.items()} for name, file in files.items()}


def kill_after(
    process: subprocess.Popen[bytes], where: Path, rows: int, how: signal.Signals = signal.SIGKILL
) -> int:
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if (where / "progress.csv").is_file() and (where / "progress.csv").read_text().count("\n") > rows:
            break
        time.sleep(0.002)
    assert process.poll() is None, "the run ended before it could be killed"
    os.kill(process.pid, how)
    return process.wait()


@pytest.mark.parametrize(
    ("env_id", "algo", "tuner", "steps", "hyperparams"),
    [
        ("CartPole-v1", "ppo", "spsa", 12_000, "{learning_rate: 0.001}"),
        ("Pendulum-v1", "ppo", "backoff", 8_000, "{learning_rate: 0.001}"),
        ("CartPole-v1", "dqn", "spsa", 6_000, "{learning_starts: 500, n_step: 3, per_alpha: 0.6}"),
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
    kill_after(start(killed, config), killed, rows=6)
    assert not (killed / "summary.json").exists()
    kept = len(evaluations(killed))
    result = resume(killed, show_progress=False)
    assert result.stop_reason == "budget"
    assert len(evaluations(killed)) > kept
    assert evaluations(killed) == evaluations(whole)
    assert weights_in(killed / "best") == weights_in(whole / "best")
    one, other = (load_state(run / "last" / "state.safetensors") for run in (whole, killed))
    assert_same(one, other, "last")


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
    one, other = (load_state(run / "last" / "state.safetensors") for run in (whole, killed))
    assert_same(one, other, "last")
    assert weights_in(killed / "best") == weights_in(whole / "best")


def test_interrupted_run_resumed_gives_the_same_bits(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        SETTINGS.format(env_id="CartPole-v1", algo="ppo", tuner="none", steps=12_000, hyperparams="{}")
    )
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert start(whole, config).wait() == 0
    assert kill_after(start(cut, config), cut, rows=6, how=signal.SIGINT) == 130
    assert json.loads((cut / "summary.json").read_text())["stop_reason"] == "interrupted"
    assert resume(cut, show_progress=False).stop_reason == "budget"
    assert evaluations(cut) == evaluations(whole)
    assert weights_in(cut / "best") == weights_in(whole / "best")
    with pytest.raises(ValueError, match=r"has finished \(budget\)"):
        resume(cut)


def assert_same(one: Any, other: Any, where: str) -> None:
    assert type(one) is type(other), where
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_same(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for i, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_same(a, b, f"{where}[{i}]")
    elif hasattr(one, "tobytes"):
        assert one.tobytes() == other.tobytes(), where
    elif hasattr(one, "numpy"):
        assert one.numpy().tobytes() == other.numpy().tobytes(), where
    else:
        assert one == other or one != one, where


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
    with pytest.raises(ValueError, match="no state of a run"):
        resume(done)


def test_resume_takes_no_other_settings(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "optix_fast.cli.main", "train", "--resume", str(tmp_path), "--seed", "3"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert "--resume takes the run's own settings, not --seed" in done.stderr
