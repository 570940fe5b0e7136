"""The learning rates of an agent's optimizers, as one number that scales them all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

Groups = Sequence[dict[str, Any]]


class LearningRates:
    """One rate for all parameter groups of an agent: that of the first group whose rate is not zero.

    Setting it scales every group by the same factor, so that groups keep their ratios. The ratios survive a
    rate of zero. While the rates are annealed, `rate` is the one that annealing started from.
    """

    def __init__(self) -> None:
        self._start: list[float] | None = None  # what annealing started from; None while nothing is annealed
        self._ratios: list[float] | None = None

    def rate(self, groups: Groups) -> float:
        """The rate that stands for all groups."""
        return _first(self._base(groups))

    def set(self, groups: Groups, rate: float) -> None:
        """Scale all groups so that `rate` stands for them."""
        before = self._base(groups)
        first = _first(before)
        if rate == first:
            return
        if first > 0.0:
            self._ratios = [each / first for each in before]
        ratios = self._ratios if self._ratios and len(self._ratios) == len(before) else [1.0] * len(before)
        after = [rate * ratio for ratio in ratios]
        if self._start is None:
            _write(groups, after)
            return
        left = [now / start if start else 0.0 for now, start in zip(_read(groups), before, strict=True)]
        self._start = after
        _write(groups, [each * share for each, share in zip(after, left, strict=True)])

    def anneal(self, groups: Groups, left: float) -> None:
        """Set every group to `left` times what it was when annealing began, which is at the first call."""
        self._start = self._base(groups)
        _write(groups, [start * left for start in self._start])

    def end_annealing(self, groups: Groups) -> None:
        """Back to the rates that annealing started from."""
        if self._start is not None and len(self._start) == len(groups):
            _write(groups, self._start)
        self._start = None

    def _base(self, groups: Groups) -> list[float]:
        """The rates that annealing started from; the present ones without annealing or after a new group."""
        if self._start is None or len(self._start) != len(groups):
            self._start = None
            return _read(groups)
        return self._start

    def state_dict(self) -> dict[str, Any]:
        """Everything that the optimizers do not hold themselves."""
        return {"start": self._start, "ratios": self._ratios}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what state_dict gave."""
        start, ratios = (None if state[key] is None else list(state[key]) for key in ("start", "ratios"))
        self._start, self._ratios = start, ratios


def _first(rates: Sequence[float]) -> float:
    return next((rate for rate in rates if rate != 0.0), 0.0)


def _read(groups: Groups) -> list[float]:
    return [float(group["lr"]) for group in groups]


def _write(groups: Groups, rates: Sequence[float]) -> None:
    for group, rate in zip(groups, rates, strict=True):
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate
