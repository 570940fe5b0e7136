"""SumTree: numbers by hand, native against reference, properties, threads."""

from __future__ import annotations

import bisect
import itertools
import math
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sum_tree_cases import (
    BATCHES,
    CAPACITIES,
    DEVICES,
    f32,
    f64,
    i64,
    random_priorities,
    reference_tree,
    tree_of,
)

from optix_fast import backend, build_info, ops
from optix_fast.random import RandomStream

# ---- numbers by hand ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
def test_find_by_running_sums(device):
    # Running sums 1, 3, 3, 8: masses below 1 find leaf 0, below 3 leaf 1, the rest leaf 3; never leaf 2.
    tree = tree_of(1.0, 2.0, 0.0, 5.0, device=device)
    found = tree.find(f64(0.0, 0.999, 1.0, 2.999, 3.0, 7.999, 8.0).to(device))
    assert found.tolist() == [0, 0, 1, 1, 3, 3, 3]


@pytest.mark.parametrize("device", DEVICES)
def test_total_and_length(device):
    tree = ops.SumTree(5, device)
    assert (tree.total, len(tree)) == (0.0, 0)
    tree.update(i64(1, 4).to(device), f32(0.5, 2.0).to(device))
    assert (tree.total, len(tree)) == (2.5, 2)
    tree.update(i64(1).to(device), f32(0.0).to(device))
    assert (tree.total, len(tree)) == (2.0, 1)


@pytest.mark.parametrize("device", DEVICES)
def test_of_equal_indices_the_last_counts(device):
    tree = tree_of(1.0, 1.0, 1.0, device=device)
    tree.update(i64(1, 0, 1, 1, 2).to(device), f32(5.0, 4.0, 0.0, 2.0, 0.0).to(device))
    assert tree.priorities(i64(0, 1, 2).to(device)).tolist() == [4.0, 2.0, 0.0]
    assert (tree.total, len(tree)) == (6.0, 2)


@pytest.mark.parametrize("device", DEVICES)
def test_one_draw_from_each_stratum(device):
    # Eight strata of mass 1 over running sums 1, 3, 3, 8: what is drawn does not depend on the numbers.
    tree = tree_of(1.0, 2.0, 0.0, 5.0, device=device)
    indices, priorities = tree.sample(8)
    assert indices.tolist() == [0, 1, 1, 3, 3, 3, 3, 3]
    assert priorities.tolist() == [1.0, 2.0, 2.0, 5.0, 5.0, 5.0, 5.0, 5.0]


@pytest.mark.parametrize("device", DEVICES)
def test_weights_are_the_least_priority_over_the_own_to_beta(device):
    # Masses 1, 1, 4 of 6 in six strata of 1: priorities 1, 1, 4, 4, 4, 4 and (1/4)^½ = ½.
    tree = tree_of(1.0, 1.0, 4.0, device=device)
    for beta, of_four in [(0.5, 0.5), (1.0, 0.25), (0.0, 1.0), (2.0, 0.0625)]:
        weights = tree.sample_weighted(6, beta)[2]
        torch.testing.assert_close(weights.cpu(), f32(1.0, 1.0, *[of_four] * 4), rtol=3e-7, atol=0.0)


def test_one_number_for_all_priorities():
    tree = ops.SumTree(4)
    tree.update(i64(0, 3), 1.5)
    assert tree.priorities(i64(0, 1, 2, 3)).tolist() == [1.5, 0.0, 0.0, 1.5]


def test_numpy_arguments():
    tree = ops.SumTree(4)
    tree.update(np.array([0, 3]), np.array([1.0, 3.0], np.float32))
    assert tree.priorities(np.array([3, 1])).tolist() == [3.0, 0.0]
    assert tree.find(np.array([0.5, 1.0])).tolist() == [0, 3]


def test_negative_zero_is_zero():
    tree = tree_of(-0.0, 1.0)
    assert len(tree) == 1
    assert math.copysign(1.0, tree.priorities(i64(0)).item()) == 1.0


@pytest.mark.parametrize("capacity", [*CAPACITIES, 1_000_003])
def test_each_of_equal_leaves_has_its_unit_of_mass(capacity):
    tree = ops.SumTree(capacity)
    everything = torch.arange(capacity)
    tree.update(everything, 1.0)
    assert tree.total == len(tree) == capacity
    assert torch.equal(tree.find(everything.double()), everything)
    assert torch.equal(tree.find(everything.double() + 0.999), everything)
    assert torch.equal(tree.sample(capacity)[0], everything)


# ---- parity ------------------------------------------------------------------------------------------------


