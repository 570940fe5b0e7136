"""The files of a checkpoint directory: how they come from an agent, lie on disk, and are checked.

    <dir>/manifest.json                  list of snapshots, rewritten atomically
    <dir>/snapshot_<id>/metadata.json    one snapshot: score, metrics, hyperparameters, checksums
    <dir>/snapshot_<id>/weights/…        what the agent's save_weights(path) wrote

Everything is named relative to <dir>, so that a directory can be moved.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import reprlib
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from safetensors import SafetensorError, deserialize

from optix_fast.leftovers import owner_mark, temporary_folder
from optix_fast.serialization import atomic_write_json, fsync_directory
from optix_fast.types import NonFiniteError

try:
    import fcntl
except ImportError:  # Windows: one writer per directory
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

Files = dict[str, bytes]  # path relative to the snapshot's folder → content
Entry = dict[str, Any]  # one line of the manifest

_FLOATS = {"F64": np.float64, "F32": np.float32, "F16": np.float16}
_DESCRIPTIONS = ("metrics", "hyperparams", "diagnostics")  # of a snapshot, in its metadata alone
_NUMBERS = ("primary_score", "checkpoint_score", "timestamp")

WEIGHTS = "weights"
METADATA = "metadata.json"
_FOLDER = "snapshot_"
MANIFEST = "manifest.json"


class DamagedSnapshotError(ValueError):
    """A snapshot's files are missing or not what was written."""


# --- agent ↔ bytes ------------------------------------------------------------------------------


def weights_of(agent: Any, expected_size: int | None = None) -> Files:
    """What `agent.save_weights` writes, as bytes.

    The agent writes into a private temporary folder. The path it is given does not exist yet, as
    the seed's agents expect; for an agent that wants it to exist, it is made and the call repeated.

    Args:
        agent: whose weights.
        expected_size: about how many bytes there will be, if that is known.
    """
    with temporary_folder(expected_size) as folder:
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
    with temporary_folder(size_of(files)) as folder:
        for name, content in files.items():
            target = Path(folder) / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        if not files:
            (Path(folder) / WEIGHTS).mkdir()
        agent.load_weights(str(Path(folder) / WEIGHTS))


def check_weights(files: Mapping[str, bytes]) -> None:
    """Look for NaN in weights; files that are not safetensors are the agent's own and not looked into.

    Raises:
        NonFiniteError: a tensor holds one; it is named.
    """
    for name, content in files.items():
        if not name.endswith(".safetensors"):
            continue
        try:
            tensors: Any = deserialize(content)  # type: ignore[no-untyped-call]
        except SafetensorError:
            continue
        for key, tensor in tensors:
            if _holds_nan(tensor["dtype"], tensor["data"]):
                raise NonFiniteError(f"weight {key} in {name}")


def _holds_nan(dtype: str, data: bytes) -> bool:
    if dtype == "BF16":  # the upper half of a float32
        return bool(((np.frombuffer(data, np.uint16) & 0x7FFF) > 0x7F80).any())
    return dtype in _FLOATS and bool(np.isnan(np.frombuffer(data, _FLOATS[dtype])).any())


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
    return f"{_FOLDER}{snapshot_id}"


