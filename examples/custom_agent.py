"""Anything that acts and learns plugs in: the cross-entropy method on CartPole, no gradients (10 seconds).

A linear policy is drawn from a Gaussian for each window; after `population` windows the Gaussian moves to
the best fifth of the policies it has seen.
"""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from optix_fast import BaseAgent, BatchPipeline, EpisodeData, HyperparamSet, RLOptimizer


class CrossEntropyAgent(BaseAgent):
    def __init__(self, n_weights: int, population: int = 15, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.mean, self.std = np.zeros(n_weights), np.ones(n_weights)
        self.population, self.tried = population, []
        self.weights = self.rng.normal(self.mean, self.std)

    def act(self, observation: np.ndarray) -> int:
        return int(observation @ self.weights > 0)

    def learn(self, episode_data: EpisodeData) -> dict[str, Any]:
        score = np.mean(episode_data.metadata["episode_returns"])
        self.tried.append((score, self.weights))
        if len(self.tried) == self.population:
            elite = sorted(self.tried, key=lambda pair: pair[0])[-self.population // 5 :]
            chosen = np.stack([weights for _, weights in elite])
            self.mean, self.std = chosen.mean(axis=0), chosen.std(axis=0) + 0.05
            self.tried = []
        self.weights = self.rng.normal(self.mean, self.std)
        return {"spread": float(self.std.mean())}

    def get_hyperparams(self) -> HyperparamSet:
        return HyperparamSet({"population": self.population}, episode_id=0)

    def set_hyperparams(self, hyperparams: HyperparamSet) -> None:
        self.population = hyperparams.params["population"]

    def save_weights(self, path: str) -> None:
        Path(path).mkdir(parents=True, exist_ok=True)
        np.save(Path(path) / "weights.npy", self.weights)

    def load_weights(self, path: str) -> None:
        self.weights = np.load(Path(path) / "weights.npy")


agent = CrossEntropyAgent(n_weights=4)
pipeline = BatchPipeline(gym.make("CartPole-v1"), agent, window_size=1000, seed=0)
optimizer = RLOptimizer(
    agent=agent,
    pipeline=pipeline,
    checkpoint_dir="checkpoints/custom_agent",
    target_score=490,
    max_episodes=150,
)
optimizer.run()
print(f"{optimizer.stop_reason}: best score {optimizer.best_snapshot.eval_metrics.primary_score:.1f}")
