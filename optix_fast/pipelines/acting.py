"""Which of an agent's ways to act counts."""

from __future__ import annotations

from typing import Any


def batched(agent: Any, name: str) -> Any:
    """The agent's `act_rows` or `act_batch`, for many observations at once.

    None where its plain `act()` is to be asked: it has no such method, or a subclass (or the object itself)
    has replaced act() alone.

    Args:
        agent: who acts.
        name: "act_rows" or "act_batch".
    """
    for namespace in (getattr(agent, "__dict__", {}), *map(vars, type(agent).__mro__)):
        if name in namespace:
            return getattr(agent, name)
        if "act" in namespace:
            return None
    return None
