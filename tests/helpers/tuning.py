"""What tests of tuners and trials hand them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from optix_fast.types import BaseAgent, BasePipeline, EpisodeData, EvalMetrics, HyperparamSet

BOUNDS = {"x": (0.0, 1.0), "n": (1, 100), "lr": (1e-4, 1e-2)}


def history(*scores: float) -> list[EvalMetrics]:
    return [EvalMetrics(score, {}, i) for i, score in enumerate(scores)]


def params(**values: Any) -> HyperparamSet:
    return HyperparamSet(dict(values), episode_id=7)


class QuadraticAgent(BaseAgent):
    """Its score is a parabola of the x that it learned with last, best at 0.6."""

    default_param_bounds = {"x": (0.0, 1.0)}  # noqa: RUF012

    def __init__(self, start: float) -> None:
        self.params: dict[str, Any] = {"x": start}
        self.used = start
        self.path: list[float] = []

    def act(self, observation: Any) -> int:
        return 0

    def learn(self, episode_data: EpisodeData) -> dict[str, Any]:
        self.used = self.params["x"]
        self.path.append(self.used)
        return {}

    def get_hyperparams(self) -> HyperparamSet:
        return HyperparamSet(dict(self.params))

    def set_hyperparams(self, hyperparams: HyperparamSet) -> None:
        self.params = dict(hyperparams.params)

    def save_weights(self, path: str) -> None:
        Path(path).mkdir(parents=True)

    def load_weights(self, path: str) -> None:
        """Nothing to load."""


class NoisyParabola(BasePipeline):
    is_live = False

    def __init__(self, seed: int, sigma: float) -> None:
        self._rng, self._sigma = random.Random(seed), sigma

    def set_agent(self, agent: QuadraticAgent) -> None:
        self._agent = agent

    def setup(self) -> None:
        """Nothing to prepare."""

    def teardown(self) -> None:
        """Nothing to release."""

    def episodes(self) -> Iterator[EpisodeData]:
        while True:
            score = 1000.0 - 400.0 * (self._agent.used - 0.6) ** 2 + self._sigma * self._rng.gauss(0.0, 1.0)
            yield EpisodeData([0], [0], [score], [True], [False], [{}], 0)
