"""One hyperparameter after the other, by finite differences."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from optix_fast.random import RandomStream
from optix_fast.tuners.search_space import Bounds, SearchSpace, is_same, positive, score_spread
from optix_fast.types import BaseOptimizer, EvalMetrics, HyperparamSet

_IMPROVED, _LARGER = 1.2, 2.0
_LARGEST_IMPROVED, _LARGEST = 0.3, 0.5
# A difference counts from so many standard deviations of the scores' noise on. (No more: the probes'
# own differences are part of what the noise is estimated from.)
_CLEAR = 1.0


class BackoffOptimizer(BaseOptimizer):
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
        self.space = SearchSpace(param_bounds, log_params)
        self.perturbation_scale = positive("perturbation_scale", perturbation_scale)
        self.min_delta = positive("min_delta", min_delta)
        self.gradient_threshold = positive("gradient_threshold", gradient_threshold)
        self._stream = RandomStream(seed, "backoff")
        self._turn = 0
        self._step: float | None = None  # the probe's, signed; None when there is none
        self._x = 0.0
        self._base = 0.0
        self._applied: Any = None

    @property
    def is_probing(self) -> bool:
        """Whether the current hyperparameters are a probe."""
        return self._step is not None

    def suggest(
        self, current_hyperparams: HyperparamSet, metrics_history: Sequence[EvalMetrics]
    ) -> HyperparamSet:
        """The next probe, or what the last one has shown."""
        suggested = current_hyperparams.copy()
        names = self.space.fix(suggested.params)
        if not names or not metrics_history:
            return suggested
        name = names[self._turn % len(names)]
        latest = metrics_history[-1].primary_score
        if self._step is None or not is_same(suggested.params[name], self._applied):
            self._base, self._x = latest, self.space.to_unit(name, suggested.params[name])
            self._step = self._side() * max(self.perturbation_scale, self.min_delta)
            point = self.space.moved(name, self._x, self._step)
        else:
            point = self._conclude(name, latest - self._base, score_spread(metrics_history))
            self._step = None
            self._turn += 1
        self._applied = self.space.to_value(name, point)
        suggested.params[name] = self._applied
        return suggested

    def on_improvement(self, metrics: EvalMetrics) -> None:
        """Larger steps: they pay."""
        self.perturbation_scale = _grown(self.perturbation_scale, _IMPROVED, _LARGEST_IMPROVED)

    def on_plateau(self, metrics_history: Sequence[EvalMetrics]) -> None:
        """Larger steps, from the first parameter on."""
        self.perturbation_scale = _grown(self.perturbation_scale, _LARGER, _LARGEST)
        self._turn, self._step = 0, None

    def _side(self) -> float:
        side = 2.0 * float(self._stream.integers(0, 2, (1,))[0]) - 1.0
        if self._x >= 1.0 or self._x <= 0.0:
            return -1.0 if self._x >= 1.0 else 1.0
        return side

    def _conclude(self, name: str, difference: float, spread: float) -> float:
        assert self._step is not None
        clear = max(_CLEAR * spread, self.gradient_threshold * abs(self._step))
        if difference > clear:
            return self.space.moved(name, self._x, self._step)
        if difference < -clear:
            return self.space.moved(name, self._x, -self._step)
        return self._x

    # --- state ----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything that `load_state_dict` needs to go on exactly here (not the arguments)."""
        return {
            "space": self.space.state_dict(),
            "stream": self._stream.state_dict(),
            "perturbation_scale": self.perturbation_scale,
            "turn": self._turn,
            "step": self._step,
            "x": self._x,
            "base": self._base,
            "applied": self._applied,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self.space.load_state_dict(state["space"])
        self._stream.load_state_dict(state["stream"])
        self.perturbation_scale = float(state["perturbation_scale"])
        self._turn = int(state["turn"])
        self._step = None if state["step"] is None else float(state["step"])
        self._x, self._base = float(state["x"]), float(state["base"])
        self._applied = state["applied"]


def _grown(scale: float, factor: float, limit: float) -> float:
    return max(scale, min(scale * factor, limit))
