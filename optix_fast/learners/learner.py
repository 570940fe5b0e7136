"""One agent's updates: by the core where it serves, else in torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Concatenate, Generic, ParamSpec, TypeVar

from optix_fast.learners.acting import Acting
from optix_fast.learners.model import Model
from optix_fast.learners.native.networks import UnsupportedError

M = TypeVar("M", bound=Model)
P = ParamSpec("P")
R = TypeVar("R")


class Backend(str):
    """ "native" or "torch", with the reason for the latter."""

    reason: str

    def __new__(cls, name: str, reason: str = "") -> Backend:
        backend = super().__new__(cls, name)
        backend.reason = reason
        return backend


class Learner(Generic[M, P, R]):
    """Chooses between the two updates of an algorithm, which have one signature and one result.

    What the core does not serve it says with UnsupportedError, before any number has changed.

    Args:
        acting: how the agent acts: what the core does not act by, it does not update.
        model: what the updates change.
        check: raises UnsupportedError where the core does not serve updates of the model.
        native: the core's update.
        reference: torch's.
        between: tried where the core does not serve, before torch's own update; it raises UnsupportedError
            too (a CUDA graph).

    Raises:
        RuntimeError: the core does not serve an agent that must be native.
    """

    def __init__(
        self,
        acting: Acting,
        model: M,
        check: Callable[[M], object],
        native: Callable[Concatenate[M, P], R],
        reference: Callable[Concatenate[M, P], R],
        between: Callable[Concatenate[M, P], R] | None = None,
    ) -> None:
        self._acting, self._model, self._check = acting, model, check
        self._native, self._reference, self._between = native, reference, between
        acting.require(self._unsupported_reason())

    def backend(self) -> Backend:
        """What the next window and the next update run on."""
        reason = self._unsupported_reason()
        return Backend("torch" if reason else "native", reason)

    def update(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """The algorithm's update of the model.

        Raises:
            NonFiniteError, ValueError: see the update.
            RuntimeError: backend="native", and the core does not serve the agent.
        """
        with self._model.drawing_masks(self._acting.update_stream):
            if self._acting.requested != "torch":
                try:
                    self._require_actor()
                    return self._native(self._model, *args, **kwargs)
                except UnsupportedError as error:
                    self._acting.require(str(error))
                if self._between is not None:
                    try:
                        return self._between(self._model, *args, **kwargs)
                    except UnsupportedError:
                        pass  # it has noted the reason
            with self._model.masked_in_torch():
                return self._reference(self._model, *args, **kwargs)

    def _unsupported_reason(self) -> str:
        """Why the core serves neither acting nor updates at this moment; empty where it serves both."""
        if self._acting.requested == "torch":
            return "backend='torch' was asked for"
        try:
            self._require_actor()
            self._check(self._model)
        except UnsupportedError as error:
            return str(error)
        return ""

    def _require_actor(self) -> None:
        if not self._acting.native.ready():
            raise UnsupportedError(self._acting.native.reason)
