"""PrioritizedReplayBuffer: priorities and weights by hand, switches at run time, errors, state."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from replay_cases import assert_same_state

from optix_fast.buffers import PrioritizedReplayBuffer


def filled(rows, capacity=16, alpha=1.0, **options):
    buffer = PrioritizedReplayBuffer(capacity, alpha, seed=0, **options)
    push(buffer, range(rows))
    return buffer


def push(buffer, states):
    for i in states:
        buffer.push(np.array([float(i)]), i, float(i), np.array([i + 1.0]), False)


def leaves(buffer, *rows):
    return buffer.tree.priorities(torch.tensor(rows)).tolist()


# ---- numbers by hand ---------------------------------------------------------------------------------------


def test_priorities_are_powers_of_the_errors():
    buffer = filled(3, alpha=0.5, eps=1.0)
    buffer.update_priorities(np.array([0, 1, 2]), np.array([3.0, -8.0, 0.0]))
    assert leaves(buffer, 0, 1, 2) == [2.0, 3.0, 1.0]


def test_new_rows_get_the_greatest_priority_so_far_once_raised_to_alpha():
    buffer = filled(1, alpha=0.5, eps=1.0)
    assert leaves(buffer, 0) == [1.0]
    buffer.update_priorities(np.array([0]), np.array([15.0]))
    push(buffer, [1])
    assert leaves(buffer, 0, 1) == [4.0, 4.0]
    buffer.update_priorities(np.array([0, 1]), np.array([0.0, 3.0]))
    push(buffer, [2])
    assert leaves(buffer, 0, 1, 2) == [1.0, 2.0, 4.0]
    assert buffer.max_priority == 16.0


def test_weights():
    # p = 1, 3: P = ¼, ¾; N = 2; (2/4)^−1 = 2 and (6/4)^−1 = ⅔, over the greatest: 1 and ⅓.
    buffer = filled(2, beta=1.0, eps=1.0)
    buffer.update_priorities(np.array([0, 1]), np.array([0.0, 2.0]))
    indices, weights = buffer.draw(np.array([0.25, 0.5]), 1.0)  # masses 0.5 and 3
    assert indices.tolist() == [0, 1]
    assert weights.tolist() == pytest.approx([1, 1 / 3], rel=1e-6)
    batch = buffer.sample(2)
    wanted = np.where(batch.indices == 0, 1.0, 1 / 3)
    assert batch.weights.tolist() == pytest.approx((wanted / wanted.max()).tolist(), rel=1e-6)


def test_the_eight_parts_of_a_sample():
    buffer = PrioritizedReplayBuffer(8, alpha=1.0, n_step=2, gamma=0.5, seed=0)
    buffer.push(np.array([0.0]), 3, 1.0, np.array([1.0]), False)
    buffer.push(np.array([1.0]), 4, 2.0, np.array([2.0]), True)
    buffer.push(np.array([5.0]), 5, 4.0, np.array([6.0]), False, truncated=True)
    batch = buffer.sample(3)
    obs, actions, rewards, next_obs, dones, weights, indices, n_steps = batch
    types = [part.dtype.name for part in batch]
    assert types == ["float32", "int64", "float32", "float32", "float32", "float32", "int64", "int32"]
    assert weights.tolist() == [1.0] * 3
    parts = zip(obs[:, 0], actions, rewards, next_obs[:, 0], dones, n_steps, strict=True)
    by_row = dict(zip(indices.tolist(), parts, strict=True))
    assert by_row == {0: (0, 3, 2, 2, 1, 2), 1: (1, 4, 2, 2, 1, 1), 2: (5, 5, 4, 6, 0, 1)}


def test_alpha_zero_is_uniform_without_replacement():
    buffer = filled(40, capacity=50, alpha=0.0)
    counts = np.zeros(40)
    for n in (1, 7, 39, 40):
        for _ in range(300):
            batch = buffer.sample(n)
            assert len(set(batch.indices.tolist())) == n
            assert batch.weights.tolist() == [1.0] * n
            if n == 7:
                counts[batch.indices] += 1
    # 300 draws of 7 of 40: 52.5 each.
    assert np.abs(counts - 52.5).max() < 5 * math.sqrt(300 * (7 / 40) * (33 / 40))


def test_rows_are_drawn_in_proportion():
    buffer = filled(4, eps=1e-9)
    buffer.update_priorities(np.arange(4), np.array([1.0, 2.0, 3.0, 4.0]))
    drawn = np.concatenate([buffer.sample(2).indices for _ in range(5000)])
    shares = np.bincount(drawn, minlength=4) / len(drawn)
    assert np.abs(shares - [0.1, 0.2, 0.3, 0.4]).max() < 0.03


# ---- run time ----------------------------------------------------------------------------------------------


def test_switching_alpha_on_keeps_all_rows():
    buffer = filled(4, alpha=0.0)
    buffer.update_priorities(np.array([0]), np.array([50.0]))  # nothing to update yet
    buffer.set_params(alpha=0.6)
    assert leaves(buffer, 0, 1, 2, 3) == [1.0] * 4
    assert set(buffer.sample(4).indices.tolist()) == {0, 1, 2, 3}
    buffer.update_priorities(np.array([0]), np.array([1e6]))
    assert buffer.sample(4).indices.tolist().count(0) >= 3


def test_alpha_may_change_on_the_way():
    buffer = filled(2, alpha=0.5, eps=1.0)
    buffer.update_priorities(np.array([0, 1]), np.array([3.0, 15.0]))
    buffer.set_params(alpha=1.0)
    assert leaves(buffer, 0, 1) == pytest.approx([4.0, 16.0], rel=1e-6)
    buffer.set_params(alpha=0.0)
    push(buffer, [2])
    buffer.set_params(alpha=0.25)
    assert leaves(buffer, 0, 1, 2) == pytest.approx([4**0.25, 2.0, 2.0], rel=1e-6)


def test_extreme_alpha_never_loses_a_row():
    buffer = filled(3, alpha=30.0)
    buffer.update_priorities(np.array([0, 1]), np.array([0.0, 1e30]))
    assert all(0 < leaf < math.inf for leaf in leaves(buffer, 0, 1, 2))


def test_overwritten_rows_lose_their_priority():
    buffer = filled(4, capacity=4, eps=1.0)
    buffer.update_priorities(np.arange(4), np.array([9.0, 0.0, 0.0, 0.0]))
    push(buffer, range(5))
    assert leaves(buffer, 0, 1, 2, 3) == [10.0] * 4
    assert len(buffer.tree) == 4


def test_beta_grows_in_a_straight_line():
    buffer = filled(4, beta=0.4, beta_steps=3)
    seen = []
    for _ in range(5):
        seen.append(buffer.beta)
        buffer.sample(2)
    assert seen == pytest.approx([0.4, 0.6, 0.8, 1.0, 1.0])
    buffer.set_params(beta=0.7)
    assert buffer.next_betas(3).tolist() == pytest.approx([0.7, 0.8, 0.9])
    assert filled(1, beta=0.4).next_betas(2).tolist() == [0.4, 0.4]


def test_set_params_changes_all_or_nothing():
    buffer = filled(2)
    for wrong in ({"gamma": 2.0}, {"beta": -1.0}, {"n_step": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            buffer.set_params(**{"alpha": 0.3, "beta": 0.9, **wrong})
    assert (buffer.alpha, buffer.beta, buffer.n_step, buffer.gamma) == (1.0, 0.4, 1, 0.99)
    assert leaves(buffer, 0, 1) == [1.0, 1.0]


# ---- errors ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": -0.1}, "alpha must be finite and not negative, got -0.1"),
        ({"beta": float("nan")}, "beta must be finite and not negative, got nan"),
        ({"eps": 0.0}, r"eps must be finite and above 0, got 0.0"),
        ({"beta_steps": 0}, "beta_steps must be 1 or more, got 0"),
        ({"n_step": 0}, "n_step must be 1 or more"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        PrioritizedReplayBuffer(8, **options)


@pytest.mark.parametrize("alpha", [0.0, 0.7])
@pytest.mark.parametrize(
    ("indices", "errors", "message"),
    [
        ([0, 1], [1.0, float("nan")], "td_errors must be finite, got nan at position 1"),
        ([0, 1], [float("-inf"), 1.0], "td_errors must be finite, got -inf at position 0"),
        ([0, 5], [1.0, 1.0], r"indices must be in \[0, len\) = \[0, 5\), got 5 at position 1"),
        ([-1, 1], [1.0, 1.0], r"indices must be in \[0, len\) = \[0, 5\), got -1 at position 0"),
        ([0, 1], [1.0], r"indices must be int64 \[B\] and td_errors \[B\], got int64 \[2\] and \[1\]"),
    ],
)
def test_wrong_priorities_change_nothing(alpha, indices, errors, message):
    buffer = filled(5, alpha=alpha)
    before = buffer.state_dict()
    with pytest.raises(ValueError, match=message):
        buffer.update_priorities(np.array(indices), np.array(errors))
    assert buffer.max_priority == 1.0
    assert torch.equal(buffer.state_dict()["leaves"], before["leaves"])


@pytest.mark.parametrize("alpha", [0.0, 0.7])
def test_draw_of_more_than_there_is(alpha):
    with pytest.raises(ValueError, match=r"n must be in \[0, len\] = \[0, 5\], got 6"):
        filled(5, alpha=alpha).sample(6)


def test_wrong_max_priority():
    with pytest.raises(ValueError, match="max_priority must be finite and above 0, got inf"):
        filled(1).max_priority = math.inf


def test_wrong_push_changes_nothing():
    buffer = filled(3)
    with pytest.raises(ValueError, match="rewards must be finite"):
        buffer.push(np.zeros(1), 0, math.nan, np.zeros(1), False)
    assert len(buffer) == len(buffer.tree) == 3


# ---- state -------------------------------------------------------------------------------------------------


def shuffled(buffer, rounds):
    rng = np.random.default_rng(len(buffer))
    drawn = []
    for i in range(rounds):
        push(buffer, [i])
        batch = buffer.sample(1)
        drawn.append(batch.indices.tolist())
        buffer.update_priorities(batch.indices, rng.normal(size=1))
    return drawn


@pytest.mark.parametrize("alpha", [0.0, 0.6])
@pytest.mark.parametrize("on_disk", [False, True])
def test_a_loaded_buffer_goes_on_as_the_saved_one(tmp_path, alpha, on_disk):
    buffer = PrioritizedReplayBuffer(20, alpha, beta_steps=100, eps=0.01, seed=4)
    shuffled(buffer, 30)
    push(buffer, [7])
    other = PrioritizedReplayBuffer(20, seed=5)
    push(other, [1])
    if on_disk:
        buffer.save(tmp_path)
        other.load(tmp_path)
    else:
        other.load_state_dict(buffer.state_dict())
    assert other.beta == buffer.beta
    assert shuffled(other, 30) == shuffled(buffer, 30)
    assert_same_state(other.state_dict()["replay"], buffer.state_dict()["replay"])
    assert torch.equal(other.state_dict()["leaves"], buffer.state_dict()["leaves"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("leaves"), "the state has no 'leaves'"),
        (lambda s: s.update(leaves=torch.zeros(5)), "leaves must be 5 positive numbers"),
        (lambda s: s.update(alpha=-1.0), "alpha must be finite and not negative"),
        (lambda s: s["replay"].update(capacity=3), "the state is of capacity 3"),
    ],
)
def test_a_wrong_state_changes_nothing(change, message):
    buffer = filled(5)
    state = buffer.state_dict()
    change(state)
    with pytest.raises(ValueError, match=message):
        buffer.load_state_dict(state)
    assert leaves(buffer, *range(5)) == [1.0] * 5
    assert len(buffer) == 5
