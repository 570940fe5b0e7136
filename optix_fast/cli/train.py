"""A training run from a TrainConfig: environments, agent, loop, run directory."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch

from optix_fast.agents import Agent, make_agent
from optix_fast.cli.interruption import Interruption
from optix_fast.cli.progress import Progress
from optix_fast.cli.recorder import Pipeline, Recorder
from optix_fast.cli.run_dir import RunDir
from optix_fast.cli.selection import Confirmation, choose_policy
from optix_fast.cli.torch_start import postpone_compiler
from optix_fast.config import TrainConfig
from optix_fast.loop import RLOptimizer
from optix_fast.pipelines import BatchPipeline, VectorBatchPipeline
from optix_fast.tuners import make_tuner
from optix_fast.types import HyperparamSet


@dataclass(frozen=True)
class TrainResult:
    """How a run ended.

    Args:
        run_dir: where everything was written.
        env_id, tuner: of its config.
        stop_reason: solved, converged, budget, stopped or interrupted.
        env_steps, windows, seconds: what it took.
        best_score: mean return of the best checkpoint's training window, NaN when no episode ended; the last
            policy is the best one then. `optix-fast eval` measures the policy itself.
        constant_return: what every episode returned, when all returned the same; else None.
        can_resume: whether there is a state to go on from.
    """

    run_dir: Path
    env_id: str
    tuner: str
    stop_reason: str
    env_steps: int
    windows: int
    seconds: float
    best_score: float
    constant_return: float | None
    can_resume: bool


class Interrupted(KeyboardInterrupt):
    """A signal ended the run.

    Args:
        number: SIGINT or SIGTERM.
        result: None when nothing was written, because the run had not begun or a second signal forbade it.
    """

    def __init__(self, number: signal.Signals, result: TrainResult | None) -> None:
        super().__init__()
        self.signal, self.result = number, result


def make_env_fn(config: TrainConfig) -> Callable[[], gym.Env[Any, Any]]:
    """A function that makes one environment of the run."""
    env_id, kwargs = config.env_id, dict(config.env_kwargs)
    return lambda: gym.make(env_id, **kwargs)


def make_run_agent(config: TrainConfig, env: Any) -> Agent:
    """The run's agent, untrained.

    Raises:
        ValueError: see make_agent; or `anneal` for another algorithm than ppo.
    """
    hyperparams = dict(config.hyperparams)
    if config.anneal and config.algo != "ppo":
        raise ValueError(f"anneal is an option of ppo, not of {config.algo}")
    if config.anneal:
        hyperparams["anneal_steps"] = config.steps
    postpone_compiler()
    return make_agent(
        config.algo,
        env,
        config.hidden_sizes,
        hyperparams,
        seed=config.seed,
        device=config.device,
        backend=config.backend,
        activation=config.activation,
        normalize_observations=config.normalize_observations,
        normalize_rewards=config.normalize_rewards,
        squash=config.squash,
        log_std=config.log_std,
        dueling=config.dueling,
        norm=config.norm,
        residual=config.residual,
        dropout=config.dropout,
    )


def make_pipeline(config: TrainConfig) -> Pipeline:
    """The run's environments."""
    options: dict[str, Any] = {
        "window_size": config.n_steps,
        "seed": config.seed,
        "max_steps": config.steps,
    }
    make_env = make_env_fn(config)
    if config.vectorization == "vector_entry_point":
        vector_env = gym.make_vec(
            config.env_id,
            num_envs=config.n_envs,
            vectorization_mode="vector_entry_point",
            **{**config.env_kwargs, **config.vector_kwargs},
        )
        return VectorBatchPipeline(vector_env=vector_env, **options)
    if config.n_envs == 1 and config.vectorization == "sync" and not config.vector_kwargs:
        return BatchPipeline(make_env(), **options)
    return VectorBatchPipeline(
        [make_env] * config.n_envs,
        async_envs=config.vectorization == "async",
        vector_kwargs=config.vector_kwargs,
        **options,
    )


