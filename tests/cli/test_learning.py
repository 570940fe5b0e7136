"""Whole runs on real environments, three seeds each: they solve them and stop by themselves."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


def train_and_evaluate(
    env_id: str, seed: int, where: Path, algo: str = "auto"
) -> tuple[dict[str, float], float]:
    command = [sys.executable, "-m", "optix_fast.cli.main"]
    train = [*command, "train", env_id, "--algo", algo, "--seed", str(seed), "--run-dir", "run", "--quiet"]
    subprocess.run(train, cwd=where, check=True, timeout=900)
    done = subprocess.run(
        [*command, "eval", "run", "--episodes", "100", "--json"],
        cwd=where, check=True, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    summary = json.loads((where / "run" / "summary.json").read_text())
    return summary, json.loads(done.stdout)["return_mean"]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_cartpole_is_solved_within_150_000_steps_and_the_loop_stops(seed: int, tmp_path: Path) -> None:
    summary, mean = train_and_evaluate("CartPole-v1", seed, tmp_path)
    assert summary["stop_reason"] in ("solved", "converged")
    assert summary["env_steps"] <= 150_000
    assert mean >= 475


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_acrobot_is_solved(seed: int, tmp_path: Path) -> None:
    summary, mean = train_and_evaluate("Acrobot-v1", seed, tmp_path)
    assert summary["stop_reason"] in ("solved", "converged")
    assert mean >= -100


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_pendulum_swings_up_within_its_budget(seed: int, tmp_path: Path) -> None:
    _, mean = train_and_evaluate("Pendulum-v1", seed, tmp_path)
    assert mean >= -250


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_dqn_solves_cartpole_within_100_000_steps(seed: int, tmp_path: Path) -> None:
    summary, mean = train_and_evaluate("CartPole-v1", seed, tmp_path, "dqn")
    assert summary["env_steps"] <= 100_000
    assert mean >= 475


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_sac_swings_up_pendulum_within_20_000_steps(seed: int, tmp_path: Path) -> None:
    summary, mean = train_and_evaluate("Pendulum-v1", seed, tmp_path, "sac")
    assert summary["env_steps"] <= 20_000
    assert mean >= -180


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("algo", ["td3", "tqc", "crossq"])
def test_an_off_policy_agent_swings_up_pendulum_within_20_000_steps(
    algo: str, seed: int, tmp_path: Path
) -> None:
    summary, mean = train_and_evaluate("Pendulum-v1", seed, tmp_path, algo)
    assert summary["env_steps"] <= 20_000
    assert mean >= -180
