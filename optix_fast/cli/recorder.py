"""What a run writes down while it goes: a row per window, and at the end the last policy."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from optix_fast.agents import Agent
from optix_fast.cli.interruption import Interruption
from optix_fast.cli.progress import Progress
from optix_fast.cli.run_dir import RunDir
from optix_fast.loop import RLOptimizer
from optix_fast.pipelines import BatchPipeline, VectorBatchPipeline
from optix_fast.types import EvalMetrics, LoopCallback

Pipeline = BatchPipeline | VectorBatchPipeline

# What an evaluator says of a window; the other numbers among its metrics are the agent's diagnostics.
_OF_THE_WINDOW = frozenset(
    ("primary_score", "total_reward", "mean_reward", "reward_std", "episode_length", "n_episodes",
     "confirmed_score", "checkpoint_score")
)  # fmt: skip
# The names of dashboards, where ours differ.
_NAMES = {"explained_var": "explained_variance"}


class Recorder(LoopCallback):
    """Writes progress.csv and TensorBoard's events, shows how the run goes, keeps the agent's last state, and
    ends the run when it is asked to.

    Attributes:
        optimizer: of the run; to be set before it begins.
        began: the time.perf_counter() at which the run began.
        seconds: that training took; 0 while it goes on.
        last: the agent's state when training ended, without the transitions that it has stored: what comes
            after does not touch those.
    """

    optimizer: RLOptimizer

    def __init__(
        self, run: RunDir, agent: Agent, pipeline: Pipeline, progress: Progress, interruption: Interruption
    ) -> None:
        self.run, self.agent, self.pipeline = run, agent, pipeline
        self.progress, self.interruption = progress, interruption
        self.last: dict[str, Any] | None = None
        self.began = time.perf_counter()
        self.seconds = 0.0

    def on_loop_start(self) -> None:
        """Heed a signal that came before."""
        self._heed()

    def on_episode_end(self, episode_id: int, eval_metrics: EvalMetrics | None) -> None:
        """Write the row of a window."""
        seconds = time.perf_counter() - self.began
        steps = self.pipeline.total_steps
        state = self.optimizer.state.name
        score = None
        if eval_metrics is not None:
            score, metrics = eval_metrics.primary_score, eval_metrics.metrics
            row = {
                **metrics,
                "window": episode_id,
                "env_steps": steps,
                "seconds": seconds,
                "steps_per_second": steps / seconds,
                "score": score,
                "episodes": int(metrics.get("n_episodes", 0)),
                "evaluated": int(self.optimizer.controller.last_evaluated == episode_id),
                "state": state,
                "interval": self.optimizer.scheduler.current_interval,
            }
            self.run.add_row(row, scalars(row, metrics))
        self.progress.update(steps, score, steps / seconds, state)
        self._heed()

    def on_training_end(self) -> None:
        """Remember the agent as it stands."""
        self.interruption.is_winding_up = True
        self.seconds = time.perf_counter() - self.began
        self.last = self.agent.state_dict(replay=False)

    def _heed(self) -> None:
        if self.interruption.signal is not None:
            self.optimizer.stop()


def scalars(row: Mapping[str, Any], metrics: Mapping[str, Any]) -> dict[str, Any]:
    """A window's numbers under the tags that dashboards of reinforcement learning know."""
    tags = {
        "rollout/ep_rew_mean": row["score"],
        "rollout/ep_len_mean": metrics.get("episode_length"),
        "rollout/episodes": row["episodes"],
        "time/fps": row["steps_per_second"],
        "time/iterations": row["window"] + 1,
        "time/time_elapsed": row["seconds"],
        "time/total_timesteps": row["env_steps"],
    }
    if row["evaluated"]:
        tags["eval/score"] = row["score"]
        tags["eval/confirmed_score"] = metrics.get("confirmed_score")
    for name, value in metrics.items():
        if name not in _OF_THE_WINDOW:
            tags[f"train/{_NAMES.get(name, name)}"] = value
    return tags
