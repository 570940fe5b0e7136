"""The command line, in this process or in one that a test may interrupt and kill.

Importing torch takes longer than what most of these tests do with it, so it is imported once: processes
are forked from a server that has imported the command line (multiprocessing's forkserver: single-threaded,
and free of what the tests did).
"""

from __future__ import annotations

import functools
import io
import multiprocessing
import os
import runpy
import signal
import sys
import tempfile
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from multiprocessing import forkserver
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from optix_fast.cli.main import main

_CONTEXT = multiprocessing.get_context("forkserver")


@functools.cache
def _start_server() -> None:
    """Let the server import what the tests import: it looks for modules in its folder and in PYTHONPATH only,
    and its folder must not be the source tree, which would be imported in place of what is installed."""
    _CONTEXT.set_forkserver_preload(
        [
            "command_line", "optix_fast.cli.train", "optix_fast.cli.learning_curve", "matplotlib.pyplot",
            "gymnasium.envs.classic_control",
            "torch._dynamo",  # which the first optimizer imports otherwise, in each of the processes
        ]
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tempfile.gettempdir())
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
        forkserver.ensure_running()


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


def cli(*arguments: str, cwd: Path) -> Done:
    """The command in this process."""
    before, argv = Path.cwd(), sys.argv
    stdout, stderr = io.StringIO(), io.StringIO()
    os.chdir(cwd)
    sys.argv = ["optix-fast", *arguments]
    try:
        with redirect_stdout(stdout), redirect_stderr(stderr), pytest.raises(SystemExit) as exit_info:
            main()
    finally:
        os.chdir(before)
        sys.argv = argv
    return Done(int(exit_info.value.code or 0), stdout.getvalue(), stderr.getvalue())


class Command:
    """The command in a process of its own; as much of subprocess.Popen as these tests need.

    Args:
        arguments: of the command.
        cwd: where it runs.
        output: the file for what it prints, all of it; None for none.
    """

    def __init__(self, *arguments: str, cwd: Path, output: Path | None = None) -> None:
        self._process = _fork(main, ("optix-fast", *arguments), cwd, output)
        self.pid = self._process.pid

    def poll(self) -> int | None:
        """The return code, −signal if it was killed; None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float = 120.0) -> int:
        """The return code, once it has ended."""
        return _join(self._process, timeout)

    def send_signal(self, number: int) -> None:
        assert self.pid is not None
        os.kill(self.pid, number)

    def send_signal_to_its_group(self, number: int) -> None:
        """As a terminal's Ctrl-C reaches a command and the processes that it started."""
        assert self.pid is not None
        os.killpg(self.pid, number)


def run_script(path: Path, cwd: Path, timeout: float) -> str:
    """What the script prints, run as `python path` would in `cwd`; it must not fail or take longer."""
    output = cwd / f"{path.stem}.output"
    code = _join(_fork(_script, (str(path),), cwd, output), timeout)
    assert code == 0, output.read_text()
    return output.read_text()


def _fork(target: Callable[[], None], argv: tuple[str, ...], cwd: Path, output: Path | None) -> Any:
    _start_server()
    shown = os.devnull if output is None else str(output)
    process = _CONTEXT.Process(target=_run, args=(target, argv, str(cwd), shown))
    process.start()
    return process


def _join(process: Any, timeout: float) -> int:
    process.join(timeout)
    if process.exitcode is None:
        process.kill()
        pytest.fail(f"it still ran after {timeout} s")
    code: int = process.exitcode
    return code


def _run(target: Callable[[], None], argv: tuple[str, ...], cwd: str, output: str) -> None:
    # A shell starts what it puts in the background with SIGINT ignored, and children inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.setpgid(0, 0)
    os.chdir(cwd)
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for shown in (1, 2):
        os.dup2(file, shown)
    sys.argv = list(argv)
    target()


def _script() -> None:
    sys.path.insert(0, str(Path(sys.argv[0]).parent))
    runpy.run_path(sys.argv[0], run_name="__main__")
