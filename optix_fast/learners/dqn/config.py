"""DQN's hyperparameters, and the settings that suit some environments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from optix_fast.fields import count, flag, number, word
from optix_fast.learners.config import ReplayConfig


@dataclass(frozen=True)
class DQNConfig(ReplayConfig):
    """DQN's hyperparameters, under the names that a HyperparamSet uses: those of ReplayConfig, and

    Args:
        epsilon: probability of a random action: the current one, or the one at step 0 with
            `epsilon_decay_steps`.
        epsilon_min: where the decay ends; a lower epsilon stays as it is.
        epsilon_decay: factor on epsilon for each finished episode; for each window as long as no episode has
            ended and the pipeline knows of no time limit.
        epsilon_decay_steps: lower epsilon linearly to epsilon_min over so many environment steps instead.
        target_update_freq: updates (gradient steps) from one copy of the target network to the next.
        tau: share of the network that the target takes over in every update, in place of the copies;
            None or 0: copies.
        double_q: the network chooses the next action, the target network values it.
        loss: "huber" (threshold 1) or "mse", of the TD error.
    """

    learning_rate: float = number(5e-4, 0.0)
    batch_size: int = count(64)
    updates_per_step: float = number(0.25, 0.0)
    replay_capacity: int = count(100_000)
    epsilon: float = number(1.0, 0.0, 1.0)
    epsilon_min: float = number(0.05, 0.0, 1.0)
    epsilon_decay: float = number(0.995, 0.0, 1.0)
    epsilon_decay_steps: int | None = count(None)
    target_update_freq: int = count(100)
    tau: float | None = number(None, 0.0, 1.0)
    double_q: bool = flag(True)
    loss: str = word("huber", "mse")

    def epsilon_after(self, epsilon: float, episodes: int, steps: int) -> float:
        """epsilon after `episodes` more finished ones, `steps` into the run."""
        if self.epsilon_decay_steps is None:
            return max(min(self.epsilon_min, epsilon), epsilon * self.epsilon_decay**episodes)
        done = min(1.0, steps / self.epsilon_decay_steps)
        return self.epsilon + done * (min(self.epsilon_min, self.epsilon) - self.epsilon)


# Windows long enough for a few episodes, whose scores the loop compares.
PRESETS: dict[str, dict[str, Any]] = {
    "CartPole": {
        "steps": 100_000,
        "hyperparams": {
            "learning_rate": 1e-3,
            "batch_size": 128,
            "learning_starts": 1000,
            "epsilon_min": 0.04,
            "epsilon_decay_steps": 10_000,
            "updates_per_step": 0.5,
            "target_update_freq": 200,
            "n_step": 3,
        },
    },
    "Acrobot": {
        "steps": 100_000,
        "hyperparams": {
            "learning_rate": 6.3e-4,
            "batch_size": 128,
            "replay_capacity": 50_000,
            "learning_starts": 1000,
            "epsilon_min": 0.1,
            "epsilon_decay_steps": 12_000,
            "updates_per_step": 0.5,
            "target_update_freq": 250,
            "n_step": 3,
        },
    },
    "MountainCar": {
        "steps": 150_000,
        "n_steps": 64,
        "hyperparams": {
            "learning_rate": 1e-3,
            "batch_size": 128,
            "replay_capacity": 50_000,
            "learning_starts": 1000,
            "epsilon_decay_steps": 24_000,
            "updates_per_step": 0.5,
            "target_update_freq": 200,
            "n_step": 5,
        },
    },
    "LunarLander": {
        "steps": 300_000,
        "hyperparams": {
            "learning_rate": 5e-4,
            "batch_size": 128,
            "learning_starts": 1000,
            "epsilon_min": 0.02,
            "epsilon_decay_steps": 50_000,
            "updates_per_step": 0.5,
            "target_update_freq": 1000,
            "n_step": 3,
            "per_alpha": 0.6,
            "per_beta_steps": 300_000,
        },
    },
    "*": {
        "steps": 500_000,
        "hyperparams": {
            "learning_rate": 5e-4,
            "learning_starts": 1000,
            "epsilon_decay_steps": 50_000,
            "target_update_freq": 500,
        },
    },
}
