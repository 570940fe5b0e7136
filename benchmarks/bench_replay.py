"""Replay buffers: storing a step of 64 environments, drawing 256 transitions, uniformly and by priority.

    python benchmarks/bench_replay.py        # all of them in turn in each round; medians and ratios
    pytest benchmarks/bench_replay.py --benchmark-only

The first form is the one to quote: every implementation runs in every round, and what is counted is
processor time, of which a busy machine takes none away. All hold a million transitions of 17 numbers and 6
actions (HalfCheetah's), more than any cache, and end with what a training step wants: Stable-Baselines3's and
ours in torch tensors, cpprb's and Tianshou's in arrays.

The bound of a draw of 256: a row lies in lines that no cache holds, two of its record and two of the
observation in the record that follows it, in two pages: 1024 lines. Rows spread over eight arrays, as the
peers have them, are 2400 lines in 2000 pages.
"""

from __future__ import annotations

import statistics
import time

import numpy as np
import pytest
import torch

from optix_fast import backend
from optix_fast.buffers import PrioritizedReplayBuffer, ReplayBuffer

CAPACITY = 10**6
ENVS, BATCH = 64, 256
OBSERVATION, ACTION = 17, 6
LEAVES, ALPHA, BETA = 2**20, 0.6, 0.4
CPPRB_COLUMNS = {
    "obs": {"shape": OBSERVATION},
    "act": {"shape": ACTION},
    "rew": {},
    "next_obs": {"shape": OBSERVATION},
    "done": {},
}


def steps_of(n=32):
    """Transitions of 64 environments, one after the other; a tenth of a percent of them end an episode."""
    rng = np.random.default_rng(0)
    observations = rng.normal(size=(n + 1, ENVS, OBSERVATION)).astype(np.float32)
    actions = rng.normal(size=(n, ENVS, ACTION)).astype(np.float32)
    rewards = rng.normal(size=(n, ENVS)).astype(np.float32)
    done = rng.random((n, ENVS)) < 0.001
    return [(observations[t], actions[t], rewards[t], observations[t + 1], done[t]) for t in range(n)]


def td_errors():
    return list(np.random.default_rng(0).normal(size=(64, BATCH)).astype(np.float32))


def in_a_loop(steps):
    while True:
        yield from steps


def filled(push, sample):
    for _ in range(CAPACITY // ENVS + 1):
        push()
    return push, sample


def native():
    """ReplayBuffer, as tensors."""
    if backend() != "native":
        pytest.skip("native: the compiled core is not in use")
    buffer = ReplayBuffer(CAPACITY, seed=0)
    going = in_a_loop(steps_of())

    def push():
        buffer.push_rows(*next(going))

    def sample():
        # Observations, actions, rewards, next observations, discounts: what the peer gives, too.
        return [torch.from_numpy(column) for column in buffer.sample(BATCH)[:5]]

    return filled(push, sample)


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

    return filled(push, lambda: buffer.sample(BATCH))


def cpprb():
    """Its uniform buffer, with the next observations stored beside."""
    module = pytest.importorskip("cpprb", reason="cpprb is not installed")
    buffer = module.ReplayBuffer(CAPACITY, CPPRB_COLUMNS)
    going = in_a_loop(steps_of())

    def push():
        observations, actions, rewards, following, done = next(going)
        buffer.add(obs=observations, act=actions, rew=rewards, next_obs=following, done=done)

    return filled(push, lambda: buffer.sample(BATCH))


def prioritized():
    """PrioritizedReplayBuffer: draw with weights, then new priorities for what was drawn."""
    if backend() != "native":
        pytest.skip("native: the compiled core is not in use")
    buffer = PrioritizedReplayBuffer(LEAVES, ALPHA, BETA, seed=0)
    steps = steps_of()
    for t in range(LEAVES // ENVS):
        buffer.push_rows(*steps[t % len(steps)])
    everything = np.arange(LEAVES)
    buffer.update_priorities(everything, np.random.default_rng(0).random(LEAVES))
    errors = in_a_loop(td_errors())

    def step():
        batch = buffer.sample(BATCH)
        buffer.update_priorities(batch.indices, next(errors))

    return (step,)


def prioritized_cpprb():
    module = pytest.importorskip("cpprb", reason="cpprb is not installed")
    buffer = module.PrioritizedReplayBuffer(LEAVES, CPPRB_COLUMNS, alpha=ALPHA)
    rng = np.random.default_rng(0)
    steps = steps_of()
    for t in range(LEAVES // ENVS):
        observations, actions, rewards, following, done = steps[t % len(steps)]
        columns = {"obs": observations, "act": actions, "rew": rewards, "next_obs": following, "done": done}
        buffer.add(**columns, priorities=rng.random(ENVS))
    errors = in_a_loop(td_errors())

    def step():
        batch = buffer.sample(BATCH, beta=BETA)
        buffer.update_priorities(batch["indexes"], np.abs(next(errors)))

    return (step,)


def prioritized_tianshou():
    data = pytest.importorskip("tianshou.data", reason="tianshou is not installed")
    steps = steps_of()
    columns = [
        np.concatenate([column] * (LEAVES // ENVS // len(steps)))
        for column in (np.concatenate(parts) for parts in zip(*steps, strict=True))
    ]
    names = ("obs", "act", "rew", "obs_next", "terminated")
    batch = data.Batch(dict(zip(names, columns, strict=True)))
    batch.truncated, batch.done, batch.info = np.zeros(LEAVES, np.bool_), batch.terminated, data.Batch()
    buffer = data.PrioritizedReplayBuffer(LEAVES, ALPHA, BETA)
    buffer.set_batch(batch)
    buffer._size = LEAVES  # what adding them one by one would have made of it, in a minute
    buffer.update_weight(np.arange(LEAVES), np.random.default_rng(0).random(LEAVES))
    errors = in_a_loop(td_errors())

    def step():
        _, indices = buffer.sample(BATCH)
        buffer.update_weight(indices, next(errors))

    return (step,)


UNIFORM = {"native": native, "stable_baselines3": stable_baselines3, "cpprb": cpprb}
PRIORITIZED = {"native": prioritized, "cpprb": prioritized_cpprb, "tianshou": prioritized_tianshou}


@pytest.mark.parametrize("impl", UNIFORM)
def test_push_and_sample(benchmark, impl):
    benchmark.group = f"replay-{ENVS}-{BATCH}-of-{CAPACITY}-cpu"
    push, sample = UNIFORM[impl]()
    benchmark(lambda: (push(), sample()))


@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("impl", PRIORITIZED)
def test_prioritized_sample_and_update(benchmark, impl):
    benchmark.group = f"prioritized-{BATCH}-of-{LEAVES}-cpu"
    (step,) = PRIORITIZED[impl]()
    benchmark(step)


def in_turn(implementations, rounds=60, repeats=20):
    """Median microseconds of processor time of each call; each round runs every one of them a few times."""
    calls = {}
    for name, make in implementations.items():
        try:
            calls[name] = make()
        except pytest.skip.Exception as reason:
            print(f"  {name:18s} left out: {str(reason).splitlines()[0]}")
    times = {name: [[] for _ in parts] for name, parts in calls.items()}
    for _ in range(rounds):
        for name, parts in calls.items():
            for call, found in zip(parts, times[name], strict=True):
                start = time.thread_time_ns()
                for _ in range(repeats):
                    call()
                found.append((time.thread_time_ns() - start) / repeats / 1000)
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
    report(
        f"{LEAVES} rows by priority, sample with weights and update of {BATCH}",
        in_turn(PRIORITIZED),
        ("sample, update",),
    )
