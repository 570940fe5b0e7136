"""How a run goes, on standard error: a live line on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import math
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import ProgressColumn

_SECONDS_BETWEEN_LINES = 5.0
# Columns that state, bar, steps, return, speed and time take together.
_ROOM_FOR_ALL = 112


class Progress:
    """Environment steps, last score, speed and loop state, in at most 60 columns on a narrow terminal.

    A reader that goes away (a pipe into head) ends the progress, not the run.

    Args:
        total: steps at most.
        show: False keeps silent.
    """

    def __init__(self, total: int, show: bool = True) -> None:
        self._total, self._show = total, show
        self._live: RichProgress | None = None
        self._next_line = 0.0
        self._score = "-"

    def __enter__(self) -> Progress:
        if self._show and sys.stderr.isatty():
            self._live = _live_line()
            self._live.start()
            self._task = self._live.add_task("", total=self._total, state="", score="-", speed="-")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def update(self, steps: int, score: float | None, speed: float, state: str) -> None:
        """Show where the run stands. A score of None or NaN leaves the last one; a dash before the first."""
        if score is not None and not math.isnan(score):
            self._score = f"{score:.1f}"
        if self._live is not None:
            self._live.update(
                self._task,
                completed=steps,
                state=state,
                score=self._score,
                speed=f"{speed:,.0f}",
            )
        elif self._show and time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + _SECONDS_BETWEEN_LINES
            self.note(f"{steps:,}/{self._total:,}  return {self._score}  {speed:,.0f} steps/s  {state}")

    def note(self, text: str) -> None:
        """Write a line."""
        try:
            if self._show:
                print(text, file=sys.stderr)
        except BrokenPipeError:
            self._show = False


def _live_line() -> RichProgress:
    # Imported here: only a terminal needs it.
    from rich.console import Console
    from rich.progress import Progress as RichProgress

    console = Console(stderr=True)
    return RichProgress(*_columns(console.width), console=console, transient=True)


def _columns(width: int) -> list[ProgressColumn]:
    """What a terminal of so many columns has room for."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

    numbers = TextColumn("return {task.fields[score]}  {task.fields[speed]} steps/s")
    if width < _ROOM_FOR_ALL:
        return [MofNCompleteColumn(), numbers, TimeRemainingColumn(compact=True)]
    state = TextColumn("{task.fields[state]:<8}")
    return [state, BarColumn(), MofNCompleteColumn(), TextColumn("steps"), numbers, TimeRemainingColumn()]
