"""Deterministic environments and agents, every way of stepping three of them together, and comparisons."""

from __future__ import annotations

import copy
import itertools
import threading
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from optix_fast.pipelines import BatchPipeline, VectorBatchPipeline
from optix_fast.types import tree_leaves, tree_map

# Lengths of the episodes of environment 0, 1, 2, over and over.
EPISODE_LENGTHS = ((3, 1, 4), (2, 5, 1), (1, 1, 6))


class ScriptedEnv(gym.Env[Any, Any]):
    """Shows [who, episode, step]. Episodes end by termination, truncation and both in turn. Masks forbid one
    action while an episode runs and all of them when it is over."""

    observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float32)
    action_space = spaces.Discrete(3)

    def __init__(self, who: int, masks: str | None = None) -> None:
        self.who, self.masks = who, masks
        self.episode, self.step_in_episode = -1, 0
        if masks == "key":
            mask_space = spaces.MultiBinary(3)
            self.observation_space = spaces.Dict({"action_mask": mask_space, "x": self.observation_space})

    def mask(self, over: bool) -> np.ndarray[Any, Any]:
        mask = np.full(3, not over, np.int8)
        mask[(self.who + self.episode + self.step_in_episode) % 3] = 0
        return mask

    def _shown(self, over: bool) -> tuple[Any, dict[str, Any]]:
        x = np.array([self.who, self.episode, self.step_in_episode], np.float32)
        info = {"note": f"{self.who}.{self.episode}.{self.step_in_episode}", "who": self.who}
        if self.masks == "info":
            return x, info | {"action_mask": self.mask(over)}
        return ({"action_mask": self.mask(over), "x": x} if self.masks == "key" else x), info

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.episode, self.step_in_episode = self.episode + 1, 0
        return self._shown(over=False)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.step_in_episode += 1
        lengths = EPISODE_LENGTHS[self.who]
        over = self.step_in_episode == lengths[self.episode % len(lengths)]
        reward = self.who + 10 * self.episode + 0.5 * self.step_in_episode + 100 * int(action)
        kind = self.episode % 3
        observation, info = self._shown(over)
        return observation, reward, over and kind != 1, over and kind != 0, info

    def get_state(self) -> dict[str, Any]:
        return {"episode": self.episode, "step": self.step_in_episode}

    def set_state(self, state: dict[str, Any]) -> None:
        self.episode, self.step_in_episode = state["episode"], state["step"]


class OwnVectorEnv(VectorEnv[Any, Any, Any]):
    """Three ScriptedEnvs behind a vector environment of its own: it resets in the next step, tells no masks
    in its info, and writes into the same arrays at every step."""

    def __init__(self) -> None:
        self.metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}
        self.num_envs = 3
        self.single_observation_space = ScriptedEnv.observation_space
        self.single_action_space = ScriptedEnv.action_space
        self.envs = [ScriptedEnv(who) for who in range(3)]
        self.shown = np.zeros((3, 3), np.float32)
        self.rewards = np.zeros(3)
        self.terminated, self.truncated = np.zeros(3, np.bool_), np.zeros(3, np.bool_)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        for i, env in enumerate(self.envs):
            self.shown[i], _ = env.reset(seed=seed)
        self.terminated[:] = self.truncated[:] = False
        return self.shown, {"note": np.array(["", "", ""], object)}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        notes = np.array(["", "", ""], object)
        for i, env in enumerate(self.envs):
            if self.terminated[i] or self.truncated[i]:
                self.shown[i], _ = env.reset()
                # A reward that is nobody's.
                self.rewards[i], self.terminated[i], self.truncated[i] = np.nan, False, False
            else:
                result = env.step(actions[i])
                self.shown[i], self.rewards[i], self.terminated[i], self.truncated[i], info = result
                notes[i] = info["note"]
        actions[:] = -1
        return self.shown, self.rewards, self.terminated, self.truncated, {"note": notes}


