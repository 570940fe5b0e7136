"""The state of a run on disk, from which a killed run goes on."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import torch

from optix_fast._native import backend, build_info
from optix_fast.buffers import ReplaySegments, with_rows
from optix_fast.leftovers import delete_temporary_files, delete_temporary_folders, is_leftover
from optix_fast.loop.checkpoints import CheckpointRegistry
from optix_fast.serialization import load_state, save_state
from optix_fast.types import Stateful

logger = logging.getLogger(__name__)

_PREFIX, _SUFFIX, _SEGMENTS = "run_state-", ".safetensors", ".replay"
_UNNAMED = "run_state.safetensors"  # the name in older versions, for every run

# Seconds from the start to the first write: a run that is killed early is worth resuming too.
_FIRST_AFTER = 2.0
# Pause after a write, in multiples of what it took.
_WRITING_SHARE = 99.0


def state_path(directory: str | os.PathLike[str], run_id: str) -> Path:
    """Where the state of a run lies: every run in a directory has a file of its own."""
    return Path(directory) / f"{_PREFIX}{quote(run_id, safe='')}{_SUFFIX}"


def find_state(directory: str | os.PathLike[str], run_id: str | None) -> Path:
    """The state file of `run_id`; of the only run that there is for None. A file of the older name is taken
    where there is no other.

    Raises:
        ValueError: the directory holds no run, or several to choose from; their run ids are named.
    """
    folder = Path(directory)
    runs = {unquote(p.name[len(_PREFIX) : -len(_SUFFIX)]): p for p in folder.glob(f"{_PREFIX}*{_SUFFIX}")}
    if run_id in runs:
        return runs[run_id]
    unnamed = folder / _UNNAMED
    if not runs and unnamed.is_file():
        return unnamed
    if not runs:
        raise ValueError(f"{directory} holds no run state to resume from (no {_PREFIX}*{_SUFFIX})")
    newest_first = sorted(runs, key=lambda run: runs[run].stat().st_mtime, reverse=True)
    listed = ", ".join(map(repr, newest_first))
    if run_id is not None:
        raise ValueError(f"{directory} holds no state of the run {run_id!r}, but of {listed}")
    if len(runs) > 1:
        raise ValueError(f"{directory} holds states of {len(runs)} runs: name one by run_id= ({listed})")
    return runs[newest_first[0]]


class RunStateFile:
    """Writes a run's state between two windows, now and then.

    Args:
        interval: seconds between writes at least (on a slow disk longer: no more than one hundredth of the
            time is spent writing); 0 writes after every window, None never. In the beginning it is shorter:
            the first write comes after 2 seconds, and the next ones each after as long again as the run has
            taken, so that a run that is killed loses no more than half of its time.
    """

    def __init__(self, interval: float | None) -> None:
        self.interval = interval
        self._began = time.monotonic()
        self._next = self._began + self._pause

    @property
    def _pause(self) -> float:
        """Seconds until the next write, as long as that is quick."""
        age = time.monotonic() - self._began
        return min(self.interval or 0.0, max(_FIRST_AFTER, age))

    @property
    def is_due(self) -> bool:
        """Whether it is time."""
        return self.interval is not None and (self.interval == 0 or time.monotonic() >= self._next)

    def write(self, path: Path, state: Callable[[], dict[str, Any]]) -> float:
        """Write what `state` returns; the seconds that took. Whether it succeeds or not, the next write is
        due after the interval.

        Raises:
            TypeError: something in it cannot be saved.
            OSError: it could not be written; the older state stays.
        """
        began = time.perf_counter()
        try:
            save_state(path, {"made_by": _made_by(), **state()})
        finally:
            spent = time.perf_counter() - began
            self._next = time.monotonic() + max(self._pause, _WRITING_SHARE * spent)
        return spent

    @staticmethod
    def read(path: Path, run_id: str | None) -> dict[str, Any]:
        """What was written last.

        Raises:
            ValueError: it is damaged, or of another run than `run_id`.
        """
        state: dict[str, Any] = load_state(path)
        found = str(state["loop"]["run_id"])
        if run_id not in (None, found):
            raise ValueError(f"{path} holds the state of the run {found!r}, not of {run_id!r}")
        then, now = state.pop("made_by"), _made_by()
        changed = [f"{key} was {then[key]}, is {now[key]}" for key in now if then[key] != now[key]]
        if changed:
            logger.warning("the resumed run will not have the same bits: %s", "; ".join(changed))
        return state


def _made_by() -> dict[str, Any]:
    """What the bits of a run depend on, beside its state."""
    info = build_info()
    return {
        "optix_fast backend": backend(),
        "instruction set": info.get("simd"),
        "torch": str(torch.__version__),
        "torch threads": torch.get_num_threads(),
    }


class RunParts:
    """All that makes up a run, as one state: written to its registry's directory, and put back from there.

    Args:
        parts: name → object; those that are Stateful have a state. "loop" is one of them.
        registry: whose snapshots the loop's state refers to.
        interval: seconds between writes; see RunStateFile.
    """

    def __init__(
        self, parts: Mapping[str, Any], registry: CheckpointRegistry, interval: float | None
    ) -> None:
        self._parts, self._registry = dict(parts), registry
        self._outdated: Path | None = None
        self._segments: ReplaySegments | None = None
        self.file = RunStateFile(interval)

    def move_to(self, registry: CheckpointRegistry) -> None:
        """Write beside another registry's snapshots from now on."""
        self._registry = registry
        self.file = RunStateFile(self.file.interval)

    def clean(self) -> None:
        """Delete what killed runs left behind, in the registry's directory and in the shared memory."""
        delete_leftovers(Path(self._registry.checkpoint_dir))

    def write(self) -> None:
        """Write the state. A part that cannot be saved is named in a warning, and then nothing is written any
        more. A full disk is named in a warning and tried again when the next write is due; the older state
        stays.
        """
        path = state_path(self._registry.checkpoint_dir, self._registry.run_id)
        try:
            self._registry.flush()  # the best must be on disk before the state that refers to it
            segments = self._segments_beside(path)
            segments.forget()
            self._registry.disk_seconds += self.file.write(path, lambda: self._state(segments))
            segments.clean()
        except TypeError as error:
            logger.warning("this run cannot be resumed if it is killed: %s", error)
            self.file.interval = None
            return
        except OSError as error:
            logger.warning("the state of the run could not be written and will be tried again: %s", error)
            return
        self._registry.hold()
        if self._outdated is not None:
            self._outdated.unlink(missing_ok=True)
            self._outdated = None

    def read(self, run_id: str | None) -> dict[str, Any]:
        """Put back what the run `run_id` wrote last; returns the loop's state. None is the registry's run if
        it has a state, else the only one that has. When that fails, everything is as it was.

        Raises:
            ValueError: there is no intact state of that run, or it is of other parts, which are named.
            RuntimeError: it is of another architecture.
        """
        directory, own = self._registry.checkpoint_dir, self._registry.run_id
        if run_id is None and state_path(directory, own).is_file():
            run_id = own
        path = find_state(directory, run_id)
        segments = ReplaySegments(_segments_path(path))
        states = with_rows(RunStateFile.read(path, run_id), segments)
        kinds = states.pop("kinds", {})
        before = self._states()  # an agent's replay is copied once, and may be large
        before = {
            name: state if _streams(self._parts[name]) else deepcopy(state) for name, state in before.items()
        }
        touched: list[str] = []
        try:
            for name, state in states.items():
                touched.append(name)
                self._restore(name, state, kinds.get(name))
        except BaseException:
            for name in touched:
                if name in before:
                    self._parts[name].load_state_dict(before[name])
            raise
        self._segments = segments
        self._outdated = path if path.name == _UNNAMED else None
        loop: dict[str, Any] = states["loop"]
        return loop

    def _restore(self, name: str, state: Mapping[str, Any], kind: str | None) -> None:
        part = self._parts.get(name)
        if part is None and name in self._parts:
            logger.info("the resumed run had a %s; this one has none", name)
            return
        if not isinstance(part, Stateful):
            raise ValueError(
                f"the resumed run's {name} had a state, but {type(part).__name__} cannot load one"
            )
        try:
            part.load_state_dict(state)
        except Exception as error:
            if kind is None or kind == type(part).__name__:
                raise
            raise ValueError(
                f"the resumed run's {name} was a {kind}, not a {type(part).__name__}: {error}"
            ) from error

    def _segments_beside(self, path: Path) -> ReplaySegments:
        if self._segments is None or self._segments.directory != _segments_path(path):
            self._segments = ReplaySegments(_segments_path(path))
        return self._segments

    def _states(self, segments: ReplaySegments | None = None) -> dict[str, Any]:
        """The parts' states; what an agent has stored goes into `segments`, if they are given."""
        states = {}
        for name, part in self._parts.items():
            if segments is not None and _streams(part):
                states[name] = part.state_dict(replay=segments)
            elif isinstance(part, Stateful):
                states[name] = part.state_dict()
        return states

    def _state(self, segments: ReplaySegments) -> dict[str, Any]:
        states = self._states(segments)
        return {"kinds": {name: type(self._parts[name]).__name__ for name in states}, **states}


def read_part(directory: str | os.PathLike[str], name: str) -> Any:
    """The state of one part of the only run in a directory, to be given to its `load_state_dict`.

    Raises:
        ValueError: there is no intact state, or there are several.
    """
    path = find_state(directory, None)
    return with_rows(load_state(path)[name], ReplaySegments(_segments_path(path)))


def delete_leftovers(directory: Path) -> None:
    """Delete what ended processes left behind: their temporary folders, what they had half-written in a
    directory of checkpoints, and transitions there that no state came to refer to."""
    delete_temporary_folders()
    delete_temporary_files(directory)
    for folder in directory.glob(f"*{_SEGMENTS}"):
        delete_temporary_files(folder)
        names = [path.name for path in folder.iterdir()]
        if not folder.with_suffix(_SUFFIX).exists() and names and all(map(is_leftover, names)):
            shutil.rmtree(folder, ignore_errors=True)


def _streams(part: Any) -> bool:
    return bool(getattr(part, "streams_replay", False))


def _segments_path(path: Path) -> Path:
    """Where the transitions lie that a state file refers to."""
    return path.with_suffix(_SEGMENTS)
