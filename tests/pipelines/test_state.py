"""A pipeline goes on exactly where its state was taken, or from a reset."""

from __future__ import annotations

import copy
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from optix_fast.pipelines import BatchPipeline, VectorBatchPipeline
from optix_fast.serialization import load_state, save_state
from tests.pipelines.conftest import Coin, Fixed, SpacesEnv, assert_same_window, cartpole_pipeline, windows


class ConstantState(SpacesEnv):
    """Its state is unknown to everyone."""


@pytest.mark.parametrize("masks", [None, "info", "key"])
@pytest.mark.parametrize(
    "kind", ["single-0", "single-1", "sync-NextStep", "sync-SameStep", "sync-Disabled", "env_fns"]
)
@pytest.mark.parametrize("before", [1, 2, 3])
def test_state_round_trip_gives_the_same_later_windows(pipeline, row_agent, kind, masks, before):
    pipe = pipeline(kind, row_agent, 3, masks)
    windows(pipe, before)
    state = copy.deepcopy(pipe.state_dict())
    kept = copy.deepcopy(state)
    expected = windows(pipe, 5)
    resumed = pipeline(kind, row_agent, 3, masks)
    resumed.load_state_dict(state)
    assert resumed.total_steps == state["total_steps"]
    for a, b in zip(windows(resumed, 5), expected, strict=True):
        assert_same_window(a, b)
    # Later steps do not reach into the state that was loaded.
    again = pipeline(kind, row_agent, 3, masks)
    again.load_state_dict(state)
    assert_same_window(windows(again, 1)[0], expected[0])
    assert repr(kept) == repr(state)


CLASSIC = ["CartPole-v1", "Acrobot-v1", "MountainCar-v0", "MountainCarContinuous-v0", "Pendulum-v1"]


class Wild:
    """Any action, by what it sees."""

    def bind_spaces(self, observation_space: Any, action_space: Any) -> None:
        self.space = action_space

    def act(self, observation: Any) -> Any:
        x = float(np.abs(observation).sum())
        if isinstance(self.space, spaces.Discrete):
            return int(x * 1e5) % int(self.space.n)
        return np.full(self.space.shape, np.sin(1e5 * x), np.float32)


@pytest.mark.parametrize("env_id", CLASSIC)
@pytest.mark.parametrize("kind", ["single", *AutoresetMode])
def test_state_round_trip_of_real_environments(env_id, kind):
    def make() -> Any:
        one = lambda: gym.make(env_id, max_episode_steps=23)  # noqa: E731
        if kind == "single":
            return BatchPipeline(one(), Wild(), 10, seed=1)
        env = SyncVectorEnv([one] * 2, autoreset_mode=kind)
        return VectorBatchPipeline(agent=Wild(), window_size=10, vector_env=env, seed=1)

    pipe = make()
    windows(pipe, 3)
    state = pipe.state_dict()
    expected = windows(pipe, 6)
    resumed = make()
    resumed.load_state_dict(state)
    for a, b in zip(windows(resumed, 6), expected, strict=True):
        assert_same_window(a, b)


def test_state_round_trip_of_vectorised_cartpole():
    def make() -> Any:
        env = gym.make_vec("CartPole-v1", 3, "vector_entry_point", max_episode_steps=23)
        return VectorBatchPipeline(agent=Wild(), window_size=5, vector_env=env, seed=1)

    for before in range(1, 8):
        pipe = make()
        windows(pipe, before)
        state = pipe.state_dict()
        expected = windows(pipe, 6)
        resumed = make()
        resumed.load_state_dict(state)
        for a, b in zip(windows(resumed, 6), expected, strict=True):
            assert_same_window(a, b)


def test_state_survives_the_file_format(tmp_path):
    pipe = cartpole_pipeline("vector", 3)
    windows(pipe, 2)
    save_state(tmp_path / "pipeline.safetensors", pipe.state_dict())
    expected = windows(pipe, 2)
    resumed = cartpole_pipeline("vector", 8)
    resumed.load_state_dict(load_state(tmp_path / "pipeline.safetensors"))
    for a, b in zip(windows(resumed, 2), expected, strict=True):
        assert_same_window(a, b)


def test_environment_of_unknown_kind_resumes_from_a_reset():
    pipe = BatchPipeline(ConstantState(spaces.Discrete(5)), Fixed(), 4)
    windows(pipe, 2)
    state = pipe.state_dict()
    assert state["environment"] is None
    resumed = BatchPipeline(ConstantState(spaces.Discrete(5)), Fixed(), 4)
    resumed.load_state_dict(state)
    (data,) = windows(resumed, 1)
    assert data.observations.tolist() == [0, 1, 2, 0]
    assert (data.episode_id, resumed.total_steps) == (2, 12)


def test_resuming_from_a_reset_does_not_repeat_the_first_episodes():
    class Unknown(gym.Wrapper[Any, Any, Any, Any]):
        pass

    def make() -> Any:
        return BatchPipeline(Unknown(gym.make("CartPole-v1")), Coin(), 30, seed=4)

    pipe = make()
    first, _ = windows(pipe, 2)
    state = pipe.state_dict()
    assert state["environment"] is None
    runs = []
    for _ in range(2):
        resumed = make()
        resumed.load_state_dict(state)
        runs.append(windows(resumed, 1)[0])
    assert_same_window(*runs)
    assert not np.array_equal(runs[0].observations, first.observations)


def test_state_before_the_first_window_begins_with_the_seed():
    state = cartpole_pipeline("single", 4).state_dict()
    resumed = cartpole_pipeline("single", 4)
    resumed.load_state_dict(state)
    assert_same_window(windows(resumed, 1)[0], windows(cartpole_pipeline("single", 4), 1)[0])


def test_state_of_another_number_of_environments_is_refused(pipeline, scripted_agent):
    pipe = pipeline("single-0", scripted_agent, 3)
    windows(pipe, 1)
    with pytest.raises(ValueError, match="the state is of 1 environments, not 3"):
        pipeline("env_fns", scripted_agent, 3).load_state_dict(pipe.state_dict())


def test_state_of_another_environment_is_refused():
    pipe = cartpole_pipeline("single", 4)
    windows(pipe, 1)
    other = BatchPipeline(ConstantState(spaces.Discrete(5)), Fixed(), 4)
    with pytest.raises(ValueError, match="cannot be given a state"):
        other.load_state_dict(pipe.state_dict())


def test_asynchronous_environments_resume_from_a_reset(pipeline, scripted_agent):
    pipe = pipeline("async-SameStep", scripted_agent, 3)
    windows(pipe, 1)
    assert pipe.state_dict()["environment"] is None
