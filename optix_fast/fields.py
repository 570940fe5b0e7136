"""Fields of dataclasses that say what they can be: hyperparameters and the settings of a run.

    @dataclass(frozen=True)
    class MyConfig(Config):
        learning_rate: float = number(3e-4, 0.0)
        batch_size: int = count(64)

A field may be None where its annotation says so.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from numbers import Real
from typing import Any


class Kind(ABC):
    """What a field can be."""

    @abstractmethod
    def checked(self, name: str, value: Any) -> Any:
        """The value as the config holds it.

        Raises:
            TypeError: of another type. ValueError: out of range. Both name the field.
        """

    @abstractmethod
    def __str__(self) -> str:
        """In words, for the tables of hyperparameters and settings."""


@dataclass(frozen=True)
class Number(Kind):
    """A finite number from low to high, where `below` without high. Where `infinite`, infinity too: it
    bounds nothing."""

    low: float
    high: float
    infinite: bool
    below: bool = False

    def checked(self, name: str, value: Any) -> Any:
        require_number(name, value)
        fits = self.low <= value <= self.high and not (self.below and value == self.high)
        if not fits or (math.isinf(value) and not self.infinite):
            if math.isinf(self.low) and math.isinf(self.high):
                raise ValueError(f"{name} must be finite, got {value!r}")
            if self.below:
                raise ValueError(f"{name} must be at least {self.low} and below {self.high}, got {value!r}")
            finite = " and finite" if math.isinf(value) else ""
            raise ValueError(f"{name} must be between {self.low} and {self.high}{finite}, got {value!r}")
        return value

    def __str__(self) -> str:
        if math.isinf(self.low) and math.isinf(self.high):
            return "any number"
        if self.below:
            return f"≥ {self.low:g} and < {self.high:g}"
        return f"≥ {self.low:g}" if math.isinf(self.high) else f"{self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class Count(Kind):
    """A whole number; others are rounded: a tuner that works in floats may hand over 63.7 rows."""

    least: int

    def checked(self, name: str, value: Any) -> Any:
        require_number(name, value)
        if not math.isfinite(value) or round(value) < self.least:
            raise ValueError(f"{name} must be at least {self.least}, got {value!r}")
        return round(value)

    def __str__(self) -> str:
        return f"whole number ≥ {self.least}"


class Flag(Kind):
    """True or False, or 1 or 0."""

    def checked(self, name: str, value: Any) -> Any:
        if value not in (True, False):
            raise TypeError(f"{name} must be True or False, got {value!r}")
        return bool(value)

    def __str__(self) -> str:
        return "true or false"


@dataclass(frozen=True)
class Word(Kind):
    """One of some words."""

    words: tuple[str, ...]

    def checked(self, name: str, value: Any) -> Any:
        if value not in self.words:
            *most, last = (repr(word) for word in self.words)
            raise ValueError(f"{name} must be {', '.join(most)} or {last}, got {value!r}")
        return value

    def __str__(self) -> str:
        return " or ".join(self.words)


def number(
    default: float | None,
    low: float = -math.inf,
    high: float = math.inf,
    infinite: bool = False,
    below: bool = False,
) -> Any:
    """A field of a finite number from low to high, without high where `below`; infinity too if `infinite`."""
    return field(default=default, metadata={"kind": Number(low, high, infinite, below)})


def count(default: int | None, least: int = 1) -> Any:
    """A field of a whole number."""
    return field(default=default, metadata={"kind": Count(least)})


def flag(default: bool) -> Any:
    """A field of True or False."""
    return field(default=default, metadata={"kind": Flag()})


def word(*words: str) -> Any:
    """A field of one of these words; the first is the default."""
    return field(default=words[0], metadata={"kind": Word(words)})


def kind_of(config_field: dataclasses.Field[Any]) -> Kind | None:
    """What a config's field can be; None where it does not say."""
    kind: Kind | None = config_field.metadata.get("kind")
    return kind


def may_be_none(config_field: dataclasses.Field[Any]) -> bool:
    """Whether the field's annotation, which is text, allows None."""
    return str(config_field.type).endswith("| None")


def check_field(config_field: dataclasses.Field[Any], value: Any) -> Any:
    """A value as its field holds it.

    Raises:
        TypeError, ValueError: see Kind.checked.
    """
    kind = kind_of(config_field)
    return (
        value
        if kind is None or (value is None and may_be_none(config_field))
        else kind.checked(config_field.name, value)
    )


def require_number(name: str, value: Any) -> None:
    """Raise TypeError unless the value is a number."""
    # The first question is the quick one: a config is read for every window.
    if type(value) not in (float, int) and (isinstance(value, bool) or not isinstance(value, Real)):
        raise TypeError(f"{name} must be a number, got {value!r}")
