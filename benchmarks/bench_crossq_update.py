"""crossq_update: native against the reference in torch, per update, from 100 000 stored rows; every third one
updates actor and temperature, too. Actor and critics have BatchRenorm.

    pytest benchmarks/bench_crossq_update.py --benchmark-only
    python benchmarks/bench_crossq_update.py       microseconds per update, alternating, and their ratio
"""

from __future__ import annotations

import pytest
from bench_tqc_update import SHAPES, compare, updates_of

from optix_fast import _native
from optix_fast.learners.crossq.native import crossq_update
from optix_fast.learners.crossq.update import crossq_update as reference_update


def eager(*shape):
    return updates_of("crossq", reference_update, shape, 0)


def native(*shape):
    if _native.core is None:
        pytest.skip("native: the compiled core is not in use")
    return updates_of("crossq", crossq_update, shape, 0)


@pytest.mark.parametrize("impl", [eager, native], ids=lambda f: f.__name__)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s[0]}-{s[1]}-{s[1]}-{s[2]}x{s[3]}")
def test_crossq_update(benchmark, shape, impl):
    benchmark.group = f"crossq_update-{shape[0]}-{shape[1]}-{shape[1]}-{shape[2]}x{shape[3]}-cpu"
    call = impl(*shape)
    call()
    benchmark.pedantic(call, rounds=3)


if __name__ == "__main__":
    compare(eager, native)
