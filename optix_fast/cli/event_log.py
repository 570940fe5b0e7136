"""TensorBoard's event file, beside the CSV."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from numbers import Real
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # type: ignore[import-untyped]
from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
from tensorboard.summary.writer.event_file_writer import EventFileWriter  # type: ignore[import-untyped]

_FLUSH_SECONDS = 5


class TensorBoardLog:
    """Every finite number of an evaluation as a scalar over environment steps.

    One event holds them all. A killed process loses the last few seconds.

    Args:
        folder: where the event file goes; `tensorboard --logdir` shows it.
        begin: what earlier files in the folder hold from this step on is void.
    """

    def __init__(self, folder: Path, begin: int = 0) -> None:
        self._writer = EventFileWriter(str(folder), flush_secs=_FLUSH_SECONDS)
        start = SessionLog(status=SessionLog.START)
        self._writer.add_event(Event(wall_time=time.time(), step=begin, session_log=start))

    def add(self, step: int, row: Mapping[str, Any]) -> None:
        """Write the numbers of `row`; what is no number, or NaN or infinite, is left out."""
        values = [
            Summary.Value(tag=name, simple_value=float(value))
            for name, value in row.items()
            if isinstance(value, Real) and math.isfinite(value)
        ]
        self._writer.add_event(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()
