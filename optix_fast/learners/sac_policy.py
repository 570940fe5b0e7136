"""SAC's actor as a policy: acting, and uniform actions before it has learned anything."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from optix_fast.learners.policy import ActorPolicy
from optix_fast.networks.heads import CategoricalHead, SquashedHead
from optix_fast.random import RandomStream
from optix_fast.types import Array


class SACPolicy(ActorPolicy):
    """The user's actor with what is needed to act by it.

    Args:
        actor: observations → [mean ‖ log_std], or logits.
        width: A values of an action, or K actions.
        head: what the outputs mean.
        device: where the actor is moved.
    """

    head: SquashedHead | CategoricalHead

    def __init__(
        self, actor: nn.Module, width: int, head: SquashedHead | CategoricalHead, device: torch.device
    ) -> None:
        super().__init__(actor, head, device)
        self.width = width

    def uniform(self, n: int, stream: RandomStream, action_masks: Array | None = None) -> Array:
        """n actions in environment units, each allowed one equally likely."""
        if isinstance(self.head, SquashedHead):
            return self.head.of_unit(2.0 * stream.uniform((n, self.width)) - 1.0)
        return self.head.draw(torch.zeros(n, self.width), stream, False, action_masks).actions

    def allows(self, actions: Array, action_masks: Array) -> Array:
        """Whether the masks [N, K] allow the actions [N] of a Discrete space."""
        taken = self.head.raw_of(actions)
        allowed: Array = np.asarray(action_masks, np.bool_)[np.arange(len(taken)), taken]
        return allowed
