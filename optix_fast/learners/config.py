"""Hyperparameters that say what they can be: the base of the algorithms' configs, and the kinds of fields.

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
    """What a hyperparameter can be."""

    @abstractmethod
    def checked(self, name: str, value: Any) -> Any:
        """The value as the config holds it.

        Raises:
            TypeError: of another type. ValueError: out of range. Both name the hyperparameter.
        """

    @abstractmethod
    def __str__(self) -> str:
        """In words, for the tables of hyperparameters."""


@dataclass(frozen=True)
class Number(Kind):
    """A finite number from low to high. Where `infinite`, infinity too: it bounds nothing."""

    low: float
    high: float
    infinite: bool

    def checked(self, name: str, value: Any) -> Any:
        _require_number(name, value)
        if not self.low <= value <= self.high or (math.isinf(value) and not self.infinite):
            finite = " and finite" if math.isinf(value) else ""
            raise ValueError(f"{name} must be between {self.low} and {self.high}{finite}, got {value!r}")
        return value

    def __str__(self) -> str:
        if math.isinf(self.low) and math.isinf(self.high):
            return "any number"
        return f"≥ {self.low:g}" if math.isinf(self.high) else f"{self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class Count(Kind):
    """A whole number; others are rounded: a tuner that works in floats may hand over 63.7 rows."""

    least: int

    def checked(self, name: str, value: Any) -> Any:
        _require_number(name, value)
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
    default: float | None, low: float = -math.inf, high: float = math.inf, infinite: bool = False
) -> Any:
    """A field of a finite number from low to high; infinity too where `infinite`."""
    return field(default=default, metadata={"kind": Number(low, high, infinite)})


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


@dataclass(frozen=True)
class Config:
    """The base of the configs: checks every field.

    Raises:
        TypeError, ValueError: see Kind.checked.
    """

    def __post_init__(self) -> None:
        for each in dataclasses.fields(self):
            value = getattr(self, each.name)
            if value is None and may_be_none(each):
                continue
            checked = each.metadata["kind"].checked(each.name, value)
            if checked is not value:
                object.__setattr__(self, each.name, checked)


@dataclass(frozen=True)
class ReplayConfig(Config):
    """The hyperparameters of what learns from stored transitions.

    Args:
        learning_rate: of the optimizer, or of all of them.
        gamma: discount.
        batch_size: transitions per update.
        updates_per_step: updates per stored transition, from `learning_starts` on.
        learning_starts: transitions stored before the first update. None: batch_size.
        replay_capacity: transitions kept; read by the constructor only.
        n_step: rewards in a target; fewer where the episode or the replay ends.
        per_alpha: exponent of the priorities; 0 samples uniformly.
        per_beta: exponent of the importance weights.
        per_beta_steps: stored transitions over which per_beta rises linearly to 1; None keeps it.
        per_eps: added to the absolute TD error, so that every priority is positive; must be above 0.
        max_grad_norm: bound of the gradient's norm (of the actor's, and of both critics' together); 0 or
            None for none.
    """

    learning_rate: float = number(3e-4, 0.0)
    gamma: float = number(0.99, 0.0, 1.0)
    batch_size: int = count(256)
    updates_per_step: float = number(1.0, 0.0)
    learning_starts: int | None = count(None, 0)
    replay_capacity: int = count(1_000_000)
    n_step: int = count(1)
    per_alpha: float = number(0.0, 0.0)
    per_beta: float = number(0.4, 0.0, 1.0)
    per_beta_steps: int | None = count(None)
    per_eps: float = number(1e-6, 0.0)
    max_grad_norm: float | None = number(10.0, 0.0, infinite=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.replay_capacity < self.batch_size:
            raise ValueError(
                f"replay_capacity must be at least batch_size = {self.batch_size}, got {self.replay_capacity}"
            )
        if self.per_eps == 0.0:
            raise ValueError("per_eps must be above 0: a row of priority 0 would never be drawn again")

    @property
    def first_update_at(self) -> int:
        """Transitions that must be stored before updates are earned."""
        return self.batch_size if self.learning_starts is None else self.learning_starts


def _require_number(name: str, value: Any) -> None:
    # The first question is the quick one: a config is read for every window.
    if type(value) not in (float, int) and (isinstance(value, bool) or not isinstance(value, Real)):
        raise TypeError(f"{name} must be a number, got {value!r}")
