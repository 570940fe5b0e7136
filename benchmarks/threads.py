"""What a second thread gives one learn(): networks side by side, and shared products where they are large.

    python benchmarks/threads.py

One and two threads take turns on the same windows; medians and minima of wall-clock time. The second core
must be idle.
"""

from __future__ import annotations

import itertools
import os
import statistics
import time

import gymnasium as gym
import torch

from optix_fast import BatchPipeline, VectorBatchPipeline, make_agent


def ppo(hidden_sizes, minibatch_size):
    """10 epochs of 128 × 8 steps of CartPole."""
    agent = make_agent(
        "ppo", gym.make("CartPole-v1"), hidden_sizes, {"minibatch_size": minibatch_size}, seed=0
    )
    pipeline = VectorBatchPipeline([lambda: gym.make("CartPole-v1")] * 8, agent, window_size=128, seed=0)
    window = next(iter(pipeline.episodes()))
    return lambda: agent.learn(window)


def sac(hidden_sizes, batch_size):
    """64 updates from Pendulum's replay."""
    params = {"learning_starts": 300, "batch_size": batch_size}
    agent = make_agent("sac", gym.make("Pendulum-v1"), hidden_sizes, params, seed=0)
    windows = iter(BatchPipeline(gym.make("Pendulum-v1"), agent, window_size=64, seed=0).episodes())
    for _ in range(6):
        agent.learn(next(windows))
    again = itertools.cycle([next(windows) for _ in range(4)])
    return lambda: agent.learn(next(again))


CASES = {
    "PPO 64-64, minibatch 64": (ppo, (64, 64), 64, 30),
    "PPO 256-256, minibatch 256": (ppo, (256, 256), 256, 10),
    "SAC 64-64, batch 100": (sac, (64, 64), 100, 20),
    "SAC 256-256, batch 256": (sac, (256, 256), 256, 5),
}


def main():
    torch.set_num_threads(1)
    for name, (make, hidden_sizes, rows, rounds) in CASES.items():
        learn = make(hidden_sizes, rows)
        learn()
        seconds = {1: [], 2: []}
        for _ in range(rounds):
            for threads, times in seconds.items():
                os.environ["OPTIX_FAST_NUM_THREADS"] = str(threads)
                start = time.perf_counter()
                learn()
                times.append(time.perf_counter() - start)
        one, two = (statistics.median(times) * 1e3 for times in seconds.values())
        least = min(seconds[2]) / min(seconds[1])
        print(f"{name:27} one {one:7.2f} ms, two {two:7.2f} ms: {two / one:.2f} (minima {least:.2f})")


if __name__ == "__main__":
    main()
