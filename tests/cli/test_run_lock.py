"""One process at a time works in a run directory."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from optix_fast.cli.run_lock import FILE, RunLock

HOLD = """
import pathlib, sys
from optix_fast.cli.run_lock import RunLock
lock = RunLock(pathlib.Path.cwd())
print("ready", flush=True)
sys.stdin.readline()
try:
    lock.acquire()
    print("held", flush=True)
except ValueError:
    print("refused", flush=True)
sys.stdin.read()
"""


@contextmanager
def other_process(directory: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that is ready to take the lock of the directory; killed at the end. It starts there: in the
    source tree Python would find that before what is installed."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD], cwd=directory, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert answer(process) == "ready"
            yield process
        finally:
            process.kill()


def let_it_try(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def answer(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_lock_of_a_living_process_is_refused_and_that_of_a_killed_one_taken_over(tmp_path: Path) -> None:
    with other_process(tmp_path) as process:
        let_it_try(process)
        assert answer(process) == "held"
        for attempt in (RunLock(tmp_path).acquire, RunLock(tmp_path).check):
            with pytest.raises(ValueError, match=rf"in use by process {process.pid} on \S+ since \d{{4}}-"):
                attempt()
    lock = RunLock(tmp_path)
    lock.check()
    lock.acquire()
    assert json.loads((tmp_path / FILE).read_text())["pid"] == os.getpid()
    lock.release()
    assert not (tmp_path / FILE).exists()
    lock.release()


def test_second_run_of_the_same_process_is_refused(tmp_path: Path) -> None:
    first = RunLock(tmp_path)
    first.acquire()
    second = RunLock(tmp_path)
    with pytest.raises(ValueError, match=f"process {os.getpid()}"):
        second.acquire()
    second.release()
    assert (tmp_path / FILE).exists()
    first.release()
    second.acquire()


def write(directory: Path, **changes: Any) -> None:
    RunLock(directory).acquire()
    content = json.loads((directory / FILE).read_text())
    (directory / FILE).write_text(json.dumps(content | changes))


def test_number_given_to_another_process_is_not_the_holder(tmp_path: Path) -> None:
    write(tmp_path, started="1")
    RunLock(tmp_path).acquire()


def test_another_machine_cannot_be_asked(tmp_path: Path) -> None:
    write(tmp_path, host="elsewhere", pid=2**22 + 1)
    with pytest.raises(ValueError, match="on elsewhere since .*; if that machine no longer runs it, delete "):
        RunLock(tmp_path).acquire()


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"pid": 1}', '{"pid": "x", "host": 1, "since": 2, "started": 3}']
)
def test_half_written_lock_is_taken_over(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE).write_text(content)
    RunLock(tmp_path).acquire()
    assert json.loads((tmp_path / FILE).read_text())["host"] == socket.gethostname()


def test_of_many_at_once_one_gets_it(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("")
    with ExitStack() as stack:
        many = [stack.enter_context(other_process(tmp_path)) for _ in range(3)]
        for process in many:
            let_it_try(process)
        assert sorted(map(answer, many)) == ["held", "refused", "refused"]


def test_process_of_another_user_holds_its_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, started="1")

    def forbidden(pid: int, number: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", forbidden)
    with pytest.raises(ValueError, match="in use by process"):
        RunLock(tmp_path).acquire()


def test_release_leaves_the_lock_of_another_holder(tmp_path: Path) -> None:
    lock = RunLock(tmp_path)
    lock.acquire()
    (tmp_path / FILE).write_text('{"pid": 1, "host": "elsewhere", "since": "", "started": "1"}')
    lock.release()
    assert (tmp_path / FILE).exists()


def test_longer_content_is_replaced_whole(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("x" * 1000)
    RunLock(tmp_path).acquire()
    assert json.loads((tmp_path / FILE).read_text())["pid"] == os.getpid()


def test_lock_that_was_deleted_while_it_was_waited_for_is_taken_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = os.open
    deleted: list[int] = []

    def open_then_delete(path: Any, *rest: Any) -> int:
        handle = opened(path, *rest)
        if not deleted:
            (tmp_path / FILE).unlink()
            deleted.append(handle)
        return handle

    monkeypatch.setattr(os, "open", open_then_delete)
    RunLock(tmp_path).acquire()
    assert deleted and json.loads((tmp_path / FILE).read_text())["pid"] == os.getpid()


def test_file_is_locked_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fcntl = pytest.importorskip("fcntl")
    blocked: list[bool] = []

    def try_to_lock(lock: RunLock, content: bytes) -> None:
        with (tmp_path / FILE).open() as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        blocked.append(True)

    monkeypatch.setattr(RunLock, "_check", try_to_lock)
    RunLock(tmp_path).acquire()
    assert blocked == [True]
