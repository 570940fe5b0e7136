"""The replay ring of the core against the one in numpy: the same pushes, the same memory and batches."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch

from optix_fast import _native, build_info
from optix_fast.buffers import ReplayBuffer, ring
from optix_fast.reference import replay as reference

pytestmark = pytest.mark.native

CAPACITIES = [1, 2, 3, 7, 64, 1000]
WIDTHS = [0, 1, 3, 4, 17, 376]


def random_rows(rng, n, width, action_width, observations=None):
    """Three of four rows begin with the bytes that the environment showed last."""
    start = rng.normal(size=(n, width)).astype(np.float32)
    if observations is not None and len(observations) == n:
        goes_on = rng.random(n) < 0.75
        start[goes_on] = observations[goes_on]
    end = rng.normal(size=(n, width)).astype(np.float32)
    actions = (
        rng.integers(0, 9, n) if action_width == 0 else rng.normal(size=(n, action_width)).astype(np.float32)
    )
    return (
        start,
        actions,
        rng.normal(size=n).astype(np.float32),
        end,
        rng.random(n) < 0.1,
        rng.random(n) < 0.1,
    )


def buffer_of(capacity, width, action_width, monkeypatch, implementation, rows=60):
    monkeypatch.setattr(ring, "_Replay", implementation)
    rng = np.random.default_rng(capacity + width)
    buffer = ReplayBuffer(capacity, n_step=3, gamma=0.9, seed=0)
    shown = None
    for _ in range(rows):
        n = int(rng.choice([1, 2, 5, 5, 5]))
        columns = random_rows(rng, n, width, action_width, shown)
        buffer.push_rows(*columns)
        shown = columns[3]
    return buffer


@pytest.mark.parametrize("capacity", CAPACITIES)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("action_width", [0, 2])
def test_pushes_and_batches_agree(capacity, width, action_width, monkeypatch):
    native, plain = (
        buffer_of(capacity, width, action_width, monkeypatch, implementation)
        for implementation in (_native.core.Replay, reference.Replay)
    )
    for own, other in zip(vars(native._ring).values(), vars(plain._ring).values(), strict=True):
        if isinstance(own, np.ndarray) and len(own) != capacity:  # beyond size, the rest is not yet written
            np.testing.assert_array_equal(own, other)
    size = len(native)
    np.testing.assert_array_equal(native.view().next[:size], plain.view().next[:size])
    indices = np.random.default_rng(0).integers(0, size, 257)
    for got, wanted in zip(native.batch(indices), plain.batch(indices), strict=True):
        assert got.dtype == wanted.dtype
        # Sums in double on both sides; only a fused multiply-add may change the last bit of the rounding.
        if got.dtype == np.float32:
            np.testing.assert_allclose(got, wanted, rtol=2e-7, atol=1e-7)
        else:
            np.testing.assert_array_equal(got, wanted)


@functools.cache
def filled_buffer(width, action_width):
    """Of 100 rows, kept by the reference."""
    with pytest.MonkeyPatch.context() as patch:
        return buffer_of(100, width, action_width, patch, reference.Replay)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("action_width", [0, 1, 2])
@pytest.mark.parametrize("n_step", [1, 4])
@pytest.mark.parametrize("batch", [0, 1, 15, 16, 17, 300])
def test_what_the_learners_gather(batch, n_step, action_width, width, dtype):
    buffer = filled_buffer(width, action_width)
    indices = np.random.default_rng(1).integers(0, 100, batch)
    buffer.set_params(n_step=n_step, gamma=0.97)
    wanted = buffer.batch(indices)
    observations, following = torch.empty(batch, width, dtype=dtype), torch.empty(batch, width, dtype=dtype)
    rewards, discounts = torch.empty(batch, dtype=dtype), torch.empty(batch, dtype=dtype)
    actions = (
        torch.empty(batch, dtype=torch.int64)
        if action_width == 0
        else torch.empty(batch, action_width, dtype=dtype)
    )
    _native.core.replay_gather(
        buffer.view(),
        torch.from_numpy(indices),
        n_step,
        0.97,
        observations,
        following,
        actions,
        rewards,
        discounts,
    )
    # Observations and actions are copied, so exact; targets of float64 are not rounded to float32.
    np.testing.assert_array_equal(observations.numpy(), wanted.observations)
    np.testing.assert_array_equal(following.numpy(), wanted.next_observations)
    np.testing.assert_array_equal(actions.numpy(), wanted.actions)
    np.testing.assert_allclose(rewards.numpy(), wanted.rewards, rtol=2e-7, atol=1e-7)
    np.testing.assert_allclose(discounts.numpy(), wanted.discounts, rtol=2e-7)
    # In float64, the chain once more by hand.
    if dtype == torch.float64:
        view = buffer.view()
        _, total, power, _, _ = reference.replay_follow(
            view.next.numpy(),
            view.rewards.numpy(),
            view.terminated.numpy(),
            view.truncated.numpy(),
            indices,
            n_step,
            0.97,
            view.successor.numpy(),
        )
        np.testing.assert_allclose(rewards.numpy(), total, rtol=1e-14, atol=1e-15)
        np.testing.assert_allclose(discounts.numpy(), power, rtol=1e-14)


@pytest.mark.parametrize("simd", build_info().get("simd_compiled", []))
def test_every_instruction_set_gives_the_same(simd, monkeypatch):
    best = build_info()["simd"]
    buffers = []
    for name in (best, simd):
        try:
            _native.core.select_simd(name)
        except ValueError:
            pytest.skip(f"this processor has no {name}")
        try:
            buffer = buffer_of(100, 17, 2, monkeypatch, _native.core.Replay)
            buffers.append(buffer.batch(np.arange(100)))
        finally:
            _native.core.select_simd(best)
    for got, wanted in zip(*buffers, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=2e-7, atol=1e-7)


def test_wrong_views_are_refused(monkeypatch):
    buffer = buffer_of(10, 3, 0, monkeypatch, _native.core.Replay)
    view, row = buffer.view(), torch.zeros(1, dtype=torch.int64)
    out = (
        torch.empty(1, 3),
        torch.empty(1, 3),
        torch.empty(1, dtype=torch.int64),
        torch.empty(1),
        torch.empty(1),
    )
    with pytest.raises(ValueError, match=r"replay_gather: records must be uint8 \[C, bytes\]"):
        _native.core.replay_gather(view._replace(records=torch.zeros(9)), row, 1, 0.9, *out)
    with pytest.raises(ValueError, match="layout must lie within the records"):
        _native.core.replay_gather(view._replace(layout=(3, 0, 64)), row, 1, 0.9, *out)
    with pytest.raises(ValueError, match=r"extra must be float32 \[E, D\] with D = 3"):
        _native.core.replay_gather(view._replace(extra=torch.zeros(4, 2)), row, 1, 0.9, *out)
    with pytest.raises(ValueError, match=r"indices must be in \[0, size\) = \[0, 10\), got 10 at position 0"):
        _native.core.replay_gather(view, row + 10, 1, 0.9, *out)
    with pytest.raises(ValueError, match=r"size must be in \[0, C\] = \[0, 10\], got 11"):
        _native.core.replay_gather(view._replace(size=11), row, 1, 0.9, *out)
