"""TD3's hyperparameters, and the settings that suit some environments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from optix_fast.fields import count, number
from optix_fast.learners.config import ReplayConfig


@dataclass(frozen=True)
class TD3Config(ReplayConfig):
    """TD3's hyperparameters, under the names that a HyperparamSet uses: those of ReplayConfig, and

    Args:
        learning_starts: transitions stored before the first update; until then actions are uniform in
            the action space. None: batch_size.
        tau: share of the networks that their targets take over whenever the actor is updated.
        policy_delay: updates of the critics for each one of the actor and the targets.
        exploration_noise: standard deviation of the noise on training actions, where actions span (−1, 1).
        target_noise: standard deviation of the noise on the target actor's actions.
        target_noise_clip: bound of that noise, ±.
        uniform_action_repeat: steps for which each uniform action is repeated.
    """

    learning_rate: float = number(1e-3, 0.0)
    tau: float = number(0.005, 0.0, 1.0)
    policy_delay: int = count(2)
    exploration_noise: float = number(0.1, 0.0)
    target_noise: float = number(0.2, 0.0)
    target_noise_clip: float = number(0.5, 0.0)
    uniform_action_repeat: int = count(1)


# rl-baselines3-zoo's, with networks of 64 in place of 400 and 300 units,
# and batches of 100 in place of 256.
_BOX2D: dict[str, Any] = {
    "n_steps": 64,
    "hidden_sizes": [64, 64],
    "hyperparams": {
        "learning_rate": 1e-3,
        "batch_size": 100,
        "gamma": 0.98,
        "learning_starts": 10_000,
        "replay_capacity": 200_000,
    },
}
PRESETS: dict[str, dict[str, Any]] = {
    "Pendulum": {
        "steps": 20_000,
        "n_steps": 64,
        "hidden_sizes": [64, 64],
        "hyperparams": {"learning_rate": 1e-3, "batch_size": 100, "learning_starts": 1_000},
    },
    "LunarLanderContinuous": {"steps": 300_000, **_BOX2D},
    "BipedalWalker": {"steps": 1_000_000, **_BOX2D},
    "*": {
        "steps": 300_000,
        "n_steps": 64,
        "hidden_sizes": [256, 256],
        "hyperparams": {"learning_rate": 1e-3, "batch_size": 256, "learning_starts": 10_000},
    },
}
