"""A Q-network as a policy."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from optix_fast.learners.policy import ActorPolicy
from optix_fast.networks.heads import Draw, GreedyHead
from optix_fast.random import RandomStream
from optix_fast.types import Array, NonFiniteError, Tree


class QPolicy(ActorPolicy):
    """The user's Q-network with what is needed to act by it.

    Args:
        q_network: observations → the value of each action, [B, K].
        head: how values become actions.
        device: where the network is moved.
    """

    head: GreedyHead

    def __init__(self, q_network: nn.Module, head: GreedyHead, device: torch.device) -> None:
        super().__init__(q_network, head, device)

    @torch.no_grad()
    def values(self, prepared: Tree) -> Tensor:
        """Q of prepared observations, [B, K].

        Raises:
            NonFiniteError: the network returned NaN or infinite values.
        """
        values = self.params(prepared)
        if not bool(torch.isfinite(values).all()):
            raise NonFiniteError("policy output while acting")
        return values

    def draw(
        self,
        prepared: Tree,
        stream: RandomStream,
        deterministic: bool = False,
        action_masks: Array | None = None,
    ) -> Draw:
        """Actions for prepared observations."""
        return self.head.draw(self.values(prepared), stream, deterministic, action_masks)

    def probabilities(self, prepared: Tree) -> Array:
        """Probabilities of the actions under ε-greedy, [B, K], for prepared observations."""
        values = self.values(prepared).cpu().numpy()
        probs = np.full(values.shape, self.head.epsilon / values.shape[1], np.float32)
        probs[np.arange(len(values)), values.argmax(axis=1)] += 1.0 - self.head.epsilon
        return probs
