"""The loop: collect, score, keep the best, learn, tune; stop when training is done."""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Mapping
from typing import Any

from optix_fast.loop import checks
from optix_fast.loop.backoff_scheduler import BackoffScheduler
from optix_fast.loop.best_policy import BestPolicy
from optix_fast.loop.callbacks import CallbackList, is_pruned
from optix_fast.loop.checkpoints import CheckpointRegistry
from optix_fast.loop.consequences import Consequences
from optix_fast.loop.diagnostics import DiagnosticController
from optix_fast.loop.eta_schedule import EtaSchedule
from optix_fast.loop.eval_log import EvalLog
from optix_fast.loop.hyperparam_changes import HyperparamChanges
from optix_fast.loop.learning_signal import ADVICE
from optix_fast.loop.resume import RunParts
from optix_fast.loop.run_state import RunState, RunSummary
from optix_fast.loop.scoring import PolicyScorer, ScoreFn
from optix_fast.loop.training_state import TrainingState
from optix_fast.tuners import tuner_name
from optix_fast.types import (
    EpisodeData,
    EvalMetrics,
    LoopState,
    NonFiniteError,
    PolicySnapshot,
    Stateful,
)

logger = logging.getLogger(__name__)

# Restores of the best after a non-finite update, in a row, before the error is passed on.
_MAX_RESTORES = 3

_ENDED = object()


