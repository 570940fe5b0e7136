"""DQN's hyperparameters."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from optix_fast.learners.config_checks import (
    Choices,
    Counts,
    Ranges,
    check_choices,
    check_flags,
    check_ranges,
    round_counts,
)


@dataclass(frozen=True)
class DQNConfig:
    """DQN's hyperparameters, under the names that a HyperparamSet uses.

    Args:
        learning_rate: of the optimizer.
        gamma: discount.
        epsilon: probability of a random action: the current one, or the one at step 0 with
            `epsilon_decay_steps`.
        epsilon_min: where the decay ends; a lower epsilon stays as it is.
        epsilon_decay: factor on epsilon for each finished episode; for each window as long as no episode has
            ended and the pipeline knows of no time limit.
        epsilon_decay_steps: lower epsilon linearly to epsilon_min over so many environment steps instead.
        batch_size: transitions per update.
        updates_per_step: updates per stored transition, from `learning_starts` on.
        learning_starts: transitions stored before updates are earned. None: batch_size.
        target_update_freq: updates (gradient steps) from one copy of the target network to the next.
        tau: share of the network that the target takes over in every update, in place of the copies;
            None or 0: copies.
        double_q: the network chooses the next action, the target network values it.
        loss: "huber" (threshold 1) or "mse", of the TD error.
        replay_capacity: transitions kept; read by the constructor only.
        n_step: rewards in a target; fewer where the episode or the replay ends.
        per_alpha: exponent of the priorities; 0 samples uniformly.
        per_beta: exponent of the importance weights.
        per_beta_steps: stored transitions over which per_beta rises linearly to 1; None keeps it.
        per_eps: added to the absolute TD error, so that every priority is positive; must be above 0.
        max_grad_norm: bound of the gradient's norm; 0 or None for none.
    """

    learning_rate: float = 5e-4
    gamma: float = 0.99
    epsilon: float = 1.0
    epsilon_min: float = 0.05
    epsilon_decay: float = 0.995
    epsilon_decay_steps: int | None = None
    batch_size: int = 64
    updates_per_step: float = 0.25
    learning_starts: int | None = None
    target_update_freq: int = 100
    tau: float | None = None
    double_q: bool = True
    loss: str = "huber"
    replay_capacity: int = 100_000
    n_step: int = 1
    per_alpha: float = 0.0
    per_beta: float = 0.4
    per_beta_steps: int | None = None
    per_eps: float = 1e-6
    max_grad_norm: float | None = 10.0

    RANGES: ClassVar[Ranges] = (
        ("learning_rate", 0.0, math.inf),
        ("gamma", 0.0, 1.0),
        ("epsilon", 0.0, 1.0),
        ("epsilon_min", 0.0, 1.0),
        ("epsilon_decay", 0.0, 1.0),
        ("updates_per_step", 0.0, math.inf),
        ("tau", 0.0, 1.0),
        ("per_alpha", 0.0, math.inf),
        ("per_beta", 0.0, 1.0),
        ("per_eps", 0.0, math.inf),
        ("max_grad_norm", 0.0, math.inf),
    )
    COUNTS: ClassVar[Counts] = (
        ("batch_size", 1),
        ("replay_capacity", 1),
        ("n_step", 1),
        ("target_update_freq", 1),
        ("learning_starts", 0),
        ("per_beta_steps", 1),
        ("epsilon_decay_steps", 1),
    )
    FLAGS: ClassVar[tuple[str, ...]] = ("double_q",)
    CHOICES: ClassVar[Choices] = (("loss", ("huber", "mse")),)
    OPTIONAL: ClassVar[tuple[str, ...]] = (
        "tau",
        "max_grad_norm",
        "learning_starts",
        "per_beta_steps",
        "epsilon_decay_steps",
    )

    def __post_init__(self) -> None:
        check_ranges(self, self.RANGES, self.OPTIONAL)
        round_counts(self, self.COUNTS, self.OPTIONAL)
        check_flags(self, self.FLAGS)
        if self.per_eps == 0.0:
            raise ValueError("per_eps must be above 0: a row of priority 0 would never be drawn again")
        if self.replay_capacity < self.batch_size:
            raise ValueError(
                f"replay_capacity must be at least batch_size = {self.batch_size}, got {self.replay_capacity}"
            )
        check_choices(self, self.CHOICES)

    @property
    def first_update_at(self) -> int:
        """Transitions that must be stored before updates are earned."""
        return self.batch_size if self.learning_starts is None else self.learning_starts

    def epsilon_after(self, epsilon: float, episodes: int, steps: int) -> float:
        """epsilon after `episodes` more finished ones, `steps` into the run."""
        if self.epsilon_decay_steps is None:
            return max(min(self.epsilon_min, epsilon), epsilon * self.epsilon_decay**episodes)
        done = min(1.0, steps / self.epsilon_decay_steps)
        return self.epsilon + done * (min(self.epsilon_min, self.epsilon) - self.epsilon)
