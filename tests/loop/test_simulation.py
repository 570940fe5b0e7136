"""The promises of docs/loop.md about noisy scores, on some of the simulated processes and fewer seeds."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

SEEDS = range(30_000, 30_030)


def _load() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "simulate_loop.py"
    spec = importlib.util.spec_from_file_location("simulate_loop", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["simulate_loop"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


simulation = _load()
PROCESSES = {process.name: process for process in simulation.PROCESSES}


@pytest.mark.parametrize("name", ["flat", "flat around zero"])
def test_flat_noisy_score_stops_within_two_hundred_windows_and_seldom_alarms(name: str) -> None:
    row = simulation.summarise(PROCESSES[name], SEEDS)
    assert row.by_200 >= 27
    assert row.false_alarms <= 4


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ramp", "ramp from below zero"])
def test_steady_ramp_never_stops(name: str) -> None:
    assert simulation.summarise(PROCESSES[name], SEEDS).stopped == 0


@pytest.mark.slow
def test_slow_ramp_seldom_stops() -> None:
    assert simulation.summarise(PROCESSES["slow ramp"], SEEDS).stopped <= 1


@pytest.mark.parametrize("name", ["collapse, to a half, σ 2 %", "collapse, to a fifth, σ 5 %"])
def test_collapse_is_found_out_within_three_evaluations(name: str) -> None:
    row = simulation.summarise(PROCESSES[name], SEEDS)
    assert row.collapses >= 25
    assert row.within_3 >= 0.95 * row.collapses


def test_the_names_of_the_processes_are_unique() -> None:
    assert len(PROCESSES) == len(simulation.PROCESSES)
