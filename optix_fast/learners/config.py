"""The bases of the algorithms' configs."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from optix_fast.fields import check_field, count, flag, number


@dataclass(frozen=True)
class Config:
    """The base of the configs: checks every field.

    Raises:
        TypeError, ValueError: see Kind.checked.
    """

    def __post_init__(self) -> None:
        for each in dataclasses.fields(self):
            value = getattr(self, each.name)
            checked = check_field(each, value)
            if checked is not value:
                object.__setattr__(self, each.name, checked)


@dataclass(frozen=True)
class ReplayConfig(Config):
    """The hyperparameters of what learns from stored transitions.

    Args:
        learning_rate: of the optimizer, or of all of them.
        gamma: discount.
        batch_size: transitions per update.
        updates_per_step: updates per stored transition, from `learning_starts` on.
        learning_starts: transitions stored before the first update. None: batch_size.
        replay_capacity: transitions kept; read by the constructor only.
        n_step: rewards in a target; fewer where the episode or the replay ends.
        per_alpha: exponent of the priorities; 0 samples uniformly.
        per_beta: exponent of the importance weights.
        per_beta_steps: stored transitions over which per_beta rises linearly to 1; None keeps it.
        per_eps: added to the absolute TD error, so that every priority is positive; must be above 0.
        max_grad_norm: bound of the gradient's norm (of the actor's, and of all critics' together); 0 or
            None for none.
    """

    learning_rate: float = number(3e-4, 0.0)
    gamma: float = number(0.99, 0.0, 1.0)
    batch_size: int = count(256)
    updates_per_step: float = number(1.0, 0.0)
    learning_starts: int | None = count(None, 0)
    replay_capacity: int = count(1_000_000)
    n_step: int = count(1)
    per_alpha: float = number(0.0, 0.0)
    per_beta: float = number(0.4, 0.0, 1.0)
    per_beta_steps: int | None = count(None)
    per_eps: float = number(1e-6, 0.0)
    max_grad_norm: float | None = number(10.0, 0.0, infinite=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.replay_capacity < self.batch_size:
            raise ValueError(
                f"replay_capacity must be at least batch_size = {self.batch_size}, got {self.replay_capacity}"
            )
        if self.per_eps == 0.0:
            raise ValueError("per_eps must be above 0: a row of priority 0 would never be drawn again")

    @property
    def first_update_at(self) -> int:
        """Transitions that must be stored before updates are earned."""
        return self.batch_size if self.learning_starts is None else self.learning_starts


@dataclass(frozen=True)
class SoftConfig(ReplayConfig):
    """The hyperparameters of soft actor-critics: those of ReplayConfig, and

    Args:
        learning_starts: transitions stored before the first update; until then actions are uniform in
            the action space. None: batch_size.
        uniform_action_repeat: steps for which each of those uniform actions is repeated. Where a reward lies
            far away, a push that lasts gets farther than one that changes at every step (Dabney et al. 2021,
            temporally extended exploration).
        log_alpha_init: logarithm of the temperature at the start; read by the constructor only.
        learn_alpha: False keeps the temperature where it is.
        target_entropy: the entropy that the temperature is driven to. None: −A of a Gaussian policy (A
            values in an action), 0.89·ln K of a categorical one with K actions.
    """

    uniform_action_repeat: int = count(1)
    log_alpha_init: float = number(0.0)
    learn_alpha: bool = flag(True)
    target_entropy: float | None = number(None)

    def target_entropy_of(self, width: int, discrete: bool) -> float:
        """target_entropy, or its default for actions of A = `width` values, or one of K = `width`."""
        if self.target_entropy is not None:
            return self.target_entropy
        return 0.89 * math.log(width) if discrete else -float(width)
