"""sac_update: native against the eager reference (eager_sac.py), per update, from 100 000 stored rows.

    pytest benchmarks/bench_sac_update.py --benchmark-only
    python benchmarks/bench_sac_update.py          microseconds per update, alternating, and their ratio

The bound is the arithmetic of the matrix products at the speed of the core's kernel on 512³ in the same run.
"""

from __future__ import annotations

import statistics

import bench_ppo_update
import eager_sac
import pytest
import torch
from torch import nn

from optix_fast import _native
from optix_fast.learners.experience import Experience
from optix_fast.learners.model import target_of
from optix_fast.learners.sac.config import SACConfig
from optix_fast.learners.sac.native import sac_update
from optix_fast.learners.sac.update import SACModel
from optix_fast.networks import mlp
from optix_fast.random import RandomStream

# observation width, hidden width, values of an action, batch
SHAPES = [(3, 64, 1, 100), (3, 256, 1, 256), (17, 256, 6, 256)]
ROWS, UPDATES = 100_000, 64


def eager(n_in, width, n_actions, batch):
    nets, data = eager_sac.networks(n_in, width, n_actions), eager_sac.random_data(ROWS, n_in, n_actions)

    def update():
        for _ in range(UPDATES):
            eager_sac.update(nets, data, batch)

    return update


def native(n_in, width, n_actions, batch):
    if _native.core is None:
        pytest.skip("native: the compiled core is not in use")
    actor = mlp([n_in, width, width, 2 * n_actions], "relu")
    critics = [mlp([n_in + n_actions, width, width, 1], "relu") for _ in range(2)]
    log_alpha = nn.Parameter(torch.zeros(()))
    model = SACModel(
        actor=actor, critic1=critics[0], critic2=critics[1],
        target1=target_of(critics[0]), target2=target_of(critics[1]), log_alpha=log_alpha,
        actor_optimizer=torch.optim.Adam(actor.parameters(), lr=3e-4),
        critic_optimizer=torch.optim.Adam([p for net in critics for p in net.parameters()], lr=3e-4),
        alpha_optimizer=torch.optim.Adam([log_alpha], lr=3e-4),
    )  # fmt: skip
    config = SACConfig(batch_size=batch, replay_capacity=ROWS, max_grad_norm=None)
    stream, data = RandomStream(0), eager_sac.random_data(ROWS, n_in, n_actions)
    experience = Experience(config, stream)
    experience.buffer.push_rows(*(part.numpy() for part in data[:4]), data.dones.numpy() > 0)

    def update():
        for draws in experience.draws(UPDATES, config, 8 * n_actions):
            noise = torch.from_numpy(stream.normal((draws.updates, 2, batch, n_actions)))
            sac_update(model, experience, draws, noise, config, -n_actions)

    return update


@pytest.mark.parametrize("impl", [eager, native], ids=lambda f: f.__name__)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s[0]}-{s[1]}-{s[1]}-{s[2]}x{s[3]}")
def test_sac_update(benchmark, shape, impl):
    benchmark.group = f"sac_update-{shape[0]}-{shape[1]}-{shape[1]}-{shape[2]}x{shape[3]}-cpu"
    call = impl(*shape)
    call()
    benchmark.pedantic(call, rounds=3)


def floating_point_operations(n_in, width, n_actions, batch):
    """Multiplications and additions of one update of all networks."""
    actor = n_in * width + width * width + 2 * width * n_actions
    critic = (n_in + n_actions) * width + width * width + width
    by_weights, by_input = critic, width * width + width  # of a backward pass down to the first layer
    actor_passes = 2 * actor + actor + actor - n_in * width
    critic_passes = 2 * (critic + critic + by_weights + by_input + critic)
    # Of ∂Q/∂a: each row through one critic only.
    return 2 * batch * (actor_passes + critic_passes + by_input + width * n_actions)


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
