"""How much an exploration bonus weighs, by how the run goes."""

from __future__ import annotations

from typing import Any

from optix_fast.types import LoopCallback, LoopState, PolicySnapshot

_IMPROVED, _PLATEAU, _AT_MOST = 0.9, 1.5, 4.0


class EtaSchedule(LoopCallback):
    """Explores less when a new best is found, more on a plateau: eta·0.9, and eta·1.5 up to 4·base_eta.

    Args:
        pipeline: the training pipeline, with `eta`, `base_eta` and `set_eta(eta)` (RNDPipeline).
    """

    def __init__(self, pipeline: Any) -> None:
        self._pipeline = pipeline

    def on_improvement(self, snapshot: PolicySnapshot) -> None:
        """Less of it."""
        self._pipeline.set_eta(self._pipeline.eta * _IMPROVED)

    def on_plateau(self, episode_id: int, state: LoopState) -> None:
        """More of it."""
        self._pipeline.set_eta(min(self._pipeline.eta * _PLATEAU, self._pipeline.base_eta * _AT_MOST))
