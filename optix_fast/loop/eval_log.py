"""The line per evaluation that `verbose` shows."""

from __future__ import annotations

import os
from typing import TextIO

from optix_fast.types import LoopState


class EvalLog:
    """Prints one line per evaluation in the seed's format:

        [loop] ep=  16  raw=  208.1  smoothed=  136.9  state=ACTIVE  interval=8

    `interval` is the one that this evaluation closed. The first line whose interval has snapped
    back says so.

    Args:
        show: print to standard output (unless there is a file).
        path: write the lines to this file instead, replacing it.
    """

    def __init__(self, show: bool, path: str | os.PathLike[str] | None) -> None:
        self._show, self._path = show, path
        self._file: TextIO | None = None
        self._interval = 0

    def open(self) -> None:
        """Begin a run."""
        self._interval = 0
        if self._path is not None:
            self._file = open(self._path, "w", encoding="utf-8")  # noqa: SIM115 (closed in close)

    def write(self, window: int, raw: float, smoothed: float, state: LoopState, interval: int) -> None:
        """One line."""
        line = (
            f"  [loop] ep={window:4d}  raw={raw:7.1f}  smoothed={smoothed:7.1f}  "
            f"state={state.name}  interval={interval}"
        )
        if interval < self._interval:
            line += "  ← improvement detected, reset"
        self._interval = interval
        if self._file is not None:
            self._file.write(line + "\n")
            self._file.flush()
        elif self._show:
            print(line, flush=True)

    def close(self) -> None:
        """End a run."""
        if self._file is not None:
            self._file.close()
            self._file = None
