"""What tuners share that probe one hyperparameter after the other."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from optix_fast.random import RandomStream
from optix_fast.tuners.search_space import Bounds, SearchSpace, is_same, score_spread
from optix_fast.types import BaseOptimizer, EvalMetrics, HyperparamSet


class OneByOneOptimizer(BaseOptimizer):
    """Two-phase finite differences, parameter by parameter, in the unit cube of the bounds.

    Two calls of `suggest` are a step: one applies a probe x ± δ (the side is even odds, and inward at a
    bound); the next compares the probe's score with the one before it, and decides where the parameter
    goes. The next parameter follows.

    Args:
        param_bounds, log_params: see SearchSpace.
        seed: of the sides; None draws one from the operating system.
        name: of the random stream.
    """

    def __init__(
        self, param_bounds: Bounds | None, log_params: Iterable[str] | None, seed: int | None, name: str
    ) -> None:
        self.space = SearchSpace(param_bounds, log_params)
        self._stream = RandomStream(seed, name)
        self._turn = 0
        self._step: float | None = None  # the probe's, signed; None when there is none
        self._x = 0.0
        self._base = 0.0
        self._applied: Any = None
        self._probed: str | None = None  # a parameter that holds a probe which nothing will be said about

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
        if self._probed is not None and is_same(suggested.params[self._probed], self._applied):
            suggested.params[self._probed] = self.space.to_value(self._probed, self._x)
        self._probed = None
        name = names[self._turn % len(names)]
        latest = metrics_history[-1].primary_score
        if self._step is None or not is_same(suggested.params[name], self._applied):
            self._base, self._x = latest, self._place(name, suggested.params[name])
            self._step = self._side() * self._probe_size()
            point = self.space.moved(name, self._x, self._step)
            if self.space.to_value(name, point) == suggested.params[name]:  # a bound is in the way
                self._step = -self._step
                point = self.space.moved(name, self._x, self._step)
        else:
            point = self._conclude(name, self._step, latest - self._base, score_spread(metrics_history))
            self._step = None
            self._turn += 1
        self._applied = self.space.to_value(name, point)
        suggested.params[name] = self._applied
        return suggested

    def on_plateau(self, metrics_history: Sequence[EvalMetrics]) -> None:
        """From the first parameter on; a probe under way is dropped: the next call takes it back."""
        if self._step is not None and self.space.names:
            self._probed = self.space.names[self._turn % len(self.space.names)]
        self._turn, self._step = 0, None

    @abstractmethod
    def _probe_size(self) -> float:
        """δ."""

    @abstractmethod
    def _conclude(self, name: str, step: float, difference: float, spread: float) -> float:
        """Where in [0, 1] the parameter goes, after a probe of x + step that scored `difference` more than x,
        where `spread` is the scores' noise."""

    def _place(self, name: str, value: Any) -> float:
        return self.space.to_unit(name, value)

    def _side(self) -> float:
        side = 2.0 * float(self._stream.integers(0, 2, (1,))[0]) - 1.0
        if self._x >= 1.0 or self._x <= 0.0:
            return -1.0 if self._x >= 1.0 else 1.0
        return side

    # --- state ----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything that `load_state_dict` needs to go on exactly here (not the arguments)."""
        return {
            "space": self.space.state_dict(),
            "stream": self._stream.state_dict(),
            "turn": self._turn,
            "step": self._step,
            "x": self._x,
            "base": self._base,
            "applied": self._applied,
            "probed": self._probed,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self.space.load_state_dict(state["space"])
        self._stream.load_state_dict(state["stream"])
        self._turn = int(state["turn"])
        self._step = None if state["step"] is None else float(state["step"])
        self._x, self._base = float(state["x"]), float(state["base"])
        self._applied, self._probed = state["applied"], state.get("probed")
