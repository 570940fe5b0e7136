"""The front door: an agent and a pipeline in, a trained agent out."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from optix_fast.loop import checks
from optix_fast.loop.backoff_scheduler import BackoffScheduler
from optix_fast.loop.checkpoints import CheckpointRegistry
from optix_fast.loop.controller import LoopController
from optix_fast.loop.diagnostics import DiagnosticController
from optix_fast.loop.evaluators import TorchEvaluator
from optix_fast.loop.run_state import RunSummary
from optix_fast.loop.scoring import ScoreFn
from optix_fast.tuners import fill_bounds, make_tuner
from optix_fast.types import LoopState, PolicySnapshot

_DORMANT_THRESHOLD = 20
_OFF_POLICY_DORMANT_THRESHOLD = 15  # replay makes scores noisier, and progress comes later
_OFF_POLICY_MIN_EPISODES = 100


class RLOptimizer:
    """Trains an agent until it has converged, and leaves the best policy in it (seed 003).

        opt = RLOptimizer(agent=agent, pipeline=pipeline)
        opt.run()

    Hyperparameters are tuned while the run goes on, by SPSA within the agent's bounds, unless
    `optimizer=FixedHyperparams()` says that they stay what they are. `RunSummary.tuner` names who tuned.

    Args:
        agent: anything with the six methods of BaseAgent.
        pipeline: a BasePipeline; gets the agent by `set_agent`.
        evaluator: a BaseEvaluator; default TorchEvaluator.
        optimizer: a BaseOptimizer that tunes hyperparameters during the run; default SPSAOptimizer.
            Bounds that it was not given are the agent's `default_param_bounds`; without any it tunes
            nothing, like `FixedHyperparams()`.
        checkpoint_dir, max_snapshots: where the best policies go, and how many (CheckpointRegistry).
        rollback_on_degradation, improvement_margin, max_episodes, callbacks, val_pipeline,
            score_smoothing, checkpoint_score_fn, verbose, verbose_log_file, target_score,
            target_confirm_fn, max_steps, state_interval, diagnostic_controller, judge_every_window: see
            LoopController.
        base_interval, backoff_factor, max_interval_episodes, plateau_threshold, dormant_threshold,
            degradation_threshold, min_degradation_drop, noise_k, score_window, trend_window,
            min_episodes_before_dormant, min_episodes_before_degradation: see BackoffScheduler.
            An off-policy agent changes the defaults of two: dormant_threshold to 15 and
            min_episodes_before_dormant to its `default_min_episodes_before_dormant` (or 100).
        run_id: of the checkpoints and the run's state; default a new one. Give an earlier run's to go on
            with it.

    Raises:
        ValueError: agent or pipeline is missing; an argument is out of range or contradicts another.
        TypeError: an argument is of the wrong type, or a class instead of an instance; it is named.
    """

    def __init__(
        self,
        agent: Any = None,
        pipeline: Any = None,
        evaluator: Any = None,
        optimizer: Any = None,
        checkpoint_dir: str | os.PathLike[str] = "./checkpoints",
        max_snapshots: int = 10,
        rollback_on_degradation: bool = False,
        improvement_margin: float = 0.0,
        max_episodes: int | None = None,
        base_interval: int = 1,
        backoff_factor: float = 2.0,
        max_interval_episodes: int = 100,
        plateau_threshold: int = 5,
        dormant_threshold: int = _DORMANT_THRESHOLD,
        degradation_threshold: float = 0.95,
        min_degradation_drop: float = 1e-4,
        noise_k: float = 2.0,
        score_window: int = 20,
        trend_window: int = 8,
        min_episodes_before_dormant: int = 0,
        min_episodes_before_degradation: int = 5,
        callbacks: Any = None,
        val_pipeline: Any = None,
        score_smoothing: int = 2,
        checkpoint_score_fn: ScoreFn | None = None,
        verbose: bool = False,
        verbose_log_file: str | os.PathLike[str] | None = None,
        *,
        target_score: float | None = None,
        target_confirm_fn: ScoreFn | None = None,
        max_steps: int | None = None,
        run_id: str | None = None,
        state_interval: float | None = 30.0,
        diagnostic_controller: DiagnosticController | None = None,
        judge_every_window: bool = False,
    ) -> None:
        for name, value in (("agent", agent), ("pipeline", pipeline)):
            if value is None:
                raise ValueError(f"RLOptimizer needs {name}=")
        checks.has_methods("agent", agent, checks.AGENT)
        checks.has_methods("pipeline", pipeline, checks.PIPELINE)
        if not getattr(agent, "is_on_policy", True):
            if dormant_threshold == _DORMANT_THRESHOLD:
                dormant_threshold = max(_OFF_POLICY_DORMANT_THRESHOLD, plateau_threshold)
            if min_episodes_before_dormant == 0:
                min_episodes_before_dormant = getattr(
                    agent, "default_min_episodes_before_dormant", _OFF_POLICY_MIN_EPISODES
                )
        self.scheduler = BackoffScheduler(
            base_interval=base_interval,
            backoff_factor=backoff_factor,
            max_interval_episodes=max_interval_episodes,
            plateau_threshold=plateau_threshold,
            dormant_threshold=dormant_threshold,
            degradation_threshold=degradation_threshold,
            min_degradation_drop=min_degradation_drop,
            min_episodes_before_dormant=min_episodes_before_dormant,
            min_episodes_before_degradation=min_episodes_before_degradation,
            noise_k=noise_k,
            score_window=score_window,
            trend_window=trend_window,
        )
        self.registry = CheckpointRegistry(checkpoint_dir, max_snapshots, run_id)
        self.controller = LoopController(
            agent=agent,
            evaluator=TorchEvaluator() if evaluator is None else evaluator,
            optimizer=self._tuner(optimizer, agent),
            pipeline=pipeline,
            checkpoint_registry=self.registry,
            backoff_scheduler=self.scheduler,
            rollback_on_degradation=rollback_on_degradation,
            improvement_margin=improvement_margin,
            max_episodes=max_episodes,
            callbacks=callbacks,
            val_pipeline=val_pipeline,
            score_smoothing=score_smoothing,
            checkpoint_score_fn=checkpoint_score_fn,
            verbose=verbose,
            verbose_log_file=verbose_log_file,
            target_score=target_score,
            target_confirm_fn=target_confirm_fn,
            max_steps=max_steps,
            state_interval=state_interval,
            diagnostic_controller=diagnostic_controller,
            judge_every_window=judge_every_window,
        )

    @staticmethod
    def _tuner(given: Any, agent: Any) -> Any:
        if given is None:
            return make_tuner("spsa", agent, seed=0)
        fill_bounds(given, agent)
        return given

    def run(self) -> RunSummary:
        """Train; the best policy is loaded when this returns or raises (LoopController.run).

        Raises:
            RuntimeError: a run is already under way.
            Exception: what ended the run; optuna.TrialPruned that a callback raised.
        """
        return self.controller.run()

    def resume(self, directory: str | os.PathLike[str] | None = None, *, run_id: str | None = None) -> None:
        """Go on, at the next `run()`, with a run that was killed, from the state it wrote last.

        On the same machine, with the same arguments, and environments whose state can be restored
        (`envs.state`; others begin from a reset), what follows has the same bits as if the run had not
        been killed.

        Args:
            directory: its checkpoint_dir, where checkpoints are written from now on; default this one's.
            run_id: the run; default the `run_id` that this optimizer was made with, or else the only run that
                has a state in the directory.

        Raises:
            ValueError: there is no intact state of that run, or it is of other parts; or no run was named
                and the directory holds states of several, which are listed.
            RuntimeError: the state is of another architecture.
        """
        run_id = run_id or self.registry.given_run_id
        if directory is not None and os.path.abspath(directory) != self.registry.checkpoint_dir:
            if not os.path.isdir(directory):
                raise ValueError(f"{os.fspath(directory)} is not a directory")
            registry = CheckpointRegistry(directory, self.registry.max_snapshots, run_id)
            self.controller.resume(registry, run_id)
            self.registry = registry
        else:
            self.controller.resume(run_id=run_id)

    def stop(self) -> None:
        """End the run after the window that is under way. Any thread or callback may call this; called while
        no run is under way, it ends the next one before its first window."""
        self.controller.stop()

    def keep_going(self) -> None:
        """Called in on_dormant, or after `resume` of a run that is over: go on training."""
        self.controller.keep_going()

    def add_callback(self, callback: Any) -> None:
        """Add a LoopCallback."""
        self.controller.add_callback(callback)

    @property
    def state(self) -> LoopState:
        """ACTIVE, COOLING or DORMANT."""
        return self.controller.state

    @property
    def best_snapshot(self) -> PolicySnapshot | None:
        """The best policy so far."""
        return self.controller.best_snapshot

    @property
    def stop_reason(self) -> str | None:
        """Why the last run ended (see RunSummary); None before and while it runs."""
        return self.controller.stop_reason

    @property
    def summary(self) -> RunSummary | None:
        """How the last run ended; None before and while it runs."""
        return self.controller.summary

    @property
    def windows(self) -> int:
        """Windows learned from in this run."""
        return self.controller.windows

    @property
    def env_steps(self) -> int:
        """Environment steps of this run."""
        return self.controller.env_steps

    def state_dict(self) -> dict[str, Any]:
        """The loop's state between two windows, for an exact resume."""
        return self.controller.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on, at the next `run()`, where `state_dict` was taken."""
        self.controller.load_state_dict(state)
