"""Temporary files and folders that name the process that made them: what a killed one left can be deleted.

A name holds the number of the process and a mark of the machine (and container) in which that number means
something. What another machine left in a shared folder is never touched, nor what a live process works on; a
number that has been given to another process since keeps the file, until that one has ended too.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shutil
import socket
import tempfile
import zlib
from collections.abc import Iterable
from pathlib import Path

# A file system in memory: passing weights through it costs a tenth of what a disk takes.
MEMORY = Path("/dev/shm")

_FOLDER = "optix_fast-"  # of those in MEMORY and in the folder for temporary files
_OWNER = re.compile(r"@([0-9a-f]{8})-([0-9]{1,10})(?![0-9])")


@functools.cache
def _machine() -> str:
    namespace = ""
    with contextlib.suppress(OSError):  # only Linux has them
        namespace = os.readlink("/proc/self/ns/pid")
    return f"{zlib.crc32(f'{socket.gethostname()} {namespace}'.encode()):08x}"


def owner_mark() -> str:
    """This process, as a part of a file's name."""
    return f"@{_machine()}-{os.getpid()}"


def is_leftover(name: str) -> bool:
    """Whether a name carries the mark of a process of this machine that has ended."""
    found = _OWNER.search(name)
    if found is None or found[1] != _machine() or os.name == "nt":  # where asking would end the process
        return False
    try:
        os.kill(int(found[2]), 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):  # it belongs to another user, or cannot be asked for
        return False
    return False


def temporary_folder(size: int | None) -> tempfile.TemporaryDirectory[str]:
    """A private folder for about `size` bytes, in memory where there is plenty of room."""
    fits = False
    if size is not None and os.access(MEMORY, os.W_OK | os.X_OK):
        fits = shutil.disk_usage(MEMORY).free > 4 * size + 2**24
    return tempfile.TemporaryDirectory(prefix=f"{_FOLDER}{owner_mark()}-", dir=MEMORY if fits else None)


def delete_temporary_folders() -> None:
    """Delete the temporary folders of processes that have ended. What cannot be deleted stays."""
    for folder in {MEMORY, Path(tempfile.gettempdir())}:
        _delete(path for path in _entries(folder) if path.name.startswith(_FOLDER))


def delete_temporary_files(directory: Path) -> None:
    """Delete what ended processes left half-written in a directory. What cannot be deleted stays."""
    _delete(path for path in _entries(directory) if path.name.startswith("."))


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _delete(paths: Iterable[Path]) -> None:
    for path in paths:
        if not is_leftover(path.name):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                path.unlink()
