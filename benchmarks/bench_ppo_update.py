"""ppo_update: native against the eager reference (eager_ppo.py), per window of 2 048 rows and 10 epochs.

    pytest benchmarks/bench_ppo_update.py --benchmark-only
    python benchmarks/bench_ppo_update.py          microseconds per minibatch, alternating, and their ratio

The bound is the arithmetic of the matrix products at the speed of the core's kernel on 512³ in the same run.
"""

from __future__ import annotations

import copy
import statistics
import time

import eager_ppo
import numpy as np
import pytest
import torch

from optix_fast import _native
from optix_fast.learners.native.networks import stack_of
from optix_fast.learners.ppo.batch import Batch
from optix_fast.learners.ppo.config import PPOConfig
from optix_fast.learners.ppo.native import ppo_update
from optix_fast.learners.ppo.update import PPOModel
from optix_fast.networks.heads import CategoricalHead
from optix_fast.random import RandomStream

# observation width, hidden width, actions, minibatch
SHAPES = [(4, 64, 2, 64), (17, 64, 6, 64), (17, 256, 6, 256)]
ROWS, EPOCHS = 2048, 10


def setting(n_in, width, n_out):
    actor, critic = eager_ppo.networks(n_in, width, n_out)
    data = eager_ppo.random_data(actor, critic, ROWS, n_in)
    optimizer = torch.optim.Adam([*actor.parameters(), *critic.parameters()], lr=1e-4, eps=1e-5, fused=True)
    return actor, critic, optimizer, data


def eager(n_in, width, n_out, minibatch):
    actor, critic, optimizer, data = setting(n_in, width, n_out)
    return lambda: eager_ppo.update(actor, critic, optimizer, data, EPOCHS, minibatch)


def native(n_in, width, n_out, minibatch):
    if _native.core is None:
        pytest.skip("native: the compiled core is not in use")
    actor, critic, optimizer, data = setting(n_in, width, n_out)
    config = PPOConfig(minibatch_size=minibatch, n_epochs=EPOCHS, vf_coef=0.25)
    stream, batch = RandomStream(0), Batch(*data, None)
    model = PPOModel(actor, critic, optimizer, CategoricalHead())

    def update():
        order = torch.from_numpy(np.stack([stream.permutation(ROWS) for _ in range(EPOCHS)]))
        ppo_update(model, batch, order, config)

    return update


@pytest.mark.parametrize("impl", [eager, native], ids=lambda f: f.__name__)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s[0]}-{s[1]}-{s[1]}-{s[2]}x{s[3]}")
def test_ppo_update(benchmark, shape, impl):
    benchmark.group = f"ppo_update-{shape[0]}-{shape[1]}-{shape[1]}-{shape[2]}x{shape[3]}-cpu"
    call = impl(*shape)
    call()
    benchmark.pedantic(call, rounds=3)


def seconds(call):
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def floating_point_operations(n_in, width, n_out, minibatch):
    """Multiplications and additions of one minibatch: forward and both gradients, but the observations'."""

    def net(outputs):
        forward = n_in * width + width * width + width * outputs
        return 3 * forward - n_in * width

    return 2 * minibatch * (net(n_out) + net(1))


def kernel_speed(n=512):
    """FLOP/s of the core's own kernel on n³ (forward and backward of one square layer)."""
    layer = torch.nn.Linear(n, n)
    described = stack_of(layer, "layer").described()
    x = torch.randn(n, n)
    out, by_x, grads = torch.empty_like(x), torch.empty_like(x), (torch.empty(n, n), torch.empty(n))
    call = lambda: _native.core.mlp(described, False, False, x, out, out, [grads], by_x)  # noqa: E731
    call()
    return 6 * n**3 / min(seconds(call) for _ in range(9))


def main():
    torch.set_num_threads(1)
    for shape in SHAPES:
        steps = EPOCHS * -(-ROWS // shape[3])
        calls = [impl(*copy.copy(shape)) for impl in (eager, native)]
        for call in calls:
            call()
        times = [[seconds(call) for call in calls] for _ in range(5)]
        old, new = (statistics.median(column) / steps * 1e6 for column in zip(*times, strict=True))
        bound = floating_point_operations(*shape) / kernel_speed() * 1e6
        print(
            f"{shape}: eager {old:.0f} us, native {new:.1f} us per minibatch, ratio {old / new:.1f}, "
            f"arithmetic bound {bound:.1f} us ({new / bound:.2f} times that)"
        )


if __name__ == "__main__":
    main()
