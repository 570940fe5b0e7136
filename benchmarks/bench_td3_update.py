"""td3_update: native against the eager reference (eager_td3.py), per update, from 100 000 stored rows; every
second update is one of the actor and the targets, too.

    pytest benchmarks/bench_td3_update.py --benchmark-only
    python benchmarks/bench_td3_update.py          microseconds per update, alternating, and their ratio

The bound is the arithmetic of the matrix products at the speed of the core's kernel on 512³ in the same run.
"""

from __future__ import annotations

import statistics

import bench_ppo_update
import eager_sac
import eager_td3
import pytest
import torch

from optix_fast import _native
from optix_fast.learners.experience import Experience
from optix_fast.learners.model import target_of
from optix_fast.learners.td3.config import TD3Config
from optix_fast.learners.td3.native import td3_update
from optix_fast.learners.td3.update import TD3Model
from optix_fast.networks import mlp
from optix_fast.random import RandomStream

# observation width, hidden width, values of an action, batch
SHAPES = [(3, 64, 1, 100), (3, 256, 1, 256), (17, 256, 6, 256)]
ROWS, UPDATES = 100_000, 64
POLICY_DELAY = 2


def eager(n_in, width, n_actions, batch):
    nets, data = eager_td3.networks(n_in, width, n_actions), eager_sac.random_data(ROWS, n_in, n_actions)

    def update():
        for step in range(UPDATES):
            eager_td3.update(nets, data, batch, step, policy_frequency=POLICY_DELAY)

    return update


def native(n_in, width, n_actions, batch):
    if _native.core is None:
        pytest.skip("native: the compiled core is not in use")
    actor = mlp([n_in, width, width, n_actions], "relu")
    critics = [mlp([n_in + n_actions, width, width, 1], "relu") for _ in range(2)]
    model = TD3Model(
        actor, *critics, target_of(actor), target_of(critics[0]), target_of(critics[1]),
        torch.optim.Adam(actor.parameters(), lr=3e-4),
        torch.optim.Adam([p for net in critics for p in net.parameters()], lr=3e-4),
    )  # fmt: skip
    config = TD3Config(batch_size=batch, replay_capacity=ROWS, max_grad_norm=None, policy_delay=POLICY_DELAY)
    stream, data = RandomStream(0), eager_sac.random_data(ROWS, n_in, n_actions)
    experience = Experience(config, stream)
    experience.buffer.push_rows(*(part.numpy() for part in data[:4]), data.dones.numpy() > 0)

    def update():
        for draws in experience.draws(UPDATES, config, 4 * n_actions):
            noise = torch.from_numpy(stream.normal((draws.updates, batch, n_actions)))
            td3_update(model, experience, draws, noise, config, 0)

    return update


@pytest.mark.parametrize("impl", [eager, native], ids=lambda f: f.__name__)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s[0]}-{s[1]}-{s[1]}-{s[2]}x{s[3]}")
def test_td3_update(benchmark, shape, impl):
    benchmark.group = f"td3_update-{shape[0]}-{shape[1]}-{shape[1]}-{shape[2]}x{shape[3]}-cpu"
    call = impl(*shape)
    call()
    benchmark.pedantic(call, rounds=3)


def floating_point_operations(n_in, width, n_actions, batch):
    """Multiplications and additions of one update, the actor's step counted by its share."""
    actor = n_in * width + width * width + width * n_actions
    critic = (n_in + n_actions) * width + width * width + width
    by_weights, by_input = critic, width * width + width  # of a backward pass down to the first layer
    of_critics = actor + 2 * (critic + critic + by_weights + by_input)
    # Forward of both, ∂Q_1/∂a, and the actor's backward pass.
    of_actor = actor + critic + by_input + width * n_actions + actor + actor - n_in * width
    return 2 * batch * (of_critics + of_actor / POLICY_DELAY)


def main():
    torch.set_num_threads(1)
    for shape in SHAPES:
        calls = [impl(*shape) for impl in (eager, native)]
        for call in calls:
            call()
        times = [[bench_ppo_update.seconds(call) for call in calls] for _ in range(5)]
        old, new = (statistics.median(column) / UPDATES * 1e6 for column in zip(*times, strict=True))
        bound = floating_point_operations(*shape) / bench_ppo_update.kernel_speed() * 1e6
        print(
            f"{shape}: eager {old:.0f} us, native {new:.1f} us per update, ratio {old / new:.1f}, "
            f"arithmetic bound {bound:.1f} us ({new / bound:.2f} times that)"
        )


if __name__ == "__main__":
    main()
