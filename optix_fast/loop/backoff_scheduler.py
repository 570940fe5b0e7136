"""When to evaluate next, and when training is done."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

from optix_fast.loop.trend import Noise, Point, Trend, fit_trend, local_noise
from optix_fast.types import LoopState

# A trend is looked for from this many scores on.
_MIN_TREND_SCORES = 5
# ... and must be surer than a single gain, because one far score can make it: factor on noise_k.
_RISE = 1.25
# The slowest progress worth waiting for: one standard deviation of the noise in this many windows.
_SLOWEST_RAMP = 30.0
# How surely (in standard errors) such progress must be excluded before training counts as done.
_CONFIDENCE = 3.0
# ... but after this many times dormant_threshold windows without improvement it is done anyway.
_PATIENCE = 9
# The latest scores' own noise counts when it is below this fraction of the whole window's.
_MUCH_QUIETER = 0.25
# A plateau's latest scores must not move by more than this (in standard errors).
_SETTLED = 3.0
_LATEST = 3
# So far below what was reached (in σ) must the last score, each of the last two, of the last three lie.
_FALLEN = (8.0, 3.0, 2.0)


class BackoffScheduler:
    """Decides when to evaluate and when training is done (seed 003, "Backoff Schedule").

    **Interval.** Window n is evaluated when n is a multiple of the interval. It starts at
    `base_interval`, becomes min(⌈interval · factor⌉, max_interval_episodes) at each evaluation
    without improvement, and snaps back at an improvement.

    **Improvement.** Let σ be the noise of the last `score_window` scores around their local trend
    (`trend.local_noise`), w = 1 + 2/(number of terms behind σ) and
    margin = max(user margin, noise_k·w·σ). An evaluation is an improvement when

    * the latest score exceeds the best by more than the margin (σ from the scores before it), or
    * the scores rise: the least-squares slope over the last `trend_window` scores (five or more,
      by window number) exceeds 1.25·noise_k·w standard errors, and its gain over them the user margin.

    So a steady ramp always improves, however noisy or slow next to its noise, once enough of it
    has been seen, and a lucky score does not reset anything.

    **Done.** An evaluation that closes an interval of k windows counts k non-improvements (one
    each would take 1 300 windows to believe a flat score). From `plateau_threshold` on the state
    is COOLING; from `dormant_threshold` on it is DORMANT, provided that the scores so far exclude
    progress of one σ in 30 windows: slope + 3·w standard errors ≤ σ/30 (with the noise of the last
    `trend_window` scores alone when that is below σ/4), and that the scores have settled: the last
    three neither rise nor fall by more than 3·w standard errors, and the last is not the first or
    second that lies 2·w·σ below what was reached (which may be a collapse, or its end). Without
    that evidence it waits, at most until 9 · dormant_threshold windows have passed without
    improvement. A score without noise gives that evidence at once; a flat noisy one within about
    200 windows.

    **Degradation.** A score below best − max(|best|·(1 − degradation_threshold),
    min_degradation_drop) has degraded, unless it may be noise. It is not when the last score lies
    8·w·σ below what was reached, or each of the last two 3·w·σ, or each of the last three 2·w·σ.
    Reached is the highest level that two scores in a row attained (the best alone may have been
    luck); σ is the noise of the scores before. It counts as non-improvement too: a policy that has
    collapsed for good ends the run like any other plateau.

    A NaN score changes nothing.

    Args:
        base_interval: windows between evaluations while learning.
        backoff_factor: at least 1.
        max_interval_episodes: the interval's cap.
        plateau_threshold: non-improvements until COOLING.
        dormant_threshold: non-improvements until DORMANT.
        degradation_threshold: fraction of the best score below which a score has degraded.
        min_degradation_drop: smallest drop that counts.
        min_episodes_before_dormant: never DORMANT before this many windows.
        min_episodes_before_degradation: no degradation before this many windows.
        noise_k: standard deviations of noise that a gain must exceed.
        score_window: scores from which the noise is estimated.
        trend_window: scores over which a trend is fitted; at least 3.

    Raises:
        TypeError, ValueError: an argument is of the wrong type or out of range; it is named.
    """

    def __init__(
        self,
        base_interval: int = 1,
        backoff_factor: float = 2.0,
        max_interval_episodes: int = 100,
        plateau_threshold: int = 5,
        dormant_threshold: int = 20,
        degradation_threshold: float = 0.95,
        min_degradation_drop: float = 1e-4,
        min_episodes_before_dormant: int = 0,
        min_episodes_before_degradation: int = 5,
        noise_k: float = 2.0,
        score_window: int = 20,
        trend_window: int = 8,
    ) -> None:
        self.base_interval = _integer("base_interval", base_interval, 1)
        self.backoff_factor = _number("backoff_factor", backoff_factor, 1.0)
        self.max_interval_episodes = _integer("max_interval_episodes", max_interval_episodes, 1)
        self.plateau_threshold = _integer("plateau_threshold", plateau_threshold, 1)
        self.dormant_threshold = _integer("dormant_threshold", dormant_threshold, 1)
        self.degradation_threshold = _number("degradation_threshold", degradation_threshold, 0.0)
        self.min_degradation_drop = _number("min_degradation_drop", min_degradation_drop, 0.0)
        self.min_episodes_before_dormant = _integer(
            "min_episodes_before_dormant", min_episodes_before_dormant, 0
        )
        self.min_episodes_before_degradation = _integer(
            "min_episodes_before_degradation", min_episodes_before_degradation, 0
        )
        self.noise_k = _number("noise_k", noise_k, 0.0)
        self.trend_window = max(3, _integer("trend_window", trend_window, 1))
        self.score_window = max(_integer("score_window", score_window, 1), self.trend_window)
        if self.degradation_threshold > 1.0:
            raise ValueError(f"degradation_threshold must be at most 1, got {degradation_threshold!r}")
        _ordered("base_interval", base_interval, "max_interval_episodes", max_interval_episodes)
        _ordered("plateau_threshold", plateau_threshold, "dormant_threshold", dormant_threshold)

        self._points: deque[Point] = deque(maxlen=self.score_window)
        self._best: float | None = None
        self._reached: float | None = None
        self._state = LoopState.ACTIVE
        self._interval = self.base_interval
        self._non_improvements = 0
        self._total = 0

    # --- what it says ---------------------------------------------------------------------------

    @property
    def current_state(self) -> LoopState:
        """ACTIVE, COOLING or DORMANT."""
        return self._state

    @property
    def current_interval(self) -> int:
        """Windows between evaluations now."""
        return self._interval

    @property
    def consecutive_non_improvements(self) -> int:
        """Windows counted since the last improvement."""
        return self._non_improvements

    @property
    def best_score(self) -> float | None:
        """The highest score that `record_improvement` was given; None before the first."""
        return self._best

    @property
    def total_episodes(self) -> int:
        """Windows counted in all."""
        return self._total

    def should_adapt(self, episode_id: int) -> bool:
        """Whether window `episode_id` is to be evaluated. Window 0 always is."""
        return episode_id % self._interval == 0

    def is_improving(self, margin: float = 0.0) -> bool:
        """Whether the latest recorded score is an improvement (rule above).

        Args:
            margin: the user's smallest gain.
        """
        if not self._points:
            return False
        if self._best is None:
            return True
        latest = self._points[-1][1]
        before = list(self._points)[:-1]
        if latest - self._best > max(margin, self._noise_allowance(before), self.min_degradation_drop):
            return True
        found = self._trend()
        if found is None or len(self._points) < _MIN_TREND_SCORES:
            return False
        trend, noise = found
        limit = _RISE * self.noise_k * noise.widening * trend.error + self._rounding(trend)
        return trend.slope > limit and trend.slope * trend.span > margin

    def check_degradation(self, score: float) -> bool:
        """Whether `score` lies below best − |best|·(1 − degradation_threshold): below 95 for a best of 100,
        below −105 for −100. False without a best. The threshold alone decides; the loop asks `has_degraded`.
        """
        return self._best is not None and score < self._best - self._allowed_drop()

    def has_degraded(self, score: float) -> bool:
        """Whether the policy has degraded (rule above), `score` being its latest, perhaps smoothed, score.

        False before `min_episodes_before_degradation` windows. Without recorded scores the thresholds alone
        decide.
        """
        if self._best is None or self._total < self.min_episodes_before_degradation:
            return False
        return score < self._best - self._threshold_drop() and self._has_fallen(score)

    def is_degrading(self) -> bool:
        """Whether the scores also fall significantly, not only lie low."""
        found = self._trend()
        if found is None or not self.has_degraded(self._points[-1][1]):
            return False
        trend, noise = found
        return trend.slope < -self.noise_k * noise.widening * trend.error

    # --- what it is told ------------------------------------------------------------------------

    def record_score(self, score: float, episode_id: int | None = None) -> None:
        """Remember a score and the window it belongs to (default: the one after the last).

        Raises:
            ValueError: `episode_id` is not later than the last one.
        """
        if not math.isfinite(score):
            return
        last = self._points[-1][0] if self._points else -1.0
        if episode_id is not None and episode_id <= last:
            raise ValueError(f"episode_id must be later than {last:.0f}, got {episode_id}")
        if self._points:
            both = min(float(score), self._points[-1][1])
            self._reached = both if self._reached is None else max(self._reached, both)
        self._points.append((last + 1.0 if episode_id is None else float(episode_id), float(score)))

    def record_improvement(self, score: float, windows: int = 1) -> None:
        """An evaluation that closed `windows` windows brought an improvement to `score`."""
        if not math.isfinite(score):
            return
        self._best = score if self._best is None else max(self._best, score)
        self._non_improvements = 0
        self._interval = self.base_interval
        self._state = LoopState.ACTIVE
        self._total += windows

    def record_non_improvement(self, windows: int = 1) -> None:
        """An evaluation that closed `windows` windows brought none."""
        self._back_off(windows)
        if self._is_done():
            self._state = LoopState.DORMANT
        elif self._non_improvements >= self.plateau_threshold:
            self._state = LoopState.COOLING

    def record_degradation(self, windows: int = 0, rolled_back: bool = False) -> None:
        """The policy has degraded: the state is ACTIVE again.

        Args:
            windows: that the evaluation closed; they count as windows without improvement, and so it may be
                time for DORMANT. With 0 nothing is counted: interval, count and total stay.
            rolled_back: the restored policy is evaluated at the base interval, and the scores of the degraded
                one are forgotten.
        """
        if windows:
            self._back_off(windows)
        done = windows > 0 and self._is_done()
        if rolled_back:
            self._interval = self.base_interval
            self._forget_fallen()
        self._state = LoopState.DORMANT if done else LoopState.ACTIVE

    def record_restart(self) -> None:
        """Start again, ACTIVE, with an empty series; the best and the total are kept."""
        self._points.clear()
        self._non_improvements = 0
        self._interval = self.base_interval
        self._state = LoopState.ACTIVE

    # --- state ----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything that `load_state_dict` needs to go on exactly here (not the arguments)."""
        return {
            "points": [list(point) for point in self._points],
            "best": self._best,
            "reached": self._reached,
            "state": self._state.name,
            "interval": self._interval,
            "non_improvements": self._non_improvements,
            "total": self._total,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self._points.clear()
        self._points.extend((float(x), float(y)) for x, y in state["points"])
        self._best = None if state["best"] is None else float(state["best"])
        self._reached = None if state["reached"] is None else float(state["reached"])
        self._state = LoopState[state["state"]]
        self._interval = int(state["interval"])
        self._non_improvements = int(state["non_improvements"])
        self._total = int(state["total"])

    # --- the rules ------------------------------------------------------------------------------

    def _back_off(self, windows: int) -> None:
        self._non_improvements += windows
        self._total += windows
        self._interval = min(math.ceil(self._interval * self.backoff_factor), self.max_interval_episodes)

    def _is_done(self) -> bool:
        if self._non_improvements < self.dormant_threshold or self._total < self.min_episodes_before_dormant:
            return False
        return self._progress_is_excluded() or (self._non_improvements >= _PATIENCE * self.dormant_threshold)

    def _progress_is_excluded(self) -> bool:
        found = self._trend()
        if found is None:
            return True  # nothing but the count is known
        trend, noise = found
        # A plateau that is much quieter than the way to it (a solved task) has its own noise.
        latest = local_noise(list(self._points)[-self.trend_window :])
        if latest is not None and latest.sigma < _MUCH_QUIETER * noise.sigma:
            noise = latest
            trend = fit_trend(list(self._points)[-self.trend_window :], latest.sigma)
        upper = trend.slope + _CONFIDENCE * noise.widening * trend.error
        return upper <= noise.sigma / _SLOWEST_RAMP + self._rounding(trend) and self._has_settled(noise)

    def _has_settled(self, noise: Noise) -> bool:
        points = list(self._points)
        noise = local_noise(points[:-_LATEST]) or noise  # a fall is not noise
        for count in range(2, min(_LATEST, len(points)) + 1):
            trend = fit_trend(points[-count:], noise.sigma)
            if abs(trend.slope) > _SETTLED * noise.widening * trend.error + self._rounding(trend):
                return False
        if self._reached is None:
            return True
        floor = self._reached - _FALLEN[-1] * noise.widening * noise.sigma
        low = [score < floor for _, score in points[-_LATEST:]]
        return all(low) or not low[-1]

    def _has_fallen(self, score: float) -> bool:
        if self._reached is None:
            return True
        points = list(self._points)
        latest = [y for _, y in points[::-1]]
        latest[0] = max(latest[0], score)  # a smoothed score may still carry an older low one
        for count, sigmas in enumerate(_FALLEN, start=1):
            noise = local_noise(points[:-count])
            if noise is None:
                return False
            if max(latest[:count]) < self._reached - sigmas * noise.widening * noise.sigma:
                return True
        return False

    def _trend(self) -> tuple[Trend, Noise] | None:
        points = list(self._points)
        noise = local_noise(points)
        return None if noise is None else (fit_trend(points[-self.trend_window :], noise.sigma), noise)

    def _rounding(self, trend: Trend) -> float:
        """A slope that is nothing but float64 rounding of scores of this size."""
        return 1e-13 * max(abs(score) for _, score in self._points) / max(trend.span, 1.0)

    def _noise_allowance(self, points: list[Point]) -> float:
        noise = local_noise(points)
        return 0.0 if noise is None else self.noise_k * noise.widening * noise.sigma

    def _forget_fallen(self) -> None:
        for _ in _FALLEN:
            if (
                self._best is not None
                and self._points
                and self._points[-1][1] < self._best - self._threshold_drop()
            ):
                self._points.pop()

    def _threshold_drop(self) -> float:
        assert self._best is not None
        return max(self._allowed_drop(), self.min_degradation_drop)

    def _allowed_drop(self) -> float:
        assert self._best is not None
        return abs(self._best) * (1.0 - self.degradation_threshold)


def _integer(name: str, value: Any, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    return int(value)


def _number(name: str, value: Any, least: float) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not math.isfinite(value) or value < least:
        raise ValueError(f"{name} must be a finite number of at least {least:g}, got {value}")
    return float(value)


def _ordered(low_name: str, low: float, high_name: str, high: float) -> None:
    if low > high:
        raise ValueError(f"{low_name} ({low}) must not exceed {high_name} ({high})")
