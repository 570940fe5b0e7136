"""The files of a checkpoint directory: how they come from an agent, lie on disk, and are checked.

    <dir>/manifest.json                  list of snapshots, rewritten atomically
    <dir>/snapshot_<id>/metadata.json    one snapshot: score, metrics, hyperparameters, checksums
    <dir>/snapshot_<id>/weights/…        whatever the agent's save_weights(path) wrote

Everything is named relative to <dir>, so that a directory can be moved.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from optix_fast.serialization import atomic_write_json, fsync_directory

try:
    import fcntl
except ImportError:  # Windows: one writer per directory
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

Files = dict[str, bytes]  # path relative to the snapshot's folder → content
Entry = dict[str, Any]  # one line of the manifest

WEIGHTS = "weights"
METADATA = "metadata.json"
MANIFEST = "manifest.json"


class DamagedSnapshotError(ValueError):
    """A snapshot's files are missing or not what was written."""


# --- agent ↔ bytes ------------------------------------------------------------------------------


# A file system in memory: passing weights through it costs a tenth of what a disk takes.
_MEMORY = Path("/dev/shm")


def _temporary_folder(size: int | None) -> tempfile.TemporaryDirectory[str]:
    """A private folder for about `size` bytes, in memory where there is plenty of room."""
    fits = False
    if size is not None and os.access(_MEMORY, os.W_OK | os.X_OK):
        fits = shutil.disk_usage(_MEMORY).free > 4 * size + 2**24
    return tempfile.TemporaryDirectory(prefix="optix_fast-", dir=_MEMORY if fits else None)


def weights_of(agent: Any, expected_size: int | None = None) -> Files:
    """What `agent.save_weights` writes, as bytes.

    The agent writes into a private temporary folder. The path it is given does not exist yet, as
    the seed's agents expect; for an agent that wants it to exist, it is made and the call repeated.

    Args:
        agent: whose weights.
        expected_size: about how many bytes there will be, if that is known.
    """
    with _temporary_folder(expected_size) as folder:
        path = Path(folder) / WEIGHTS
        try:
            agent.save_weights(str(path))
        except FileNotFoundError:
            if path.exists():
                raise
            path.mkdir()
            agent.save_weights(str(path))
        return _read_folder(Path(folder))


def load_weights(agent: Any, files: Mapping[str, bytes]) -> None:
    """Let `agent.load_weights` read `files`."""
    with _temporary_folder(size_of(files)) as folder:
        for name, content in files.items():
            target = Path(folder) / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        if not files:
            (Path(folder) / WEIGHTS).mkdir()
        agent.load_weights(str(Path(folder) / WEIGHTS))


def size_of(files: Mapping[str, bytes]) -> int:
    """Bytes in all."""
    return sum(len(content) for content in files.values())


def _read_folder(folder: Path) -> Files:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


# --- bytes ↔ disk -------------------------------------------------------------------------------


