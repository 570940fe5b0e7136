"""Scores of windows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any

import numpy as np

from optix_fast.types import Array, BaseEvaluator, EpisodeData, EvalMetrics, NonFiniteError


class TorchEvaluator(BaseEvaluator):
    """The default evaluator: the mean return of the episodes that ended in a window.

    The returns are metadata["episode_returns"] where the pipeline supplies them: counted from each
    episode's true beginning, also when that lies windows back. Otherwise they are summed from the
    rows, per environment, the first episode with its part in this window only; a trailing
    unfinished one is left out.

    A window in which no episode ended scores NaN, "no evidence", when metadata["episodic"] says
    that episodes do end here; else (a continuing task) the mean reward per step.

    Metrics: primary_score, total_reward, mean_reward, reward_std, episode_length (mean number of steps
    of the episodes that ended, counted as their returns are; NaN where none did), n_episodes, and
    every number among the diagnostics.

    Args:
        primary_score_fn: (episode_data, diagnostics) → score, instead of the above.

    Raises:
        TypeError: primary_score_fn is not callable.
    """

    def __init__(
        self, primary_score_fn: Callable[[EpisodeData, dict[str, Any]], float] | None = None
    ) -> None:
        if primary_score_fn is not None and not callable(primary_score_fn):
            raise TypeError(f"primary_score_fn must be callable, got {primary_score_fn!r}")
        self.primary_score_fn = primary_score_fn

    def score(self, episode_data: EpisodeData, train_diagnostics: dict[str, Any] | None) -> EvalMetrics:
        """Score a window.

        Raises:
            NonFiniteError: "reward": a reward is NaN or infinite.
        """
        diagnostics = dict(train_diagnostics or {})
        rewards = np.asarray(episode_data.rewards, dtype=np.float64)
        if not np.isfinite(rewards).all():
            raise NonFiniteError("reward")
        returns, lengths = _episodes(episode_data)
        if self.primary_score_fn is not None:
            score = float(self.primary_score_fn(episode_data, diagnostics))
        elif len(returns):
            score = float(np.mean(returns))
        elif episode_data.metadata.get("episodic", False) or not len(rewards):
            score = math.nan
        else:
            score = float(rewards.mean())
        metrics = {
            "primary_score": score,
            "total_reward": float(rewards.sum()),
            "mean_reward": float(rewards.mean()) if len(rewards) else math.nan,
            "reward_std": float(rewards.std()) if len(rewards) else math.nan,
            "episode_length": float(lengths.mean()) if len(lengths) else math.nan,
            "n_episodes": float(len(returns)),
        }
        return EvalMetrics(score, _numbers(diagnostics) | metrics, episode_data.episode_id)


def _episodes(data: EpisodeData) -> tuple[Array, Array]:
    """Returns and lengths of the episodes that ended in the window. Lengths are empty where the pipeline
    tells the returns only."""
    if "episode_returns" in data.metadata:
        names = ("episode_returns", "episode_lengths")
        returns, lengths = (np.asarray(data.metadata.get(name, ()), np.float64) for name in names)
        return returns, lengths
    rewards = np.asarray(data.grid("rewards"), dtype=np.float64)
    done = np.asarray(data.grid("dones"), dtype=np.bool_)
    valid = np.ones(done.shape, np.bool_) if data.valid is None else data.valid
    rewards, done = np.where(valid, rewards, 0.0), done & valid
    found: list[tuple[Array, Array]] = []
    for n in range(data.n_envs):
        ends = np.flatnonzero(done[:, n])
        sums = (np.cumsum(column[:, n], dtype=np.float64)[ends] for column in (rewards, valid))
        returns, lengths = (np.diff(total, prepend=0.0) for total in sums)
        found.append((returns, lengths))
    return np.concatenate([part[0] for part in found]), np.concatenate([part[1] for part in found])


def _numbers(diagnostics: Mapping[str, Any]) -> dict[str, float]:
    return {key: float(value) for key, value in diagnostics.items() if isinstance(value, Real)}