class ScriptedAgent:
    """Acts by what it sees, and keeps what it saw."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def act(self, observation: Any) -> int:
        self.seen.append(observation)
        x = observation["x"] if isinstance(observation, dict) else observation
        return int(x.sum()) % 3


class RowAgent(ScriptedAgent):
    """The same actions, all rows at once."""

    def act(self, observation: Any) -> int:
        raise AssertionError("act() was called although there is act_rows()")

    def act_rows(self, observations: Any, rows: Any, t: int) -> Any:
        x = observations["x"] if isinstance(observations, dict) else observations
        rows.actions[t] = x.sum(axis=1).astype(np.int64) % 3
        rows.column("values")[t] = x.sum(axis=1)
        return rows.actions[t]


class SpacesEnv(gym.Env[Any, Any]):
    """Counts in every leaf of its observation space; episodes of 3. Spoils the action it is given."""

    def __init__(self, observation_space: Any, action_space: Any = None) -> None:
        self.observation_space = observation_space
        self.action_space = spaces.Discrete(2) if action_space is None else action_space
        self.received: list[Any] = []

    def _observe(self, space: Any) -> Any:
        if isinstance(space, spaces.Dict):
            return {key: self._observe(sub) for key, sub in space.spaces.items()}
        if isinstance(space, spaces.Tuple):
            return tuple(self._observe(sub) for sub in space.spaces)
        if isinstance(space, spaces.Discrete):
            return space.start + self.steps
        return np.full(space.shape, self.steps, space.dtype)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.steps = 0
        return self._observe(self.observation_space), {}

    def step(self, action: Any) -> Any:
        self.received.append(copy.deepcopy(action))
        for leaf in tree_leaves(action):
            if isinstance(leaf, np.ndarray):
                leaf[...] = 0
        self.steps += 1
        return self._observe(self.observation_space), 1.0, self.steps == 3, False, {}


class Fixed:
    """Always the same action; spoils the observation it is given."""

    def __init__(self, action: Any = 0) -> None:
        self.action = action

    def act(self, observation: Any) -> Any:
        for leaf in tree_leaves(observation):
            if isinstance(leaf, np.ndarray) and leaf.ndim:
                leaf[...] = 0
        return self.action


class Coin:
    """Pushes by what it sees."""

    def act(self, observation: Any) -> int:
        return int(observation[1] > 0)


def cartpole_pipeline(kind: str, seed: int | None, window_size: int = 30) -> Any:
    if kind == "single":
        return BatchPipeline(gym.make("CartPole-v1"), Coin(), window_size, seed=seed)
    return VectorBatchPipeline([lambda: gym.make("CartPole-v1")] * 2, Coin(), window_size, seed=seed)


def windows(pipeline: Any, count: int) -> list[Any]:
    return list(itertools.islice(pipeline.episodes(), count))


def assert_same_window(a: Any, b: Any) -> None:
    for name in (
        "observations", "actions", "rewards", "terminated", "truncated", "valid", "final_rows",
        "final_observations", "next_observations", "action_masks", "values", "episode_id",
        "episode_starts", "final_obs", "metadata",
    ):  # fmt: skip
        left, right = getattr(a, name), getattr(b, name)
        if isinstance(left, dict) and name == "metadata":
            assert left == right
        else:
            tree_map(np.testing.assert_array_equal, left, right)
            assert [np.asarray(x).dtype for x in tree_leaves(left)] == [
                np.asarray(x).dtype for x in tree_leaves(right)
            ]
    assert repr(list(a.infos)) == repr(list(b.infos))


MODES = ("NextStep", "SameStep", "Disabled")


def make_pipeline(kind: str, agent: Any, window_size: int, masks: str | None = None, **options: Any) -> Any:
    """`single-<who>`, `<sync|async>-<mode>`, `env_fns` or `own`."""
    if kind.startswith("single-"):
        return BatchPipeline(ScriptedEnv(int(kind[-1]), masks), agent, window_size, **options)
    fns = [lambda who=who: ScriptedEnv(who, masks) for who in range(3)]
    if kind == "env_fns":
        return VectorBatchPipeline(fns, agent, window_size, **options)
    if kind == "own":
        return VectorBatchPipeline(agent=agent, window_size=window_size, vector_env=OwnVectorEnv(), **options)
    cls = SyncVectorEnv if kind.startswith("sync") else AsyncVectorEnv
    env = cls(fns, autoreset_mode=kind.split("-")[1])
    return VectorBatchPipeline(agent=agent, window_size=window_size, vector_env=env, **options)


@pytest.fixture
def pipeline() -> Any:
    """make_pipeline, whose pipelines are torn down at the end of the test."""
    made = []

    def make(*args: Any, **kwargs: Any) -> Any:
        made.append(make_pipeline(*args, **kwargs))
        return made[-1]

    yield make
    for each in made:
        each.teardown()


@pytest.fixture
def scripted() -> Callable[..., Any]:
    return ScriptedEnv


@pytest.fixture
def scripted_agent() -> Any:
    return ScriptedAgent()


@pytest.fixture
def row_agent() -> Any:
    return RowAgent()


@pytest.fixture(autouse=True)
def no_thread_is_left_behind() -> Any:
    """A LivePipeline's thread ends with the test that made it."""
    yield
    for thread in threading.enumerate():
        if thread.name == "LivePipeline-producer":
            thread.join(5)
            assert not thread.is_alive()
