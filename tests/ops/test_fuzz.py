"""Every argument of every op with wrong kinds, shapes, types, devices, sizes: an exception, never a crash."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import pytest

SCRIPT = pathlib.Path(__file__).parent / "fuzz_ops.py"
OPS = ["gae", "ppo_loss", "random", "sum_tree", "tanh_normal"]


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    # In a process of its own: a crash would take the test run with it. Not in the source tree, which would be
    # imported in place of what is installed.
    return subprocess.run(
        [sys.executable, "-W", "ignore", str(SCRIPT), *OPS],
        cwd=tmp_path_factory.mktemp(
            "fuzz"
        ),  # the source tree would be imported in place of what is installed
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("op", OPS)
def test_wrong_arguments_are_refused(op, ran):
    lines = ran.stdout.splitlines()
    result = [line for line in lines if line.startswith(f"{op}: ")]
    assert result == [f"{op}: all refused"], f"exit {ran.returncode} at {lines[-1:]}: {ran.stderr[-2000:]}"


def test_nothing_crashes_the_process(ran):
    assert ran.returncode == 0, f"at {ran.stdout.splitlines()[-1:]}: {ran.stderr[-2000:]}"
