"""Calling the user's hooks."""

from __future__ import annotations

import logging
from typing import Any

from optix_fast.types import LoopCallback

logger = logging.getLogger(__name__)


class CallbackList:
    """Calls a hook on every callback, in order.

    An exception in a hook is logged with the hook's name and does not end the run; KeyboardInterrupt
    and SystemExit go through.

    Raises:
        TypeError: an element is not a LoopCallback.
    """

    def __init__(self, callbacks: Any = None) -> None:
        if callbacks is not None and not isinstance(callbacks, list | tuple):
            raise TypeError(f"callbacks must be a list of LoopCallback, got {type(callbacks).__name__}")
        self._callbacks: list[LoopCallback] = []
        for callback in callbacks or ():
            self.add(callback)

    def add(self, callback: Any) -> None:
        """Append a callback; one added during a run hears the rest of it."""
        if not isinstance(callback, LoopCallback):
            kind = f"the class {callback.__name__}" if isinstance(callback, type) else type(callback).__name__
            raise TypeError(f"callbacks must be instances of LoopCallback, got {kind}")
        self._callbacks.append(callback)

    def call(self, hook: str, *arguments: Any) -> None:
        """Call `hook` on every callback."""
        for callback in list(self._callbacks):
            try:
                getattr(callback, hook)(*arguments)
            except Exception:
                logger.warning("callback %s.%s raised", type(callback).__name__, hook, exc_info=True)
