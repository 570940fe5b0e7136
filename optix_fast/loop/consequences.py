"""What follows from a score: the schedule, a rollback, the end of training."""

from __future__ import annotations

import logging

from optix_fast.loop.backoff_scheduler import BackoffScheduler
from optix_fast.loop.best_policy import BestPolicy
from optix_fast.loop.callbacks import CallbackList
from optix_fast.loop.eval_log import EvalLog
from optix_fast.loop.hyperparam_changes import HyperparamChanges
from optix_fast.loop.run_state import RunState
from optix_fast.types import EvalMetrics, LoopState

logger = logging.getLogger(__name__)


class Consequences:
    """Tells the scheduler, the tuner and the callbacks of a score, and does what the scheduler says.

    Args:
        scheduler: decides what the score means.
        best_policy: what a rollback restores.
        changes: knows the agent, the tuner, and which scores a trial of the tuner bears on.
        callbacks: told.
        log: gets a line per score.
        rollback: whether a degraded policy is rolled back.
    """

    def __init__(
        self,
        scheduler: BackoffScheduler,
        best_policy: BestPolicy,
        changes: HyperparamChanges,
        callbacks: CallbackList,
        log: EvalLog,
        rollback: bool,
    ) -> None:
        self.rollback = rollback
        self.keep_going = False
        self._scheduler, self._best_policy, self._changes = scheduler, best_policy, changes
        self._callbacks, self._log = callbacks, log

    def draw(self, run: RunState, metrics: EvalMetrics, window: int, has_budget: bool) -> str | None:
        """Take a finite score into account; why the run ends, or None.

        Args:
            run: its counters.
            metrics: of the window.
            window: its number.
            has_budget: whether something else ends the run, sooner or later.
        """
        scheduler, tuner = self._scheduler, self._changes.tuner
        closed, run.last_evaluated = window - run.last_evaluated, window
        raw, interval = metrics.primary_score, scheduler.current_interval
        smoothed = run.smoothed(raw)
        run.history.append(metrics)
        is_first = scheduler.best_score is None
        scheduler.record_score(raw, window)
        if scheduler.is_improving(self._best_policy.improvement_margin):
            scheduler.record_improvement(smoothed, closed)
            if tuner is not None and not is_first:
                tuner.on_improvement(metrics)
        elif self._may_degrade(run, window) and scheduler.has_degraded(smoothed):
            rolled_back = self.rollback and self._best_policy.restore(run)
            scheduler.record_degradation(closed, rolled_back)
            self._callbacks.call("on_degradation", window, metrics)
        else:
            scheduler.record_non_improvement(closed)
        state = scheduler.current_state
        self._log.write(window, raw, smoothed, state, interval)
        if state is LoopState.COOLING:
            self._callbacks.call("on_plateau", window, state)
        return self._end(run, window, has_budget) if state is LoopState.DORMANT else None

    def _may_degrade(self, run: RunState, window: int) -> bool:
        is_on_policy = getattr(self._changes.agent, "is_on_policy", True)
        return is_on_policy and not self._changes.bear_on(run, window)

    def _end(self, run: RunState, window: int, has_budget: bool) -> str | None:
        if self._changes.tuner is not None:
            self._changes.tuner.on_plateau(run.history)
        nothing = run.signal.message
        if nothing is not None and has_budget:
            # A score that never varied is not a plateau: a signal may still come within the budget.
            if not run.lacks_signal:
                logger.warning("window %d: %s so far; training goes on to its budget", window, nothing)
            run.lacks_signal = True
            self._scheduler.record_restart()
            return None
        self.keep_going = False
        self._callbacks.call("on_dormant", window)
        if self.keep_going:
            self._scheduler.record_restart()
            return None
        return "converged" if nothing is None else "no_signal"
