"""What a rollback restores beside the weights."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from optix_fast.types import Stateful


class TrainingState:
    """The state that an agent trained with when its policy was checkpointed.

    Weights that meet the optimizer moments and normalizers of a collapsed policy soon collapse again.

    Args:
        state: the agent's state_dict().
        snapshot_id: of the checkpoint that it belongs to.
    """

    def __init__(self, state: dict[str, Any], snapshot_id: str) -> None:
        self._state, self._snapshot_id = state, snapshot_id

    @classmethod
    def of(cls, agent: Any, snapshot_id: str) -> TrainingState | None:
        """The agent's state; None for an agent without state_dict(), and for an off-policy one, which is
        never rolled back."""
        if not isinstance(agent, Stateful) or not getattr(agent, "is_on_policy", True):
            return None
        return cls(deepcopy(agent.state_dict()), snapshot_id)

    def state_dict(self) -> dict[str, Any]:
        """The state and what it belongs to."""
        return {"state": self._state, "snapshot_id": self._snapshot_id}

    def restore(self, agent: Any, snapshot_id: str) -> None:
        """Load the state into the agent, if it belongs to the snapshot that was loaded. The agent keeps its
        current hyperparameters and what `kept_on_rollback` names."""
        if snapshot_id != self._snapshot_id:
            return
        hyperparams = agent.get_hyperparams()
        now = agent.state_dict()
        kept = {key: now[key] for key in getattr(agent, "kept_on_rollback", ())}
        agent.load_state_dict(deepcopy(self._state) | kept)
        agent.set_hyperparams(hyperparams)
