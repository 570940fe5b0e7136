"""What the tests of SumTree share: small tensors, trees, shapes."""

from __future__ import annotations

import pytest
import torch

from optix_fast import ops, reference
from optix_fast.random import RandomStream

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
# One line, one level more or less, every count around a full line, and not a multiple of anything.
CAPACITIES = [1, 2, 3, 15, 16, 17, 31, 127, 128, 129, 1000, 1023, 1024, 1025, 8193, 16384, 16385, 100003]
BATCHES = [0, 1, 2, 3, 7, 16, 17, 64, 255, 256, 257, 1000]


def f32(*values):
    return torch.tensor(values, dtype=torch.float32)


def i64(*values):
    return torch.tensor(values, dtype=torch.int64)


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


def tree_of(*priorities, device="cpu", seed=0):
    tree = ops.SumTree(len(priorities), device, seed)
    tree.update(torch.arange(len(priorities), device=device), f32(*priorities).to(device))
    return tree


def reference_tree(capacity, device="cpu", seed=0):
    return reference.SumTree(capacity, device, RandomStream(seed, "sum_tree"))


def random_priorities(n, seed=0, zeros=0.2):
    g = torch.Generator().manual_seed(seed)
    return torch.rand(n, generator=g) ** 4 * (torch.rand(n, generator=g) >= zeros)
