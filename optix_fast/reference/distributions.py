"""How an action is distributed: the descriptions that :func:`optix_fast.ops.ppo_loss` takes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Categorical:
    """One of K actions: params are logits [B, K], actions int64 [B]."""

    @property
    def components(self) -> int:
        return 1


@dataclass(frozen=True)
class Normal:
    """A independent Gaussian dimensions: params are mean ‖ log_std [B, 2A], actions [B, A].

    For a squashed Gaussian the actions are those before the tanh: its Jacobian cancels in the ratio.
    """

    @property
    def components(self) -> int:
        return 1


Distribution = Categorical | Normal
