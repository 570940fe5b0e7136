"""Shared by all tests: one torch thread, parallel workers, tests skipped by name where what they need is not
there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from optix_fast import backend, build_info

MOST_WORKERS = 4  # each of them imports torch

torch.set_num_threads(1)


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Folders run in parallel workers; a file or a single test is done sooner in this process.

    Here, not as `-n` in the settings: without pytest-xdist (`-p no:xdist`) that would be an error.
    """
    option = config.option
    worker = hasattr(config, "workerinput")
    chosen = getattr(option, "numprocesses", 0) is not None or option.dist != "no"
    watched = option.usepdb or option.trace or option.collectonly or option.capture == "no"
    if worker or chosen or watched or not any(Path(argument).is_dir() for argument in config.args):
        return
    option.numprocesses = min(os.cpu_count() or 1, MOST_WORKERS)
    option.dist = "worksteal"  # neighbours stay together, so that most fixtures of a module are made once


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = {}
    if not torch.cuda.is_available():
        missing["gpu"] = "no CUDA device is visible"
    if backend() != "native":
        missing["native"] = f"the compiled core is not in use: {build_info()['reason']}"
    for name, reason in missing.items():
        for item in items:
            if item.get_closest_marker(name) is not None:
                item.add_marker(pytest.mark.skip(reason=reason))
