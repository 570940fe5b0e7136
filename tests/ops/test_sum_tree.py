"""SumTree: numbers by hand, native against reference, properties, threads, errors."""

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
from torch._subclasses.fake_tensor import FakeTensorMode

from optix_fast import backend, build_info, ops, reference
from optix_fast.random import RandomStream

needs_core = pytest.mark.skipif(backend() != "native", reason="needs the compiled core")
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


@needs_core
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


@needs_core
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


# ---- errors ------------------------------------------------------------------------------------------------


@pytest.fixture(params=["native", "reference"])
def four(request):
    """A tree of 1, 2, 0, 5, which must be that tree after every error."""
    tree = ops.SumTree(4, seed=3) if request.param == "native" else reference_tree(4, seed=3)
    tree.update(i64(0, 1, 3), f32(1.0, 2.0, 5.0))
    before = tree.state_dict()
    yield tree
    after = tree.state_dict()
    assert torch.equal(before["priorities"], after["priorities"])
    assert before["stream"] == after["stream"]
    assert (tree.total, len(tree)) == (8.0, 3)
    assert tree.sample(8)[0].tolist() == [0, 1, 1, 3, 3, 3, 3, 3]


@pytest.mark.parametrize("index", [-1, 4, 5, 2**62, -(2**63)])
def test_index_outside_the_tree(four, index):
    with pytest.raises(ValueError, match=rf"indices must be in \[0, capacity\) = \[0, 4\), got {index} at"):
        four.update(i64(0, 1, index, 3), f32(9.0, 9.0, 9.0, 9.0))
    with pytest.raises(ValueError, match=rf"indices must be in .*, got {index} at position 1"):
        four.priorities(i64(0, index))


@pytest.mark.parametrize("priority", [-1.0, -1e-45, math.nan, math.inf, -math.inf])
def test_priority_negative_or_not_finite(four, priority):
    expected = "priorities must be finite and not negative, got .* at position 2"
    with pytest.raises(ValueError, match=expected):
        four.update(i64(0, 1, 2, 3), f32(9.0, 9.0, priority, 9.0))
    with pytest.raises(ValueError, match="priorities must be finite and not negative, got .* at position 0"):
        four.update(i64(0, 1), priority)


def test_number_that_float32_cannot_hold(four):
    with pytest.raises(ValueError, match="priorities must be finite and not negative, got inf"):
        four.update(i64(0, 1), 1e39)


@pytest.mark.parametrize("mass", [-1e-9, 8.0001, math.nan, math.inf])
def test_mass_outside_the_total(four, mass):
    with pytest.raises(ValueError, match=r"mass must be in \[0, total\] = \[0, 8.0\], got .* at position 1"):
        four.find(f64(1.0, mass))


@pytest.mark.parametrize(
    "make", [lambda: ops.SumTree(3), lambda: reference_tree(3)], ids=["ops", "reference"]
)
def test_empty_tree_has_nothing_to_draw(make):
    tree = make()
    before = tree.state_dict()
    for call in (
        lambda: tree.sample(1),
        lambda: tree.sample(0),
        lambda: tree.sample_weighted(3, 0.5),
        lambda: tree.find(f64(0.0)),
    ):
        with pytest.raises(ValueError, match="SumTree: nothing to draw: every priority is zero"):
            call()
    assert tree.state_dict()["stream"] == before["stream"]


WRONG_INDICES = [
    torch.zeros(2),
    torch.zeros(2, dtype=torch.int32),
    torch.zeros(2, dtype=torch.bool),
    torch.zeros(1, 2, dtype=torch.int64),
    torch.zeros((), dtype=torch.int64),
    torch.zeros(4, dtype=torch.int64)[::2],
    torch.zeros(2, dtype=torch.int64, device="meta"),
    np.zeros(2, np.int32),
    np.zeros(2, np.uint64),
    np.zeros(2, ">i8"),
    np.zeros((2, 1), np.int64),
    np.zeros((), np.int64),
    np.zeros(4, np.int64)[::-2],
    np.array([None, 1]),
]


