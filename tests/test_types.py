"""Windows made by hand, and the small types that travel between the parts."""

from __future__ import annotations

import numpy as np
import pytest

from optix_fast.types import (
    BaseEvaluator,
    EpisodeData,
    EvalMetrics,
    HyperparamSet,
    LoopState,
    NonFiniteError,
    Stateful,
    is_recording,
    no_recording,
    tree_leaves,
    tree_map,
)


def window(**fields) -> EpisodeData:
    """A window in the old style: lists, one environment, nothing optional."""
    given = {
        "observations": np.arange(8.0).reshape(4, 2),
        "actions": np.array([0, 1, 0, 1]),
        "rewards": [1.0, 2.0, 3.0, 4.0],
        "terminated": [False, True, False, False],
        "truncated": [False, False, False, True],
        "infos": [{}] * 4,
        "episode_id": 3,
    }
    return EpisodeData(**(given | fields))


def test_window_of_lists_has_dones_total_and_length():
    data = window()
    assert data.dones == [False, True, False, True]
    assert data.total_reward == 10.0
    assert data.length == data.n_steps == 4
    assert data.metadata == {}
    assert data.metadata is not window().metadata


def test_positional_fields_have_the_order_of_the_seed():
    data = EpisodeData([0], [1], [2.0], [False], [True], [{}], 7, [3.0], [4.0])
    assert (data.observations, data.actions, data.rewards) == ([0], [1], [2.0])
    assert (data.terminated, data.truncated, data.infos, data.episode_id) == ([False], [True], [{}], 7)
    assert (data.values, data.log_probs) == ([3.0], [4.0])


def test_dones_of_arrays_are_an_array():
    data = window(terminated=np.array([0, 1, 0, 0], bool), truncated=np.array([0, 0, 0, 1], bool))
    assert data.dones.dtype == np.bool_
    assert data.dones.tolist() == [False, True, False, True]


def test_total_reward_is_summed_in_double_precision():
    rewards = np.full(1000, 0.1, np.float32)
    rewards[0] = 1e8
    assert window(rewards=rewards).total_reward == pytest.approx(1e8 + 99.9, abs=1e-3)


def test_grid_of_a_hand_made_window_has_time_first():
    data = window()
    assert data.grid("observations").tolist() == [[[0, 1]], [[2, 3]], [[4, 5]], [[6, 7]]]
    assert data.grid("rewards").tolist() == [[1], [2], [3], [4]]
    assert data.grid("dones").tolist() == [[False], [True], [False], [True]]
    two = window(n_envs=2)
    assert two.n_steps == 2
    assert two.grid("rewards").tolist() == [[1, 2], [3, 4]]
    assert two.grid("observations").tolist() == [[[0, 1], [2, 3]], [[4, 5], [6, 7]]]


def test_grid_puts_zeros_where_rows_are_invalid():
    data = window(n_envs=2, valid=np.array([[True, True], [False, True], [True, False]]))
    assert data.grid("rewards").tolist() == [[1, 2], [0, 3], [4, 0]]
    assert data.grid("terminated").tolist() == [[False, True], [False, False], [False, False]]
    assert data.grid("terminated").dtype == np.bool_


def test_grid_of_trees_keeps_the_structure():
    data = window(observations={"a": np.arange(4), "b": (np.arange(8).reshape(4, 2),)}, n_envs=2)
    grid = data.grid("observations")
    assert grid["a"].tolist() == [[0, 1], [2, 3]]
    assert grid["b"][0].shape == (2, 2, 2)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"n_envs": 3}, "rewards must have T·N = 1·3 rows, got 4"),
        ({"n_envs": 2, "valid": np.array([[True, True], [True, False]])}, "rewards must have 3 rows, got 4"),
        ({"rewards": None}, "rewards is None"),
    ],
)
def test_rows_that_do_not_fill_the_grid_are_refused(fields, message):
    data = window(**fields)
    with pytest.raises(ValueError, match=message):
        data.grid("rewards")


def test_trees_are_mapped_leaf_by_leaf():
    tree = {"a": 1, "b": (2, {"c": 3})}
    assert tree_map(lambda x: x * 10, tree) == {"a": 10, "b": (20, {"c": 30})}
    assert tree_map(lambda x, y: x - y, tree, tree) == {"a": 0, "b": (0, {"c": 0})}
    assert tree_leaves(tree) == [1, 2, 3]
    assert tree_leaves(5) == [5]


def test_recording_is_off_inside_and_on_again_after_an_error():
    assert is_recording()
    with no_recording():
        with pytest.raises(KeyError), no_recording():
            raise KeyError
        assert not is_recording()
    assert is_recording()


def test_metrics_beat_others_strictly_and_by_the_margin():
    five, three = EvalMetrics(5.0, {}, 0), EvalMetrics(3.0, {}, 0)
    assert five.beats(three)
    assert not five.beats(five)
    assert not five.beats(three, margin=2.0)
    assert five.beats(three, margin=1.9)
    assert not EvalMetrics(float("nan"), {}, 0).beats(three)
    assert not five.beats(EvalMetrics(float("nan"), {}, 0))


def test_generalization_gap_needs_both_scores():
    assert EvalMetrics(0, {"train_score": 5.0, "val_score": 3.0}, 0).generalization_gap == 2.0
    assert EvalMetrics(0, {"train_score": 5.0}, 0).generalization_gap is None
    assert EvalMetrics(0, {"val_score": 0.0}, 0).generalization_gap is None


class FirstReward(BaseEvaluator):
    def score(self, episode_data, train_diagnostics):
        first = float(episode_data.rewards[0])
        return EvalMetrics(first, {"first": first, **train_diagnostics}, episode_data.episode_id)


def test_combined_metrics_are_decided_by_validation():
    evaluator = FirstReward()
    train = evaluator.score(window(), {"loss": 0.5})
    val = evaluator.score_validation(window(rewards=[7.0, 0, 0, 0], episode_id=9))
    both = evaluator.combine(train, val)
    assert (both.primary_score, both.episode_id) == (7.0, 3)
    assert both.metrics == {
        "train_first": 1.0, "train_loss": 0.5, "val_first": 7.0,
        "train_score": 1.0, "val_score": 7.0, "generalization_gap": -6.0,
    }  # fmt: skip
    assert evaluator.compare(val, train)
    assert not evaluator.compare(train, val)


def test_copied_hyperparams_are_independent():
    original = HyperparamSet({"lr": 0.1}, 4)
    copied = original.copy()
    copied.params["lr"] = 0.2
    assert original.params == {"lr": 0.1}
    assert (copied.episode_id, copied.timestamp) == (4, original.timestamp)


def test_loop_states_have_the_numbers_of_the_seed():
    assert {state.name: state.value for state in LoopState} == {
        "ACTIVE": 1, "COOLING": 2, "DORMANT": 3, "WATCHDOG": 4,
    }  # fmt: skip


def test_non_finite_error_is_a_runtime_error_that_names_the_quantity():
    error = NonFiniteError("value loss")
    assert isinstance(error, RuntimeError)
    assert str(error) == "non-finite value loss"
    assert error.quantity == "value loss"


def test_stateful_is_recognised_by_its_two_methods():
    class Both:
        def state_dict(self): ...

        def load_state_dict(self, state): ...

    assert isinstance(Both(), Stateful)
    assert not isinstance(object(), Stateful)
