"""dqn_update: native against the eager reference (eager_dqn.py), 256 updates from a replay of 100 000 rows.

    pytest benchmarks/bench_dqn_update.py --benchmark-only
    python benchmarks/bench_dqn_update.py          microseconds per update, alternating, and their ratio

The eager reference is plain DQN; `native` does the same, `native_double_per` double Q-learning with
prioritized replay and gradient clipping on top.
"""

from __future__ import annotations

import statistics
import time

import eager_dqn
import numpy as np
import pytest
import torch

from optix_fast import _native
from optix_fast.learners.dqn.config import DQNConfig
from optix_fast.learners.dqn.native import dqn_update
from optix_fast.learners.dqn.update import DQNModel
from optix_fast.learners.experience import Experience
from optix_fast.random import RandomStream

# observation width, hidden width, actions, batch
SHAPES = [(4, 64, 2, 64), (8, 64, 4, 64), (8, 256, 4, 256)]
CAPACITY, UPDATES, TARGET = 100_000, 256, 100


def eager(n_in, width, n_out, batch):
    network, target = eager_dqn.networks(n_in, width, n_out)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4, fused=True)
    replay = eager_dqn.random_replay(CAPACITY, n_in, n_out)
    return lambda: eager_dqn.update(network, target, optimizer, replay, UPDATES, batch, TARGET)


def native(n_in, width, n_out, batch, **params):
    if _native.core is None:
        pytest.skip("native: the compiled core is not in use")
    network, target = eager_dqn.networks(n_in, width, n_out)
    model = DQNModel(
        network, target.requires_grad_(False), torch.optim.Adam(network.parameters(), lr=1e-4, fused=True)
    )
    plain = {"double_q": False, "loss": "mse", "max_grad_norm": None, "target_update_freq": TARGET}
    config = DQNConfig(batch_size=batch, replay_capacity=CAPACITY, **{**plain, **params})
    experience = Experience(config, RandomStream(0))
    rows = eager_dqn.random_replay(CAPACITY, n_in, n_out)
    experience.buffer.push_rows(
        rows.observations, rows.actions[:, 0], rows.rewards[:, 0], rows.next_observations,
        rows.dones[:, 0] > 0, np.zeros(CAPACITY, np.bool_),
    )  # fmt: skip

    def update():
        for draws in experience.draws(UPDATES, config):
            dqn_update(model, experience, draws, config, 0)

    return update


def native_double_per(*shape):
    return native(*shape, double_q=True, loss="huber", max_grad_norm=10.0, per_alpha=0.6)


@pytest.mark.parametrize("impl", [eager, native, native_double_per], ids=lambda f: f.__name__)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s[0]}-{s[1]}-{s[1]}-{s[2]}x{s[3]}")
def test_dqn_update(benchmark, shape, impl):
    benchmark.group = f"dqn_update-{shape[0]}-{shape[1]}-{shape[1]}-{shape[2]}x{shape[3]}-cpu"
    call = impl(*shape)
    call()
    benchmark.pedantic(call, rounds=3)


def seconds(call):
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main():
    torch.set_num_threads(1)
    for shape in SHAPES:
        calls = [impl(*shape) for impl in (eager, native, native_double_per)]
        for call in calls:
            call()
        times = [[seconds(call) for call in calls] for _ in range(5)]
        old, new, more = (statistics.median(column) / UPDATES * 1e6 for column in zip(*times, strict=True))
        print(
            f"{shape}: eager {old:.0f} us, native {new:.1f} us per update, ratio {old / new:.1f}; "
            f"with double Q, priorities and clipping {more:.1f} us"
        )


if __name__ == "__main__":
    main()