@pytest.mark.parametrize("indices", WRONG_INDICES, ids=repr)
def test_indices_of_another_kind(four, indices):
    with pytest.raises(ValueError, match="indices must be"):
        four.update(indices, f32(1.0, 1.0))
    with pytest.raises(ValueError, match="indices must be"):
        four.priorities(indices)


WRONG_PRIORITIES = [
    torch.zeros(2, dtype=torch.float64),
    torch.zeros(2, dtype=torch.float16),
    torch.zeros(2, dtype=torch.int64),
    torch.zeros(3),
    torch.zeros(0),
    torch.zeros(2, 1),
    torch.zeros(()),
    torch.zeros(4)[::2],
    torch.zeros(2, device="meta"),
    np.zeros(2),
    np.zeros(3, np.float32),
    np.zeros((2, 1), np.float32),
    np.zeros(4, np.float32)[::2],
    np.float32(1.0),
]


@pytest.mark.parametrize("priorities", WRONG_PRIORITIES, ids=repr)
def test_priorities_of_another_kind(four, priorities):
    with pytest.raises((ValueError, TypeError), match="priorities must be"):
        four.update(i64(0, 1), priorities)


@pytest.mark.parametrize("wrong", [None, [0, 1], "text", (1.0,), {}, object()], ids=repr)
def test_neither_tensor_nor_array(four, wrong):
    with pytest.raises(TypeError, match="indices must be"):
        four.update(wrong, f32(1.0, 1.0))
    with pytest.raises(TypeError, match="indices must be"):
        four.priorities(wrong)
    with pytest.raises(TypeError, match="priorities must be"):
        four.update(i64(0, 1), wrong)
    with pytest.raises(TypeError, match="mass must be"):
        four.find(wrong)


@pytest.mark.parametrize("mass", [f32(1.0), i64(1), torch.zeros(1, 1), np.zeros(1, np.float32)], ids=repr)
def test_mass_of_another_kind(four, mass):
    with pytest.raises(ValueError, match="mass must be"):
        four.find(mass)


@needs_core
def test_tensors_without_memory_are_refused():
    tree = tree_of(1.0, 2.0)
    with FakeTensorMode():
        fake = torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ValueError, match="indices must be a .*tensor with memory"):
        tree.update(fake, f32(1.0, 1.0))
    with pytest.raises(ValueError, match="priorities must not be a lazily negated view"):
        tree.update(i64(0, 1), torch._neg_view(f32(-1.0, -1.0)))
    assert tree.total == 3.0


@pytest.mark.parametrize("n", [-1, -(2**70)])
def test_negative_number_of_draws(n):
    with pytest.raises(ValueError, match="n must be 0 or more"):
        tree_of(1.0).sample(n)


@pytest.mark.parametrize("n", [1.5, "1", None, torch.tensor(1.5)], ids=repr)
def test_number_of_draws_of_another_kind(n):
    with pytest.raises(TypeError, match="n must be an integer"):
        tree_of(1.0).sample(n)


@pytest.mark.parametrize("n", [2**50, 2**62, 2**63, 2**80])
def test_more_draws_than_memory(n):
    tree = tree_of(1.0, 1.0)
    with pytest.raises((ValueError, TypeError, RuntimeError, MemoryError, OverflowError)):
        tree.sample_weighted(n, 0.5)
    assert tree.sample(2)[0].tolist() == [0, 1]


@pytest.mark.parametrize("beta", [-0.1, math.nan, math.inf])
def test_beta_outside_its_range(beta):
    with pytest.raises(ValueError, match="beta must be finite and not negative"):
        tree_of(1.0).sample_weighted(1, beta)


