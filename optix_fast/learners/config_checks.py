"""What the configs of the agents demand of their numbers; every message names the hyperparameter."""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Real
from typing import Any

# What a config says of its hyperparameters, for these checks and for the table of them: lowest and highest
# value; the least whole number; the words that one can be.
Ranges = tuple[tuple[str, float, float], ...]
Counts = tuple[tuple[str, int], ...]
Choices = tuple[tuple[str, tuple[str, ...]], ...]


def check_ranges(config: Any, ranges: Iterable[tuple[str, float, float]], optional: tuple[str, ...]) -> None:
    """Raise unless every hyperparameter is a finite number from low to high. max_grad_norm may be infinite:
    then it bounds nothing.

    Args:
        optional: hyperparameters that may be None.

    Raises:
        TypeError: not a number. ValueError: out of range.
    """
    for name, low, high in ranges:
        value = getattr(config, name)
        if value is None and name in optional:
            continue
        _require_number(name, value)
        if not low <= value <= high or (math.isinf(value) and name != "max_grad_norm"):
            finite = " and finite" if math.isinf(value) else ""
            raise ValueError(f"{name} must be between {low} and {high}{finite}, got {value!r}")


def round_counts(config: Any, counts: Iterable[tuple[str, int]], optional: tuple[str, ...]) -> None:
    """Round counts to whole numbers: a tuner that works in floats may hand over 63.7 rows.

    Raises:
        TypeError: not a number. ValueError: too small, or not finite.
    """
    for name, least in counts:
        given = getattr(config, name)
        if given is None and name in optional:
            continue
        _require_number(name, given)
        if not math.isfinite(given) or round(given) < least:
            raise ValueError(f"{name} must be at least {least}, got {given!r}")
        object.__setattr__(config, name, round(given))


def check_flags(config: Any, names: Iterable[str]) -> None:
    """Raise TypeError unless every flag is True or False, or 1 or 0."""
    for name in names:
        value = getattr(config, name)
        if value not in (True, False):
            raise TypeError(f"{name} must be True or False, got {value!r}")


def check_choices(config: Any, choices: Iterable[tuple[str, tuple[str, ...]]]) -> None:
    """Raise ValueError where a hyperparameter is none of the words that it can be."""
    for name, words in choices:
        value = getattr(config, name)
        if value not in words:
            *most, last = (repr(word) for word in words)
            raise ValueError(f"{name} must be {', '.join(most)} or {last}, got {value!r}")


def _require_number(name: str, value: Any) -> None:
    # The first question is the quick one: a config is read for every window.
    if type(value) not in (float, int) and (isinstance(value, bool) or not isinstance(value, Real)):
        raise TypeError(f"{name} must be a number, got {value!r}")