def write_snapshot(directory: Path, entry: Entry, metadata: Mapping[str, Any], files: Files) -> Entry:
    """Write a snapshot's folder: all of it or nothing. Returns the entry with its checksums.

    Raises:
        OSError: it could not be written; nothing of it is left.
    """
    sums = {name: checksum(content) for name, content in files.items()}
    described = entry | dict(metadata) | {"sha256": sums}
    text = json.dumps(described, indent=2, allow_nan=False).encode("utf-8")
    final = directory / folder_name(entry["snapshot_id"])
    temporary = directory / f".tmp_{final.name}_{owner_mark()}"
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
    try:
        check_weights(files)
    except NonFiniteError as error:
        raise DamagedSnapshotError(f"{folder}: {error}") from error
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
        found = _parse(content)
    except (OSError, ValueError) as error:
        raise DamagedSnapshotError(f"{path} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise DamagedSnapshotError(f"{path} is not a JSON object")
    for name in _DESCRIPTIONS:
        if not isinstance(found.get(name) or {}, dict):
            raise DamagedSnapshotError(f"{path}: {name} is not a JSON object")
    metrics = found.get("metrics") or {}
    for name in ("confirmed_score", "checkpoint_score"):
        if name in metrics and not _is_finite(metrics[name]):
            raise DamagedSnapshotError(f"{path}: {name} must be a finite number, got {_short(metrics[name])}")
    return found


def folder_of(directory: Path, entry: Entry) -> Path:
    """Where a snapshot lies now, wherever its directory was when it was written."""
    return directory / Path(str(entry["snapshot_dir"])).name


# --- the manifest -------------------------------------------------------------------------------


class Manifest:
    """The list of snapshots in a directory, read again whenever the file has changed.

    A manifest that cannot be read, or is missing where there are snapshots, is rebuilt from the snapshots'
    own metadata, with a warning.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._path = directory / MANIFEST
        self._seen: tuple[Any, ...] | None = None
        self._entries: list[Entry] = []

    def entries(self) -> list[Entry]:
        """All snapshots of all runs."""
        try:
            status = self._path.stat()
            stamp: tuple[Any, ...] = (status.st_mtime_ns, status.st_size, status.st_ino)
        except FileNotFoundError:
            stamp = tuple(folder.name for folder in self._folders())
        if stamp != self._seen:
            self._entries = self._read() if stamp else []
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

    def _folders(self) -> list[Path]:
        return sorted(self.directory.glob(f"{_FOLDER}*"))

    def _read(self) -> list[Entry]:
        try:
            found = _parse(self._path.read_bytes())
            if not isinstance(found, list):
                raise ValueError("it is not a list of snapshots")
            for entry in found:
                _check_entry(entry)
            return found
        except FileNotFoundError:
            reason = "missing"
        except ValueError as error:
            reason = f"damaged ({error})"
        logger.warning("%s is %s; rebuilding it from the snapshots' metadata", self._path, reason)
        rebuilt = []
        for folder in self._folders():
            try:
                entry = read_metadata(self.directory, {"snapshot_dir": folder.name})
                entry = {key: value for key, value in entry.items() if key not in _DESCRIPTIONS}
                entry["snapshot_dir"] = folder.name
                _check_entry(entry)
            except ValueError as error:
                logger.warning("%s is left out: %s", folder, error)
                continue
            rebuilt.append(entry)
        return rebuilt


def _parse(content: bytes) -> Any:
    """JSON that somebody else may have written.

    Raises:
        ValueError: it is none, is nested too deeply, or holds an integer of thousands of digits.
    """
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _check_entry(entry: Any) -> None:
    """Raises ValueError unless `entry` is what `write_snapshot` or an older package makes. A folder or file
    that lies elsewhere could be read, overwritten or deleted in its name."""
    if not isinstance(entry, dict):
        raise ValueError(f"a snapshot must be an object, got {type(entry).__name__}")
    folder = entry.get("snapshot_dir")
    if not isinstance(folder, str) or not Path(folder).name.startswith(_FOLDER):
        raise ValueError(f"snapshot_dir must be the name of a folder {_FOLDER}*, got {_short(folder)}")
    for name in _NUMBERS:
        if entry.get(name) is not None and not _is_finite(entry[name]):
            raise ValueError(f"{name} must be a finite number, got {_short(entry[name])}")
    window = entry.get("episode_id")
    if window is not None and not (_is_finite(window) and isinstance(window, int)):
        raise ValueError(f"episode_id must be an integer, got {_short(window)}")
    for name in ("snapshot_id", "run_id"):
        if not isinstance(entry.get(name, ""), str | None):
            raise ValueError(f"{name} must be text, got {_short(entry[name])}")
    if not isinstance(entry.get("confirmed", False), bool):
        raise ValueError(f"confirmed must be true or false, got {_short(entry['confirmed'])}")
    sums = entry.get("sha256")
    if sums is None:
        return
    if not isinstance(sums, dict) or not all(isinstance(value, str) for value in sums.values()):
        raise ValueError(f"sha256 must be an object of texts, got {_short(sums)}")
    for name in sums:
        if PurePath(name).is_absolute() or ".." in PurePath(name).parts:
            raise ValueError(f"sha256 names a file outside of the snapshot: {_short(name)}")


def _is_finite(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond the floats
        return False


def _short(value: Any) -> str:
    return reprlib.repr(value)


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
