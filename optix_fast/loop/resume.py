"""The state of a run on disk, from which a killed run goes on."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from optix_fast._native import backend, build_info
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


def states_of(parts: Mapping[str, Any]) -> dict[str, Any]:
    """The states of those parts that have one."""
    return {name: part.state_dict() for name, part in parts.items() if isinstance(part, Stateful)}


def restore_states(parts: Mapping[str, Any], states: Mapping[str, Any]) -> None:
    """Put them back.

    Raises:
        ValueError: a part that had a state has none to load now; it is named.
    """
    for name, state in states.items():
        part = parts.get(name)
        if not isinstance(part, Stateful):
            raise ValueError(f"the resumed run's {name} had a state, {type(part).__name__} has none")
        part.load_state_dict(state)
