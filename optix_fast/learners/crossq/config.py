"""CrossQ's hyperparameters, and the settings that suit some environments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from optix_fast.fields import count, number
from optix_fast.learners.config import SoftConfig


@dataclass(frozen=True)
class CrossQConfig(SoftConfig):
    """CrossQ's hyperparameters, under the names that a HyperparamSet uses: those of SoftConfig, and

    Args:
        policy_delay: updates of the critics for each one of the actor and the temperature.
    """

    learning_rate: float = number(1e-3, 0.0)
    policy_delay: int = count(3)


# SAC's, with CrossQ's learning rate. The paper's critics are 2048 wide.
_BOX2D: dict[str, Any] = {
    "n_steps": 64,
    "hidden_sizes": [64, 64],
    "hyperparams": {
        "batch_size": 100,
        "gamma": 0.98,
        "learning_starts": 10_000,
        "replay_capacity": 300_000,
    },
}
PRESETS: dict[str, dict[str, Any]] = {
    "Pendulum": {
        "steps": 20_000,
        "n_steps": 200,
        "hyperparams": {"batch_size": 100, "learning_starts": 1000},
    },
    "LunarLanderContinuous": {"steps": 300_000, **_BOX2D},
    "BipedalWalker": {"steps": 500_000, **_BOX2D},
    "*": {
        "steps": 300_000,
        "n_steps": 64,
        "hidden_sizes": [256, 256],
        "hyperparams": {"batch_size": 256, "learning_starts": 10_000},
    },
}
