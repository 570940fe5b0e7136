"""Playing whole episodes: quotas, seeds, modes, and nothing recorded."""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from optix_fast.loop import evaluate_policy
from optix_fast.pipelines import VectorBatchPipeline
from optix_fast.types import NonFiniteError, is_recording


class Counted(gym.Env[Any, Any]):
    """Episodes last `length(seed-th environment, episode number)` steps of reward 1."""

    opened = 0
    closed = 0

    def __init__(self, length: Any = lambda seed, episode: 3, reward: float = 1.0) -> None:
        self.observation_space = spaces.Box(-1e6, 1e6, (2,), np.float64)
        self.action_space = spaces.Discrete(2)
        self.length, self.reward = length, reward
        self.seeded, self.episode = 0, -1
        Counted.opened += 1

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        if seed is not None:
            self.seeded = seed
        self.episode, self.t = self.episode + 1, 0
        return np.array([self.seeded, 0.0]), {}

    def step(self, action: Any) -> Any:
        self.t += 1
        ended = self.t >= self.length(self.seeded, self.episode)
        return np.array([self.seeded, self.t], np.float64), self.reward, False, ended, {}

    def close(self) -> None:
        Counted.closed += 1


class Watcher:
    """Always acts 0 and remembers how it was asked."""

    def __init__(self) -> None:
        self.recording: set[bool] = set()
        self.deterministic: set[Any] = set()
        self.seen: list[Any] = []

    def act(self, observation: Any, deterministic: bool = False) -> int:
        self.recording.add(is_recording())
        self.deterministic.add(deterministic)
        self.seen.append(observation)
        return 0


class Plain:
    def act(self, observation: Any) -> int:
        return 1


@pytest.fixture(autouse=True)
def _all_closed() -> Any:
    Counted.opened = Counted.closed = 0
    yield
    assert Counted.closed == Counted.opened


def test_returns_and_lengths_of_whole_episodes() -> None:
    result = evaluate_policy(Watcher(), lambda: Counted(reward=2.0), episodes=4)
    assert result.returns.tolist() == [6.0] * 4
    assert result.lengths.tolist() == [3] * 4
    assert (result.return_mean, result.return_std, result.episodes) == (6.0, 0.0, 4)


@pytest.mark.parametrize(("episodes", "n_envs"), [(1, None), (7, None), (23, None), (5, 2), (2, 8)])
def test_exactly_so_many_episodes_are_played(episodes: int, n_envs: int | None) -> None:
    result = evaluate_policy(Watcher(), Counted, episodes=episodes, n_envs=n_envs)
    assert result.episodes == len(result.lengths) == episodes
    assert Counted.opened == min(episodes, n_envs or 10)


def test_short_episodes_are_not_counted_too_often() -> None:
    # Environment 0 ends after 1 step, the others after 50: each still gives half of the episodes.
    make = lambda: Counted(lambda seed, episode: 1 if seed == 0 else 50)  # noqa: E731
    result = evaluate_policy(Watcher(), make, episodes=8, n_envs=2, seed=0)
    assert sorted(result.lengths.tolist()) == [1] * 4 + [50] * 4


def test_environment_i_is_seeded_with_seed_plus_i() -> None:
    watcher = Watcher()
    evaluate_policy(watcher, Counted, episodes=3, seed=40)
    assert [int(observation[0]) for observation in watcher.seen[:3]] == [40, 41, 42]


def test_agent_acts_deterministically_without_recording() -> None:
    watcher = Watcher()
    evaluate_policy(watcher, Counted, episodes=2)
    assert (watcher.recording, watcher.deterministic) == ({False}, {True})
    assert is_recording()
    evaluate_policy(watcher, Counted, episodes=2, deterministic=False)
    assert watcher.deterministic == {True, False}


def test_agent_without_deterministic_is_asked_plainly() -> None:
    assert evaluate_policy(Plain(), Counted, episodes=2).return_mean == 3.0


