"""Who changes hyperparameters during a run, and which scores that bears on."""

from __future__ import annotations

from typing import Any

from optix_fast.loop.callbacks import CallbackList
from optix_fast.loop.run_state import RunState
from optix_fast.types import EvalMetrics, HyperparamSet


class HyperparamChanges:
    """Asks the tuner and the diagnostics, and notes when the hyperparameters changed.

    What is set after window c is first learned with in window c + 1 and first scored in c + 2.

    Args:
        agent: whose hyperparameters.
        tuner: a BaseOptimizer; None tunes nothing.
        diagnostics: a DiagnosticController; None for none.
        callbacks: told of changes.
    """

    def __init__(self, agent: Any, tuner: Any, diagnostics: Any, callbacks: CallbackList) -> None:
        self.agent, self.tuner, self.diagnostics = agent, tuner, diagnostics
        self._callbacks = callbacks

    @property
    def is_probing(self) -> bool:
        """Whether the tuner's hyperparameters are a trial."""
        return bool(getattr(self.tuner, "is_probing", False))

    def bear_on(self, run: RunState, window: int) -> bool:
        """Whether the policy of this window learned with a trial: its score may be the trial's doing."""
        return self.is_probing or window <= run.probed_until

    def diagnose(self, run: RunState, window: int, metrics: EvalMetrics | None) -> None:
        """Let the diagnostics look at the learn() of this window."""
        if self.diagnostics is None:
            return
        old = dict(self.agent.get_hyperparams().params)
        score = None if metrics is None else metrics.primary_score
        self.diagnostics.step(window, self.agent, run.diagnostics, score)
        new = dict(self.agent.get_hyperparams().params)
        if new != old:
            run.tuned_after = window
            self._callbacks.call("on_hyperparam_update", old, new)

    def tune(self, run: RunState, window: int) -> None:
        """Ask the tuner, if the latest score was earned with the current hyperparameters.

        Raises:
            TypeError: it suggests something else than a HyperparamSet.
        """
        if self.tuner is None or window < run.tuned_after + 2:
            return
        current = self.agent.get_hyperparams()
        old = dict(current.params)
        was_probing = self.is_probing
        suggested = self.tuner.suggest(current, run.history)
        if not isinstance(suggested, HyperparamSet):
            raise TypeError(f"optimizer.suggest must return a HyperparamSet, got {type(suggested).__name__}")
        if suggested.params == old:
            return
        self.agent.set_hyperparams(suggested)
        run.tuned_after = window
        if was_probing:
            run.probed_until = window + 1
        self._callbacks.call("on_hyperparam_update", old, dict(suggested.params))
