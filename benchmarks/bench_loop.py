"""What the loop costs beside training: CartPole PPO on the native path, with and without checkpoints.

    python benchmarks/bench_loop.py

Two shares of a run's wall time: the loop's own (everything that is neither stepping environments nor the
agent's learn(), disk apart), which should stay below 1 %, and that of checkpoints and run state on disk, with
which it should stay below 3 %. Medians of alternating runs.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import gymnasium as gym
import torch

from optix_fast import RLOptimizer, VectorBatchPipeline, make_agent
from optix_fast.types import EpisodeData

WINDOWS, N_ENVS, STEPS = 120, 8, 256


class Shares(NamedTuple):
    """Fractions of a run's wall time."""

    loop: float
    disk: float


class TimedPipeline(VectorBatchPipeline):
    """Notes the seconds spent in collecting."""

    seconds = 0.0

    def episodes(self) -> Iterator[EpisodeData]:
        windows = super().episodes()
        while True:
            began = time.perf_counter()
            data = next(windows)
            self.seconds += time.perf_counter() - began
            yield data


def run(seed: int, state_interval: float | None) -> Shares:
    """Train once."""
    pipeline = TimedPipeline([lambda: gym.make("CartPole-v1")] * N_ENVS, window_size=STEPS, seed=seed)
    hyperparams = {"learning_rate": 1e-3, "minibatch_size": 256, "n_epochs": 10}
    agent = make_agent("ppo", pipeline, hyperparams=hyperparams, seed=seed, backend="native")
    learn, learning = agent.learn, [0.0]

    def timed(data: EpisodeData) -> dict[str, Any]:
        began = time.perf_counter()
        try:
            return learn(data)
        finally:
            learning[0] += time.perf_counter() - began

    agent.learn = timed  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as directory:
        optimizer = RLOptimizer(
            agent, pipeline, checkpoint_dir=directory, max_episodes=WINDOWS, state_interval=state_interval,
            dormant_threshold=10**6,
        )  # fmt: skip
        summary = optimizer.run()
    own = summary.seconds - pipeline.seconds - learning[0] - summary.disk_seconds
    return Shares(own / summary.seconds, summary.disk_seconds / summary.seconds)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    run(0, None)
    for name, interval in (("checkpoints", None), ("checkpoints and run state every second", 1.0)):
        found = [run(seed, interval) for seed in range(arguments.repeats)]
        loop = statistics.median(shares.loop for shares in found)
        total = statistics.median(shares.loop + shares.disk for shares in found)
        print(f"{name}: loop {100 * loop:.2f} %, with disk {100 * total:.2f} %")


if __name__ == "__main__":
    main()
