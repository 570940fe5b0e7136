"""An actor, a critic and a policy head, as one policy: acting, values, weight files, state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from optix_fast.agents import agent as shared
from optix_fast.envs.normalizers import ObsNormalizer
from optix_fast.networks.heads import Draw, PolicyHead
from optix_fast.random import RandomStream
from optix_fast.serialization import load_state, save_state
from optix_fast.types import Array, NonFiniteError, Tree


class ActorCriticPolicy:
    """The user's two modules with what is needed to act with them.

    Args:
        actor: returns what `head` expects.
        critic: returns [B, 1] or [B].
        head: what the actor's outputs mean.
        device: where the modules are moved.
        obs_normalizer: applied to every observation; part of the policy.
    """

    def __init__(
        self,
        actor: nn.Module,
        critic: nn.Module,
        head: PolicyHead,
        device: torch.device,
        obs_normalizer: ObsNormalizer | None,
    ) -> None:
        self.actor, self.critic = actor.to(device), critic.to(device)
        self.head, self.device, self.obs_normalizer = head, device, obs_normalizer

    @property
    def log_std(self) -> nn.Parameter | None:
        """The free log standard deviation, where the head has one."""
        return getattr(self.head, "log_std", None)

    def prepare(self, observations: Tree) -> Tree:
        """Observations [B, …] → normalised tensors on the device."""
        if self.obs_normalizer is not None:
            observations = self.obs_normalizer.normalize(observations)
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
        params = self.head.params(self.actor(prepared))
        draw = self.head.draw(params, stream, deterministic, action_masks)
        # A free log_std keeps the log-probability finite when the mean is not.
        if not (np.isfinite(draw.log_probs).all() and np.isfinite(draw.raw).all()):
            raise NonFiniteError("policy output while acting")
        return draw

    @torch.no_grad()
    def values(self, prepared: Tree) -> Array:
        """V of prepared observations, [B]."""
        values: Array = self.critic(prepared).reshape(-1).cpu().numpy()
        return values

    def evaluate(self, prepared: Tree) -> tuple[Tensor, Tensor]:
        """Distribution parameters and values [B], with gradients."""
        return self.head.params(self.actor(prepared)), self.critic(prepared).reshape(-1)

    def put(self, array: Array) -> Tensor:
        """An array as a tensor on the device."""
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

    def parameters(self) -> list[nn.Parameter]:
        """Everything trainable, each once."""
        parameters = shared.unique_parameters((self.actor, self.critic))
        return parameters if self.log_std is None else [*parameters, self.log_std]

    def to_cpu(self) -> None:
        """Leave the device."""
        self.actor.cpu()
        self.critic.cpu()
        self.device = torch.device("cpu")

    # --- weight files ---------------------------------------------------------------------------

    def save(self, path: str) -> None:
        """actor.safetensors, critic.safetensors, and policy.safetensors for the rest."""
        shared.save_module(self.actor, path, "actor")
        shared.save_module(self.critic, path, "critic")
        extras = self._extras()
        if extras:
            save_state(f"{path}/policy.safetensors", extras)

    def load(self, path: str) -> None:
        """Read what save() wrote, or actor.pt and critic.pt; loads everything or nothing."""
        self.load_state_dict(self._read(path))

    def load_mean(self, paths: Sequence[str]) -> None:
        """Load the element-wise mean of several saved policies' networks.

        The observation normalizer and free log_std are taken from the first.
        """
        if not paths:
            raise ValueError("paths must name at least one directory")
        states = [self._read(path) for path in paths]
        for state in states:
            self._check(state)
        mean = {name: shared.mean_of([state[name] for state in states]) for name in ("actor", "critic")}
        self.load_state_dict({**states[0], **mean})

    def _read(self, path: str) -> dict[str, Any]:
        state: dict[str, Any] = {name: shared.read_module_file(path, name) for name in ("actor", "critic")}
        state["extras"] = load_state(f"{path}/policy.safetensors") if self._extras() else {}
        return state

    # --- state ----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Copies of both networks' states and of the extras."""
        return {
            "actor": shared.module_state(self.actor),
            "critic": shared.module_state(self.critic),
            "extras": self._extras(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore; the architecture must be the same (RuntimeError, nothing loaded, otherwise)."""
        self._check(state)
        self.actor.load_state_dict(state["actor"])
        self.critic.load_state_dict(state["critic"])
        if self.log_std is not None:
            with torch.no_grad():
                self.log_std.copy_(state["extras"]["log_std"])
        if self.obs_normalizer is not None:
            self.obs_normalizer.load_state_dict(state["extras"]["obs_normalizer"])

    def _check(self, state: Mapping[str, Any]) -> None:
        shared.check_matches(self.actor, state["actor"], "actor")
        shared.check_matches(self.critic, state["critic"], "critic")
        missing = [key for key in self._extras() if key not in state["extras"]]
        if missing:
            raise RuntimeError(f"the saved policy has no {' and no '.join(missing)}")

    def _extras(self) -> dict[str, Any]:
        extras: dict[str, Any] = {}
        if self.log_std is not None:
            extras["log_std"] = self.log_std.detach().clone()
        if self.obs_normalizer is not None:
            extras["obs_normalizer"] = self.obs_normalizer.state_dict()
        return extras