class LoopController:
    """Runs the loop on ready-made parts; `RLOptimizer` builds them.

    One window: collect it with policy π; when it is to be evaluated, score it with the diagnostics
    of the learn() that made π, and if π is the best, checkpoint it; then learn(); then draw the
    consequences (rollback, plateau, end); then the tuner suggests. So a score belongs to the policy
    that earned it, and a checkpoint holds the policy that was scored. N windows are N learn()
    calls. docs/loop.md tells the whole.

    The tuner is asked only when the latest score was earned with the current hyperparameters: those
    suggested after window c are first learned with in window c + 1 and first scored in c + 2.

    Args:
        agent: the six methods of BaseAgent.
        evaluator: a BaseEvaluator.
        optimizer: a BaseOptimizer; None tunes nothing.
        pipeline: a BasePipeline; gets the agent by `set_agent` where it has that.
        checkpoint_registry: where the best policies go.
        backoff_scheduler: decides when to evaluate and when to stop.
        rollback_on_degradation: load the best when the score has degraded (on-policy agents only,
            and not while the tuner probes).
        improvement_margin: smallest gain over the best that is checkpointed.
        max_episodes: windows at most.
        callbacks: a list of LoopCallback.
        val_pipeline: held-out pipeline; the agent acts in it and never learns. Its score decides.
        score_smoothing: scores averaged for the convergence and degradation tests.
        checkpoint_score_fn: (agent) → score that chooses the checkpoint instead of the window's.
        verbose: print a line per evaluation.
        verbose_log_file: write those lines to this file instead.
        target_score: stop when a window's score reaches it (while it is set, and there is no
            val_pipeline, the score of every window is looked at).
        target_confirm_fn: (agent) → score that must reach the target too. A confirmed policy
            outranks every other checkpoint.
        max_steps: environment steps at most; the window that reaches it is the last.
        state_interval: seconds between writes of the run's whole state, from which `resume` goes on;
            0 after every window, None never. It takes an agent and a pipeline with a state_dict.
        diagnostic_controller: looks at the diagnostics of every learn(); None for none.
        judge_every_window: look at the score of every window, due or not: it may make the best policy, and
            callbacks hear of it. One that is not due says nothing about convergence or degradation, and the
            tuner does not see it. Without effect with a val_pipeline or a checkpoint_score_fn, whose scores
            are not free.

    Raises:
        TypeError, ValueError: an argument is wrong or contradicts another; it is named.
    """

    def __init__(
        self,
        agent: Any,
        evaluator: Any,
        optimizer: Any,
        pipeline: Any,
        checkpoint_registry: CheckpointRegistry,
        backoff_scheduler: BackoffScheduler,
        rollback_on_degradation: bool = False,
        improvement_margin: float = 0.0,
        max_episodes: int | None = None,
        callbacks: Any = None,
        val_pipeline: Any = None,
        score_smoothing: int = 2,
        checkpoint_score_fn: ScoreFn | None = None,
        verbose: bool = False,
        verbose_log_file: str | os.PathLike[str] | None = None,
        target_score: float | None = None,
        target_confirm_fn: ScoreFn | None = None,
        max_steps: int | None = None,
        state_interval: float | None = None,
        diagnostic_controller: DiagnosticController | None = None,
        judge_every_window: bool = False,
    ) -> None:
        self.agent = checks.has_methods("agent", agent, checks.AGENT)
        self.pipeline = checks.has_methods("pipeline", pipeline, checks.PIPELINE)
        self.tuner = optimizer
        if optimizer is not None:
            checks.has_methods("optimizer", optimizer, checks.OPTIMIZER)
        if val_pipeline is not None:
            checks.apart("val_pipeline", val_pipeline, "pipeline", pipeline)
        if target_confirm_fn is not None and target_score is None:
            raise ValueError("target_confirm_fn has no meaning without target_score")
        self.scorer = PolicyScorer(agent, evaluator, val_pipeline, checkpoint_score_fn, target_confirm_fn)
        self.diagnostics = diagnostic_controller
        if diagnostic_controller is not None:
            checks.has_methods("diagnostic_controller", diagnostic_controller, ("step",))
        self.registry = checkpoint_registry
        checkpoint_registry.restrict()
        self.scheduler = backoff_scheduler
        self.max_episodes = checks.whole("max_episodes", max_episodes)
        self.max_steps = checks.whole("max_steps", max_steps)
        self.judge_every_window = checks.flag("judge_every_window", judge_every_window)
        self.score_smoothing = checks.whole("score_smoothing", score_smoothing) or 1
        if state_interval is not None:
            state_interval = checks.number("state_interval", state_interval, 0.0)
            if not (isinstance(agent, Stateful) and isinstance(pipeline, Stateful)):
                state_interval = None
        self._callbacks = CallbackList(callbacks)
        self.best_policy = BestPolicy(
            agent,
            self.scorer,
            checkpoint_registry,
            self._callbacks,
            checks.number("improvement_margin", improvement_margin, 0.0),
            None if target_score is None else checks.number("target_score", target_score),
        )
        self._changes = HyperparamChanges(agent, optimizer, diagnostic_controller, self._callbacks)
        if callable(getattr(pipeline, "set_eta", None)):
            self._callbacks.add(EtaSchedule(pipeline))
        self._log = EvalLog(checks.flag("verbose", verbose), verbose_log_file)
        self._consequences = Consequences(
            backoff_scheduler,
            self.best_policy,
            self._changes,
            self._callbacks,
            self._log,
            checks.flag("rollback_on_degradation", rollback_on_degradation),
        )
        self._stop = threading.Event()
        self._running = threading.Lock()
        self._run = RunState(self.score_smoothing, self.best_policy.target_score)
        self._is_used = False  # whether self._run belongs to a run that has ended
        self._summary: RunSummary | None = None
        parts = {"agent": agent, "pipeline": pipeline, "diagnostic_controller": self.diagnostics}
        parts |= {**self.scorer.stateful_parts, "loop": self}
        self._parts = RunParts(parts, checkpoint_registry, state_interval)
        for part in (pipeline, val_pipeline):
            if callable(getattr(part, "set_agent", None)):
                part.set_agent(agent)

    # --- what it says ---------------------------------------------------------------------------

    @property
    def state(self) -> LoopState:
        """The scheduler's state."""
        return self.scheduler.current_state

    @property
    def rollback_on_degradation(self) -> bool:
        """Whether a degraded policy is rolled back."""
        return self._consequences.rollback

    @property
    def best_snapshot(self) -> PolicySnapshot | None:
        """The best policy so far."""
        return self.registry.best

    @property
    def windows(self) -> int:
        """Windows learned from in this run."""
        return self._run.windows

    @property
    def env_steps(self) -> int:
        """Environment steps of this run."""
        return self._run.env_steps

    @property
    def last_evaluated(self) -> int:
        """The last window whose score counted, for convergence and the tuner; −1 before the first."""
        return self._run.last_evaluated

    @property
    def summary(self) -> RunSummary | None:
        """How the last run ended; None before and while it runs."""
        return self._summary

    @property
    def stop_reason(self) -> str | None:
        """Why the last run ended (see RunSummary); None before and while it runs."""
        return None if self._summary is None else self._summary.stop_reason

    @property
    def history(self) -> list[EvalMetrics]:
        """The evaluations of this run that gave a score."""
        return list(self._run.history)

    def add_callback(self, callback: Any) -> None:
        """Add a LoopCallback."""
        self._callbacks.add(callback)

    def stop(self) -> None:
        """End the run after the window that is under way, which a live pipeline ends at once. Any thread
        or callback may call this. Called while no run is under way, it ends the next one before its first
        window, so that no request is lost."""
        self._stop.set()
        interrupt = getattr(self.pipeline, "interrupt", None)
        if callable(interrupt):
            interrupt()

    def keep_going(self) -> None:
        """Go on training, with a fresh schedule: called in on_dormant, instead of stopping; called after
        `resume`, with a run that was solved or had converged, which otherwise is over."""
        self._consequences.keep_going = True
        if self._run.ended is not None:
            self._run.ended = None
            self.scheduler.record_restart()

    # --- running --------------------------------------------------------------------------------

    def run(self) -> RunSummary:
        """Train until solved, converged, out of budget or stopped; the best policy is loaded then,
        also when an exception ends the run, which is passed on.

        A second call is a new run with its own budget that knows the best so far; after
        `load_state_dict` it goes on with the old one.

        Raises:
            RuntimeError: a run of this loop is under way, in another thread or in a hook's caller.
        """
        if not self._running.acquire(blocking=False):
            raise RuntimeError("a run of this loop is already under way; wait for it, or stop() it")
        try:
            return self._run_once()
        finally:
            self._stop.clear()
            self._callbacks.ending = None
            self._running.release()

    def _run_once(self) -> RunSummary:
        if self._is_used:
            self._run = RunState(self.score_smoothing, self.best_policy.target_score)
            self.scheduler.record_restart()
        self._is_used = True
        self._summary = None
        began, spent = time.perf_counter(), self.registry.disk_seconds
        reason, failure, started = "failed", None, False
        try:
            self._log.open()
            self._parts.clean()
            self.best_policy.begin()
            self.pipeline.setup()
            self.scorer.setup()
            started = True
            self._callbacks.call("on_loop_start")
            reason = self._train()
            self._run.ended = reason if reason in ("solved", "converged", "no_signal") else None
            if self._parts.file.interval is not None and self._run.windows > 0:
                self._parts.write()
        except BaseException as error:
            failure = error
            reason = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        if started:
            self._callbacks.call("on_training_end")
        problems = self._wind_up(is_over=failure is None)
        self._summary = RunSummary(
            stop_reason=reason,
            windows=self._run.windows,
            env_steps=self._run.env_steps,
            seconds=time.perf_counter() - began,
            best_score=self.best_policy.score,
            disk_seconds=self.registry.disk_seconds - spent,
            tuner=tuner_name(self.tuner),
            constant_return=self._run.signal.constant,
        )
        if self._run.signal.message is not None:
            logger.warning("%s; %s", self._run.signal.message, ADVICE)
        if started:
            self._callbacks.call("on_loop_stop")
        self._log.close()
        if failure is None and is_pruned(self._callbacks.ending):
            failure = self._callbacks.ending
        if failure is None and problems:
            failure = problems.pop(0)
        for problem in problems:
            logger.error("while ending the run: %s", problem, exc_info=problem)
        if failure is not None:
            raise failure
        return self._summary

    def _train(self) -> str:
        if self._run.ended is not None:
            return self._run.ended
        windows = iter(self.pipeline.episodes())
        while True:
            # Tested before the pipeline is asked: a window that is collected is learned from.
            if self._stop.is_set() or self._callbacks.ending is not None:
                return "stopped"
            if self.max_episodes is not None and self._run.windows >= self.max_episodes:
                return "budget"
            if self.max_steps is not None and self._run.env_steps >= self.max_steps:
                return "budget"
            data = next(windows, _ENDED)
            if data is _ENDED:
                return "stopped" if self._stop.is_set() else "budget"
            reason = self._one_window(data)
            if reason is None and self._parts.file.is_due:
                self._parts.write()
            if reason is not None:
                return reason

    def _one_window(self, data: Any) -> str | None:
        checks.window("pipeline", data)
        window = data.episode_id = self._run.windows
        self.scorer.acted_outside = False
        metrics, counts = self._metrics_to_judge(data)
        solved = metrics is not None and self.best_policy.judge(metrics, self._run.diagnostics)
        self._learn(data)
        self._run.windows += 1
        self._run.env_steps += data.length
        self._changes.diagnose(self._run, window, metrics if counts else None)
        self._run.signal.see(data, metrics)
        reason = None
        if counts and metrics is not None and math.isfinite(metrics.primary_score):
            reason = self._consequences.draw(self._run, metrics, window, self._has_budget)
            self._changes.tune(self._run, window)
        self._callbacks.call("on_episode_end", window, metrics)
        self.registry.flush_if_due()
        return "solved" if solved else reason

    @property
    def _has_budget(self) -> bool:
        ends = (self.max_episodes, self.max_steps, getattr(self.pipeline, "max_steps", None))
        return any(end is not None for end in ends)

    # --- scoring --------------------------------------------------------------------------------

    def _metrics_to_judge(self, data: EpisodeData) -> tuple[EvalMetrics | None, bool]:
        """The metrics that decide about the policy, None when this window is not looked at; and whether they
        count as an evaluation."""
        if self.scheduler.should_adapt(data.episode_id):
            return self.scorer.validated(self.scorer.window_score(data, self._run.diagnostics)), True
        every = self.judge_every_window and self.scorer.checkpoint_score_fn is None
        if self.scorer.val_pipeline is not None or not (every or self.best_policy.target_score is not None):
            return None, False
        train = self.scorer.window_score(data, self._run.diagnostics)
        reached = self.best_policy.reaches_target(train)
        return (train if every or reached else None), reached

    # --- learning -------------------------------------------------------------------------------

    def _learn(self, data: EpisodeData) -> None:
        try:
            self._run.diagnostics = checks.diagnostics(self.agent.learn(data))
            self._run.restores = 0
        except NonFiniteError as error:
            self._run.restores += 1
            if self._run.restores > _MAX_RESTORES:
                raise
            logger.warning("window %d: %s in the update; restoring the best", data.episode_id, error)
            self.best_policy.restore(self._run)
        if self.scorer.acted_outside and callable(getattr(self.agent, "reset_cache", None)):
            # An agent that records every act() has recorded those too; they are what is left over.
            self.agent.reset_cache()

    # --- the end --------------------------------------------------------------------------------

    def _wind_up(self, is_over: bool) -> list[BaseException]:
        """Every step, also when others fail; returns the exceptions met. A run that was cut off
        keeps the snapshots that its last state refers to."""
        problems: list[BaseException] = []
        write = self.registry.release if is_over else self.registry.flush
        for step in (self._load_best, write, self.pipeline.teardown, self.scorer.teardown):
            try:
                step()
            except Exception as error:
                problems.append(error)
        return problems

    def _load_best(self) -> None:
        if not self.best_policy.restore(self._run) and self._run.windows > 0:
            logger.warning(
                "no window of this run gave a finite score: there is no best policy to restore, "
                "the agent keeps its last one"
            )

    # --- state ----------------------------------------------------------------------------------

    def resume(self, registry: CheckpointRegistry | None = None, run_id: str | None = None) -> None:
        """Go on, at the next `run()`, where a run whose state lies in the registry's directory wrote it
        last. What that run checkpointed later is deleted: it will be found again.

        Args:
            registry: where checkpoints and the run's state are written from now on; default the one that
                there is. When this raises, nothing has changed.
            run_id: the run; default the one that the registry was made for, or the only one that has a
                state there.

        Raises:
            ValueError: there is no intact state of that run, or it is of other parts; or no run was named
                and there are several.
            RuntimeError: it is of another architecture, or a run is under way.
        """
        if self._running.locked():
            raise RuntimeError("resume() comes before run(); a run of this loop is under way")
        registry, old = registry or self.registry, self.registry
        self._parts.move_to(registry)
        try:
            loop = self._parts.read(run_id or registry.given_run_id)
            registry.go_back(str(loop["run_id"]), self._run.windows)
        except BaseException:
            self._parts.move_to(old)
            raise
        self.registry = self.best_policy.registry = registry

    def state_dict(self) -> dict[str, Any]:
        """Everything of the loop that an exact resume needs, taken between two windows (in
        on_episode_end, for example). Agent and pipelines have their own."""
        state = {
            "run_id": self.registry.run_id,
            "run": self._run.state_dict(),
            "scheduler": self.scheduler.state_dict(),
        }
        if isinstance(self.tuner, Stateful):
            state["optimizer"] = self.tuner.state_dict()
        if self.best_policy.training is not None:
            state["best_training"] = self.best_policy.training.state_dict()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on, at the next `run()`, where `state_dict` was taken. The registry must be of the same
        run (or `resume=True`) for the best to be known."""
        self._run.load_state_dict(state["run"])
        self.scheduler.load_state_dict(state["scheduler"])
        if isinstance(self.tuner, Stateful) and "optimizer" in state:
            self.tuner.load_state_dict(state["optimizer"])
        if "best_training" in state:
            self.best_policy.training = TrainingState(**state["best_training"])
        self._is_used = False
