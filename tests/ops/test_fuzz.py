"""Every argument of every op with wrong kinds, shapes, types, devices, sizes: an exception, never a crash."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import pytest

SCRIPT = pathlib.Path(__file__).parent / "fuzz_ops.py"


@pytest.mark.parametrize("op", ["gae", "ppo_loss", "random", "sum_tree", "tanh_normal"])
def test_wrong_arguments_are_refused(op, tmp_path):
    # In a process of its own: a crash would take the test run with it.
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", str(SCRIPT), op],
        cwd=tmp_path,  # not the source tree, which would be imported in place of what is installed
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    last = ran.stdout.splitlines()[-1:]
    assert ran.returncode == 0, f"crashed (exit {ran.returncode}) at {last}: {ran.stderr[-2000:]}"
    assert last == ["all refused"], ran.stdout[ran.stdout.find("went through:") :]
