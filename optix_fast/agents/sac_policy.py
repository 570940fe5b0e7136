"""SAC's actor as a policy: acting, and uniform actions before it has learned anything."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from optix_fast.agents import agent as shared
from optix_fast.envs.normalizers import ObsNormalizer
from optix_fast.networks.heads import CategoricalHead, Draw, SquashedHead
from optix_fast.random import RandomStream
from optix_fast.types import Array, NonFiniteError, Tree


class SACPolicy:
    """The user's actor with what is needed to act by it.

    Args:
        actor: observations → [mean ‖ log_std], or logits.
        width: A values of an action, or K actions.
        head: what the outputs mean.
        device: where the actor is moved.
    """

    def __init__(
        self, actor: nn.Module, width: int, head: SquashedHead | CategoricalHead, device: torch.device
    ) -> None:
        self.actor, self.width, self.head, self.device = actor.to(device), width, head, device
        # What NativeActor asks for besides.
        self.critic: nn.Module | None = None
        self.obs_normalizer: ObsNormalizer | None = None

    def prepare(self, observations: Tree) -> Tree:
        """Observations [B, …] → tensors on the device."""
        return shared.to_tensors(observations, self.device)

    @torch.no_grad()
    def draw(
        self,
        prepared: Tree,
        stream: RandomStream,
        deterministic: bool = False,
        action_masks: Array | None = None,
    ) -> Draw:
        """Actions for prepared observations.

        Raises:
            NonFiniteError: the actor returned NaN or infinite values.
        """
        draw = self.head.draw(self.head.params(self.actor(prepared)), stream, deterministic, action_masks)
        if not (np.isfinite(draw.log_probs).all() and np.isfinite(draw.raw).all()):
            raise NonFiniteError("policy output while acting")
        return draw

    def uniform(self, n: int, stream: RandomStream, action_masks: Array | None = None) -> Array:
        """n actions in environment units, each allowed one equally likely."""
        if isinstance(self.head, SquashedHead):
            return self.head.of_unit(2.0 * stream.uniform((n, self.width)) - 1.0)
        return self.head.draw(torch.zeros(n, self.width), stream, False, action_masks).actions
