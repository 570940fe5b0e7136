"""Ctrl-C and SIGTERM: the files, the messages, and the way to resume."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import Command, cli
from in_threads import in_threads

from optix_fast.cli.interruption import Interruption

TRAIN = (
    "train", "CartPole-v1", "--steps", "10000000", "--target-score", "1000", "--n-envs", "2",
    "-p", "n_steps=32", "--run-dir", "run",
)  # fmt: skip


def start(where: Path, *more: str) -> Command:
    process = Command(*TRAIN, *more, cwd=where, output=where / "output")
    progress = where / "run" / "progress.csv"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if progress.exists() and progress.read_text().count("\n") >= 3:
            break
        time.sleep(0.02)
    assert process.poll() is None, (where / "output").read_text()
    return process


@pytest.mark.parametrize(
    ("number", "status", "vectorization"),
    [
        pytest.param(signal.SIGINT, 130, "async", marks=pytest.mark.slow),
        (signal.SIGTERM, 143, "sync"),
    ],
)
def test_signal_to_the_whole_group_ends_the_run_with_all_that_a_resume_needs(
    tmp_path: Path, number: signal.Signals, status: int, vectorization: str
) -> None:
    process = start(tmp_path, "--vectorization", vectorization)
    process.send_signal_to_its_group(number)
    status_found, output = process.wait(), (tmp_path / "output").read_text()
    assert status_found == status, output
    assert "Traceback" not in output and "BrokenPipe" not in output
    assert "\ninterrupted: CartPole-v1, " in output
    assert "\ngo on: optix-fast train --resume run\n" in output
    run = tmp_path / "run"
    assert json.loads((run / "summary.json").read_text())["stop_reason"] == "interrupted"
    names = {path.name for path in run.iterdir()}
    assert {"best", "last", "learning_curve.png", "summary.json"} <= names
    assert "lock" not in names and not [name for name in names if name.startswith(".")]
    assert len(list((run / "checkpoints").glob("run_state-*.safetensors"))) == 1
    evaluated = cli("eval", "run", "--episodes", "5", "--json", cwd=tmp_path)
    assert json.loads(evaluated.stdout)["episodes"] == 5


def hear(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)
    time.sleep(5.0)  # which the signal cuts short


@pytest.fixture
def heeds_interrupts() -> Iterator[None]:
    """SIGINT as in a terminal: what a shell puts in the background starts with it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeds_interrupts")
def test_signal_is_noted_first_and_then_raised() -> None:
    with Interruption(show=False) as interruption:
        with interruption.deferred():
            os.kill(os.getpid(), signal.SIGTERM)
            assert interruption.signal is signal.SIGTERM
            with pytest.raises(KeyboardInterrupt):
                hear(signal.SIGINT)
        assert (interruption.signal, interruption.is_at_once) == (signal.SIGTERM, False)
        interruption.is_winding_up = True
        with pytest.raises(KeyboardInterrupt):
            hear(signal.SIGTERM)
        assert interruption.is_at_once
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_signal_outside_of_a_deferral_is_raised_at_once() -> None:
    with Interruption(show=False) as interruption:
        with interruption.deferred():
            """No signal comes in it."""
        with pytest.raises(KeyboardInterrupt):
            hear(signal.SIGTERM)
    assert interruption.signal is signal.SIGTERM


def test_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interruption(show=False) as interruption:
            os.kill(os.getpid(), signal.SIGINT)
        assert interruption.signal is None
    finally:
        signal.signal(signal.SIGINT, before)


def test_message_is_written_unless_results_are_being_written(capfd: pytest.CaptureFixture[str]) -> None:
    for is_winding_up in (True, False):
        with Interruption() as interruption, interruption.deferred():
            interruption.is_winding_up = is_winding_up
            os.kill(os.getpid(), signal.SIGTERM)
            assert interruption.signal is signal.SIGTERM
    assert capfd.readouterr().err.splitlines() == [
        "", "optix-fast: ending after this window and saving; once more ends at once",
    ]  # fmt: skip


def test_forked_worker_ignores_sigint_and_ends_by_sigterm(tmp_path: Path) -> None:
    code = """
import os, signal
from optix_fast.cli.interruption import Interruption
signal.signal(signal.SIGINT, signal.default_int_handler)
with Interruption(show=False) as interruption, interruption.deferred():
    worker = os.fork()
    if worker == 0:
        os.kill(os.getpid(), signal.SIGINT)
        if interruption.signal is None:
            os.kill(os.getpid(), signal.SIGTERM)
        os._exit(1)
    print(os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]), interruption.signal)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout == "-15 None\n"


def test_thread_that_is_not_the_main_one_leaves_signals_alone() -> None:
    def handler() -> object:
        with Interruption(show=False):
            return signal.getsignal(signal.SIGTERM)

    assert in_threads(handler) == [signal.SIG_DFL]
