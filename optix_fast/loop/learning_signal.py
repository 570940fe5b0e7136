"""Whether a run has met anything that tells one policy from another."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from optix_fast.types import EpisodeData, EvalMetrics

# So many equal values mean that a run has no signal.
_ENOUGH = 5
# Values that differ by less, relative to their size, differ by rounding.
_ROUNDING = 1e-9

ADVICE = (
    "what may help: more steps, an exploration bonus (RNDPipeline), normalised observations and rewards, "
    "or an off-policy algorithm"
)


class _Range:
    """Lowest, highest and number of the values so far."""

    def __init__(self) -> None:
        self.low, self.high, self.count = math.inf, -math.inf, 0

    def see(self, values: Iterable[float]) -> None:
        for value in values:
            if math.isfinite(value):
                self.low, self.high = min(self.low, value), max(self.high, value)
                self.count += 1

    @property
    def is_flat(self) -> bool:
        """Whether no two values differ."""
        return self.count == 0 or self.high - self.low <= _ROUNDING * max(abs(self.high), abs(self.low))

    def state(self) -> list[float]:
        return [self.low, self.high, self.count]

    def load(self, state: Iterable[float]) -> None:
        self.low, self.high, count = state
        self.count = int(count)


class LearningSignal:
    """Remembers how far episode returns and scores ranged.

    Where every episode returns the same (MountainCar's −200 until it reaches its flag once) nothing can be
    learned. Such scores look like those of a run that has converged, and are not; unless they are as good as
    the task asks for.

    Args:
        solved_at: the score that solves the task; None for the reward threshold of the environment's
            registration, which windows carry.
    """

    def __init__(self, solved_at: float | None = None) -> None:
        self._solved_at = solved_at
        self._returns, self._scores = _Range(), _Range()

    def see(self, data: EpisodeData, metrics: EvalMetrics | None) -> None:
        """Take note of a window: its episodes' returns where the pipeline supplies them, and its score."""
        if self._solved_at is None:
            self._solved_at = data.metadata.get("reward_threshold")
        self._returns.see(float(value) for value in data.metadata.get("episode_returns", ()))
        if metrics is not None:
            self._scores.see((metrics.primary_score,))

    @property
    def constant(self) -> float | None:
        """What every episode returned, or, where no returns are known, every score was; None when something
        differed, too little is known, or that solves the task."""
        known = self._returns if self._returns.count else self._scores
        if known.count < _ENOUGH or not (self._returns.is_flat and self._scores.is_flat):
            return None
        if self._solved_at is not None and known.high >= self._solved_at:
            return None
        return known.high

    @property
    def message(self) -> str | None:
        """One line about a signal that is absent; None while there is one."""
        if self.constant is None:
            return None
        return absence(self.constant, "episode returned" if self._returns.count else "score was")

    def state_dict(self) -> dict[str, Any]:
        """All of it."""
        return {"returns": self._returns.state(), "scores": self._scores.state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        self._returns.load(state["returns"])
        self._scores.load(state["scores"])


def absence(constant: float, what: str = "episode returned") -> str:
    """The sentence about a signal that is absent."""
    return f"no learning signal: every {what} {constant:g}"
