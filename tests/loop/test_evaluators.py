"""Scores of windows, from supplied episode returns and from rows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from optix_fast.loop import TorchEvaluator
from optix_fast.types import EpisodeData, NonFiniteError


def window(rewards: Any, dones: Any = None, n_envs: int = 1, **fields: Any) -> EpisodeData:
    rows = len(rewards)
    ended = np.zeros(rows, np.bool_) if dones is None else np.asarray(dones, np.bool_)
    return EpisodeData(
        observations=np.zeros((rows, 1)),
        actions=np.zeros(rows),
        rewards=rewards,
        terminated=ended,
        truncated=np.zeros(rows, np.bool_),
        infos=[{}] * rows,
        episode_id=7,
        n_envs=n_envs,
        **fields,
    )


def score(data: EpisodeData, diagnostics: Any = None) -> float:
    return TorchEvaluator().score(data, diagnostics).primary_score


# --- literal numbers ----------------------------------------------------------------------------


def test_supplied_returns_are_averaged() -> None:
    # The episode began before the window: its true return is not in the rows.
    data = window([1.0, 1.0], [True, False], metadata={"episode_returns": [10.0, 20.0]})
    assert score(data) == 15.0


def test_rows_are_summed_per_episode_and_the_unfinished_one_is_left_out() -> None:
    data = window([1.0, 2.0, 3.0, 4.0, 100.0], [False, True, False, True, False])
    assert score(data) == (3.0 + 7.0) / 2


def test_truncation_ends_an_episode() -> None:
    data = window([1.0, 2.0, 4.0])
    data.truncated = np.array([False, True, False])
    assert score(data) == 3.0


def test_rows_of_several_environments_are_told_apart() -> None:
    # Step-major: environment 0 has rewards 1, 2, 3 and environment 1 has 10, 20, 30.
    data = window([1.0, 10.0, 2.0, 20.0, 3.0, 30.0], [False, False, True, False, False, True], n_envs=2)
    assert score(data) == (3.0 + 60.0) / 2


def test_invalid_rows_are_not_counted() -> None:
    valid = np.array([[True, True], [True, False], [True, True]])
    data = window([1.0, 10.0, 2.0, 3.0, 30.0], [False, True, True, False, True], n_envs=2, valid=valid)
    assert score(data) == (3.0 + 10.0 + 30.0) / 3


def test_lists_are_as_good_as_arrays() -> None:
    data = window([1, 2, 3])
    data.terminated, data.truncated = [False, True, False], [False, False, False]
    assert score(data) == 3.0


# --- no episode ended ---------------------------------------------------------------------------


def test_no_end_in_a_task_with_episodes_is_no_evidence() -> None:
    assert math.isnan(score(window([1.0, 2.0], metadata={"episode_returns": [], "episodic": True})))
    assert math.isnan(score(window([1.0, 2.0], metadata={"episodic": True})))


def test_no_end_in_a_continuing_task_is_the_mean_reward() -> None:
    assert score(window([1.0, 2.0])) == 1.5
    assert score(window([1.0, 2.0], metadata={"episode_returns": [], "episodic": False})) == 1.5


def test_empty_window_is_no_evidence() -> None:
    assert math.isnan(score(window([])))


# --- metrics ------------------------------------------------------------------------------------


def test_metrics_describe_the_window_and_carry_numeric_diagnostics() -> None:
    diagnostics = {"loss": np.float32(0.5), "n_updates": 3, "baseline": "a2c", "grid": np.zeros(2)}
    found = TorchEvaluator().score(window([1.0, 3.0], [False, True]), diagnostics)
    assert found.metrics == {
        "primary_score": 4.0,
        "total_reward": 4.0,
        "mean_reward": 2.0,
        "reward_std": 1.0,
        "episode_length": 2.0,
        "n_episodes": 1.0,
        "loss": 0.5,
        "n_updates": 3.0,
    }
    assert {type(value) for value in found.metrics.values()} == {float}
    assert found.episode_id == 7


def length(data: EpisodeData) -> float:
    return TorchEvaluator().score(data, {}).metrics["episode_length"]


def test_episode_length_is_the_mean_length_of_the_episodes_that_ended() -> None:
    # Episodes of 2 and 1 steps; the last one goes on.
    assert length(window([1.0] * 5, [False, True, True, False, False])) == 1.5
    # Environment 0 has an episode of 2 rows, environment 1 one of 3.
    ends = [False, False, True, False, False, True]
    assert length(window([1.0] * 6, ends, n_envs=2)) == 2.5
    valid = np.array([[True, True], [True, False], [True, True]])  # environment 1 has two valid rows
    assert length(window([1.0] * 5, [False, False, True, False, True], n_envs=2, valid=valid)) == 2.0
    # Told by the pipeline, from the true beginning.
    told = {"episode_returns": [1.0, 2.0], "episode_lengths": [200, 100]}
    assert length(window([1.0, 1.0], metadata=told)) == 150.0
    assert math.isnan(length(window([1.0, 1.0])))
    assert math.isnan(length(window([1.0], [True], metadata={"episode_returns": [1.0]})))


def test_diagnostics_do_not_overwrite_the_score() -> None:
    found = TorchEvaluator().score(window([1.0], [True]), {"primary_score": 99.0})
    assert found.metrics["primary_score"] == 1.0


def test_no_diagnostics_are_fine() -> None:
    assert score(window([2.0], [True]), None) == 2.0


def test_sums_are_exact_to_float64() -> None:
    data = window(np.full(1_000_000, 0.1, np.float32), np.arange(1_000_000) == 999_999)
    assert score(data) == pytest.approx(1_000_000 * float(np.float32(0.1)), rel=1e-12)


def test_primary_score_fn_replaces_the_score() -> None:
    evaluator = TorchEvaluator(lambda data, diagnostics: data.length + diagnostics["loss"])
    found = evaluator.score(window([1.0, 1.0]), {"loss": 0.5})
    assert found.primary_score == found.metrics["primary_score"] == 2.5


# --- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize("reward", [math.nan, math.inf, -math.inf])
def test_reward_that_is_not_finite_is_an_error(reward: float) -> None:
    with pytest.raises(NonFiniteError, match="reward"):
        score(window([1.0, reward]))


def test_primary_score_fn_must_be_callable() -> None:
    with pytest.raises(TypeError, match="primary_score_fn"):
        TorchEvaluator(3.0)  # type: ignore[arg-type]
