"""The state of a run on disk, from which a killed run goes on."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch

from optix_fast._native import backend, build_info
from optix_fast.loop.checkpoints import CheckpointRegistry
from optix_fast.serialization import load_state, save_state
from optix_fast.types import Stateful

logger = logging.getLogger(__name__)

FILE = "run_state.safetensors"

# Pause after a write, in multiples of what it took.
_WRITING_SHARE = 99.0


class RunStateFile:
    """Writes a run's state between two windows, now and then.

    Args:
        directory: the run's checkpoint directory.
        interval: seconds between writes at least (on a slow disk longer: no more than one hundredth of the
            time is spent writing); 0 writes after every window, None never.
    """

    def __init__(self, directory: str | os.PathLike[str], interval: float | None) -> None:
        self.path = Path(directory) / FILE
        self.interval = interval
        self._next = -math.inf if interval == 0 else time.monotonic() + (interval or 0.0)

    @property
    def is_due(self) -> bool:
        """Whether it is time."""
        return self.interval is not None and (self.interval == 0 or time.monotonic() >= self._next)

    def write(self, state: Callable[[], dict[str, Any]]) -> float:
        """Write what `state` returns; the seconds that took.

        Raises:
            TypeError: something in it cannot be saved.
            OSError: it could not be written; the older state stays.
        """
        began = time.perf_counter()
        save_state(self.path, {"made_by": _made_by(), **state()})
        spent = time.perf_counter() - began
        self._next = time.monotonic() + max(self.interval or 0.0, _WRITING_SHARE * spent)
        return spent

    @staticmethod
    def read(directory: str | os.PathLike[str]) -> dict[str, Any]:
        """What was written last.

        Raises:
            ValueError: there is none, or it is damaged.
        """
        path = Path(directory) / FILE
        if not path.is_file():
            raise ValueError(f"{directory} holds no state of a run to go on from (no {FILE})")
        state: dict[str, Any] = load_state(path)
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
        self.file = RunStateFile(registry.checkpoint_dir, interval)

    def move_to(self, registry: CheckpointRegistry) -> None:
        """Write beside another registry's snapshots from now on."""
        self._registry = registry
        self.file = RunStateFile(registry.checkpoint_dir, self.file.interval)

    def write(self) -> None:
        """Write the state; a part that cannot be saved is said, and then nothing is written any more.

        Raises:
            OSError: it could not be written; the older state stays.
        """
        self._registry.flush()  # the best must be on disk before the state that refers to it
        try:
            self._registry.disk_seconds += self.file.write(self._state)
        except TypeError as error:
            logger.warning("this run cannot be resumed if it is killed: %s", error)
            self.file.interval = None
            return
        self._registry.hold()

    def read(self) -> dict[str, Any]:
        """Put back what was written last; returns the loop's state. When that fails, everything is as it
        was.

        Raises:
            ValueError: there is no intact state, or it is of other parts, which are named.
            RuntimeError: it is of another architecture.
        """
        states = RunStateFile.read(self._registry.checkpoint_dir)
        kinds = states.pop("kinds", {})
        before = deepcopy(self._states())
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
        loop: dict[str, Any] = states["loop"]
        return loop

    def _restore(self, name: str, state: Mapping[str, Any], kind: str | None) -> None:
        part = self._parts.get(name)
        if not isinstance(part, Stateful):
            raise ValueError(f"the resumed run's {name} had a state, {type(part).__name__} has none")
        try:
            part.load_state_dict(state)
        except Exception as error:
            if kind is None or kind == type(part).__name__:
                raise
            raise ValueError(
                f"the resumed run's {name} was a {kind}, not a {type(part).__name__}: {error}"
            ) from error

    def _states(self) -> dict[str, Any]:
        return {name: part.state_dict() for name, part in self._parts.items() if isinstance(part, Stateful)}

    def _state(self) -> dict[str, Any]:
        states = self._states()
        return {"kinds": {name: type(self._parts[name]).__name__ for name in states}, **states}
