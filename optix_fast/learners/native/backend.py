"""The core's share in an agent: acting, and which backend runs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from optix_fast.learners.native.acting import Acted, NativeActor, Policy
from optix_fast.random import RandomStream
from optix_fast.types import Array

_NOT_ARRAYS = "observations and masks are not float and bool arrays [N, D] and [N, K]"


class Backend(str):
    """ "native" or "torch", with the reason for the latter."""

    reason: str

    def __new__(cls, name: str, reason: str = "") -> Backend:
        backend = super().__new__(cls, name)
        backend.reason = reason
        return backend


class NativeLearner(ABC):
    """The core's share in one agent: every method returns None or False where torch has to do the work.

    Args:
        policy: what the agent acts with.
        requested: "auto"; "native": what the core does not serve is an error (RuntimeError); "torch": it
            serves nothing.
    """

    def __init__(self, policy: Policy, requested: str) -> None:
        self.requested = requested
        self._actor = NativeActor(policy)

    def unsupported_reason(self) -> str:
        """Why the core serves neither acting nor updates at this moment; empty where it serves both."""
        if self.requested == "torch":
            return "backend='torch' was asked for"
        if not self._actor.ready():
            return self._actor.reason
        return self._unsupported_update()

    @abstractmethod
    def _unsupported_update(self) -> str:
        """Why the core does not serve updates; empty where it does."""

    def backend(self) -> Backend:
        """What the next window and the next update run on."""
        reason = self.unsupported_reason()
        return Backend("torch" if reason else "native", reason)

    # Acting: see NativeActor.

    def act(self, observation: Any, deterministic: bool, value: bool, stream: RandomStream) -> Acted | None:
        if self.requested == "torch":
            return None
        return self._actor.act(observation, deterministic, value, stream)

    def act_batch(
        self, observations: Any, deterministic: bool, masks: Array | None, stream: RandomStream
    ) -> Array | None:
        if self.requested == "torch":
            return None
        return self._actor.act_batch(observations, deterministic, masks, stream)

    def act_rows(self, observations: Any, rows: Any, t: int, stream: RandomStream) -> bool:
        if self.requested == "torch":
            return False
        return self._actor.act_rows(observations, rows, t, stream)

    def require_acting(self) -> None:
        """Raise where torch is about to act, because the core did not, for an agent that must be native."""
        self.require(self._actor.reason or _NOT_ARRAYS)

    def require(self, reason: str) -> None:
        """Raise where the agent was told to be native and there is a reason why not."""
        if self.requested == "native" and reason:
            raise RuntimeError(f"backend='native', but {reason}")