def _windows_before_convergence(config: TrainConfig, agent: Agent) -> int:
    """How many windows must pass before a score that stands still counts as converged.

    The scores of an off-policy agent are those of a policy that explores, and stand still for long before
    they rise (10 to 60 thousand steps in CartPole). So a run with a target ends only when it reaches it
    or its budget, and a run without one takes half of its budget at least.
    """
    if agent.is_on_policy:
        return 0
    windows = config.steps // (config.n_steps * config.n_envs)
    return windows + 1 if config.target_score is not None else windows // 2


def resume(run_dir: str | Path, show_progress: bool = True, steps: int | None = None) -> TrainResult:
    """Go on with a run that was killed, interrupted or failed, from the state it wrote last.

    Args:
        run_dir: of the run.
        show_progress: on standard error.
        steps: environment steps at most, including those already taken, in place of the run's own number. A
            finished run trains on, too; one that was solved goes on without its target.

    Raises:
        ValueError: not a run directory, in use by another process, nothing to resume in it, or `steps` is no
            more than the run has taken.
        Interrupted: see train.
    """
    run, config = RunDir.reopen(run_dir, extend=steps is not None)
    try:
        if steps is not None:
            config = replace(config, steps=steps)
            if run.stop_reason == "solved":
                config = replace(config, target_score=None)
        return _train(config, run, show_progress, is_resumed=True, is_extended=steps is not None)
    finally:
        run.release()


def train(config: TrainConfig, run_dir: str | Path | None = None, show_progress: bool = True) -> TrainResult:
    """Train until solved, converged or out of budget.

    Ctrl-C and SIGTERM end the run after the window under way; a second one ends it at once.

    Args:
        config: complete (see cli/settings.py).
        run_dir: written to; must be new or empty.
        show_progress: on standard error.

    Raises:
        ValueError, TypeError, RuntimeError, NonFiniteError: as the parts raise them. A run that
            fails in its first window leaves no directory behind.
        Interrupted: by Ctrl-C or SIGTERM, after state, policies, plot and summary were written.
    """
    return _train(config, run_dir, show_progress)


def _train(
    config: TrainConfig,
    where: RunDir | str | Path | None,
    show_progress: bool,
    is_resumed: bool = False,
    is_extended: bool = False,
) -> TrainResult:
    if max(config.hidden_sizes, default=0) < 256:
        # Small products are slower when torch shares them out among threads.
        torch.set_num_threads(1)
    with Interruption(show_progress) as interruption:
        try:
            pipeline = make_pipeline(config)
            try:
                agent = make_run_agent(config, pipeline)
                run = where if isinstance(where, RunDir) else RunDir.create(where, config)
            except BaseException:
                pipeline.teardown()
                raise
            try:
                progress = Progress(config.steps, show_progress)
                recorder = Recorder(run, agent, pipeline, progress, interruption)
                session = _Session(config, recorder, is_resumed)
                if is_resumed:
                    session.go_on(is_extended)
                return session.train()
            finally:
                pipeline.teardown()
                run.release()
        except Interrupted:
            raise
        except KeyboardInterrupt:
            raise Interrupted(interruption.signal or signal.SIGINT, None) from None