def both_trees(capacity, seed, device="cpu", zeros=0.2):
    tree, plain = ops.SumTree(capacity, device, seed), reference_tree(capacity, device, seed)
    priorities = random_priorities(capacity, seed, zeros)
    priorities[seed % capacity] = 0.75  # at least one
    for t in (tree, plain):
        t.update(torch.arange(capacity, device=device), priorities.to(device))
    return tree, plain


def assert_drawn_alike(tree, plain, n):
    """The same leaves, save where running sums that are added in another order round across a number."""
    got, expected = tree.sample_weighted(n, 0.4), plain.sample_weighted(n, 0.4)
    assert [t.dtype for t in got] == [torch.int64, torch.float32, torch.float32]
    assert [tuple(t.shape) for t in got] == [(n,)] * 3
    differ = got[0] != expected[0]
    assert int(differ.sum()) <= n // 1000
    torch.testing.assert_close(got[1], tree.priorities(got[0]), rtol=0.0, atol=0.0)
    if not bool(differ.any()):
        assert torch.equal(got[1], expected[1])
        # Each weight is at most 1 and rounded a few times in float32.
        torch.testing.assert_close(got[2], expected[2], rtol=0.0, atol=5e-7)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("n", BATCHES)
@pytest.mark.parametrize("capacity", CAPACITIES)
def test_parity_with_reference(capacity, n, device):
    tree, plain = both_trees(capacity, seed=capacity + n, device=device)
    g = torch.Generator().manual_seed(n)
    for _ in range(2):
        assert_drawn_alike(tree, plain, n)
        indices = torch.randint(capacity, (n,), generator=g).to(device)
        priorities = random_priorities(n, seed=n).to(device)
        priorities[-1:] = 0.5  # the last one counts: at least this leaf can be drawn
        for t in (tree, plain):
            t.update(indices, priorities)
        assert torch.equal(tree.priorities(indices), plain.priorities(indices))
        assert len(tree) == len(plain)
        assert tree.total == pytest.approx(plain.total, rel=1e-13)


def test_draws_use_the_numbers_of_the_random_stream():
    tree = tree_of(*[1.0] * 1000, seed=5)
    uniform = RandomStream(5, "sum_tree").integers(0, 2**53, 10) * 2.0**-53
    assert tree.sample(10)[0].tolist() == [int(x) for x in (np.arange(10) + uniform) * 100]


@pytest.mark.gpu
def test_cuda_has_the_bits_of_the_cpu():
    priorities = random_priorities(100003)
    trees = [ops.SumTree(100003, device, 3) for device in ("cpu", "cuda")]
    for tree in trees:
        tree.update(torch.arange(100003, device=tree.device), priorities.to(tree.device))
        for seed in range(20):
            indices = torch.randint(100003, (999,), generator=torch.Generator().manual_seed(seed))
            tree.update(indices.to(tree.device), random_priorities(999, seed).to(tree.device))
    assert trees[0].total == trees[1].total
    assert torch.equal(trees[0].sample(4097)[0], trees[1].sample(4097)[0].cpu())


@pytest.mark.gpu
def test_cuda_is_bitwise_repeatable():
    def run():
        tree = ops.SumTree(5000, "cuda", 1)
        for seed in range(20):
            indices = torch.randint(5000, (4096,), generator=torch.Generator().manual_seed(seed)).cuda()
            tree.update(indices, random_priorities(4096, seed).cuda())
        return tree.total, *(t.cpu() for t in tree.sample_weighted(512, 0.5))

    first, second = run(), run()
    assert first[0] == second[0]
    assert all(torch.equal(a, b) for a, b in zip(first[1:], second[1:], strict=True))


# ---- properties --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("capacity", [1000, 70001])
def test_a_million_operations_against_a_list(capacity):
    rng = np.random.default_rng(1)
    tree, plain = ops.SumTree(capacity, seed=2), [0.0] * capacity
    done = 0
    while done < 1_000_000:
        size = int(rng.integers(1, 4000))
        indices = rng.integers(0, capacity, size)
        scale = 10.0 ** rng.integers(-20, 20)
        priorities = (rng.random(size) * scale * (rng.random(size) < 0.7)).astype(np.float32)
        tree.update(indices, priorities)
        for i, p in zip(indices.tolist(), priorities.tolist(), strict=True):
            plain[i] = p
        done += size
    assert tree.priorities(np.arange(capacity)).tolist() == plain
    assert len(tree) == sum(p > 0 for p in plain)
    assert tree.total == pytest.approx(math.fsum(plain), rel=1e-12)
    running = list(itertools.accumulate(plain))
    masses = rng.random(1000) * running[-1] * (1 - 1e-12)
    found = tree.find(masses).tolist()
    for mass, leaf in zip(masses.tolist(), found, strict=True):
        assert plain[leaf] > 0
        slack = 1e-12 * running[-1]
        expected = bisect.bisect_right(running, mass)
        assert expected == leaf or running[leaf] - plain[leaf] - slack <= mass <= running[leaf] + slack


