"""tqc_update: native against the reference in torch, per update, from 100 000 stored rows.

pytest benchmarks/bench_tqc_update.py --benchmark-only
python benchmarks/bench_tqc_update.py          microseconds per update, alternating, and their ratio
"""

from __future__ import annotations

import statistics

import bench_ppo_update
import eager_sac
import pytest
import torch
from gymnasium import Env, spaces

from optix_fast import _native
from optix_fast.agents import make_agent
from optix_fast.learners.tqc.native import tqc_update
from optix_fast.learners.tqc.update import tqc_update as reference_update
from optix_fast.random import RandomStream

# observation width, hidden width, values of an action, batch
SHAPES = [(3, 64, 1, 100), (24, 64, 4, 100), (17, 256, 6, 256)]
ROWS, UPDATES = 100_000, 64


class Spaces(Env):
    """An environment that is nothing but its spaces."""

    def __init__(self, n_in, n_actions):
        self.observation_space = spaces.Box(-10, 10, (n_in,))
        self.action_space = spaces.Box(-1, 1, (n_actions,))


def updates_of(algo, update, shape, *more):
    """A call of UPDATES updates of an agent as make_agent builds it."""
    n_in, width, n_actions, batch = shape
    params = {"batch_size": batch, "replay_capacity": ROWS, "max_grad_norm": None}
    agent = make_agent(algo, Spaces(n_in, n_actions), (width, width), params, seed=0, device="cpu")
    experience, stream = agent._experience, RandomStream(0)
    data, config = eager_sac.random_data(ROWS, n_in, n_actions), agent._hyperparams.config()
    experience.layout = None
    experience.buffer.push_rows(*(part.numpy() for part in data[:4]), data.dones.numpy() > 0)

    def call():
        for draws in experience.draws(UPDATES, config, 8 * n_actions):
            noise = torch.from_numpy(stream.normal((draws.updates, 2, batch, n_actions)))
            update(agent._model, experience, draws, noise, config, -n_actions, *more)

    return call


def eager(*shape):
    return updates_of("tqc", reference_update, shape)


def native(*shape):
    if _native.core is None:
        pytest.skip("native: the compiled core is not in use")
    return updates_of("tqc", tqc_update, shape)


@pytest.mark.parametrize("impl", [eager, native], ids=lambda f: f.__name__)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s[0]}-{s[1]}-{s[1]}-{s[2]}x{s[3]}")
def test_tqc_update(benchmark, shape, impl):
    benchmark.group = f"tqc_update-{shape[0]}-{shape[1]}-{shape[1]}-{shape[2]}x{shape[3]}-cpu"
    call = impl(*shape)
    call()
    benchmark.pedantic(call, rounds=3)


def compare(*impls):
    """Print the times of both implementations for every shape, measured in turns."""
    torch.set_num_threads(1)
    for shape in SHAPES:
        calls = [impl(*shape) for impl in impls]
        for call in calls:
            call()
        times = [[bench_ppo_update.seconds(call) for call in calls] for _ in range(5)]
        old, new = (statistics.median(column) / UPDATES * 1e6 for column in zip(*times, strict=True))
        print(f"{shape}: eager {old:.0f} us, native {new:.1f} us per update, ratio {old / new:.1f}")


if __name__ == "__main__":
    compare(eager, native)
