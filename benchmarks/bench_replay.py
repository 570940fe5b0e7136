"""Replay buffers: storing a step of 64 environments and drawing 256 transitions, ours and the peers'.

    python benchmarks/bench_replay.py        # all of them in turn in each round; medians and ratios
    pytest benchmarks/bench_replay.py --benchmark-only -m "" -o python_files='bench_*.py'

The first form is the one to quote: every implementation runs in every round, so a busy machine slows them
alike. All hold a million transitions of 17 numbers and 6 actions (HalfCheetah's), more than any cache, and
end with what a training step wants: Stable-Baselines3's and ours in torch tensors, cpprb's in arrays.

The bound of a draw of 256: each row lies in lines that no cache holds: the link, reward and flags (4 lines),
observation (2), action (1) and what followed it (2), 2304 lines; ten of them are on their way at a time.
"""

from __future__ import annotations

import statistics
import time

import numpy as np
import pytest
import torch

from optix_fast import backend
from optix_fast.buffers import ReplayBuffer

CAPACITY = 10**6
ENVS, BATCH = 64, 256
OBSERVATION, ACTION = 17, 6


def steps_of(n=32):
    """Transitions of 64 environments, one after the other; a tenth of a percent of them end an episode."""
    rng = np.random.default_rng(0)
    observations = rng.normal(size=(n + 1, ENVS, OBSERVATION)).astype(np.float32)
    actions = rng.normal(size=(n, ENVS, ACTION)).astype(np.float32)
    rewards = rng.normal(size=(n, ENVS)).astype(np.float32)
    done = rng.random((n, ENVS)) < 0.001
    return [(observations[t], actions[t], rewards[t], observations[t + 1], done[t]) for t in range(n)]


def in_a_loop(steps):
    while True:
        yield from steps


def native():
    """ReplayBuffer, as tensors."""
    if backend() != "native":
        pytest.skip("native: the compiled core is not in use")
    buffer = ReplayBuffer(CAPACITY, seed=0)
    going = in_a_loop(steps_of())

    def push():
        buffer.push_rows(*next(going))

    def sample():
        return [torch.from_numpy(column) for column in buffer.sample(BATCH)]

    return push, sample


def stable_baselines3():
    """Its ReplayBuffer; optimize_memory_usage stores observations once, but knows no time limits then."""
    module = pytest.importorskip(
        "stable_baselines3.common.buffers", reason="stable_baselines3 is not installed"
    )
    from gymnasium import spaces

    box = spaces.Box(-np.inf, np.inf, (OBSERVATION,), np.float32)
    buffer = module.ReplayBuffer(
        CAPACITY, box, spaces.Box(-1, 1, (ACTION,), np.float32), device="cpu", n_envs=ENVS
    )
    going = in_a_loop(steps_of())
    infos = [{} for _ in range(ENVS)]

    def push():
        observations, actions, rewards, following, done = next(going)
        buffer.add(observations, following, actions, rewards, done, infos)

    return push, lambda: buffer.sample(BATCH)


def cpprb():
    """Its uniform buffer, with the next observations stored beside."""
    module = pytest.importorskip("cpprb", reason="cpprb is not installed")
    buffer = module.ReplayBuffer(
        CAPACITY,
        {
            "obs": {"shape": OBSERVATION},
            "act": {"shape": ACTION},
            "rew": {},
            "next_obs": {"shape": OBSERVATION},
            "done": {},
        },
    )
    going = in_a_loop(steps_of())

    def push():
        observations, actions, rewards, following, done = next(going)
        buffer.add(obs=observations, act=actions, rew=rewards, next_obs=following, done=done)

    return push, lambda: buffer.sample(BATCH)


UNIFORM = {"native": native, "stable_baselines3": stable_baselines3, "cpprb": cpprb}


def filled(make):
    push, sample = make()
    for _ in range(CAPACITY // ENVS + 1):
        push()
    return push, sample


@pytest.mark.parametrize("impl", UNIFORM)
def test_push_and_sample(benchmark, impl):
    benchmark.group = f"replay-{ENVS}-{BATCH}-of-{CAPACITY}"
    push, sample = filled(UNIFORM[impl])
    benchmark(lambda: (push(), sample()))


def in_turn(implementations, rounds=60, repeats=20):
    """Median microseconds of each call by implementation; each round runs every one of them a few times."""
    calls = {}
    for name, make in implementations.items():
        try:
            calls[name] = filled(make)
        except pytest.skip.Exception as reason:
            print(f"  {name:18s} left out: {str(reason).splitlines()[0]}")
    times = {name: [[] for _ in parts] for name, parts in calls.items()}
    for _ in range(rounds):
        for name, parts in calls.items():
            for call, found in zip(parts, times[name], strict=True):
                start = time.perf_counter_ns()
                for _ in range(repeats):
                    call()
                found.append((time.perf_counter_ns() - start) / repeats / 1000)
    return {name: [statistics.median(found) for found in parts] for name, parts in times.items()}


def report(title, medians, labels):
    print(
        f"{title}, one thread\n  {'':18s}" + "".join(f"{label:>16s}" for label in (*labels, "both", "× ours"))
    )
    ours = sum(medians["native"])
    for name, parts in medians.items():
        numbers = "".join(f"{part:13.1f} us" for part in (*parts, sum(parts)))
        print(f"  {name:18s}{numbers}{sum(parts) / ours:15.1f}x")


if __name__ == "__main__":
    torch.set_num_threads(1)
    report(
        f"{CAPACITY} rows of {OBSERVATION}, push of {ENVS} and sample of {BATCH}",
        in_turn(UNIFORM),
        (f"push {ENVS}", f"sample {BATCH}"),
    )
