"""Tuners by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from optix_fast.tuners.backoff import BackoffOptimizer
from optix_fast.tuners.momentum import MomentumOptimizer
from optix_fast.tuners.pbt import PBTOptimizer, usually_logarithmic
from optix_fast.tuners.search_space import SearchSpace
from optix_fast.tuners.spsa import SPSAOptimizer
from optix_fast.types import BaseOptimizer, EvalMetrics, HyperparamSet

_Searching = SPSAOptimizer | BackoffOptimizer | MomentumOptimizer | PBTOptimizer
_KINDS: dict[str, type[_Searching]] = {
    "spsa": SPSAOptimizer,
    "backoff": BackoffOptimizer,
    "momentum": MomentumOptimizer,
    "pbt": PBTOptimizer,
}


class FixedHyperparams(BaseOptimizer):
    """Tunes nothing: the hyperparameters stay what they are."""

    def suggest(
        self, current_hyperparams: HyperparamSet, metrics_history: Sequence[EvalMetrics]
    ) -> HyperparamSet:
        """What is there."""
        return current_hyperparams


def make_tuner(name: str, agent: Any, seed: int | None = None) -> BaseOptimizer:
    """A tuner within the agent's own bounds.

    Args:
        name: "none", "spsa", "backoff", "momentum" or "pbt".
        agent: its `default_param_bounds` are searched, those in `default_log_params` on a logarithmic
            scale. An agent without bounds is not tuned.
        seed: of the tuner's random numbers.

    Raises:
        ValueError: no tuner has that name.
    """
    if name == "none":
        return FixedHyperparams()
    if name not in _KINDS:
        names = ", ".join(f"'{kind}'" for kind in ("none", *_KINDS))
        raise ValueError(f"tuner must be one of {names}, got {name!r}")
    tuner = _KINDS[name](seed=seed)
    fill_bounds(tuner, agent)
    return tuner


def tuner_name(tuner: Any) -> str:
    """What `make_tuner` calls it, or the name of its class; "none" for None."""
    if tuner is None or type(tuner) is FixedHyperparams:
        return "none"
    names = {kind: name for name, kind in _KINDS.items()}
    return names.get(type(tuner), type(tuner).__name__)


def fill_bounds(tuner: Any, agent: Any) -> None:
    """Let a tuner of this package that was given no bounds search within the agent's: those of the
    hyperparameters that were chosen for it, where the agent says which (`chosen_hyperparams`); on the
    logarithmic scales that it was given, or else the agent's."""
    if isinstance(tuner, _Searching) and not tuner.space.bounds:
        bounds = getattr(agent, "default_param_bounds", None) or {}
        chosen = getattr(agent, "chosen_hyperparams", None)
        if chosen is not None:
            bounds = {name: pair for name, pair in bounds.items() if name in chosen}
        logarithmic = tuner.space.log_params & bounds.keys() or getattr(agent, "default_log_params", None)
        if logarithmic is None and isinstance(tuner, PBTOptimizer):
            logarithmic = usually_logarithmic(bounds)
        tuner.space = SearchSpace(bounds, logarithmic)