def test_beta_of_any_finite_size():
    tree = tree_of(1.0, 1.0, 4.0)
    assert tree.sample_weighted(6, 1e300)[2].tolist() == [1.0, 1.0, 0.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("capacity", [0, -1, 2**40 + 1, 2**63, -(2**80)])
def test_capacity_outside_its_range(capacity):
    with pytest.raises(ValueError, match=r"SumTree: capacity must be in \[1, 2\*\*40\], got "):
        ops.SumTree(capacity)


@pytest.mark.parametrize("capacity", [1.5, "4", None, True], ids=repr)
def test_capacity_of_another_kind(capacity):
    with pytest.raises(TypeError, match="SumTree: capacity must be an integer"):
        ops.SumTree(capacity)


def overcommits():
    try:
        with open("/proc/sys/vm/overcommit_memory") as setting:
            return setting.read().strip() == "1"
    except OSError:
        return False


@pytest.mark.skipif(overcommits(), reason="this system promises memory that it does not have")
@pytest.mark.parametrize("make", [ops.SumTree, reference_tree], ids=["ops", "reference"])
def test_capacity_beyond_memory(make):
    with pytest.raises(MemoryError, match=f"SumTree: capacity {2**40} .*could not be allocated"):
        make(2**40)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"priorities": torch.zeros(5)}, ValueError),
        ({"priorities": torch.zeros(4, dtype=torch.float64)}, ValueError),
        ({"priorities": f32(1.0, -1.0, 1.0, 1.0)}, ValueError),
        ({"priorities": f32(1.0, math.nan, 1.0, 1.0)}, ValueError),
        ({"priorities": [1.0] * 4}, TypeError),
        ({"stream": {"key": 1}}, ValueError),
        ({"stream": {"key": 1, "offset": -1}}, ValueError),
        ({"more": 1}, ValueError),
    ],
)
def test_state_that_does_not_fit_changes_nothing(change, error):
    tree = tree_of(1.0, 2.0, 0.0, 5.0)
    state = tree.state_dict()
    fresh = {"priorities": f32(4.0, 4.0, 4.0, 4.0), "stream": {"key": 5, "offset": 6}}
    with pytest.raises(error):
        tree.load_state_dict(fresh | change)
    after = tree.state_dict()
    assert torch.equal(state["priorities"], after["priorities"])
    assert state["stream"] == after["stream"]
    assert tree.total == 8.0


@pytest.mark.gpu
def test_cuda_fault_is_told_at_the_next_read_and_changes_nothing():
    tree = tree_of(1.0, 2.0, 0.0, 5.0, device="cuda")
    for indices, priorities, said in [
        (i64(0, 4), f32(9.0, 9.0), "indices were outside"),
        (i64(0, 1), f32(9.0, math.nan), "priorities were negative or not finite"),
    ]:
        tree.update(indices.cuda(), priorities.cuda())
        with pytest.raises(ValueError, match=said):
            _ = tree.total
        assert (tree.total, len(tree)) == (8.0, 3)
        with pytest.raises(ValueError, match=said):
            tree.update(indices.cuda(), priorities.cuda(), check=True)
        assert tree.priorities(i64(0, 1, 2, 3).cuda()).tolist() == [1.0, 2.0, 0.0, 5.0]
    tree.update(i64(0, 4).cuda(), f32(9.0, 9.0).cuda())
    tree.update(i64(2).cuda(), f32(4.0).cuda())
    with pytest.raises(ValueError, match="indices were outside"):
        len(tree)
    assert tree.total == 12.0


@pytest.mark.gpu
def test_cuda_empty_tree_is_told_at_the_next_read():
    tree = ops.SumTree(3, "cuda")
    tree.sample(2)
    with pytest.raises(ValueError, match="nothing to draw"):
        len(tree)


@pytest.mark.gpu
def test_arguments_on_the_other_device():
    on_gpu, on_cpu = tree_of(1.0, 2.0, device="cuda"), tree_of(1.0, 2.0)
    with pytest.raises(ValueError, match="indices must be on cuda:0 like the tree"):
        on_gpu.update(i64(0), f32(1.0).cuda())
    with pytest.raises(ValueError, match="priorities must be"):
        on_gpu.update(i64(0).cuda(), f32(1.0))
    with pytest.raises(ValueError, match="indices must be on cpu like the tree"):
        on_cpu.update(i64(0).cuda(), f32(1.0).cuda())
    with pytest.raises(TypeError, match="indices must be a torch.Tensor"):
        on_gpu.update(np.array([0]), f32(1.0).cuda())
