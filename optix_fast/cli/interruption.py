"""Ctrl-C and SIGTERM end a run between two windows, so that it can be resumed with the same bits."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_MESSAGE = "\noptix-fast: ending after this window and saving; once more ends at once\n"


class Interruption:
    """Notes the signals that ask a run to end, and turns them into KeyboardInterrupt when it is time.

    Inside `deferred()` the first signal is only noted in `signal`, which the run reads between two windows.
    A second one, or one outside of `deferred()`, raises KeyboardInterrupt. Signals that the process ignores
    stay ignored. Worker processes that inherit the handlers by a fork ignore SIGINT, which a terminal sends
    to all of them, and end by SIGTERM.

    Args:
        show: say on standard error that the signal was heard.

    Attributes:
        signal: the first one; None before.
        is_winding_up: set by the owner while results are written, which a second signal cuts off.
        is_at_once: whether a signal did that: nothing more is to be written.
    """

    def __init__(self, show: bool = True) -> None:
        self.signal: signal.Signals | None = None
        self.is_winding_up = False
        self.is_at_once = False
        self._show = show
        self._deferring = False
        self._process = os.getpid()
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                before = signal.getsignal(number)
                if before is not signal.SIG_IGN:
                    self._before[number] = before
                    signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
        self._before.clear()

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Only note the first signal, while this lasts."""
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            if number == signal.SIGTERM:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            return
        is_second = self.signal is not None
        if self.signal is None:
            self.signal = signal.Signals(number)
        if self._deferring and not is_second:
            if self._show and not self.is_winding_up:
                # print() may be what was interrupted.
                os.write(2, _MESSAGE.encode())
            return
        self.is_at_once = self.is_winding_up
        raise KeyboardInterrupt
