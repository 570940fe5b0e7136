"""Population-based training's rule, where the population is what one run has tried lately."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from optix_fast.random import RandomStream
from optix_fast.tuners.search_space import Bounds, SearchSpace, positive, share
from optix_fast.types import BaseOptimizer, EvalMetrics, HyperparamSet

_USUALLY_LOGARITHMIC = ("learning_rate", "lr", "alpha", "epsilon", "weight_decay")
_FEW = 3  # of a smaller population nothing can be said


class PBTOptimizer(BaseOptimizer):
    """Exploit and explore (Jaderberg et al. 2017), over the latest hyperparameters of one run (seed 003).

    Every call of `suggest` remembers the current hyperparameters with the score that they earned. Then

        exploit    a score among the lowest `exploit_percentile` of those remembered: one of those with the
                   highest `top_percentile`, each as likely, perturbed by exploit_scale
        explore    any other, and while fewer than three are remembered: the current ones, perturbed by
                   explore_scale

    A perturbation is uniform in ± scale of the unit cube of the bounds: on a linear scale
    θ + U(−d, d) with d = scale·(highest − lowest), on a logarithmic one θ·exp(U(−d, d)) with
    d = scale·ln(highest / lowest); the result stays within the bounds, and integers stay integers. A plateau
    forgets everything.

    One run has one policy, so only hyperparameters are copied here, no weights.

    Args:
        param_bounds: {name: (lowest, highest)}; see SearchSpace for what is tuned. RLOptimizer fills
            in the agent's when empty.
        history_size: hyperparameters remembered, the latest ones; at least three.
        exploit_percentile: share of the lowest scores, above 0 and below 1.
        top_percentile: share of the highest scores, above 0 and below 1; at least the best.
        explore_scale, exploit_scale: see above.
        log_scale_params: names searched on a logarithmic scale. None: learning_rate, lr, alpha, epsilon and
            weight_decay, where their bounds are positive.
        seed: of the perturbations; None draws one from the operating system.

    Raises:
        TypeError, ValueError: an argument is wrong; it is named.
    """

    def __init__(
        self,
        param_bounds: Bounds | None = None,
        history_size: int = 50,
        exploit_percentile: float = 0.20,
        top_percentile: float = 0.20,
        explore_scale: float = 0.10,
        exploit_scale: float = 0.05,
        log_scale_params: Iterable[str] | None = None,
        seed: int | None = None,
    ) -> None:
        if log_scale_params is None:
            bounds = SearchSpace(param_bounds).bounds
            log_scale_params = [
                name for name in _USUALLY_LOGARITHMIC if name in bounds and bounds[name][0] > 0
            ]
        self.space = SearchSpace(param_bounds, log_scale_params)
        if isinstance(history_size, bool) or not isinstance(history_size, int):
            raise TypeError(f"history_size must be a whole number, got {history_size!r}")
        if history_size < _FEW:
            raise ValueError(f"history_size must be at least {_FEW}, got {history_size}")
        self.exploit_percentile = share("exploit_percentile", exploit_percentile)
        self.top_percentile = share("top_percentile", top_percentile)
        self.explore_scale = positive("explore_scale", explore_scale)
        self.exploit_scale = positive("exploit_scale", exploit_scale)
        self._stream = RandomStream(seed, "pbt")
        self._tried: deque[tuple[dict[str, Any], float]] = deque(maxlen=history_size)

    def suggest(
        self, current_hyperparams: HyperparamSet, metrics_history: Sequence[EvalMetrics]
    ) -> HyperparamSet:
        """Good ones of the latest, perturbed, or the current ones, perturbed."""
        suggested = current_hyperparams.copy()
        names = self.space.fix(suggested.params)
        if not names or not metrics_history:
            return suggested
        latest = metrics_history[-1].primary_score
        current = {name: suggested.params[name] for name in names}
        self._tried.append((current, latest))
        source, scale = current, self.explore_scale
        if len(self._tried) >= _FEW and latest <= self._low():
            source, scale = self._good(), self.exploit_scale
        places = {name: self.space.to_unit(name, value) for name, value in source.items()}
        steps = scale * (2.0 * self._stream.uniform((len(names),)).astype(float) - 1.0)
        for (name, place), step in zip(places.items(), steps, strict=True):
            suggested.params[name] = self.space.to_value(name, self.space.moved(name, place, float(step)))
        return suggested

    def on_plateau(self, metrics_history: Sequence[EvalMetrics]) -> None:
        """Forget: what was earned long ago says little about now."""
        self._tried.clear()

    def _low(self) -> float:
        scores = sorted(score for _, score in self._tried)
        return scores[max(0, int(len(scores) * self.exploit_percentile) - 1)]

    def _good(self) -> dict[str, Any]:
        scores = sorted(score for _, score in self._tried)
        least = scores[int(len(scores) * (1.0 - self.top_percentile))]
        good = [params for params, score in self._tried if score >= least]
        return good[int(self._stream.integers(0, len(good), (1,))[0])]

    # --- state ----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything that `load_state_dict` needs to go on exactly here (not the arguments)."""
        return {
            "space": self.space.state_dict(),
            "stream": self._stream.state_dict(),
            "tried": [[dict(params), score] for params, score in self._tried],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self.space.load_state_dict(state["space"])
        self._stream.load_state_dict(state["stream"])
        self._tried.clear()
        self._tried.extend((dict(params), float(score)) for params, score in state["tried"])


def usually_logarithmic(bounds: Bounds) -> list[str]:
    """The names that are searched on a logarithmic scale where nothing is said: rates and the like, with
    positive bounds."""
    return [name for name in _USUALLY_LOGARITHMIC if name in bounds and bounds[name][0] > 0.0]
