"""No reinforcement learning at all: an online forecaster on streaming data, in the same loop (5 seconds).

The agent's action is its forecast of the next value of a series. It learns by recursive least squares with a
forgetting factor; the loop scores windows of forecasts before they are learned from, keeps the best weights,
and stops when the score no longer improves, here after 60 windows at most.
"""

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from optix_fast import BaseAgent, EpisodeData, HyperparamSet, LivePipeline, RLOptimizer, TorchEvaluator

LAGS, NOISE = 6, 0.1


class Series:
    """x_t = 1.6·x_{t−1} − 0.9·x_{t−2} + noise, shown as its last LAGS values, in its own time."""

    def __init__(self, seed: int = 0) -> None:
        self.rng, self.values = np.random.default_rng(seed), [0.0] * LAGS

    def stream(self) -> Iterator[tuple[Any, float, bool, bool, dict[str, Any]]]:
        while True:
            self.values.append(1.6 * self.values[-1] - 0.9 * self.values[-2] + NOISE * self.rng.normal())
            yield np.array(self.values[-LAGS:]), 0.0, False, False, {}
            time.sleep(0.0005)


def outcomes(window: EpisodeData) -> np.ndarray:
    """What each row's forecast was a forecast of: the newest value of the next row."""
    return np.concatenate([window.observations[1:, -1], window.next_observations[:, -1]])


def minus_rmse(window: EpisodeData, diagnostics: dict[str, Any]) -> float:
    return -float(np.sqrt(np.mean((window.actions - outcomes(window)) ** 2)))


class Forecaster(BaseAgent):
    """The six methods are all that the loop asks for."""

    def __init__(self) -> None:
        self.hyperparams = HyperparamSet({"forgetting": 0.999})
        self.weights, self.covariance = np.zeros(LAGS), np.eye(LAGS) * 100.0

    def act(self, observation: np.ndarray) -> float:
        return float(observation @ self.weights)

    def learn(self, episode_data: EpisodeData) -> dict[str, Any]:
        keep = self.hyperparams.params["forgetting"]
        for x, target in zip(episode_data.observations, outcomes(episode_data), strict=True):
            gain = self.covariance @ x / (keep + x @ self.covariance @ x)
            self.weights = self.weights + gain * (target - x @ self.weights)
            self.covariance = (self.covariance - np.outer(gain, x @ self.covariance)) / keep
        return {"weight_norm": float(np.linalg.norm(self.weights))}

    def get_hyperparams(self) -> HyperparamSet:
        return self.hyperparams.copy()

    def set_hyperparams(self, hyperparams: HyperparamSet) -> None:
        self.hyperparams = hyperparams.copy()

    def save_weights(self, path: str) -> None:
        Path(path).mkdir(parents=True, exist_ok=True)
        np.save(Path(path) / "weights.npy", self.weights)

    def load_weights(self, path: str) -> None:
        self.weights = np.load(Path(path) / "weights.npy")


agent = Forecaster()
pipeline = LivePipeline(Series(), episode_boundary_fn=LivePipeline.every_n_steps(50))
optimizer = RLOptimizer(
    agent=agent,
    pipeline=pipeline,
    evaluator=TorchEvaluator(primary_score_fn=minus_rmse),
    checkpoint_dir="checkpoints/online_forecaster",
    max_episodes=60,
)
optimizer.run()

# The weights that the loop found best, on new values of the series.
test = Series(seed=1)
shown = np.array([item[0] for item, _ in zip(test.stream(), range(2000), strict=False)])
error = shown[1:, -1] - shown[:-1] @ agent.weights
print(f"{optimizer.stop_reason} after {optimizer.windows} windows; the noise of the series is {NOISE}")
print(f"root mean squared error {math.sqrt(np.mean(error**2)):.4f} on values it has not seen")