def test_agent_with_act_batch_is_asked_once_for_all() -> None:
    calls = []

    class Batch(Plain):
        def act_batch(self, observations: Any, deterministic: bool, action_masks: Any) -> Any:
            calls.append((observations.shape, deterministic, action_masks, is_recording()))
            return np.zeros(len(observations), np.int64)

    evaluate_policy(Batch(), Counted, episodes=4)
    assert calls == [((4, 2), True, None, False)] * 3


def test_action_masks_reach_the_agent() -> None:
    masks = []

    class Masked(Counted):
        def reset(self, **options: Any) -> Any:
            return super().reset(**options)[0], {"action_mask": np.array([True, False])}

        def step(self, action: Any) -> Any:
            return (*super().step(action)[:4], {"action_mask": np.array([False, True])})

    class Batch(Plain):
        def act_batch(self, observations: Any, deterministic: bool, action_masks: Any) -> Any:
            masks.append(action_masks.tolist())
            return np.zeros(len(observations), np.int64)

    evaluate_policy(Batch(), Masked, episodes=2)
    assert masks[0] == [[True, False]] * 2
    assert masks[1] == [[False, True]] * 2


@pytest.mark.parametrize("where", ["info", "observation"])
def test_masks_of_some_steps_only_are_read_as_in_training(where: str) -> None:
    """A mask in the info of every other step, or in the observation: pipeline and evaluation agree."""
    allowed = np.array([True, False])

    class Masked(gym.Env[Any, Any]):
        action_space = spaces.Discrete(2)
        observation_space = spaces.Dict(
            {"x": spaces.Box(-9, 9, (1,)), "action_mask": spaces.MultiBinary(2)} if where == "observation"
            else {"x": spaces.Box(-9, 9, (1,))}
        )  # fmt: skip

        def _shown(self) -> Any:
            even = self.steps % 2 == 0
            x = {"x": np.array([self.steps], np.float32)}
            if where == "observation":
                return x | {"action_mask": allowed.astype(np.int8) if even else np.ones(2, np.int8)}, {}
            return x, {"action_mask": allowed} if even else {}

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            super().reset(seed=seed)
            self.steps = int(self.np_random.integers(2))  # the copies do not go in step
            return self._shown()

        def step(self, action: Any) -> Any:
            self.steps += 1
            observation, info = self._shown()
            return observation, 0.0, self.steps >= 5, False, info

    seen: list[tuple[float, list[bool]]] = []

    class Batch:
        def act(self, observation: Any) -> int:
            return 0

        def act_batch(self, observations: Any, deterministic: bool, action_masks: Any) -> Any:
            masks = np.ones((len(observations["x"]), 2), np.bool_) if action_masks is None else action_masks
            seen.extend(zip(observations["x"][:, 0].tolist(), masks.tolist(), strict=True))
            return np.zeros(len(masks), np.int64)

    evaluate_policy(Batch(), Masked, episodes=6, n_envs=3)
    data = next(VectorBatchPipeline([Masked] * 3, Batch(), 12, seed=0).episodes())
    trained = set(zip(data.observations["x"][:, 0].tolist(), map(tuple, data.action_masks), strict=True))
    assert {(x, tuple(mask)) for x, mask in seen} == trained
    assert trained == {(x, (True, x % 2 == 1)) for x in range(5)}


def test_mask_of_a_wrong_length_is_named() -> None:
    class Wrong(Counted):
        def reset(self, **options: Any) -> Any:
            return super().reset(**options)[0], {"action_mask": np.ones(3, np.int8)}

    with pytest.raises(ValueError, match=r"Counted.*: action_mask must have 2 entries, got shape \[3\]"):
        evaluate_policy(Plain(), type("Counted", (Wrong,), {}), episodes=1)


def test_environments_that_are_one_object_are_refused_by_evaluation() -> None:
    shared = Counted()
    with pytest.raises(ValueError, match="environments 0 and 1 are the same Counted object"):
        evaluate_policy(Plain(), lambda: shared, episodes=4)
    Counted.opened = Counted.closed


