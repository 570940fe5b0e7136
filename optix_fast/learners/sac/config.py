"""SAC's hyperparameters, and the settings that suit some environments."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from optix_fast.fields import count, flag, number
from optix_fast.learners.config import ReplayConfig


@dataclass(frozen=True)
class SACConfig(ReplayConfig):
    """SAC's hyperparameters, under the names that a HyperparamSet uses: those of ReplayConfig, and

    Args:
        learning_starts: transitions stored before the first update; until then actions are uniform in
            the action space. None: batch_size.
        tau: share of the critics that their targets take over in every update.
        uniform_action_repeat: steps for which each of those uniform actions is repeated. Where a reward lies
            far away, a push that lasts gets farther than one that changes at every step (Dabney et al. 2021,
            temporally extended exploration).
        log_alpha_init: logarithm of the temperature at the start; read by the constructor only.
        learn_alpha: False keeps the temperature where it is.
        target_entropy: the entropy that the temperature is driven to. None: −A of a Gaussian policy (A
            values in an action), 0.89·ln K of a categorical one with K actions.
    """

    tau: float = number(0.005, 0.0, 1.0)
    uniform_action_repeat: int = count(1)
    log_alpha_init: float = number(0.0)
    learn_alpha: bool = flag(True)
    target_entropy: float | None = number(None)

    def target_entropy_of(self, width: int, discrete: bool) -> float:
        """target_entropy, or its default for actions of A = `width` values, or one of K = `width`."""
        if self.target_entropy is not None:
            return self.target_entropy
        return 0.89 * math.log(width) if discrete else -float(width)


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
