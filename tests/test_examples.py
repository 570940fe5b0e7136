"""Every example runs as a user runs it, in less than a minute, and reaches what it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from command_line import run_script

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name: str, cwd: Path) -> str:
    return run_script(EXAMPLES / name, cwd, timeout=60.0)


def last_number(text: str) -> float:
    return float(re.findall(r"-?\d+(?:\.\d+)?", text.splitlines()[-1])[0])


@pytest.mark.parametrize("name", ["quick_start.py", "custom_agent.py"])
def test_cartpole_examples_reach_their_target(name: str, tmp_path: Path) -> None:
    last = run(name, tmp_path).splitlines()[-1]
    assert last.startswith("solved: best score"), last
    assert last_number(last) >= 475


@pytest.mark.slow
def test_gaussian_example_learns_to_swing_up(tmp_path: Path) -> None:
    assert last_number(run("gaussian_ppo.py", tmp_path)) > -900


@pytest.mark.slow
def test_live_example_learns_over_several_connections(tmp_path: Path) -> None:
    last = run("live_socket.py", tmp_path).splitlines()[-1]
    score, _, connections = (float(number) for number in re.findall(r"\d+(?:\.\d+)?", last))
    assert last.startswith("solved")
    assert score >= 400
    assert connections >= 2


@pytest.mark.slow
def test_forecaster_example_comes_near_the_noise_of_its_series(tmp_path: Path) -> None:
    assert 0.095 < last_number(run("online_forecaster.py", tmp_path)) < 0.11  # the noise is 0.1


@pytest.mark.slow
def test_bonus_example_finds_the_goal(tmp_path: Path) -> None:
    assert last_number(run("rnd_mountain_car.py", tmp_path)) > -160


def test_no_example_is_left_out() -> None:
    source = Path(__file__).read_text()
    assert [p.name for p in EXAMPLES.glob("*.py") if f'"{p.name}"' not in source] == []
