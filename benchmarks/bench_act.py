"""act: from observations to the window's columns, native against the eager reference (eager_ppo.py).

    pytest benchmarks/bench_act.py --benchmark-only
    python benchmarks/bench_act.py        microseconds per call, alternating, and their ratio

`native` is act_rows as a pipeline calls it, `core` the one native call inside it, `torch` the same agent in
torch.
"""

from __future__ import annotations

import statistics
import time

import eager_ppo
import numpy as np
import pytest
import torch
from gymnasium import spaces

from optix_fast import _native
from optix_fast.agents import TorchPPOAgent
from optix_fast.pipelines.rows import WindowRows
from optix_fast.types import HyperparamSet

FEATURES, ACTIONS = 4, 2
# hidden width, environments
SHAPES = [(64, 1), (64, 8), (64, 64), (256, 1), (256, 64)]
STEPS = 100


def setting(width, n_envs, backend):
    torch.manual_seed(0)
    actor, critic = eager_ppo.networks(FEATURES, width, ACTIONS)
    optimizer = torch.optim.Adam([*actor.parameters(), *critic.parameters()])
    agent = TorchPPOAgent(
        actor, critic, optimizer, HyperparamSet({}), device="cpu", seed=0, backend=backend,
        action_space=spaces.Discrete(ACTIONS),
    )  # fmt: skip
    rows = WindowRows(STEPS, n_envs, spaces.Box(-np.inf, np.inf, (FEATURES,)), spaces.Discrete(ACTIONS))
    rows.observations[...] = np.random.default_rng(0).normal(size=rows.observations.shape)
    return agent, rows


def act_rows(width, n_envs, backend):
    agent, rows = setting(width, n_envs, backend)

    def steps():
        for t in range(STEPS):
            agent.act_rows(rows.observations[t], rows, t)

    return steps


def agent(width, n_envs):
    if _native.core is None:
        pytest.skip("native: the compiled core is not in use")
    return act_rows(width, n_envs, "native")


def in_torch(width, n_envs):
    return act_rows(width, n_envs, "torch")


def core(width, n_envs):
    if _native.core is None:
        pytest.skip("native: the compiled core is not in use")
    it, rows = setting(width, n_envs, "native")
    it.act_rows(rows.observations[0], rows, 0)
    actor = it._acting.native
    plan, targets, act, observations = actor._plan, actor._targets, _native.core.act, list(rows.observations)

    def steps():
        for t in range(STEPS):
            act(plan, targets, t, observations[t], None, False, 1, t)

    return steps


def eager(width, n_envs):
    actor, critic = eager_ppo.networks(FEATURES, width, ACTIONS)
    observations = np.random.default_rng(0).normal(size=(STEPS, n_envs, FEATURES)).astype(np.float32)

    def steps():
        for t in range(STEPS):
            eager_ppo.act(actor, critic, observations[t])

    return steps


NAMES = {"agent": "native", "in_torch": "torch"}
IMPLEMENTATIONS = [core, agent, in_torch, eager]


@pytest.mark.parametrize("impl", IMPLEMENTATIONS, ids=lambda f: NAMES.get(f.__name__, f.__name__))
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s[0]}x{s[1]}")
def test_act(benchmark, shape, impl):
    benchmark.group = f"act-100-steps-{shape[0]}-{shape[0]}x{shape[1]}-cpu"
    benchmark(impl(*shape))


def main():
    torch.set_num_threads(1)
    for shape in SHAPES:
        calls = [impl(*shape) for impl in IMPLEMENTATIONS]
        times = []
        for _ in range(12):
            row = []
            for call in calls:
                start = time.perf_counter()
                call()
                row.append((time.perf_counter() - start) / STEPS * 1e6)
            times.append(row)
        medians = [statistics.median(column) for column in zip(*times[2:], strict=True)]
        core_us, agent_us, torch_us, eager_us = medians
        print(
            f"{shape[0]}-{shape[0]}, {shape[1]} environments: core {core_us:.2f} us, agent {agent_us:.2f}, "
            f"torch {torch_us:.0f}, eager {eager_us:.0f}; eager/agent {eager_us / agent_us:.0f}"
        )


if __name__ == "__main__":
    main()
