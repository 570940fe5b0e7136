"""An environment put back into a saved state goes on bit for bit as the one it was taken from."""

from __future__ import annotations

import copy
import importlib
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

from optix_fast.envs.state import get_env_state, set_env_state

CLASSIC = ["CartPole-v1", "Acrobot-v1", "MountainCar-v0", "MountainCarContinuous-v0", "Pendulum-v1"]
# Every environment that Gymnasium ships for MuJoCo: each computes its reward from something else.
MUJOCO = [
    "Ant", "HalfCheetah", "Hopper", "Humanoid", "HumanoidStandup", "InvertedDoublePendulum",
    "InvertedPendulum", "Pusher", "Reacher", "Swimmer", "Walker2d",
]  # fmt: skip


def play(env: gym.Env[Any, Any], actions: list[Any]) -> list[Any]:
    """What the environment returns for the actions, its resets included."""
    told = []
    for action in actions:
        observation, reward, terminated, truncated, info = env.step(action)
        told.append((observation, float(reward), terminated, truncated, info))
        if terminated or truncated:
            told.append(env.reset())
    return told


def assert_same(a: Any, b: Any) -> None:
    if isinstance(a, dict):
        assert set(a) == set(b)
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    else:
        x, y = np.asarray(a), np.asarray(b)
        assert (x.dtype, x.shape, x.tobytes()) == (y.dtype, y.shape, y.tobytes())


def assert_resumes(make: Any, steps_before: int, steps_after: int) -> None:
    original, fresh = make(), make()
    original.action_space.seed(1)
    actions = [original.action_space.sample() for _ in range(steps_before + steps_after)]
    original.reset(seed=2)
    play(original, actions[:steps_before])
    state = get_env_state(original)
    kept = copy.deepcopy(state)
    expected = play(original, actions[steps_before:])
    fresh.reset(seed=3)
    play(fresh, actions[:2])
    set_env_state(fresh, state)
    assert_same(play(fresh, actions[steps_before:]), expected)
    assert_same(state, kept)  # neither environment writes into it


@pytest.mark.parametrize("env_id", CLASSIC)
@pytest.mark.parametrize("steps_before", [0, 1, 7, 20])
def test_classic_control_resumes_exactly(env_id, steps_before):
    assert_resumes(lambda: gym.make(env_id, max_episode_steps=20), steps_before, 60)


@pytest.mark.parametrize("name", MUJOCO)
def test_mujoco_resumes_exactly(name, tmp_path, monkeypatch):
    pytest.importorskip("mujoco")
    monkeypatch.chdir(tmp_path)  # MuJoCo writes a log where it stands
    for steps_before in (0, 13):
        assert_resumes(lambda: gym.make(f"{name}-v5", max_episode_steps=25), steps_before, 40)


def test_wrappers_without_a_memory_do_not_hinder():
    def make() -> Any:
        env = gym.wrappers.RescaleAction(gym.make("Pendulum-v1", max_episode_steps=20), -1, 1)
        return gym.wrappers.FlattenObservation(gym.wrappers.ClipAction(env))

    assert_resumes(make, 7, 40)


@pytest.mark.parametrize("mode", AutoresetMode)
@pytest.mark.parametrize("steps_before", range(4, 9))
def test_sync_vector_environment_resumes_exactly(mode, steps_before):
    def make(seed: int) -> Any:
        fns = [lambda limit=limit: gym.make("CartPole-v1", max_episode_steps=limit) for limit in (4, 7)]
        env = SyncVectorEnv(fns, autoreset_mode=mode)
        env.reset(seed=seed)
        return env

    def play_vector(env: Any, count: int) -> list[Any]:
        told: list[Any] = []
        for _ in range(count):
            observations, rewards, terminated, truncated, _ = env.step(np.array([0, 1]))
            told.append((observations, rewards, terminated, truncated))
            if mode is AutoresetMode.DISABLED and (done := terminated | truncated).any():
                told.append(env.reset(options={"reset_mask": done})[0])
        return told

    original, fresh = make(1), make(2)
    play_vector(original, steps_before)
    state = copy.deepcopy(get_env_state(original))
    expected = play_vector(original, 30)
    set_env_state(fresh, state)
    assert_same(play_vector(fresh, 30), expected)


@pytest.mark.parametrize("steps_before", [3, 8, 9, 10])
def test_vectorised_cartpole_resumes_exactly(steps_before):
    def make(seed: int) -> Any:
        env = gym.make_vec("CartPole-v1", 3, "vector_entry_point", max_episode_steps=9)
        env.reset(seed=seed)
        return env

    original, fresh = make(1), make(2)
    actions = np.array([0, 1, 1])
    for _ in range(steps_before):
        original.step(actions)
    state = get_env_state(original)
    expected = [original.step(actions)[:4] for _ in range(40)]
    set_env_state(fresh, state)
    assert_same([fresh.step(actions)[:4] for _ in range(40)], expected)


