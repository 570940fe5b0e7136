"""A Q-network as a policy: acting, weight files, state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from optix_fast.agents import agent as shared
from optix_fast.envs.normalizers import ObsNormalizer
from optix_fast.networks.heads import Draw, GreedyHead
from optix_fast.random import RandomStream
from optix_fast.types import Array, NonFiniteError, Tree

_NAME = "q_network"


class QPolicy:
    """The user's Q-network with what is needed to act by it.

    Args:
        q_network: observations → the value of each action, [B, K].
        head: how values become actions.
        device: where the network is moved.
    """

    def __init__(self, q_network: nn.Module, head: GreedyHead, device: torch.device) -> None:
        self.actor, self.head, self.device = q_network.to(device), head, device
        # What NativeActor asks for besides.
        self.critic: nn.Module | None = None
        self.obs_normalizer: ObsNormalizer | None = None

    def prepare(self, observations: Tree) -> Tree:
        """Observations [B, …] → tensors on the device."""
        return shared.to_tensors(observations, self.device)

    @torch.no_grad()
    def values(self, prepared: Tree) -> Tensor:
        """Q of prepared observations, [B, K].

        Raises:
            NonFiniteError: the network returned NaN or infinite values.
        """
        values = self.head.params(self.actor(prepared))
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

    def action_probs(self, observation: Tree) -> Array:
        """Probabilities of the actions under ε-greedy, [K], for one prepared observation [1, …]."""
        values = self.values(observation)[0].cpu().numpy()
        probs = np.full(len(values), self.head.epsilon / len(values), np.float32)
        probs[values.argmax()] += 1.0 - self.head.epsilon
        return probs

    def save(self, path: str) -> None:
        """q_network.safetensors."""
        shared.save_module(self.actor, path, _NAME)

    def load(self, path: str) -> None:
        """Read what save() wrote, or an older run's q_network.pt."""
        self.load_state_dict(shared.read_module_file(path, _NAME))

    def load_mean(self, paths: Sequence[str]) -> None:
        """Load the element-wise mean of several saved networks."""
        shared.load_module_mean(self.actor, paths, _NAME)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore; the architecture must be the same (RuntimeError, nothing loaded, otherwise)."""
        shared.load_module(self.actor, state, _NAME)
