"""A training run from a TrainConfig: environments, agent, loop, run directory."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch

from optix_fast.agents import Agent, PPOAgent, make_agent
from optix_fast.cli.progress import Progress
from optix_fast.cli.run_dir import RunDir
from optix_fast.cli.selection import Confirmation, choose_policy
from optix_fast.config import TrainConfig
from optix_fast.loop import RLOptimizer
from optix_fast.pipelines import BatchPipeline, VectorBatchPipeline
from optix_fast.tuners import make_tuner
from optix_fast.types import EvalMetrics, LoopCallback

Pipeline = BatchPipeline | VectorBatchPipeline


@dataclass(frozen=True)
class TrainResult:
    """How a run ended.

    Args:
        run_dir: where everything was written.
        env_id, tuner: of its config.
        stop_reason: solved, converged, budget, stopped or interrupted.
        env_steps, windows, seconds: what it took.
        best_score: score of the best policy, NaN when no window gave one.
        constant_return: what every episode returned, when all returned the same; else None.
    """

    run_dir: Path
    env_id: str
    tuner: str
    stop_reason: str
    env_steps: int
    windows: int
    seconds: float
    best_score: float
    constant_return: float | None = None


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


def _state_of(agent: Agent) -> dict[str, Any]:
    """The agent's state without the transitions that it has stored: copying those after every window would
    take longer than learning from them, and nothing that the run does later takes them away."""
    return agent.state_dict(replay=False)


def _with_replay(state: dict[str, Any], agent: Agent) -> dict[str, Any]:
    """That state with the stored transitions."""
    if isinstance(agent, PPOAgent):
        return state
    experience = {**agent.state_dict()["experience"], **state["experience"]}
    return {**state, "experience": experience}


def _windows_before_convergence(config: TrainConfig, agent: Agent) -> int:
    """How many windows must pass before a score that stands still counts as converged.

    The scores of an off-policy agent are those of a policy that explores, and stand still for long before
    they rise (10 to 60 thousand steps in CartPole). So where there is a target, only the budget ends a run
    that has not reached it; where there is none, half of the budget comes first.
    """
    if agent.is_on_policy:
        return 0
    windows = config.steps // (config.n_steps * config.n_envs)
    return windows + 1 if config.target_score is not None else windows // 2


class _Recorder(LoopCallback):
    """Writes progress.csv, keeps the agent's last state, and shows how the run goes."""

    def __init__(self, run: RunDir, agent: Agent, pipeline: Pipeline, progress: Progress) -> None:
        self.run, self.agent, self.pipeline, self.progress = run, agent, pipeline, progress
        self.optimizer: RLOptimizer | None = None
        self.last: dict[str, Any] | None = None
        self.began = time.perf_counter()

    def keep_last(self) -> None:
        """Remember agent and pipeline as they stand."""
        self.last = {"agent": _state_of(self.agent), "pipeline": self.pipeline.state_dict()}

    def on_episode_end(self, episode_id: int, eval_metrics: EvalMetrics | None) -> None:
        seconds = time.perf_counter() - self.began
        steps = self.pipeline.total_steps
        state = self.optimizer.state.name if self.optimizer is not None else ""
        self.keep_last()
        if eval_metrics is not None:
            metrics = eval_metrics.metrics
            self.run.add_row(
                {
                    **metrics,
                    "window": episode_id,
                    "env_steps": steps,
                    "seconds": seconds,
                    "steps_per_second": steps / seconds,
                    "score": eval_metrics.primary_score,
                    "episodes": int(metrics.get("n_episodes", 0)),
                    "state": state,
                    "interval": self.optimizer.scheduler.current_interval if self.optimizer else "",
                }
            )
        score = None if eval_metrics is None else eval_metrics.primary_score
        self.progress.update(steps, score, steps / seconds, state)


def resume(run_dir: str | Path, show_progress: bool = True) -> TrainResult:
    """Go on with a run that was killed, interrupted or failed, from the state it wrote last.

    Raises:
        ValueError: not a run directory, or nothing to resume in it.
    """
    run, config = RunDir.reopen(run_dir)
    return _train(config, run, show_progress, is_resumed=True)


