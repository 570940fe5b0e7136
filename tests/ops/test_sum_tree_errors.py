"""SumTree: what is wrong is an exception that names it, and leaves the tree as it was."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sum_tree_cases import (
    f32,
    f64,
    i64,
    reference_tree,
    tree_of,
)
from torch._subclasses.fake_tensor import FakeTensorMode

from optix_fast import ops


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


@pytest.mark.parametrize(
    "wrong", [None, [0, 1], "text", (1.0,), {}, object()], ids=lambda wrong: type(wrong).__name__
)
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


@pytest.mark.native
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