def test_frequencies_of_single_draws_pass_a_chi_square_test():
    priorities = (random_priorities(20, seed=4, zeros=0.0) + 0.05).tolist()
    tree = tree_of(*priorities, seed=1)
    draws = 5000
    counts = torch.bincount(torch.cat([tree.sample(1)[0] for _ in range(draws)]), minlength=20).tolist()
    expected = [draws * p / sum(priorities) for p in priorities]
    statistic = sum((c - e) ** 2 / e for c, e in zip(counts, expected, strict=True))
    assert 5.41 < statistic < 43.82  # the quantiles 0.001 and 0.999 for 19 degrees of freedom


def test_place_inside_a_stratum_is_uniform():
    # 64 leaves to each of 16 strata: the place inside a stratum, from 400 draws, in 64 classes.
    tree = tree_of(*[1.0] * 1024, seed=2)
    places = torch.cat([tree.sample(16)[0] % 64 for _ in range(400)])
    counts = torch.bincount(places, minlength=64).double()
    statistic = float(((counts - 100) ** 2 / 100).sum())
    assert 32.2 < statistic < 103.4  # the quantiles 0.001 and 0.999 for 63 degrees of freedom


sizes = st.integers(1, 400)


@settings(max_examples=60, deadline=None)
@given(capacity=sizes, n=st.integers(1, 600), seed=st.integers(0, 2**20))
def test_each_leaf_is_drawn_as_often_as_its_share(capacity, n, seed):
    tree, _ = both_trees(capacity, seed)
    indices, priorities = tree.sample(n)
    share = tree.priorities(torch.arange(capacity)).double() * n / tree.total
    counts = torch.bincount(indices, minlength=capacity)
    # A leaf's mass covers whole strata but for one at each end.
    assert bool(((counts - share).abs() < 2.0).all())
    assert torch.equal(indices, indices.sort().values)
    assert bool((priorities > 0).all())


extremes = st.sampled_from([0.0, 0.0, 1e-45, 1e-38, 1e-30, 1e-7, 0.1, 1.0, 3.0, 1e7, 1e30, 1e38, 3.4e38])


@settings(max_examples=150, deadline=None)
@given(priorities=st.lists(extremes, min_size=1, max_size=300), seed=st.integers(0, 2**20))
def test_zero_leaf_is_never_found_whatever_the_rounding(priorities, seed):
    tree = tree_of(*priorities, seed=seed)
    if tree.total == 0.0:
        return
    stored = tree.priorities(torch.arange(len(priorities))).double()
    edges = torch.cumsum(stored, 0)
    masses = torch.cat(
        [edges, *(torch.nextafter(edges, torch.full_like(edges, to)) for to in (0.0, math.inf))]
    )
    masses = torch.cat([masses, f64(0.0, tree.total)]).clamp(0.0, tree.total)
    for n in (1, 7, 256):
        indices, drawn, weights = tree.sample_weighted(n, 0.7)
        assert bool((drawn > 0).all())
        assert torch.equal(stored[indices], drawn.double())
        assert weights.max().item() == 1.0
        assert bool((weights >= 0).all())
    assert bool((stored[tree.find(masses)] > 0).all())


@pytest.mark.parametrize("device", DEVICES)
def test_priorities_whose_sum_no_float32_holds(device):
    tree = tree_of(*[3e38] * 40, device=device)
    assert tree.total == pytest.approx(1.2e40, rel=1e-6)
    assert tree.sample(40)[0].tolist() == list(range(40))


@pytest.mark.parametrize("device", DEVICES)
def test_leaf_too_small_for_the_total_does_no_harm(device):
    tree = tree_of(1e-38, 1e38, 1e-38, device=device)
    indices, _, weights = tree.sample_weighted(4, 0.5)
    assert indices.tolist() == [1, 1, 1, 1]
    assert weights.tolist() == [1.0] * 4
    assert tree.find(f64(0.0, tree.total).to(device)).tolist() == [0, 2]


@pytest.mark.native
@pytest.mark.parametrize("beta", [0.01, 0.4, 1.0])
def test_weights_over_the_whole_range_of_float32(beta):
    from optix_fast import _C  # type: ignore[attr-defined]

    powers = torch.tensor([1e-45, 1e-40, 2e-38, 1e-20, 1e-3, 0.7, 1.0, 1.3, 1e10, 1e30, 3e38])
    weights = torch.empty_like(powers)
    _C.sum_tree_weights(powers, beta, weights)
    expected = (powers.double().min() / powers.double()) ** beta
    torch.testing.assert_close(weights.double(), expected, rtol=0.0, atol=3e-7)


