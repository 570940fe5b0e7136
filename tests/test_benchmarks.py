"""The documented command, pytest benchmarks --benchmark-only, on one small row."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from optix_fast import backend

ROOT = Path(__file__).parents[1]
ROW = "gae and 128x8 and (native or reference or tianshou or cuda)"


def benchmarks(where: Path, what: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run elsewhere: the source tree would be imported in place of what is installed."""
    command = ["pytest", str(ROOT / what), "--benchmark-only", "--benchmark-max-time=0.01", *options]
    # pytest-benchmark measures nothing in a worker, which it knows by these variables.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_XDIST")}
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=where,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_documented_command_measures_groups_and_compares(tmp_path: Path) -> None:
    saved, stored = tmp_path / "row.json", f"--benchmark-storage=file://{tmp_path}"
    done = benchmarks(
        tmp_path, "benchmarks", "-k", ROW, f"--benchmark-json={saved}", stored, "--benchmark-save=before"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    ours = "native" if backend() == "native" else "reference"
    line = next(line for line in done.stdout.splitlines() if line.startswith("gae-128x8-cpu"))
    assert line.split()[1] == ours
    measured = json.loads(saved.read_text())["benchmarks"]
    assert {bench["group"] for bench in measured} >= {"gae-128x8-cpu"}
    assert f"bench_gae.py::test_gae[128x8-cpu-{ours}]" in {bench["fullname"] for bench in measured}
    again = benchmarks(
        tmp_path, "benchmarks/bench_gae.py", "-k", f"128x8-cpu-{ours}", stored, "--benchmark-compare"
    )
    assert again.returncode == 0, again.stdout + again.stderr
    assert f"gae[128x8-cpu-{ours}] (0001" in again.stdout