def train(config: TrainConfig, run_dir: str | Path, show_progress: bool = True) -> TrainResult:
    """Train until solved, converged or out of budget.

    Args:
        config: complete (see cli/settings.py).
        run_dir: written to; must be new or empty.
        show_progress: on standard error.

    Raises:
        ValueError, TypeError, RuntimeError, NonFiniteError: as the parts raise them. A run that
            fails before a policy was saved leaves no directory behind.
        KeyboardInterrupt: passed on after the best policy was saved.
    """
    return _train(config, RunDir(run_dir), show_progress)


def _train(config: TrainConfig, run: RunDir, show_progress: bool, is_resumed: bool = False) -> TrainResult:
    if max(config.hidden_sizes, default=0) < 256:
        # Small products are slower when torch shares them out among threads.
        torch.set_num_threads(1)
    make_env = make_env_fn(config)
    pipeline = make_pipeline(config)
    try:
        agent = make_run_agent(config, pipeline)
        if not is_resumed:
            run = RunDir.create(run.path, config)
    except BaseException:
        pipeline.teardown()
        raise
    progress = Progress(config.steps, show_progress)
    recorder = _Recorder(run, agent, pipeline, progress)
    optimizer = RLOptimizer(
        agent=agent,
        pipeline=pipeline,
        checkpoint_dir=str(run.checkpoints),
        optimizer=make_tuner(config.tuner, agent, config.seed),
        max_snapshots=config.max_snapshots,
        callbacks=[recorder],
        min_episodes_before_dormant=_windows_before_convergence(config, agent),
        target_score=config.target_score,
        target_confirm_fn=None
        if config.target_score is None
        else Confirmation(make_env, config.confirm_episodes, config.target_score),
        state_interval=config.state_interval,
    )
    recorder.optimizer = optimizer
    began = time.perf_counter()
    if is_resumed:
        try:
            optimizer.resume()
            recorder.keep_last()  # a run that was killed after its last window has no other one
        except BaseException:
            pipeline.teardown()
            raise
        began -= run.go_on(optimizer.windows, pipeline.total_steps)
        recorder.began = began
    chosen = "confirmed"
    try:
        with progress:
            optimizer.run()
        seconds = time.perf_counter() - began
        if optimizer.stop_reason != "solved" and recorder.last is not None:
            chosen, _ = choose_policy(agent, optimizer, recorder.last["agent"], make_env)
    except BaseException:
        if optimizer.best_snapshot is None and not is_resumed:
            run.remove()
        else:
            # An interrupted choice may have left any of the candidates in the agent.
            optimizer.registry.load_best(agent)
            _conclude(run, config, recorder, optimizer, time.perf_counter() - began, "best checkpoint")
        raise
    return _conclude(run, config, recorder, optimizer, seconds, chosen)


def _conclude(
    run: RunDir, config: TrainConfig, recorder: _Recorder, optimizer: RLOptimizer, seconds: float, chosen: str
) -> TrainResult:
    best = optimizer.best_snapshot
    if best is not None:
        run.save_best(recorder.agent)
    if recorder.last is not None:
        run.save_last({**recorder.last, "agent": _with_replay(recorder.last["agent"], recorder.agent)})
    result = TrainResult(
        run.path,
        config.env_id,
        config.tuner,
        optimizer.stop_reason or "failed",
        recorder.pipeline.total_steps,
        optimizer.windows,
        seconds,
        math.nan if best is None else best.eval_metrics.primary_score,
        None if optimizer.summary is None else optimizer.summary.constant_return,
    )
    run.finish(
        {
            "stop_reason": result.stop_reason,
            "env_steps": result.env_steps,
            "windows": result.windows,
            "seconds": round(seconds, 3),
            "steps_per_second": round(result.env_steps / max(seconds, 1e-9), 1),
            "best_score": None if math.isnan(result.best_score) else result.best_score,
            "constant_return": result.constant_return,
            "chosen_policy": chosen,
            "tuner": config.tuner,
            "backend": recorder.agent.backend,
            "device": str(recorder.agent.device),
        }
    )
    return result
