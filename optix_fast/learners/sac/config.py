"""SAC's hyperparameters."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from optix_fast.learners.config_checks import Counts, Ranges, check_flags, check_ranges, round_counts


@dataclass(frozen=True)
class SACConfig:
    """SAC's hyperparameters, under the names that a HyperparamSet uses.

    Args:
        learning_rate: of the three optimizers.
        gamma: discount.
        tau: share of the critics that their targets take over in every update.
        batch_size: transitions per update.
        updates_per_step: updates per stored transition, from `learning_starts` on.
        learning_starts: transitions stored before the first update; until then actions are uniform in
            the action space. None: batch_size.
        uniform_action_repeat: steps for which each of those uniform actions is repeated. Where a reward lies
            far away, a push that lasts gets farther than one that changes at every step (Dabney et al. 2021,
            temporally extended exploration).
        replay_capacity: transitions kept; read by the constructor only.
        n_step: rewards in a target; fewer where the episode or the replay ends.
        per_alpha: exponent of the priorities; 0 samples uniformly.
        per_beta: exponent of the importance weights.
        per_beta_steps: stored transitions over which per_beta rises linearly to 1; None keeps it.
        per_eps: added to the absolute TD error, so that every priority is positive; must be above 0.
        log_alpha_init: logarithm of the temperature at the start; read by the constructor only.
        learn_alpha: False keeps the temperature where it is.
        target_entropy: the entropy that the temperature is driven to. None: −A of a Gaussian policy (A
            values in an action), 0.89·ln K of a categorical one with K actions.
        max_grad_norm: bound of the gradient's norm, of the actor's and of both critics' together; 0 or
            None for none.
    """

    learning_rate: float = 3e-4
    gamma: float = 0.99
    tau: float = 0.005
    batch_size: int = 256
    updates_per_step: float = 1.0
    learning_starts: int | None = None
    uniform_action_repeat: int = 1
    replay_capacity: int = 1_000_000
    n_step: int = 1
    per_alpha: float = 0.0
    per_beta: float = 0.4
    per_beta_steps: int | None = None
    per_eps: float = 1e-6
    log_alpha_init: float = 0.0
    learn_alpha: bool = True
    target_entropy: float | None = None
    max_grad_norm: float | None = 10.0

    RANGES: ClassVar[Ranges] = (
        ("learning_rate", 0.0, math.inf),
        ("gamma", 0.0, 1.0),
        ("tau", 0.0, 1.0),
        ("updates_per_step", 0.0, math.inf),
        ("per_alpha", 0.0, math.inf),
        ("per_beta", 0.0, 1.0),
        ("per_eps", 0.0, math.inf),
        ("log_alpha_init", -math.inf, math.inf),
        ("target_entropy", -math.inf, math.inf),
        ("max_grad_norm", 0.0, math.inf),
    )
    COUNTS: ClassVar[Counts] = (
        ("batch_size", 1),
        ("replay_capacity", 1),
        ("n_step", 1),
        ("learning_starts", 0),
        ("uniform_action_repeat", 1),
        ("per_beta_steps", 1),
    )
    FLAGS: ClassVar[tuple[str, ...]] = ("learn_alpha",)
    OPTIONAL: ClassVar[tuple[str, ...]] = (
        "target_entropy",
        "max_grad_norm",
        "learning_starts",
        "per_beta_steps",
    )

    def __post_init__(self) -> None:
        check_ranges(self, self.RANGES, self.OPTIONAL)
        round_counts(self, self.COUNTS, self.OPTIONAL)
        check_flags(self, self.FLAGS)
        if self.replay_capacity < self.batch_size:
            raise ValueError(
                f"replay_capacity must be at least batch_size = {self.batch_size}, got {self.replay_capacity}"
            )
        if self.per_eps == 0.0:
            raise ValueError("per_eps must be above 0: a row of priority 0 would never be drawn again")

    @property
    def first_update_at(self) -> int:
        """Transitions that must be stored before an update."""
        return self.batch_size if self.learning_starts is None else self.learning_starts

    def wanted_entropy(self, width: int, discrete: bool) -> float:
        """target_entropy, or its default for actions of A = `width` values, or one of K = `width`."""
        if self.target_entropy is not None:
            return self.target_entropy
        return 0.89 * math.log(width) if discrete else -float(width)
