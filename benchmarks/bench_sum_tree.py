"""SumTree: one update and one sample with weights, against the reference and the installed peers.

    pytest benchmarks/bench_sum_tree.py --benchmark-only
    python benchmarks/bench_sum_tree.py        # all of them in turn in each round; medians and ratios

The second form is the one to quote: every implementation runs in every round, so a busy machine slows them
alike. Each gets what it would in a training loop (other random indices and priorities every time, in the
arrays it takes) and does what its sampling needs: draw, read priorities, weights divided by the greatest.

The bound, for 2²⁰ leaves: each member of a batch touches two lines outside the first-level cache, its leaves
and the sums over them, once to update and once to draw; the other five levels are 73 KiB. A batch of 256 is
1024 such lines. Philox makes 128 blocks for it; the descent is about 25 instructions per level and member.
"""

from __future__ import annotations

import itertools
import statistics
import time

import numpy as np
import pytest
import torch

from optix_fast import backend, ops, reference
from optix_fast.random import RandomStream

LEAVES = 2**20
BATCHES = [256, 4096]
BETA = 0.4


def batches(size, device="cpu"):
    rng = np.random.default_rng(0)
    pairs = [(rng.integers(0, LEAVES, size), (rng.random(size) + 0.1).astype(np.float32)) for _ in range(64)]
    return [tuple(torch.from_numpy(x).to(device) for x in pair) for pair in pairs]


def as_arrays(size):
    return [tuple(x.numpy() for x in pair) for pair in batches(size)]


def step_of(tree, size, device):
    everything = torch.arange(LEAVES, device=device)
    tree.update(everything, torch.rand(LEAVES, generator=torch.Generator().manual_seed(0)).to(device) + 0.1)
    pairs = itertools.cycle(batches(size, device))

    def step():
        tree.update(*next(pairs))
        return tree.sample_weighted(size, BETA)

    return step


def native(size, device):
    if backend() != "native":
        pytest.skip("native: the compiled core is not in use")
    return step_of(ops.SumTree(LEAVES, device, seed=0), size, device)


def in_torch(size, device):
    return step_of(reference.SumTree(LEAVES, device, RandomStream(0, "sum_tree")), size, device)


def cpprb(size, device):
    """Its prioritized buffer, holding nothing but one flag."""
    module = pytest.importorskip("cpprb", reason="cpprb is not installed")
    if device != "cpu":
        pytest.skip("cpprb: on the CPU only")
    buffer = module.PrioritizedReplayBuffer(LEAVES, {"done": {"dtype": np.bool_}}, alpha=1.0, eps=0.0)
    rng = np.random.default_rng(0)
    for _ in range(0, LEAVES, 2**16):
        buffer.add(done=np.zeros(2**16, np.bool_), priorities=rng.random(2**16) + 0.1)
    pairs = itertools.cycle(as_arrays(size))

    def step():
        buffer.update_priorities(*next(pairs))
        return buffer.sample(size, beta=BETA)

    return step


def tianshou(size, device):
    """Its compiled tree, with the draw and the weights of its PrioritizedReplayBuffer."""
    module = pytest.importorskip("tianshou.data.utils.segtree", reason="tianshou is not installed")
    if device != "cpu":
        pytest.skip("tianshou: on the CPU only")
    tree = module.SegmentTree(LEAVES)
    tree[np.arange(LEAVES)] = np.random.default_rng(0).random(LEAVES) + 0.1
    pairs = itertools.cycle(as_arrays(size))

    def step():
        indices, priorities = next(pairs)
        tree[indices] = priorities
        drawn = tree.get_prefix_sum_idx(np.random.rand(size) * tree.reduce())
        weights = (tree[drawn] / 0.1) ** -BETA
        return drawn, weights / np.max(weights)

    return step


def torchrl(size, device):
    """Its C++ trees, with the draw and the weights of its PrioritizedSampler."""
    pytest.importorskip("torchrl", reason="torchrl is not installed")
    module = pytest.importorskip(
        "torchrl._torchrl", reason="torchrl's C++ trees do not load", exc_type=ImportError
    )
    if device != "cpu":
        pytest.skip("torchrl: on the CPU only")
    sums, least = module.SumSegmentTreeFp32(LEAVES), module.MinSegmentTreeFp32(LEAVES)
    everything = torch.arange(LEAVES)
    for tree in (sums, least):
        tree[everything] = torch.rand(LEAVES, generator=torch.Generator().manual_seed(0)) + 0.1
    pairs = itertools.cycle(batches(size))

    def step():
        indices, priorities = next(pairs)
        sums[indices] = priorities
        least[indices] = priorities
        mass = torch.rand(size) * sums.query(0, LEAVES)
        drawn = sums.scan_lower_bound(mass)
        return drawn, (sums[drawn] / least.query(0, LEAVES)) ** -BETA

    return step


IMPLEMENTATIONS = {
    "native": native,
    "reference": in_torch,
    "cpprb": cpprb,
    "tianshou": tianshou,
    "torchrl": torchrl,
}


@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("size", BATCHES)
def test_update_and_sample_weighted(benchmark, size, device, impl):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device is visible")
    benchmark.group = f"sum_tree-{LEAVES}x{size}-{device}"
    step = IMPLEMENTATIONS[impl](size, device)

    def synchronised():
        step()
        torch.cuda.synchronize()

    step()
    benchmark(step if device == "cpu" else synchronised)


def in_turn(size, rounds=100, repeats=20):
    """Median microseconds of one step by implementation; each round runs every one of them a few times.

    The reference, whose running sums over all leaves would empty the caches for the others, goes last.
    """
    steps = {}
    for name, make in IMPLEMENTATIONS.items():
        try:
            steps[name] = make(size, "cpu")
            steps[name]()
        except pytest.skip.Exception as reason:
            print(f"  {name:10s} left out: {str(reason).splitlines()[0]}")
    times = {name: [] for name in steps}

    def run(name, repeats):
        steps[name]()
        start = time.perf_counter_ns()
        for _ in range(repeats):
            steps[name]()
        times[name].append((time.perf_counter_ns() - start) / repeats / 1000)

    for _ in range(rounds):
        for name in steps:
            if name != "reference":
                run(name, repeats)
    for _ in range(10):
        run("reference", 1)
    return {name: statistics.median(values) for name, values in times.items()}


if __name__ == "__main__":
    torch.set_num_threads(1)
    for batch in BATCHES:
        print(f"{LEAVES} leaves, update and sample_weighted of {batch}, one thread")
        medians = in_turn(batch)
        for label, median in medians.items():
            print(f"  {label:10s} {median:10.1f} us   {median / medians['native']:6.1f} x")