class _Session:
    """One process's part of a run: the loop, the choice of the policy, and what is written at the end."""

    def __init__(self, config: TrainConfig, recorder: Recorder, is_resumed: bool) -> None:
        self.config, self.recorder, self.is_resumed = config, recorder, is_resumed
        self.interruption = recorder.interruption
        self.run, self.agent, self.pipeline = recorder.run, recorder.agent, recorder.pipeline
        self.make_env = make_env_fn(config)
        self.optimizer = recorder.optimizer = RLOptimizer(
            agent=self.agent,
            pipeline=self.pipeline,
            checkpoint_dir=str(self.run.checkpoints),
            optimizer=make_tuner(config.tuner, self.agent, config.seed),
            max_snapshots=config.max_snapshots,
            callbacks=[recorder],
            min_episodes_before_dormant=_windows_before_convergence(config, self.agent),
            target_score=config.target_score,
            target_confirm_fn=None
            if config.target_score is None
            else Confirmation(self.make_env, config.confirm_episodes, config.target_score),
            state_interval=config.state_interval,
            judge_every_window=True,
        )
        recorder.began = time.perf_counter()

    def go_on(self, is_extended: bool) -> None:
        """Put the run's state back.

        Raises:
            ValueError: there is none, or the run has taken as many steps as it may.
        """
        config, path = self.config, self.run.path
        if not self.run.can_resume:
            raise ValueError(
                f"{path} holds no run state to resume from: the run ended before it wrote one; "
                f"start again with optix-fast train --config {path / 'config.yaml'}"
            )
        self.optimizer.resume()
        taken = self.pipeline.total_steps
        if is_extended:
            if config.steps < taken + config.n_envs:
                raise ValueError(
                    f"--steps is the new total of a resumed run, which has taken {taken}: it must be at "
                    f"least {taken + config.n_envs}, got {config.steps}"
                )
            self.optimizer.keep_going()
            if config.anneal:
                self.agent.set_hyperparams(HyperparamSet({"anneal_steps": config.steps}))
            self.run.write_config(config)
        self.recorder.began -= self.run.go_on(self.optimizer.windows, taken)

    def train(self) -> TrainResult:
        """Train, choose the policy, write everything.

        Raises:
            Interrupted: a signal ended it.
            Exception: whatever the loop raises.
        """
        interruption = self.interruption
        try:
            chosen = self._train_and_choose()
        except BaseException as error:
            if interruption.is_at_once:
                raise
            is_interrupted = interruption.signal is not None or isinstance(error, KeyboardInterrupt)
            if self.optimizer.windows == 0 and not self.is_resumed:
                self.run.remove()
                if is_interrupted:
                    raise KeyboardInterrupt from None
                raise
            chosen = self._fall_back()
            result = self._conclude(chosen, "interrupted" if is_interrupted else "failed")
            if is_interrupted:
                raise Interrupted(interruption.signal or signal.SIGINT, result) from None
            raise
        return self._conclude(chosen, str(self.optimizer.stop_reason))

    def _train_and_choose(self) -> str:
        """The name of the policy that the agent then holds."""
        with self.interruption.deferred(), self.recorder.progress:
            self.optimizer.run()
        if self.interruption.signal is not None:
            raise KeyboardInterrupt
        if self.optimizer.stop_reason == "solved":
            return "confirmed"
        if not self.run.saw_episodes_end():
            return self._fall_back()  # to play whole episodes may take longer than the run did
        self.interruption.is_winding_up = False
        assert self.recorder.last is not None
        if self.optimizer.registry.entries():
            self.recorder.progress.note("playing episodes to choose the best policy")
        return choose_policy(self.agent, self.optimizer, self.recorder.last, self.make_env)[0]

    def _fall_back(self) -> str:
        """Load a policy without playing; a choice that was cut off may have left any in the agent."""
        if self.optimizer.registry.load_best(self.agent) is not None:
            return "best checkpoint"
        if self.recorder.last is not None:
            self.agent.load_state_dict(self.recorder.last)
        return "last"

    def _conclude(self, chosen: str, stop_reason: str) -> TrainResult:
        """Write what the run leaves. A first signal waits until that is done."""
        interruption, run, best = self.interruption, self.run, self.optimizer.best_snapshot
        interruption.is_winding_up = True
        with interruption.deferred():
            seconds = self.recorder.seconds
            run.save_policy(self.agent, run.best)
            if self.recorder.last is not None:
                self.agent.load_state_dict(self.recorder.last)
                run.save_policy(self.agent, run.last)
            score = math.nan if best is None else best.eval_metrics.primary_score
            constant = None if self.optimizer.summary is None else self.optimizer.summary.constant_return
            result = TrainResult(
                run.path, self.config.env_id, self.config.tuner, stop_reason, self.pipeline.total_steps,
                self.optimizer.windows, seconds, score, constant, run.can_resume,
            )  # fmt: skip
            run.finish(
                {
                    "stop_reason": result.stop_reason,
                    "env_steps": result.env_steps,
                    "windows": result.windows,
                    "seconds": round(seconds, 3),
                    "steps_per_second": round(result.env_steps / max(seconds, 1e-9), 1),
                    "best_score": None if math.isnan(score) else score,
                    "constant_return": constant,
                    "chosen_policy": chosen,
                    "tuner": self.config.tuner,
                    "backend": self.agent.backend,
                    "device": str(self.agent.device),
                },
                self.config,
            )
        if interruption.signal is not None and stop_reason != "interrupted":
            raise Interrupted(interruption.signal, result)  # the signal came when all was done
        return result
