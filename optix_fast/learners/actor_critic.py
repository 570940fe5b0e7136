"""An actor, a critic and a policy head, as one policy: acting, values, state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from optix_fast.envs.normalizers import ObsNormalizer
from optix_fast.learners.policy import ActorPolicy
from optix_fast.learners.tensors import check_matches, module_state, outputs_of, unique_parameters
from optix_fast.networks.heads import PolicyHead
from optix_fast.types import Array, Tree


class ActorCriticPolicy(ActorPolicy):
    """The user's two modules with what is needed to act with them.

    Args:
        actor: returns what `head` expects.
        critic: returns [B, 1] or [B].
        head: what the actor's outputs mean.
        device: where the modules are moved.
        obs_normalizer: applied to every observation; part of the policy.
    """

    critic: nn.Module

    def __init__(
        self,
        actor: nn.Module,
        critic: nn.Module,
        head: PolicyHead,
        device: torch.device,
        obs_normalizer: ObsNormalizer | None,
    ) -> None:
        super().__init__(actor, head, device, obs_normalizer)
        self.critic = critic.to(device)

    @property
    def log_std(self) -> nn.Parameter | None:
        """The free log standard deviation, where the head has one."""
        return getattr(self.head, "log_std", None)

    @torch.no_grad()
    def values(self, prepared: Tree) -> Array:
        """V of prepared observations, [B]."""
        values: Array = outputs_of(self.critic, prepared).reshape(-1).float().cpu().numpy()
        return values

    def evaluate(self, prepared: Tree, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        """Distribution parameters and values [B] of the dtype, with gradients."""
        values = outputs_of(self.critic, prepared).reshape(-1).to(dtype)
        return self.params(prepared, dtype), values

    def put(self, array: Array) -> Tensor:
        """An array as a tensor on the device."""
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

    def parameters(self) -> list[nn.Parameter]:
        """Everything trainable, each once."""
        parameters = unique_parameters((self.actor, self.critic))
        return parameters if self.log_std is None else [*parameters, self.log_std]

    # --- state ----------------------------------------------------------------------------------

    def extras(self) -> dict[str, Any]:
        """What belongs to the policy beside its networks: a free log_std, the observation normalizer."""
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

    def state_dict(self) -> dict[str, Any]:
        """Copies of both networks' states and of the extras."""
        return {
            "actor": module_state(self.actor),
            "critic": module_state(self.critic),
            "extras": self.extras(),
        }

    def check_state(self, state: Mapping[str, Any]) -> None:
        """Raise RuntimeError unless the state is of the same architecture."""
        check_matches(self.actor, state["actor"], "actor")
        check_matches(self.critic, state["critic"], "critic")
        self.check_extras(state["extras"])

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore; the architecture must be the same (RuntimeError, nothing loaded, otherwise)."""
        self.check_state(state)
        self.actor.load_state_dict(state["actor"])
        self.critic.load_state_dict(state["critic"])
        self.load_extras(state["extras"])
