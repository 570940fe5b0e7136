"""For processes that a test interrupts."""

from __future__ import annotations

import signal


def heed_interrupts() -> None:
    """As preexec_fn: a shell starts what it puts in the background with SIGINT ignored, and children inherit
    that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
