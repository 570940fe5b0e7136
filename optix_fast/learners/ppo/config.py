"""PPO's hyperparameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from optix_fast.fields import count, number, word
from optix_fast.learners.config import Config

# A window's updates end after the minibatch whose approx_kl exceeds this many times target_kl;
# csrc/ppo_update/ppo_update.h has the same number.
KL_STOP = 1.5


@dataclass(frozen=True)
class PPOConfig(Config):
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

    learning_rate: float = number(3e-4, 0.0)
    clip_ratio: float = number(0.2, 0.0)
    entropy_coef: float = number(0.01)
    vf_coef: float = number(0.5, 0.0)
    gamma: float = number(0.99, 0.0, 1.0)
    gae_lambda: float = number(0.95, 0.0, 1.0)
    n_epochs: int = count(10)
    minibatch_size: int = count(64)
    max_grad_norm: float | None = number(0.5, 0.0, infinite=True)
    target_kl: float | None = number(None, 0.0)
    value_clip: float | None = number(None, 0.0)
    value_clip_mode: str = word("max", "clipped")
    normalize_advantages: str = word("minibatch", "window", "none")
    anneal_steps: int | None = count(None)

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
