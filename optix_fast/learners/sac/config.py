"""SAC's hyperparameters, and the settings that suit some environments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from optix_fast.fields import number
from optix_fast.learners.config import SoftConfig


@dataclass(frozen=True)
class SACConfig(SoftConfig):
    """SAC's hyperparameters, under the names that a HyperparamSet uses: those of SoftConfig, and

    Args:
        tau: share of the critics that their targets take over in every update.
    """

    tau: float = number(0.005, 0.0, 1.0)


# rl-baselines3-zoo's for BipedalWalker, with networks of 64 in place of 400 and 300 units,
# and batches of 100 in place of 256.
_BOX2D: dict[str, Any] = {
    "n_steps": 64,
    "hidden_sizes": [64, 64],
    "hyperparams": {
        "learning_rate": 7.3e-4,
        "batch_size": 100,
        "gamma": 0.98,
        "tau": 0.02,
        "learning_starts": 10_000,
        "replay_capacity": 300_000,
    },
}
# As many updates as steps.
PRESETS: dict[str, dict[str, Any]] = {
    "Pendulum": {
        "steps": 20_000,
        "n_steps": 200,
        "hyperparams": {"learning_rate": 1e-3, "batch_size": 100, "learning_starts": 1000},
    },
    # Uniform actions of one step each never reach the flag; pushes of 25 steps do within the first 10 000.
    "MountainCarContinuous": {
        "steps": 50_000,
        "n_steps": 64,
        "hyperparams": {
            "batch_size": 256,
            "learning_starts": 10_000,
            "uniform_action_repeat": 25,
            "gamma": 0.9999,
            "tau": 0.01,
            "replay_capacity": 50_000,
        },
    },
    "LunarLanderContinuous": {"steps": 300_000, **_BOX2D},
    "BipedalWalker": {"steps": 1_000_000, **_BOX2D},
    "*": {
        "steps": 300_000,
        "n_steps": 64,
        "hidden_sizes": [256, 256],
        "hyperparams": {"learning_rate": 3e-4, "batch_size": 256, "learning_starts": 10_000},
    },
}
