"""Running statistics against numbers worked out by hand, and against all samples at once."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from optix_fast.envs.normalizers import ObsNormalizer, RewardNormalizer, RunningMeanStd

# --- RunningMeanStd -----------------------------------------------------------------------------


def test_fresh_statistics_are_mean_0_and_variance_1_with_little_weight():
    statistics = RunningMeanStd((2,))
    assert statistics.mean.tolist() == [0.0, 0.0]
    assert statistics.var.tolist() == [1.0, 1.0]
    assert statistics.count == 1e-4
    assert statistics.mean.dtype == statistics.var.dtype == np.float64


def test_two_batches_give_the_mean_and_population_variance_of_all():
    statistics = RunningMeanStd(epsilon=0.0)
    statistics.update([1.0, 2.0])
    statistics.update([3.0, 4.0, 5.0])
    assert statistics.mean == pytest.approx(3.0, abs=1e-15)
    assert statistics.var == pytest.approx(2.0, abs=1e-15)  # (4 + 1 + 0 + 1 + 4) / 5
    assert statistics.count == 5.0


def test_initial_guess_counts_as_epsilon_samples():
    # One pseudo-sample pair at mean 0, variance 1, weight 2, merged with the sample 3:
    # mean 3/3 = 1; var = (2·1 + 1·0 + 9·2·1/3)/3 = 8/3.
    statistics = RunningMeanStd(epsilon=2.0)
    statistics.update(3.0)
    assert statistics.mean == pytest.approx(1.0)
    assert statistics.var == pytest.approx(8 / 3)


def test_single_sample_and_batch_of_one_are_the_same():
    a, b = RunningMeanStd((3,)), RunningMeanStd((3,))
    a.update([1.0, 2.0, 3.0])
    b.update([[1.0, 2.0, 3.0]])
    assert a.mean.tolist() == b.mean.tolist()
    assert a.count == b.count == 1.0001


def test_empty_batch_changes_nothing():
    statistics = RunningMeanStd((3,))
    statistics.update(np.zeros((0, 3)))
    assert statistics.count == 1e-4


def test_large_offset_does_not_lose_the_variance():
    statistics = RunningMeanStd(epsilon=0.0)
    for _ in range(100):
        statistics.update([1e8 - 1, 1e8 + 1])
    assert statistics.var == pytest.approx(1.0, rel=1e-6)


def test_normalize_divides_by_the_deviation_and_clips():
    statistics = RunningMeanStd(epsilon=0.0)
    statistics.update([0.0, 4.0])  # mean 2, variance 4
    out = statistics.normalize([2.0, 4.0, 0.0, 100.0], clip=3.0)
    assert out.dtype == np.float32
    assert out.tolist() == pytest.approx([0.0, 1.0, -1.0, 3.0])
    assert statistics.normalize([100.0], clip=0.0).tolist() == pytest.approx([49.0])
    assert statistics.normalize([100.0]).tolist() == [10.0]


def test_constant_feature_is_normalized_to_zero():
    statistics = RunningMeanStd(epsilon=0.0)
    statistics.update([5.0, 5.0])
    assert statistics.normalize([5.0]).tolist() == [0.0]


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(np.float64, st.tuples(st.integers(1, 30), st.just(2)), elements=st.floats(-1e3, 1e3)),
    st.lists(st.integers(0, 30), max_size=4),
)
def test_merging_batches_equals_all_at_once(samples, cuts):
    statistics = RunningMeanStd((2,), epsilon=0.0)
    for part in np.split(samples, sorted(cuts)):
        statistics.update(part)
    np.testing.assert_allclose(statistics.mean, samples.mean(axis=0), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(statistics.var, samples.var(axis=0), rtol=1e-7, atol=1e-7)
    assert statistics.count == len(samples)


@pytest.mark.parametrize("shape", [(2,), (4, 2), (3, 1), ()])
def test_batch_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match="batch must have shape"):
        RunningMeanStd((3,)).update(np.zeros(shape))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_batch_that_is_not_finite_is_refused_and_changes_nothing(value):
    statistics = RunningMeanStd((2,))
    with pytest.raises(ValueError, match="NaN or infinite"):
        statistics.update([[1.0, value]])
    assert statistics.mean.tolist() == [0.0, 0.0]
    assert statistics.count == 1e-4


def test_statistics_go_on_from_their_state():
    a, b = RunningMeanStd((2,)), RunningMeanStd((2,))
    a.update([[1.0, 2.0], [3.0, 5.0]])
    state = a.state_dict()
    b.load_state_dict(state)
    for each in (a, b):
        each.update([7.0, 8.0])
    assert a.mean.tolist() == b.mean.tolist()
    assert a.var.tolist() == b.var.tolist()
    assert a.count == b.count
    assert state["mean"].tolist() == pytest.approx([2.0, 3.5], rel=1e-3)  # a copy
    with pytest.raises(ValueError, match=r"mean must have shape \[3\], got \[2\]"):
        RunningMeanStd((3,)).load_state_dict(state)


# --- ObsNormalizer ------------------------------------------------------------------------------


def test_observations_are_normalized_per_feature():
    normalizer = ObsNormalizer(2)
    normalizer.update(np.array([[0.0, 10.0], [4.0, 30.0]]))  # means 2 and 20, deviations 2 and 10
    out = normalizer.normalize(np.array([[4.0, 10.0], [2.0, 20.0]]))
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, [[1.0, -1.0], [0.0, 0.0]], atol=2e-3)
    np.testing.assert_allclose(normalizer.mean, [2.0, 20.0], rtol=1e-4)
    np.testing.assert_allclose(normalizer.var, [4.0, 100.0], rtol=1e-3)


def test_normalizing_does_not_change_the_statistics():
    normalizer = ObsNormalizer((2,))
    normalizer.update([[1.0, 2.0]])
    before = normalizer.mean.tolist()
    normalizer.normalize([[50.0, 60.0]])
    assert normalizer.mean.tolist() == before


def test_image_observations_have_a_mean_for_each_pixel():
    normalizer = ObsNormalizer((2, 3))
    normalizer.update(np.ones((5, 2, 3), np.uint8))
    assert normalizer.mean.shape == (2, 3)
    assert normalizer.normalize(np.ones((4, 2, 3), np.uint8)).shape == (4, 2, 3)


def test_obs_normalizer_round_trip_keeps_the_clip():
    a, b = ObsNormalizer((1,), clip=2.0), ObsNormalizer((1,))
    a.update([[1.0], [3.0]])
    b.load_state_dict(a.state_dict())
    x = np.array([[100.0], [2.5]])
    assert b.normalize(x).tolist() == a.normalize(x).tolist()
    assert b.normalize(x)[0, 0] == 2.0


# --- RewardNormalizer ---------------------------------------------------------------------------


def test_rewards_are_divided_by_the_deviation_of_the_discounted_return():
    normalizer = RewardNormalizer(gamma=0.5, epsilon=0.0)
    normalizer.step(2.0)  # return 2
    normalizer.step(3.0)  # return 0.5·2 + 3 = 4
    normalizer.reset()
    normalizer.step(6.0)  # return 6: mean 4, variance 8/3
    out = normalizer.normalize([1.0, -2.0, 1e9])
    assert out.dtype == np.float32
    assert out[:2].tolist() == pytest.approx([1 / math.sqrt(8 / 3), -2 / math.sqrt(8 / 3)], rel=1e-3)
    assert out[2] == 10.0


def test_reset_forgets_the_running_return_only():
    normalizer = RewardNormalizer()
    normalizer.step(5.0)
    count = normalizer.statistics.count
    normalizer.reset()
    assert normalizer._running_return.tolist() == [0.0]
    assert normalizer.statistics.count == count


def windows_of(n_envs: int) -> st.SearchStrategy[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Rewards, dones, valid [T, n_envs]; a row after an end may be invalid, as next-step resets are."""

    @st.composite
    def draw(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        steps = draw(st.integers(1, 12))
        shape = (steps, n_envs)
        rewards = draw(hnp.arrays(np.float32, shape, elements=st.floats(-10, 10, width=32)))
        dones = draw(hnp.arrays(np.bool_, shape))
        valid = np.ones(shape, np.bool_)
        if draw(st.booleans()):
            for t in range(1, steps):
                valid[t] = ~(dones[t - 1] & valid[t - 1])
                dones[t] &= valid[t]
            rewards[~valid] = 99.0
        return rewards, dones, valid

    return draw()


@pytest.mark.parametrize("n_envs", [1, 3])
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_update_window_equals_step_and_reset_one_by_one(n_envs, data):
    whole = RewardNormalizer(gamma=0.9)
    returns: list[float] = []
    single = [RewardNormalizer(gamma=0.9) for _ in range(n_envs)]
    for _ in range(2):  # running returns go on across windows
        rewards, dones, valid = data.draw(windows_of(n_envs))
        whole.update_window(rewards, dones, valid)
        for t, n in np.argwhere(valid):
            single[n].step(float(rewards[t, n]))
            returns.append(float(single[n]._running_return[0]))
            if dones[t, n]:
                single[n].reset()
    expected = RunningMeanStd()
    for value in returns:
        expected.update(value)
    np.testing.assert_allclose(whole.statistics.mean, expected.mean, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(whole.statistics.var, expected.var, rtol=1e-9, atol=1e-9)
    assert whole.statistics.count == pytest.approx(expected.count)
    np.testing.assert_allclose(
        whole._running_return, [each._running_return[0] for each in single], rtol=1e-12, atol=1e-12
    )


def test_reward_normalizer_goes_on_from_its_state():
    a, b = RewardNormalizer(gamma=0.5), RewardNormalizer(gamma=0.5)
    ones, never = np.ones((2, 3), np.float32), np.zeros((2, 3), np.bool_)
    a.update_window(ones, never, ~never)
    state = a.state_dict()
    b.load_state_dict(state)
    for each in (a, b):
        each.update_window(ones, never, ~never)
    assert a._running_return.tolist() == b._running_return.tolist() == [1.875] * 3
    assert a.normalize([1.0]).tolist() == b.normalize([1.0]).tolist()
    assert state["running_return"].tolist() == [1.5] * 3  # a copy


def test_another_number_of_environments_begins_new_returns():
    normalizer = RewardNormalizer(gamma=0.5)
    for n_envs in (2, 3):
        normalizer.update_window(
            np.ones((1, n_envs), np.float32), np.zeros((1, n_envs), np.bool_), np.ones((1, n_envs), np.bool_)
        )
    assert normalizer._running_return.tolist() == [1.0] * 3


@pytest.mark.parametrize("gamma", [-0.1, 1.1, float("nan")])
def test_gamma_outside_0_to_1_is_refused(gamma):
    with pytest.raises(ValueError, match="gamma must be between 0 and 1"):
        RewardNormalizer(gamma)