def test_box_and_dict_spaces_work() -> None:
    class Structured(Counted):
        def __init__(self) -> None:
            super().__init__()
            self.observation_space = spaces.Dict({"a": spaces.Box(-1, 1, (2,)), "b": spaces.Discrete(3)})
            self.action_space = spaces.Box(-2.0, 2.0, (1,))

        def reset(self, **options: Any) -> Any:
            super().reset(**options)
            return {"a": np.zeros(2, np.float32), "b": 1}, {}

        def step(self, action: Any) -> Any:
            assert action.shape == (1,)
            return {"a": np.zeros(2, np.float32), "b": 2}, float(action[0]), *super().step(0)[2:]

    class Continuous:
        def act(self, observation: Any) -> Any:
            assert set(observation) == {"a", "b"}
            return np.array([0.5], np.float32)

    assert evaluate_policy(Continuous(), Structured, episodes=3).return_mean == 1.5


def test_same_seed_gives_the_same_episodes() -> None:
    def play(seed: int) -> list[float]:
        return evaluate_policy(Plain(), lambda: gym.make("CartPole-v1"), 12, seed=seed).returns.tolist()

    assert play(3) == play(3)
    assert play(3) != play(4)


# --- errors -------------------------------------------------------------------------------------


def test_environments_are_closed_when_the_agent_fails() -> None:
    class Broken:
        def act(self, observation: Any) -> int:
            raise RuntimeError("no policy")

    with pytest.raises(RuntimeError, match="no policy"):
        evaluate_policy(Broken(), Counted, episodes=3)
    assert Counted.opened == 3


def test_environments_are_closed_when_one_cannot_be_made() -> None:
    def make() -> Counted:
        if Counted.opened == 2:
            raise RuntimeError("out of licences")
        return Counted()

    with pytest.raises(RuntimeError, match="licences"):
        evaluate_policy(Plain(), make, episodes=3)


def test_reward_that_is_not_finite_is_an_error() -> None:
    with pytest.raises(NonFiniteError, match="reward"):
        evaluate_policy(Plain(), lambda: Counted(reward=math.nan), episodes=1)


@pytest.mark.parametrize("options", [{"episodes": 0}, {"episodes": -1}, {"episodes": 2.5}, {"n_envs": 0}])
def test_wrong_counts_are_named(options: Any) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        evaluate_policy(Plain(), Counted, **options)


def test_agent_that_cannot_act_and_maker_that_cannot_make_are_type_errors() -> None:
    with pytest.raises(TypeError, match="agent"):
        evaluate_policy(object(), Counted)
    with pytest.raises(TypeError, match="make_env"):
        evaluate_policy(Plain(), Counted())
    Counted.closed += 1  # the instance that was handed over is its owner's


class Endless(gym.Env[Any, Any]):
    """Pays 1 per step and never ends."""

    observation_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Any:
        return np.zeros(1, np.float32), 1.0, False, False, {}


class Still:
    def act(self, observation: Any) -> int:
        return 0


def test_episode_that_never_ends_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    result = evaluate_policy(Still(), Endless, 3, n_envs=2, max_episode_steps=25)
    assert result.lengths.tolist() == [25, 25, 25]
    assert result.returns.tolist() == [25.0, 25.0, 25.0]
    monkeypatch.setattr("optix_fast.loop.evaluation._LONGEST_EPISODE", 40)
    assert evaluate_policy(Still(), Endless, 1).lengths.tolist() == [40]


def test_environments_own_limit_counts_unless_a_shorter_one_is_asked_for() -> None:
    def make() -> Any:
        return gym.make("MountainCar-v0")

    assert evaluate_policy(Still(), make, 1).lengths.tolist() == [200]
    assert evaluate_policy(Still(), make, 1, max_episode_steps=30).lengths.tolist() == [30]


def test_step_cap_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="max_episode_steps"):
        evaluate_policy(Still(), Endless, 1, max_episode_steps=0)
