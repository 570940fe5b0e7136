"""PPO's hyperparameters."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from optix_fast.agents.config_checks import check_ranges, round_counts


@dataclass(frozen=True)
class PPOConfig:
    """PPO's hyperparameters, under the names that a HyperparamSet uses.

    Args:
        learning_rate: of the optimizer.
        clip_ratio: ε of the clipped surrogate.
        entropy_coef, vf_coef: weights of entropy bonus and value loss.
        gamma, gae_lambda: discount, and GAE's λ.
        n_epochs, minibatch_size: passes over a window, rows per update.
        max_grad_norm: bound of the global gradient norm; 0 or None for none.
        target_kl: end the window's updates once approx_kl of a minibatch exceeds 1.5 times this.
        value_clip: clip the value's change to ± this; value_clip_mode "max" or "clipped".
        normalize_advantages: "minibatch", "window" or "none".
        anneal_steps: lower learning_rate and clip_ratio linearly to zero over this many steps.
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

    def __post_init__(self) -> None:
        check_ranges(
            self,
            (
                ("learning_rate", 0.0, math.inf),
                ("clip_ratio", 0.0, math.inf),
                ("entropy_coef", -math.inf, math.inf),
                ("vf_coef", 0.0, math.inf),
                ("gamma", 0.0, 1.0),
                ("gae_lambda", 0.0, 1.0),
                ("max_grad_norm", 0.0, math.inf),
                ("target_kl", 0.0, math.inf),
                ("value_clip", 0.0, math.inf),
            ),
            optional=("max_grad_norm", "target_kl", "value_clip"),
        )
        counts = (("n_epochs", 1), ("minibatch_size", 1), ("anneal_steps", 1))
        round_counts(self, counts, optional=("anneal_steps",))
        if self.value_clip_mode not in ("max", "clipped"):
            raise ValueError(f"value_clip_mode must be 'max' or 'clipped', got {self.value_clip_mode!r}")
        if self.normalize_advantages not in ("minibatch", "window", "none"):
            raise ValueError(
                "normalize_advantages must be 'minibatch', 'window' or 'none', "
                f"got {self.normalize_advantages!r}"
            )

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
