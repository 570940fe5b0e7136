"""The random stream: core against reference and against numpy's and torch's own generators.

    pytest benchmarks/bench_random.py --benchmark-only

Groups are op-shape-device; within one, compare ratios, not microseconds of different days.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from optix_fast import _native
from optix_fast.reference import random as reference

DTYPES = {"uniform": np.float32, "normal": np.float32, "permutation": np.int64}


def filling(implementation, op, n):
    fill = getattr(implementation, f"random_{op}")
    return lambda: fill(1, 2, np.empty(n, DTYPES[op]))


def native(op, n):
    if _native.core is None:
        pytest.skip("native: the compiled core is not in use")
    return filling(_native.core, op, n)


def in_numpy_code(op, n):
    return filling(reference, op, n)


def numpy(op, n):
    g = np.random.default_rng(0)
    return {
        "uniform": lambda: g.random(n, np.float32),
        "normal": lambda: g.standard_normal(n, np.float32),
        "permutation": lambda: g.permutation(n),
    }[op]


def in_torch(op, n):
    g = torch.Generator().manual_seed(0)
    draw = {"uniform": torch.rand, "normal": torch.randn, "permutation": torch.randperm}[op]
    return lambda: draw(n, generator=g)


NAMES = {"in_numpy_code": "reference", "in_torch": "torch"}


@pytest.mark.parametrize(
    "impl", [native, in_numpy_code, numpy, in_torch], ids=lambda f: NAMES.get(f.__name__, f.__name__)
)
@pytest.mark.parametrize("n", [1, 64, 2048, 131072])
@pytest.mark.parametrize("op", DTYPES)
def test_random(benchmark, op, n, impl):
    benchmark.group = f"random_{op}-{n}-cpu"
    benchmark(impl(op, n))
