"""The dense kernels under the learners: forward and backward of one stack, against torch.

    pytest benchmarks/bench_mlp.py --benchmark-only
    python benchmarks/bench_mlp.py        GFLOP/s of square layers, without activation

Groups are op-shape-device; within one, compare ratios, not microseconds of different days.
"""

from __future__ import annotations

import itertools
import time

import pytest
import torch
from torch import nn

from optix_fast import _native
from optix_fast.learners.native.networks import stack_of

SHAPES = [((4, 64, 64, 2), 64), ((17, 256, 256, 6), 256)]


def network(sizes):
    parts = []
    for n_in, n_out in itertools.pairwise(sizes):
        parts += [nn.Linear(n_in, n_out), nn.Tanh()]
    return nn.Sequential(*parts[:-1])


def native(net, x, by_output):
    if _native.core is None:
        pytest.skip("native: the compiled core is not in use")
    stack = stack_of(net, "net")
    described = stack.described()
    grads = [tuple(torch.empty_like(p) for p in layer.tensors()) for layer in stack.layers]
    output, by_x = torch.empty_like(by_output), torch.empty_like(x)
    return lambda: _native.core.mlp(described, True, False, x, output, by_output, grads, by_x)


def eager(net, x, by_output):
    leaves = [x.requires_grad_(), *net.parameters()]
    return lambda: torch.autograd.grad(net(x), leaves, by_output)


@pytest.mark.parametrize("impl", [native, eager], ids=lambda f: f.__name__)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{'-'.join(map(str, s[0]))}x{s[1]}")
def test_mlp(benchmark, shape, impl):
    sizes, rows = shape
    benchmark.group = f"mlp-{'-'.join(map(str, sizes))}x{rows}-cpu"
    benchmark(impl(network(sizes), torch.randn(rows, sizes[0]), torch.randn(rows, sizes[-1])))


def main():
    torch.set_num_threads(1)
    for n in (64, 128, 256, 512):
        speeds = []
        for impl in (native, eager):
            call = impl(nn.Sequential(nn.Linear(n, n)), torch.randn(n, n), torch.randn(n, n))
            times = []
            for _ in range(max(9, 2**30 // n**3)):
                start = time.perf_counter()
                call()
                times.append(time.perf_counter() - start)
            speeds.append(6 * n**3 / sorted(times)[len(times) // 4] / 1e9)
        print(
            f"{n}: native {speeds[0]:.0f}, eager {speeds[1]:.0f} GFLOP/s, ratio {speeds[0] / speeds[1]:.2f}"
        )


if __name__ == "__main__":
    main()