@settings(max_examples=60, deadline=None)
@given(capacity=sizes, seed=st.integers(0, 2**20), batch=st.integers(1, 50))
def test_sums_depend_on_the_leaves_alone(capacity, seed, batch):
    one_by_one, at_once = ops.SumTree(capacity), ops.SumTree(capacity)
    priorities = random_priorities(capacity, seed)
    order = torch.randperm(capacity, generator=torch.Generator().manual_seed(seed))
    one_by_one.update(order, 9.0)
    for part in order.split(batch):
        one_by_one.update(part, priorities[part])
    at_once.update(torch.arange(capacity), priorities)
    if backend() == "native":
        assert one_by_one.total == at_once.total
    assert torch.equal(one_by_one.priorities(order), at_once.priorities(order))


def test_same_seed_same_draws_other_seed_other_draws():
    first, second, other = (tree_of(*[1.0] * 1000, seed=seed) for seed in (7, 7, 8))
    for n in (1, 10, 33):
        drawn = first.sample(n)[0]
        assert torch.equal(drawn, second.sample(n)[0])
        assert not torch.equal(drawn, other.sample(n)[0])
    assert not torch.equal(first.sample(33)[0], first.sample(33)[0])


@pytest.mark.parametrize("device", DEVICES)
def test_state_continues_exactly(device):
    tree, _ = both_trees(1000, seed=3, device=device)
    tree.sample(5)
    state = tree.state_dict()
    resumed = ops.SumTree(1000, device, seed=99)
    resumed.update(i64(1).to(device), f32(5.0).to(device))
    resumed.load_state_dict(state)
    assert (resumed.total, len(resumed)) == (tree.total, len(tree))
    for _ in range(3):
        for a, b in zip(tree.sample_weighted(64, 0.4), resumed.sample_weighted(64, 0.4), strict=True):
            assert torch.equal(a, b)
    tree.update(i64(3).to(device), f32(70.0).to(device))
    assert state["priorities"][3].item() != 70.0  # the state is a copy


def test_native_state_continues_in_the_reference():
    tree, plain = both_trees(1000, seed=3)
    tree.sample(5)
    plain.load_state_dict(tree.state_dict())
    assert_drawn_alike(tree, plain, 64)


def test_threads_share_one_tree():
    tree = tree_of(*[1.0] * 5000)
    failures = []

    def work(seed):
        rng = np.random.default_rng(seed)
        try:
            for size in [1, 64, 3000] * 40:
                tree.update(rng.integers(0, 5000, size), rng.random(size).astype(np.float32) + 0.1)
                indices, priorities, _ = tree.sample_weighted(size, 0.5)
                assert bool((priorities > 0).all())
                assert 0 <= int(indices.min()) <= int(indices.max()) < 5000
                if size == 64:
                    tree.load_state_dict(tree.state_dict())
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    priorities = tree.priorities(torch.arange(5000)).tolist()
    assert tree.total == pytest.approx(math.fsum(priorities), rel=1e-12)
    assert len(tree) == 5000


PROGRAM = """
import hashlib, numpy as np
from optix_fast import build_info, ops
digest = hashlib.sha256()
for capacity in (1, 17, 130, 9001, 100003):
    rng = np.random.default_rng(capacity)
    tree = ops.SumTree(capacity, seed=1)
    tree.update(np.arange(capacity), rng.random(capacity).astype(np.float32) ** 8)
    for size in (1, 5, 16, 100, 3000):
        priorities = rng.random(size).astype(np.float32) * (rng.random(size) < 0.5)
        priorities[-1] = 1e-3
        tree.update(rng.integers(0, capacity, size), priorities.astype(np.float32))
        indices, drawn, weights = tree.sample_weighted(size, 0.5)
        assert np.allclose(weights, (drawn.double().min() / drawn.double()) ** 0.5, rtol=0, atol=5e-7)
        digest.update(indices.numpy().tobytes() + drawn.numpy().tobytes() + tree.total.hex().encode())
print(build_info()["simd"], digest.hexdigest())
"""


@pytest.mark.slow
@pytest.mark.native
def test_every_instruction_set_draws_the_same(tmp_path):
    said = {}
    for path in build_info()["simd_compiled"]:
        environment = os.environ | {"OPTIX_FAST_SIMD": path, "OPTIX_FAST_BACKEND": "native"}
        # Run elsewhere: the source tree would be imported in place of what is installed.
        run = subprocess.run(
            [sys.executable, "-c", PROGRAM],
            cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if "this processor lacks it" in run.stderr:
            continue
        assert run.returncode == 0, run.stderr
        used, said[path] = run.stdout.split()
        assert used == path
    assert "portable" in said
    assert len(set(said.values())) == 1, said
