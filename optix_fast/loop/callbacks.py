"""Calling the user's hooks."""

from __future__ import annotations

import difflib
import logging
import sys
from typing import Any

from optix_fast.types import LoopCallback, StopTraining

logger = logging.getLogger(__name__)

HOOKS = tuple(name for name in vars(LoopCallback) if name.startswith("on_"))


class CallbackList:
    """Calls a hook on every callback, in order.

    StopTraining and optuna.TrialPruned in a hook are kept in `ending`, and the loop ends the run. Any other
    exception is logged with the hook's name and does not end the run; KeyboardInterrupt and SystemExit go
    through.

    A method whose name begins with on_ and that is no hook would never be called: it is named in a warning,
    with the hook of the nearest name.

    Raises:
        TypeError: an element is not a LoopCallback.
    """

    def __init__(self, callbacks: Any = None) -> None:
        if callbacks is not None and not isinstance(callbacks, list | tuple):
            raise TypeError(f"callbacks must be a list of LoopCallback, got {type(callbacks).__name__}")
        self.ending: Exception | None = None
        self._callbacks: list[LoopCallback] = []
        for callback in callbacks or ():
            self.add(callback)

    def add(self, callback: Any) -> None:
        """Append a callback; one added during a run hears the rest of it."""
        if not isinstance(callback, LoopCallback):
            kind = f"the class {callback.__name__}" if isinstance(callback, type) else type(callback).__name__
            raise TypeError(f"callbacks must be instances of LoopCallback, got {kind}")
        _name_typos(type(callback))
        self._callbacks.append(callback)

    def call(self, hook: str, *arguments: Any) -> None:
        """Call `hook` on every callback."""
        for callback in list(self._callbacks):
            try:
                getattr(callback, hook)(*arguments)
            except Exception as error:
                if isinstance(error, StopTraining) or is_pruned(error):
                    if not is_pruned(self.ending):
                        self.ending = error
                    continue
                logger.warning("callback %s.%s raised", type(callback).__name__, hook, exc_info=True)


def is_pruned(error: Exception | None) -> bool:
    """Whether it is optuna's TrialPruned; where optuna was not imported, nothing is."""
    pruned = getattr(sys.modules.get("optuna"), "TrialPruned", None)
    return isinstance(pruned, type) and isinstance(error, pruned)


def _name_typos(kind: type[LoopCallback]) -> None:
    for name in dir(kind):
        if not name.startswith("on_") or name in HOOKS or not callable(getattr(kind, name)):
            continue
        near = difflib.get_close_matches(name, HOOKS, n=1, cutoff=0.75)
        hint = f"did you mean {near[0]}?" if near else f"the hooks are {', '.join(HOOKS)}"
        logger.warning(
            "%s.%s is not a hook of LoopCallback and is never called; %s", kind.__name__, name, hint
        )
