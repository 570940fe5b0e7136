"""One hyperparameter after the other, by finite differences."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from optix_fast.tuners.one_by_one import OneByOneOptimizer
from optix_fast.tuners.search_space import Bounds, positive
from optix_fast.types import EvalMetrics

_IMPROVED, _LARGER = 1.2, 2.0
_LARGEST_IMPROVED, _LARGEST = 0.3, 0.5
# A difference counts from so many standard deviations of the scores' noise on. (No more: the probes'
# own differences are part of what the noise is estimated from.)
_CLEAR = 1.0


class BackoffOptimizer(OneByOneOptimizer):
    """Two-phase finite differences, parameter by parameter, in the unit cube of the bounds (seed 003).

    Two calls of `suggest` are a step: one applies a probe x ± δ (the side is even odds, and inward at
    a bound); the next compares the probe's score with the one before it:

        clearly better (by more than S)     keep the probe
        clearly worse                       go to the other side; stay at a bound
        anything else                       back to x

    S is the noise of the latest scores (`score_spread`), so noise and the training's own progress rarely
    move a parameter, and then to either side with even odds. The next parameter follows.

    δ becomes 1.2 of itself at an improvement (at most 0.3) and twice itself at a plateau (at most
    0.5), where a probe under way is dropped.

    Args:
        param_bounds: {name: (lowest, highest)}; see SearchSpace for what is tuned. RLOptimizer fills
            in the agent's when empty.
        perturbation_scale: δ.
        min_delta: smallest δ.
        gradient_threshold: |difference| / δ up to which a difference counts as noise.
        log_params: names searched on a logarithmic scale.
        seed: of the sides; None draws one from the operating system.

    Raises:
        TypeError, ValueError: an argument is wrong; it is named.
    """

    def __init__(
        self,
        param_bounds: Bounds | None = None,
        perturbation_scale: float = 0.05,
        min_delta: float = 1e-4,
        gradient_threshold: float = 1e-10,
        log_params: Iterable[str] | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__(param_bounds, log_params, seed, "backoff")
        self.perturbation_scale = positive("perturbation_scale", perturbation_scale)
        self.min_delta = positive("min_delta", min_delta)
        self.gradient_threshold = positive("gradient_threshold", gradient_threshold)

    def on_improvement(self, metrics: EvalMetrics) -> None:
        """Larger steps: they pay."""
        self.perturbation_scale = _grown(self.perturbation_scale, _IMPROVED, _LARGEST_IMPROVED)

    def on_plateau(self, metrics_history: Sequence[EvalMetrics]) -> None:
        """Larger steps, from the first parameter on."""
        self.perturbation_scale = _grown(self.perturbation_scale, _LARGER, _LARGEST)
        super().on_plateau(metrics_history)

    def _probe_size(self) -> float:
        return max(self.perturbation_scale, self.min_delta)

    def _conclude(self, name: str, step: float, difference: float, spread: float) -> float:
        clear = max(_CLEAR * spread, self.gradient_threshold * abs(step))
        if difference > clear:
            return self.space.moved(name, self._x, step)
        if difference < -clear:
            return self.space.moved(name, self._x, -step)
        return self._x

    # --- state ----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything that `load_state_dict` needs to go on exactly here (not the arguments)."""
        return {**super().state_dict(), "perturbation_scale": self.perturbation_scale}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        super().load_state_dict(state)
        self.perturbation_scale = float(state["perturbation_scale"])


def _grown(scale: float, factor: float, limit: float) -> float:
    return max(scale, min(scale * factor, limit))
