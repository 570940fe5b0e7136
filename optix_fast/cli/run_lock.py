"""One process at a time works in a run directory."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path
from typing import IO, Any

try:
    import fcntl
except ImportError:  # Windows: two processes that start within the same millisecond may both get in
    fcntl = None  # type: ignore[assignment]

FILE = "lock"


class RunLock:
    """A file that names the process at work in a directory; it goes when that has ended.

    What a killed process leaves behind is recognised, on the same machine, and taken over.

    Args:
        directory: must exist when the lock is acquired.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / FILE
        self._mine: dict[str, Any] | None = None

    def check(self) -> None:
        """Raise ValueError, naming the holder, if another process holds the lock."""
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            return
        self._check(content)

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            ValueError: another process, or another run of this one, holds it; it is named.
            OSError: the file cannot be written.
        """
        pid = os.getpid()
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        mine = {"pid": pid, "host": socket.gethostname(), "since": since, "started": _started(pid)}
        while True:
            with open(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644), "r+b") as file:
                if not self._is_exclusive(file):
                    continue
                self._check(file.read())
                file.seek(0)
                file.truncate()
                file.write(json.dumps(mine).encode("utf-8"))
                self._mine = mine
                return

    def release(self) -> None:
        """Give the lock back; without effect where it is not held."""
        if self._mine is None:
            return
        try:
            if _parsed(self._path.read_bytes()) == self._mine:
                self._path.unlink()
        except FileNotFoundError:
            pass
        self._mine = None

    def _is_exclusive(self, file: IO[bytes]) -> bool:
        """Keep others from reading and writing it until it is closed; False when it was deleted meanwhile."""
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)
        try:
            return os.path.samestat(os.fstat(file.fileno()), os.stat(self._path))
        except FileNotFoundError:
            return False

    def _check(self, content: bytes) -> None:
        holder = _parsed(content)
        if holder is None or not _is_alive(holder):
            return
        hint = ""
        if holder["host"] != socket.gethostname():
            hint = f"; if that machine no longer runs it, delete {self._path}"
        raise ValueError(
            f"{self._path.parent} is in use by process {holder['pid']} on {holder['host']} since "
            f"{holder['since']}{hint}"
        )


def _parsed(content: bytes) -> dict[str, Any] | None:
    """The holder; None for what a process left that was killed while it wrote."""
    try:
        found = json.loads(content)
    except ValueError:
        return None
    known = isinstance(found, dict) and {"pid", "host", "since", "started"} <= found.keys()
    return found if known and isinstance(found["pid"], int) else None


def _is_alive(holder: dict[str, Any]) -> bool:
    """Whether the holder still runs; on another machine that cannot be known."""
    if holder["host"] != socket.gethostname():
        return True
    try:
        os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return False
    except OSError:  # it belongs to another user
        return True
    # The number may have been given to another process since.
    return bool(_started(holder["pid"]) == holder["started"])


def _started(pid: int) -> str | None:
    """When a process began, in ticks since the machine did; None where that cannot be read."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None