class Walk(gym.Env[Any, Any]):
    """Keeps its state in an array that it changes in place, and draws from its generator."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = gym.spaces.Discrete(3)

    def __init__(self) -> None:
        self.position = np.zeros(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.position[:] = self.np_random.normal(size=2)
        return self.position.copy(), {}

    def step(self, action: Any) -> Any:
        self.position += int(action) + self.np_random.normal(size=2)
        return self.position.copy(), float(self.position[0]), bool(self.position[1] > 20), False, {}

    def get_state(self) -> dict[str, Any]:
        return {"position": self.position}

    def set_state(self, state: dict[str, Any]) -> None:
        self.position = state["position"]


def test_environment_with_the_protocol_resumes_exactly_with_its_random_numbers():
    assert_resumes(Walk, 9, 50)
    assert_resumes(lambda: gym.wrappers.TimeLimit(Walk(), 12), 9, 50)


class Doubling(gym.Wrapper[Any, Any, Any, Any]):
    """Doubles the reward at every second step."""

    count = 0

    def step(self, action: Any) -> Any:
        self.count += 1
        observation, reward, *rest = super().step(action)
        return observation, reward * (1 + self.count % 2), *rest


class RestorableDoubling(Doubling):
    """Answers for itself and what it wraps."""

    def get_state(self) -> dict[str, Any]:
        return {"count": self.count, "inner": get_env_state(self.env)}

    def set_state(self, state: dict[str, Any]) -> None:
        self.count = state["count"]
        set_env_state(self.env, state["inner"])


def test_wrapper_with_the_protocol_answers_for_all_it_wraps():
    assert_resumes(lambda: RestorableDoubling(gym.make("CartPole-v1", max_episode_steps=20)), 8, 50)


def unknown_environments() -> dict[str, Any]:
    class OwnCartPole(type(gym.make("CartPole-v1").unwrapped)):  # type: ignore[misc]
        pass

    class Bare(gym.Env[Any, Any]):
        observation_space = action_space = gym.spaces.Discrete(2)

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            return 0, {}

    class OtherMeaning(Bare):
        def get_state(self) -> Any:
            return np.zeros(3)

        def set_state(self, state: Any) -> None: ...

    cartpole = lambda: gym.make("CartPole-v1")  # noqa: E731
    vectorised = gym.make_vec("CartPole-v1", 2, "vector_entry_point")
    vector = importlib.import_module("gymnasium.wrappers.vector")
    return {
        "wrapper": Doubling(cartpole()),
        "wrapper inside": gym.wrappers.TimeLimit(Doubling(cartpole()), 5),
        "stateful wrapper": gym.wrappers.FrameStackObservation(cartpole(), 2),
        "subclass": OwnCartPole(),
        "bare": Bare(),
        "other get_state": OtherMeaning(),
        "one of many": SyncVectorEnv([cartpole, lambda: Doubling(cartpole())]),
        "vector wrapper": vector.RecordEpisodeStatistics(vectorised),
        "wrapped sync": vector.RecordEpisodeStatistics(SyncVectorEnv([cartpole])),
    }


@pytest.mark.parametrize("name", unknown_environments())
def test_environment_whose_state_is_unknown_gives_none(name):
    env = unknown_environments()[name]
    env.reset(seed=1)
    assert get_env_state(env) is None


def test_asynchronous_environments_give_none():
    env = AsyncVectorEnv([lambda: gym.make("CartPole-v1")])
    env.reset(seed=1)
    assert get_env_state(env) is None
    env.close()


def test_asking_for_the_state_changes_nothing():
    a, b = gym.make("CartPole-v1"), gym.make("CartPole-v1")
    for env in (a, b):
        env.reset(seed=4)
        env.step(1)
    get_env_state(a)
    assert_same([a.step(0), a.reset()], [b.step(0), b.reset()])


def test_state_of_another_kind_is_refused():
    cartpole, walk = gym.make("CartPole-v1"), Walk()
    vector = SyncVectorEnv([lambda: gym.make("CartPole-v1")] * 2)
    for env in (cartpole, walk, vector):
        env.reset(seed=1)
    with pytest.raises(ValueError, match="the state does not fit "):
        set_env_state(walk, get_env_state(cartpole))
    one = SyncVectorEnv([lambda: gym.make("CartPole-v1")])
    one.reset(seed=1)
    with pytest.raises(ValueError, match="the state is of 1 environments, not of 2"):
        set_env_state(vector, get_env_state(one))
    with pytest.raises(ValueError, match="cannot be given a state"):
        set_env_state(Doubling(cartpole), get_env_state(cartpole))
