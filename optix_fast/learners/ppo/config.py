"""PPO's hyperparameters."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from optix_fast.learners.config_checks import (
    Choices,
    Counts,
    Ranges,
    check_choices,
    check_ranges,
    round_counts,
)

# A window's updates end after the minibatch whose approx_kl exceeds this many times target_kl.
KL_STOP = 1.5

# So many times target_kl end a window's updates; csrc/ppo_update/ppo_update.h has the same number.
KL_STOP = 1.5


@dataclass(frozen=True)
class PPOConfig:
    """PPO's hyperparameters, under the names that a HyperparamSet uses.

    Args:
        learning_rate: of the optimizer.
        clip_ratio: ε of the clipped surrogate.
        entropy_coef: weight of the entropy bonus.
        vf_coef: weight of the value loss.
        gamma: discount.
        gae_lambda: λ of generalised advantage estimation.
        n_epochs: passes over a window.
        minibatch_size: rows per update.
        max_grad_norm: bound of the global gradient norm; 0 or None for none.
        target_kl: end the window's updates once approx_kl of a minibatch exceeds KL_STOP times this; None
            never does.
        value_clip: bound of the value's change, ±; None for none.
        value_clip_mode: "max" takes the greater of the clipped and the unclipped loss, as the PPO paper's
            code does; "clipped" takes the clipped one, as Stable-Baselines3 does.
        normalize_advantages: over each minibatch, over the window, or not at all.
        anneal_steps: lower learning_rate and clip_ratio linearly to zero over this many steps; None keeps
            them.
    """

    learning_rate: float = 3e-4
    clip_ratio: float = 0.2
    entropy_coef: float = 0.01
    vf_coef: float = 0.5
    gamma: float = 0.99
    gae_lambda: float = 0.95
    n_epochs: int = 10
    minibatch_size: int = 64
    max_grad_norm: float | None = 0.5
    target_kl: float | None = None
    value_clip: float | None = None
    value_clip_mode: str = "max"
    normalize_advantages: str = "minibatch"
    anneal_steps: int | None = None

    RANGES: ClassVar[Ranges] = (
        ("learning_rate", 0.0, math.inf),
        ("clip_ratio", 0.0, math.inf),
        ("entropy_coef", -math.inf, math.inf),
        ("vf_coef", 0.0, math.inf),
        ("gamma", 0.0, 1.0),
        ("gae_lambda", 0.0, 1.0),
        ("max_grad_norm", 0.0, math.inf),
        ("target_kl", 0.0, math.inf),
        ("value_clip", 0.0, math.inf),
    )
    COUNTS: ClassVar[Counts] = (
        ("n_epochs", 1),
        ("minibatch_size", 1),
        ("anneal_steps", 1),
    )
    CHOICES: ClassVar[Choices] = (
        ("value_clip_mode", ("max", "clipped")),
        ("normalize_advantages", ("minibatch", "window", "none")),
    )
    OPTIONAL: ClassVar[tuple[str, ...]] = (
        "max_grad_norm",
        "target_kl",
        "value_clip",
        "anneal_steps",
    )

    def __post_init__(self) -> None:
        check_ranges(self, self.RANGES, self.OPTIONAL)
        round_counts(self, self.COUNTS, self.OPTIONAL)
        check_choices(self, self.CHOICES)

    def loss_options(self) -> dict[str, Any]:
        """What ppo_loss takes from here."""
        return {
            "clip_ratio": self.clip_ratio,
            "value_clip": self.value_clip,
            "value_clip_mode": self.value_clip_mode,
            "vf_coef": self.vf_coef,
            "entropy_coef": self.entropy_coef,
            "normalize_advantages": self.normalize_advantages == "minibatch",
        }