def checksum(content: bytes) -> str:
    """SHA-256, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def folder_name(snapshot_id: str) -> str:
    """The folder of a snapshot within its directory."""
    return f"snapshot_{snapshot_id}"


def write_snapshot(directory: Path, entry: Entry, metadata: Mapping[str, Any], files: Files) -> Entry:
    """Write a snapshot's folder: all of it or nothing. Returns the entry with its checksums.

    Raises:
        OSError: it could not be written; nothing of it is left.
    """
    sums = {name: checksum(content) for name, content in files.items()}
    described = entry | dict(metadata) | {"sha256": sums}
    text = json.dumps(described, indent=2, allow_nan=False).encode("utf-8")
    final = directory / folder_name(entry["snapshot_id"])
    temporary = directory / f".tmp_{final.name}_{os.getpid()}"
    try:
        temporary.mkdir(parents=True)
        if not files:
            (temporary / WEIGHTS).mkdir()
        for name, content in {**files, METADATA: text}.items():
            target = temporary / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with open(target, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        for folder in {(temporary / name).parent for name in files} | {temporary}:
            fsync_directory(folder)
        os.replace(temporary, final)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return entry | {"sha256": {**sums, METADATA: checksum(text)}}


def read_snapshot(directory: Path, entry: Entry) -> Files:
    """The weight files of a snapshot, checked. (Entries without checksums, of older packages, are
    read as they are.)

    Raises:
        DamagedSnapshotError: a file is missing or its checksum does not match.
    """
    folder = folder_of(directory, entry)
    sums = entry.get("sha256")
    if sums is None:
        if not folder.is_dir():
            raise DamagedSnapshotError(f"{folder} is missing")
        return {name: data for name, data in _read_folder(folder).items() if name != METADATA}
    files = {}
    for name, expected in sums.items():
        try:
            content = (folder / name).read_bytes()
        except OSError as error:
            raise DamagedSnapshotError(f"{folder / name} cannot be read: {error.strerror}") from error
        if checksum(content) != expected:
            raise DamagedSnapshotError(f"{folder / name} does not match its checksum")
        if name != METADATA:
            files[name] = content
    return files


def read_metadata(directory: Path, entry: Entry) -> dict[str, Any]:
    """The contents of a snapshot's metadata.json.

    Raises:
        DamagedSnapshotError: it is missing or is not what was written.
    """
    path = folder_of(directory, entry) / METADATA
    try:
        content = path.read_bytes()
        expected = (entry.get("sha256") or {}).get(METADATA)
        if expected is not None and checksum(content) != expected:
            raise DamagedSnapshotError(f"{path} does not match its checksum")
        found = json.loads(content)
    except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DamagedSnapshotError(f"{path} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise DamagedSnapshotError(f"{path} is not a JSON object")
    return found


def folder_of(directory: Path, entry: Entry) -> Path:
    """Where a snapshot lies now, wherever its directory was when it was written."""
    return directory / Path(str(entry["snapshot_dir"])).name


# --- the manifest -------------------------------------------------------------------------------


class Manifest:
    """The list of snapshots in a directory, read again whenever the file has changed.

    A manifest that cannot be read is rebuilt from the snapshots' own metadata, with a warning.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._path = directory / MANIFEST
        self._seen: tuple[int, ...] | None = None
        self._entries: list[Entry] = []

    def entries(self) -> list[Entry]:
        """All snapshots of all runs."""
        try:
            status = self._path.stat()
        except FileNotFoundError:
            self._seen, self._entries = None, []
            return []
        stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
        if stamp != self._seen:
            self._entries = self._read()
            self._seen = stamp
        return list(self._entries)

    def write(self, entries: list[Entry]) -> None:
        """Replace the list."""
        atomic_write_json(self._path, entries)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from rewriting the list meanwhile."""
        self.directory.mkdir(parents=True, exist_ok=True)
        with open(self.directory / ".lock", "wb") as file:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _read(self) -> list[Entry]:
        try:
            found = json.loads(self._path.read_bytes())
            if isinstance(found, list) and all(map(_is_entry, found)):
                return found
            reason = "it is not a list of snapshots"
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            reason = str(error)
        logger.warning("%s is damaged (%s); rebuilding it from the snapshots' metadata", self._path, reason)
        rebuilt = []
        for folder in sorted(self.directory.glob("snapshot_*")):
            try:
                entry = read_metadata(self.directory, {"snapshot_dir": folder.name})
            except DamagedSnapshotError as error:
                logger.warning("left out: %s", error)
                continue
            rebuilt.append({k: v for k, v in entry.items() if k not in ("metrics", "hyperparams")})
        return rebuilt


def _is_entry(value: Any) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("snapshot_dir"), str):
        return False
    scores = (value.get("primary_score"), value.get("checkpoint_score"))
    return all(score is None or isinstance(score, int | float) for score in scores)


# --- JSON ---------------------------------------------------------------------------------------


def to_json(value: Any) -> Any:
    """`value` as standard JSON: NaN and infinities as null, numpy as Python, the unknown as text."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, np.ndarray):
        return to_json(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    return str(value)
