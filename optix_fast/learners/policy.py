"""A network and a head as a policy: acting, and the values of a critic beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from optix_fast.envs.normalizers import ObsNormalizer
from optix_fast.learners.tensors import outputs_of, to_tensors
from optix_fast.networks.heads import Draw, PolicyHead
from optix_fast.networks.modes import evaluating
from optix_fast.random import RandomStream
from optix_fast.types import Array, Tree


class Policy:
    """The user's modules with what is needed to act by them.

    Args:
        actor: returns what `head` expects; a Q-network for a head that acts by values.
        head: what the actor's outputs mean.
        device: where the modules are moved.
        critic: of observations alone, returns [B, 1] or [B]; None where acting needs no values.
        obs_normalizer: applied to every observation; part of the policy.
    """

    def __init__(
        self,
        actor: nn.Module,
        head: PolicyHead,
        device: torch.device,
        critic: nn.Module | None = None,
        obs_normalizer: ObsNormalizer | None = None,
    ) -> None:
        self.actor = actor.to(device)
        self.critic = None if critic is None else critic.to(device)
        self.head: PolicyHead = head
        self.device, self.obs_normalizer = device, obs_normalizer

    @property
    def log_std(self) -> nn.Parameter | None:
        """The free log standard deviation, where the head has one."""
        return getattr(self.head, "log_std", None)

    def prepare(self, observations: Tree) -> Tree:
        """Observations [B, …] → normalised tensors on the device."""
        if self.obs_normalizer is not None:
            observations = self.obs_normalizer.normalize(observations)
        return to_tensors(observations, self.device)

    def params(self, prepared: Tree, dtype: torch.dtype = torch.float32) -> Tensor:
        """The distribution's parameters for prepared observations, in any dtype of the network."""
        return self.head.params(outputs_of(self.actor, prepared)).to(dtype)

    @torch.no_grad()
    def draw(
        self,
        prepared: Tree,
        stream: RandomStream,
        deterministic: bool = False,
        action_masks: Array | None = None,
    ) -> Draw:
        """Actions for prepared observations; the actor is evaluated.

        Raises:
            NonFiniteError: the actor returned NaN or infinite values.
        """
        with evaluating(self.actor):
            params = self.params(prepared)
        return self.head.draw(params, stream, deterministic, action_masks)

    @torch.no_grad()
    def values(self, prepared: Tree) -> Array:
        """The critic's V of prepared observations, [B]; the critic is evaluated."""
        assert self.critic is not None
        with evaluating(self.critic):
            values: Array = outputs_of(self.critic, prepared).reshape(-1).float().cpu().numpy()
        return values

    def put(self, array: Array) -> Tensor:
        """An array as a tensor on the device."""
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

    # --- what belongs to the policy beside its networks ----------------------------------------------

    def extras(self) -> dict[str, Any]:
        """A free log_std and the observation normalizer, copied."""
        extras: dict[str, Any] = {}
        if self.log_std is not None:
            extras["log_std"] = self.log_std.detach().clone()
        if self.obs_normalizer is not None:
            extras["obs_normalizer"] = self.obs_normalizer.state_dict()
        return extras

    def check_extras(self, extras: Mapping[str, Any]) -> None:
        """Raise RuntimeError unless `load_extras` can take them."""
        own = self.extras()
        wrong = [f"the saved policy has no {key}" for key in own if key not in extras]
        wrong += [f"the saved policy has {key}, this agent does not" for key in extras if key not in own]
        if not wrong and self.log_std is not None and extras["log_std"].shape != self.log_std.shape:
            wrong = [
                f"log_std has shape {list(extras['log_std'].shape)}, not {list(self.log_std.shape)}: "
                "the saved policy is of another architecture"
            ]
        if not wrong and self.obs_normalizer is not None:
            saved = np.shape(extras["obs_normalizer"]["statistics"]["mean"])
            if saved != self.obs_normalizer.mean.shape:
                wrong = [
                    f"obs_normalizer has shape {list(saved)}, not {list(self.obs_normalizer.mean.shape)}"
                ]
        if wrong:
            raise RuntimeError("; ".join(wrong))

    def load_extras(self, extras: Mapping[str, Any]) -> None:
        """Put back what `extras` gave."""
        if self.log_std is not None:
            with torch.no_grad():
                self.log_std.copy_(extras["log_std"])
        if self.obs_normalizer is not None:
            self.obs_normalizer.load_state_dict(extras["obs_normalizer"])
