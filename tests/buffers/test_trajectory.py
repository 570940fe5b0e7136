"""compute_gae and make_minibatches, as learners written for the documented package call them."""

from __future__ import annotations

import numpy as np
import pytest

from optix_fast import RandomStream, compute_gae, make_minibatches


def test_literal_advantages_of_two_episodes():
    # γ = λ = 1/2. Backwards: δ_2 = 4 + 2 − 1 = 5; row 1 ends an episode: δ_1 = 2 − 1 = 1;
    # δ_0 = 1 + ½·1 − 1 = ½, A_0 = ½ + ¼·1.
    advantages, returns = compute_gae([1, 2, 4], [1, 1, 1], [False, True, False], 0.5, 0.5, last_value=4.0)
    assert advantages.tolist() == [0.75, 1.0, 5.0]
    assert returns.tolist() == [1.75, 2.0, 6.0]
    assert advantages.dtype == returns.dtype == np.float32


def test_last_value_is_not_used_when_the_last_row_is_done():
    done, _ = compute_gae([1.0], [0.0], [1.0], last_value=100.0)
    going_on, _ = compute_gae([1.0], [0.0], [0.0], last_value=100.0)
    assert done.tolist() == [1.0]
    assert going_on.tolist() == [100.0]


def test_lambda_one_gives_discounted_returns():
    rng = np.random.default_rng(0)
    rewards, values = rng.normal(size=50), rng.normal(size=50)
    _, returns = compute_gae(rewards, values, np.zeros(50), 0.9, 1.0, last_value=2.0)
    expected = sum(0.9**k * reward for k, reward in enumerate(rewards)) + 0.9**50 * 2.0
    assert returns[0] == pytest.approx(expected, rel=1e-5)


def test_every_row_comes_once_and_columns_stay_together():
    data = {"x": np.arange(10), "y": np.arange(10)[:, None] * [1, 10]}
    batches = list(make_minibatches(data, 4, stream=RandomStream(0)))
    assert [len(batch["x"]) for batch in batches] == [4, 4, 2]
    rows = np.concatenate([batch["x"] for batch in batches])
    assert sorted(rows.tolist()) == list(range(10)) != rows.tolist()
    for batch in batches:
        np.testing.assert_array_equal(batch["y"][:, 1], 10 * batch["x"])
    (first, second) = make_minibatches({"x": [5, 6, 7]}, 2, shuffle=False)
    assert (first["x"].tolist(), second["x"].tolist()) == ([5, 6], [7])


def test_shuffling_leaves_numpys_generator_alone():
    before = np.random.get_state()[1].copy()
    list(make_minibatches({"x": np.arange(5)}, 2))
    np.testing.assert_array_equal(before, np.random.get_state()[1])


def test_what_does_not_fit_is_named():
    with pytest.raises(ValueError, match=r"compute_gae: values must have shape \[T\] = \[2\], got \[3\]"):
        compute_gae([1, 2], [1, 2, 3], [0, 0])
    with pytest.raises(ValueError, match="gamma"):
        compute_gae([1], [1], [0], gamma=1.5)
    with pytest.raises(ValueError, match="minibatch_size must be at least 1, got 0"):
        make_minibatches({"x": [1]}, 0)
    with pytest.raises(ValueError, match=r"columns of one length, got \{'x': 1, 'y': 2\}"):
        make_minibatches({"x": [1], "y": [1, 2]}, 1)
    with pytest.raises(ValueError, match="columns of one length"):
        make_minibatches({}, 1)
