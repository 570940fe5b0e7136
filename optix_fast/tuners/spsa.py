"""Simultaneous perturbation stochastic approximation: all hyperparameters in two probes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from optix_fast.random import RandomStream
from optix_fast.tuners.search_space import Bounds, SearchSpace, is_same, positive, score_spread
from optix_fast.types import BaseOptimizer, EvalMetrics, HyperparamSet

_SMALLER, _LARGER, _LARGEST = 0.8, 2.0, 0.2
# Spall's (1998) gain sequence: step k is (1 + k / settling) ^ −0.602 of the first.
_EXPONENT, _SETTLING = 0.602, 10.0
# A difference of so many standard deviations of the scores' noise is a gradient of 1.
_CLEAR = 4.0


class SPSAOptimizer(BaseOptimizer):
    """SPSA (Spall 1992; seed 003, "SPSA Gradient Estimate"), in the unit cube of the bounds.

    Three calls of `suggest` are a cycle:

        1. Δ ~ {−1, +1}ᴺ           apply x + c·Δ
        2. f⁺ = the latest score    apply x − c·Δ
        3. f⁻ = the latest score    ĝᵢ = (f⁺ − f⁻) / (4·S·Δᵢ), clipped to ± gradient_clip
                                    apply x' = clip(x + aₖ·ĝ, 0, 1)

    S is the noise of the latest scores (`score_spread`): dividing by it instead of by 2c makes a step
    mean the same on every score's scale; with scores in hundreds the textbook's ĝ would be at its
    clip at every step. aₖ = learning_rate·(1 + k/10)^−0.602 over the cycles k (Spall 1998), from
    the beginning again after a plateau. Progress of the training itself between f⁺ and f⁻ averages
    out, because Δ's signs are even odds.

    `perturbation_scale` c becomes 0.8 of itself at an improvement (not below min_perturbation) and
    twice itself at a plateau (at most 0.2), where a cycle under way is dropped.

    The caller must ask only when the latest score was earned with the current hyperparameters; the
    loop does. When those are not the ones suggested last, a new cycle begins from them.

    Args:
        param_bounds: {name: (lowest, highest)}; see SearchSpace for what is tuned. RLOptimizer fills
            in the agent's when empty.
        perturbation_scale: c, in the unit cube.
        learning_rate: first step for a clear difference, in the unit cube.
        min_perturbation: smallest c. (Below a hundredth of the range hardly any score shows it.)
        gradient_clip: bound of |ĝᵢ|.
        log_params: names searched on a logarithmic scale.
        seed: of Δ; None draws one from the operating system.

    Raises:
        TypeError, ValueError: an argument is wrong; it is named.
    """

    def __init__(
        self,
        param_bounds: Bounds | None = None,
        perturbation_scale: float = 0.05,
        learning_rate: float = 0.1,
        min_perturbation: float = 0.01,
        gradient_clip: float = 1.0,
        log_params: Iterable[str] | None = None,
        seed: int | None = None,
    ) -> None:
        self.space = SearchSpace(param_bounds, log_params)
        self.perturbation_scale = positive("perturbation_scale", perturbation_scale)
        self.learning_rate = positive("learning_rate", learning_rate)
        self.min_perturbation = positive("min_perturbation", min_perturbation)
        self.gradient_clip = positive("gradient_clip", gradient_clip)
        self._stream = RandomStream(seed, "spsa")
        self._phase = 0  # probes under way: 0 none, 1 plus, 2 minus
        self._cycles = 0
        self._x: dict[str, float] = {}
        self._signs: dict[str, float] = {}
        self._plus = 0.0
        self._applied: dict[str, Any] = {}

    @property
    def is_probing(self) -> bool:
        """Whether the current hyperparameters are x ± c·Δ."""
        return self._phase > 0

    def suggest(
        self, current_hyperparams: HyperparamSet, metrics_history: Sequence[EvalMetrics]
    ) -> HyperparamSet:
        """The next hyperparameters of the cycle."""
        suggested = current_hyperparams.copy()
        names = self.space.fix(suggested.params)
        if not names or not metrics_history:
            return suggested
        latest = metrics_history[-1].primary_score
        if not all(is_same(suggested.params.get(name), self._applied.get(name)) for name in names):
            self._phase = 0
            self._x = {name: self.space.to_unit(name, suggested.params[name]) for name in names}
        if self._phase == 0:
            signs = 2 * self._stream.integers(0, 2, (len(names),)) - 1
            self._signs = dict(zip(names, map(float, signs), strict=True))
            point = self._probe(1.0)
        elif self._phase == 1:
            self._plus = latest
            point = self._probe(-1.0)
        else:
            point = self._x = self._step(self._plus - latest, score_spread(metrics_history))
            self._cycles += 1
        self._phase = (self._phase + 1) % 3
        self._applied = {name: self.space.to_value(name, point[name]) for name in names}
        suggested.params.update(self._applied)
        return suggested

    def on_improvement(self, metrics: EvalMetrics) -> None:
        """Look closer."""
        self.perturbation_scale = max(self.perturbation_scale * _SMALLER, self.min_perturbation)

    def on_plateau(self, metrics_history: Sequence[EvalMetrics]) -> None:
        """Look further, from the beginning of the gain sequence. A cycle under way is dropped: the next one
        begins at its x."""
        self.perturbation_scale = min(self.perturbation_scale * _LARGER, _LARGEST)
        self._phase = self._cycles = 0

    def _probe(self, side: float) -> dict[str, float]:
        c = max(self.perturbation_scale, self.min_perturbation)
        return {n: self.space.moved(n, x, side * c * self._signs[n]) for n, x in self._x.items()}

    def _step(self, difference: float, spread: float) -> dict[str, float]:
        if spread == 0.0:
            return self._x
        gain = self.learning_rate * (1.0 + self._cycles / _SETTLING) ** -_EXPONENT
        size = difference / (_CLEAR * spread)
        size = min(max(size, -self.gradient_clip), self.gradient_clip)
        return {n: min(max(x + gain * size * self._signs[n], 0.0), 1.0) for n, x in self._x.items()}

    # --- state ----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything that `load_state_dict` needs to go on exactly here (not the arguments)."""
        return {
            "space": self.space.state_dict(),
            "stream": self._stream.state_dict(),
            "perturbation_scale": self.perturbation_scale,
            "phase": self._phase,
            "cycles": self._cycles,
            "x": dict(self._x),
            "signs": dict(self._signs),
            "plus": self._plus,
            "applied": dict(self._applied),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self.space.load_state_dict(state["space"])
        self._stream.load_state_dict(state["stream"])
        self.perturbation_scale = float(state["perturbation_scale"])
        self._phase, self._cycles = int(state["phase"]), int(state["cycles"])
        self._x, self._signs = dict(state["x"]), dict(state["signs"])
        self._plus, self._applied = float(state["plus"]), dict(state["applied"])
