"""Adam on finite differences, one hyperparameter after the other."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from optix_fast.tuners.one_by_one import OneByOneOptimizer
from optix_fast.tuners.search_space import Bounds, is_same, positive, share

# A difference of so many standard deviations of the scores' noise is a gradient of 1, the largest.
_CLEAR = 4.0


class MomentumOptimizer(OneByOneOptimizer):
    """Adam (Kingma & Ba 2015) upwards along finite differences, in the unit cube of the bounds.

    Two calls of `suggest` are a step of one parameter: one applies a probe x ± δ (the side is even odds, and
    inward at a bound); the next makes a gradient of the probe's score less the one before it, and goes on
    from x, not from the probe:

        g  = ± difference / (4·S), clipped to ±1
        x' = clip(x + alpha·m̂ / (√v̂ + eps), 0, 1),  m̂ and v̂ as Adam's, with steps counted for each parameter

    S is the noise of the latest scores (`score_spread`): dividing by it makes g mean the same on every
    score's scale. Where all scores are equal nothing moves. At a plateau the turns begin with the first
    parameter again, and a probe under way is dropped; the moments stay.

    Args:
        param_bounds: {name: (lowest, highest)}; see SearchSpace for what is tuned. RLOptimizer fills
            in the agent's when empty.
        alpha: longest step, in the unit cube.
        beta1, beta2: decay of the moments, in [0, 1).
        eps: Adam's, in units of g.
        probe_scale: δ, in the unit cube.
        min_delta: smallest δ.
        log_params: names searched on a logarithmic scale.
        seed: of the sides; None draws one from the operating system.

    Raises:
        TypeError, ValueError: an argument is wrong; it is named.
    """

    def __init__(
        self,
        param_bounds: Bounds | None = None,
        alpha: float = 0.05,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        probe_scale: float = 0.05,
        min_delta: float = 1e-7,
        log_params: Iterable[str] | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__(param_bounds, log_params, seed, "momentum")
        self.alpha = positive("alpha", alpha)
        self.beta1, self.beta2 = _decay("beta1", beta1), _decay("beta2", beta2)
        self.eps = positive("eps", eps)
        self.probe_scale = positive("probe_scale", probe_scale)
        self.min_delta = positive("min_delta", min_delta)
        self._moments: dict[str, tuple[float, float, int]] = {}  # m, v and the steps taken
        self._places: dict[str, float] = {}  # exact, where the value itself is a whole number

    def _probe_size(self) -> float:
        return max(self.probe_scale, self.min_delta)

    def _place(self, name: str, value: Any) -> float:
        place = self._places.get(name)
        if place is not None and is_same(self.space.to_value(name, place), value):
            return place
        return super()._place(name, value)

    def _conclude(self, name: str, step: float, difference: float, spread: float) -> float:
        if spread == 0.0:
            return self._x
        gradient = math.copysign(1.0, step) * min(max(difference / (_CLEAR * spread), -1.0), 1.0)
        m, v, t = self._moments.get(name, (0.0, 0.0, 0))
        m = self.beta1 * m + (1.0 - self.beta1) * gradient
        v = self.beta2 * v + (1.0 - self.beta2) * gradient * gradient
        t += 1
        self._moments[name] = m, v, t
        root = math.sqrt(v / (1.0 - self.beta2**t))
        ascent = self.alpha * (m / (1.0 - self.beta1**t)) / (root + self.eps)
        self._places[name] = min(max(self._x + ascent, 0.0), 1.0)
        return self._places[name]

    # --- state ----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything that `load_state_dict` needs to go on exactly here (not the arguments)."""
        moments = {name: list(each) for name, each in self._moments.items()}
        return {**super().state_dict(), "moments": moments, "places": dict(self._places)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        super().load_state_dict(state)
        self._moments = {name: (float(m), float(v), int(t)) for name, (m, v, t) in state["moments"].items()}
        self._places = {name: float(place) for name, place in state["places"].items()}


def _decay(name: str, value: Any) -> float:
    is_zero = value == 0.0 and not isinstance(value, bool)
    return 0.0 if is_zero else share(name, value)
