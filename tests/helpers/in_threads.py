"""Threads that call at the same time, and switch as often as the interpreter can."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")


def in_threads(*works: Callable[[], Result]) -> list[Result]:
    """What each of the functions returned; all begin together. The first error is raised."""
    ready, interval = threading.Barrier(len(works)), sys.getswitchinterval()

    def begin(work: Callable[[], Result]) -> Result:
        ready.wait(60)
        return work()

    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(len(works)) as pool:
            return [future.result() for future in [pool.submit(begin, work) for work in works]]
    finally:
        sys.setswitchinterval(interval)
