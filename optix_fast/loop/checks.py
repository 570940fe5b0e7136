"""Checks of what the user hands to the loop; every message names the argument."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any

AGENT = ("act", "learn", "get_hyperparams", "set_hyperparams", "save_weights", "load_weights")
PIPELINE = ("setup", "episodes", "teardown")
EVALUATOR = ("score", "score_validation", "combine")
OPTIMIZER = ("suggest", "on_improvement", "on_plateau")


def has_methods(name: str, value: Any, methods: tuple[str, ...]) -> Any:
    """`value`, an object that has all the methods.

    Raises:
        TypeError: it is a class, or lacks some.
    """
    if isinstance(value, type):
        raise TypeError(f"{name} must be an instance, got the class {value.__name__}")
    missing = [method for method in methods if not callable(getattr(value, method, None))]
    if missing:
        raise TypeError(f"{name} must have the methods {', '.join(missing)}; {type(value).__name__} has not")
    return value


def function(name: str, value: Any) -> Any:
    """`value`, None or something callable.

    Raises:
        TypeError: it cannot be called.
    """
    if value is not None and not callable(value):
        raise TypeError(f"{name} must be a function, got {value!r}")
    return value


def whole(name: str, value: Any) -> int | None:
    """`value`, None or an integer of at least 1.

    Raises:
        TypeError: it is no integer.
        ValueError: it is below 1.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")
    return int(value)


def number(name: str, value: Any, least: float = -math.inf) -> float:
    """`value` as a finite float of at least `least`.

    Raises:
        TypeError: it is no number.
        ValueError: it is not finite or too small.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not math.isfinite(value) or value < least:
        raise ValueError(f"{name} must be finite and at least {least:g}, got {value}")
    return float(value)
