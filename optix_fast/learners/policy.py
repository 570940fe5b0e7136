"""A network and a head as a policy: acting."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from optix_fast.envs.normalizers import ObsNormalizer
from optix_fast.learners.tensors import outputs_of, to_tensors
from optix_fast.networks.heads import Draw, PolicyHead
from optix_fast.random import RandomStream
from optix_fast.types import Array, NonFiniteError, Tree


class ActorPolicy:
    """The user's network with what is needed to act by it.

    Args:
        actor: returns what `head` expects.
        head: what the actor's outputs mean.
        device: where the actor is moved.
        obs_normalizer: applied to every observation; part of the policy.
    """

    critic: nn.Module | None

    def __init__(
        self,
        actor: nn.Module,
        head: PolicyHead,
        device: torch.device,
        obs_normalizer: ObsNormalizer | None = None,
    ) -> None:
        self.actor, self.critic = actor.to(device), None
        self.head: PolicyHead = head
        self.device, self.obs_normalizer = device, obs_normalizer

    def prepare(self, observations: Tree) -> Tree:
        """Observations [B, …] → normalised tensors on the device."""
        if self.obs_normalizer is not None:
            observations = self.obs_normalizer.normalize(observations)
        return to_tensors(observations, self.device)

    def params(self, prepared: Tree, dtype: torch.dtype = torch.float32) -> Tensor:
        """The distribution's parameters for prepared observations, whatever dtype the network computes in."""
        return self.head.params(outputs_of(self.actor, prepared)).to(dtype)

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
        draw = self.head.draw(self.params(prepared), stream, deterministic, action_masks)
        # A free log_std keeps the log-probability finite when the mean is not.
        if not (np.isfinite(draw.log_probs).all() and np.isfinite(draw.raw).all()):
            raise NonFiniteError("policy output while acting")
        return draw

    @torch.no_grad()
    def probabilities(self, prepared: Tree) -> Array:
        """Probabilities of a categorical policy's actions, [B, K], for prepared observations."""
        probs: Array = torch.softmax(self.params(prepared), dim=-1).cpu().numpy()
        return probs
