"""One agent's acting and updating: by the core where it serves, else in torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, ParamSpec, TypeVar

from optix_fast.learners.native.acting import Acted, NativeActor
from optix_fast.learners.native.networks import UnsupportedError
from optix_fast.learners.policy import Policy
from optix_fast.random import RandomStream
from optix_fast.types import Array

_NOT_ARRAYS = "observations and masks are not float and bool arrays [N, D] and [N, K]"

P = ParamSpec("P")
R = TypeVar("R")


class Backend(str):
    """ "native" or "torch", with the reason for the latter."""

    reason: str

    def __new__(cls, name: str, reason: str = "") -> Backend:
        backend = super().__new__(cls, name)
        backend.reason = reason
        return backend


class Learner(Generic[P, R]):
    """Chooses between the two updates of an algorithm, which have one signature and one result, and between
    acting in the core and in torch.

    What the core does not serve it says with UnsupportedError, before any number has changed.

    Args:
        policy: what the agent acts with.
        check: raises UnsupportedError where the core does not serve updates of the agent.
        native: the core's update.
        reference: torch's.
        requested: "auto"; "native": what the core does not serve is an error (RuntimeError); "torch": it
            serves nothing.
        between: tried where the core does not serve, before torch's own update; it raises UnsupportedError
            too (a CUDA graph).

    Raises:
        RuntimeError: requested is "native" and the core does not serve the agent.
    """

    def __init__(
        self,
        policy: Policy,
        check: Callable[[], object],
        native: Callable[P, R],
        reference: Callable[P, R],
        requested: str,
        between: Callable[P, R] | None = None,
    ) -> None:
        self.requested = requested
        self._check, self._native, self._reference, self._between = check, native, reference, between
        self._actor = NativeActor(policy)
        self.require(self.unsupported_reason())

    # --- which backend ----------------------------------------------------------------------------

    def unsupported_reason(self) -> str:
        """Why the core serves neither acting nor updates at this moment; empty where it serves both."""
        if self.requested == "torch":
            return "backend='torch' was asked for"
        try:
            self._require_actor()
            self._check()
        except UnsupportedError as error:
            return str(error)
        return ""

    def backend(self) -> Backend:
        """What the next window and the next update run on."""
        reason = self.unsupported_reason()
        return Backend("torch" if reason else "native", reason)

    def require(self, reason: str) -> None:
        """Raise where the agent was told to be native and there is a reason why not."""
        if self.requested == "native" and reason:
            raise RuntimeError(f"backend='native', but {reason}")

    def _require_actor(self) -> None:
        if not self._actor.ready():
            raise UnsupportedError(self._actor.reason)

    # --- updating ---------------------------------------------------------------------------------

    def update(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """The algorithm's update.

        Raises:
            NonFiniteError, ValueError: see the update.
            RuntimeError: backend="native", and the core does not serve the agent.
        """
        if self.requested != "torch":
            try:
                self._require_actor()
                return self._native(*args, **kwargs)
            except UnsupportedError as error:
                self.require(str(error))
            if self._between is not None:
                try:
                    return self._between(*args, **kwargs)
                except UnsupportedError:
                    pass  # it has noted the reason
        return self._reference(*args, **kwargs)

    # --- acting: None or False where torch has to do the work; see NativeActor ------------------------

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

    def act_rows(
        self, observations: Any, rows: Any, t: int, stream: RandomStream, deterministic: bool = False
    ) -> bool:
        if self.requested == "torch":
            return False
        return self._actor.act_rows(observations, rows, t, stream, deterministic)

    def require_acting(self) -> None:
        """Raise where torch is about to act, because the core did not, for an agent that must be native."""
        self.require(self._actor.reason or _NOT_ARRAYS)
