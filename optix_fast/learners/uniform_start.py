"""Uniform actions before an actor has learned anything."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from optix_fast.networks.heads import CategoricalHead, SquashedHead
from optix_fast.random import RandomStream
from optix_fast.types import Array


class UniformStart:
    """The first steps of an off-policy agent: uniform actions, each repeated for some steps.

    Args:
        head: whose actions.
        steps: environment steps that are still to be acted uniformly.
        config: gives the hyperparameters in force, of which uniform_action_repeat is read.
    """

    def __init__(self, head: SquashedHead | CategoricalHead, steps: int, config: Callable[[], Any]) -> None:
        self._head, self.steps, self._config = head, steps, config
        # The action of the last steps, and how often to repeat it.
        self._held: Array | None = None
        self._held_for = 0

    def act(self, n: int, stream: RandomStream, masks: Array | None = None) -> Array:
        """Actions of n environments, in their units; forbidden ones are not repeated."""
        self.steps -= n
        held = self._held
        if held is None or self._held_for == 0 or len(held) != n:
            held = self._head.uniform(n, stream, masks)
            self._held_for = self._config().uniform_action_repeat
        elif masks is not None and isinstance(self._head, CategoricalHead):
            allowed = self._head.allows(held, masks)
            if not allowed.all():
                held = np.where(allowed, held, self._head.uniform(n, stream, masks))
        self._held = held
        self._held_for -= 1
        return held

    def end(self) -> None:
        """Act by the policy from now on."""
        self.steps, self._held = 0, None

    def state_dict(self) -> dict[str, Any]:
        """Everything."""
        held = None if self._held is None else self._held.copy()
        return {"steps": self.steps, "held_action": held, "held_for": self._held_for}

    def check_state(self, state: Mapping[str, Any]) -> None:
        """Raise ValueError unless load_state_dict can take the state."""
        held = state["held_action"]
        if held is not None and np.asarray(held).dtype.kind not in "iuf":
            raise ValueError(f"the state's held_action must be numbers, got {held!r}")

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what state_dict gave."""
        held = state["held_action"]
        self._held = None if held is None else np.array(held)
        self.steps, self._held_for = int(state["steps"]), int(state["held_for"])
