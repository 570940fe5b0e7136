"""Hyperparameters as points of the unit cube, and how much their scores vary."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from numbers import Real
from typing import Any

from optix_fast.types import EvalMetrics

logger = logging.getLogger(__name__)

Bounds = Mapping[str, tuple[float, float]]

# Relative difference that rounding to float32 (half of 2⁻²³) and back makes at most, with some room.
_FLOAT32 = 1e-6
# Scores that the spread is estimated from.
_RECENT = 20


class SearchSpace:
    """Maps hyperparameters to [0, 1] by their bounds and back, linearly or in their logarithms.

    What is tuned is fixed at the first `fix`: the numbers that have bounds and lie within them. A value
    outside its bounds was chosen on purpose: it is left alone, and a log message says so. Integers stay
    integers.

    Args:
        bounds: {name: (lowest, highest)}.
        log_params: names that are searched on a logarithmic scale.

    Raises:
        TypeError, ValueError: bounds are not two finite numbers in order, or a logarithmic one is not
            positive; the parameter is named.
    """

    def __init__(self, bounds: Bounds | None, log_params: Iterable[str] | None = None) -> None:
        self.bounds = {name: _pair(name, pair) for name, pair in dict(bounds or {}).items()}
        self.log_params = frozenset(log_params or ())
        for name in self.log_params & self.bounds.keys():
            if self.bounds[name][0] <= 0.0:
                raise ValueError(
                    f"param_bounds of {name!r} must be positive for a logarithmic scale, "
                    f"got {self.bounds[name]}"
                )
        self.names: tuple[str, ...] | None = None
        self.integers: frozenset[str] = frozenset()

    def fix(self, params: Mapping[str, Any]) -> tuple[str, ...]:
        """The names that are tuned; chosen from `params` at the first call."""
        if self.names is None:
            numbers = [name for name in self.bounds if _is_number(params.get(name))]
            inside = [name for name in numbers if self._is_inside(name, params[name])]
            for name in set(numbers) - set(inside):
                logger.info("%s = %g lies outside of %s: not tuned", name, params[name], self.bounds[name])
            self.names = tuple(inside)
            self.integers = frozenset(name for name in inside if isinstance(params[name], int))
        return self.names

    def _is_inside(self, name: str, value: float) -> bool:
        low, high = self.bounds[name]
        return low <= value <= high or is_same(value, low) or is_same(value, high)

    def to_unit(self, name: str, value: float) -> float:
        """The value's place in [0, 1]."""
        low, high = self.bounds[name]
        value = min(max(float(value), low), high)
        if name in self.log_params:
            return math.log(value / low) / math.log(high / low)
        return (value - low) / (high - low)

    def to_value(self, name: str, x: float) -> float:
        """The value at place x of [0, 1]; an integer where the parameter is one."""
        low, high = self.bounds[name]
        x = min(max(x, 0.0), 1.0)
        value = low * (high / low) ** x if name in self.log_params else low + x * (high - low)
        if name in self.integers:
            return round(min(max(value, math.ceil(low)), math.floor(high)))
        return min(max(value, low), high)

    def moved(self, name: str, x: float, step: float) -> float:
        """The place `step` away, within [0, 1]; for an integer at least one whole number away, if its
        bounds allow."""
        target = min(max(x + step, 0.0), 1.0)
        here = self.to_value(name, x)
        if name in self.integers and self.to_value(name, target) == here:
            target = self.to_unit(name, here + math.copysign(1.0, step))
        return target

    def state_dict(self) -> dict[str, Any]:
        """Which parameters are tuned."""
        return {
            "names": None if self.names is None else list(self.names),
            "integers": sorted(self.integers),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put that back."""
        self.names = None if state["names"] is None else tuple(state["names"])
        self.integers = frozenset(state["integers"])


def score_spread(history: Sequence[EvalMetrics]) -> float:
    """The noise of the latest scores, from their successive differences (so that progress hardly
    counts): √π/2 · mean |sᵢ₊₁ − sᵢ|, which is σ for normal noise. 0 for fewer than two."""
    scores = [metrics.primary_score for metrics in history[-_RECENT:]]
    steps = [abs(b - a) for a, b in pairwise(scores)]
    return 0.5 * math.sqrt(math.pi) * sum(steps) / len(steps) if steps else 0.0


def is_same(value: Any, other: Any) -> bool:
    """Whether two values of a hyperparameter are one, as far as float32 can tell: an agent may keep it in a
    tensor."""
    if _is_number(value) and _is_number(other) and not (isinstance(value, int) and isinstance(other, int)):
        return math.isclose(value, other, rel_tol=_FLOAT32)
    return bool(value == other)


def positive(name: str, value: Any) -> float:
    """`value` as a finite float above zero.

    Raises:
        TypeError, ValueError: it is not; it is named.
    """
    if not _is_number(value):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not math.isfinite(value) or value <= 0.0:
        raise ValueError(f"{name} must be finite and above 0, got {value}")
    return float(value)


def share(name: str, value: Any) -> float:
    """`value` as a float above 0 and below 1.

    Raises:
        TypeError, ValueError: it is not; it is named.
    """
    if positive(name, value) >= 1.0:
        raise ValueError(f"{name} must be below 1, got {value}")
    return float(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _pair(name: str, pair: Any) -> tuple[float, float]:
    if not isinstance(pair, tuple | list) or len(pair) != 2 or not all(map(_is_number, pair)):
        raise TypeError(f"param_bounds of {name!r} must be (lowest, highest), got {pair!r}")
    low, high = float(pair[0]), float(pair[1])
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"param_bounds of {name!r} must be finite and in order, got {pair!r}")
    return low, high
