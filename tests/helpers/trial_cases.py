"""Searches that take no time, importable in worker processes."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from tuning import NoisyParabola, QuadraticAgent

from optix_fast.trials import TrialOrchestrator

SPACE = {"x": ("float", 0.0, 1.0)}


def agent_of(params: dict[str, Any]) -> QuadraticAgent:
    return QuadraticAgent(params.get("x", 0.5))


def pipeline() -> NoisyParabola:
    return NoisyParabola(0, sigma=0.0)


def search(**kwargs: Any) -> TrialOrchestrator:
    """1000 − 400·(x − 0.6)², over windows of one step."""
    options: dict[str, Any] = {
        "agent_factory": agent_of, "pipeline_factory": pipeline, "param_space": SPACE, "n_trials": 8,
        "trial_steps": 3, "seed": 0, "n_startup_trials": 4,
    }  # fmt: skip
    return TrialOrchestrator(**{**options, **kwargs})


class DiesOnce:
    """Makes agents; the process that makes the first one is killed."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __call__(self, params: dict[str, Any]) -> QuadraticAgent:
        try:
            self.mark.touch(exist_ok=False)
        except FileExistsError:
            return agent_of(params)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("still alive")


class Sleeps:
    """Makes agents, after a while; tells which process made them."""

    def __init__(self, folder: Path, seconds: float) -> None:
        self.folder, self.seconds = folder, seconds

    def __call__(self, params: dict[str, Any]) -> QuadraticAgent:
        (self.folder / f"{os.getpid()}-{params['x']}").touch()
        time.sleep(self.seconds)
        return agent_of(params)
