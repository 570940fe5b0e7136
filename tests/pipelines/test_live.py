"""LivePipeline: what belongs to which action, and where windows end."""

from __future__ import annotations

import itertools
import queue
import threading
import time
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from live_sources import Echo, LockStep, Script, item, windows
from torch import nn

from optix_fast import HyperparamSet, LivePipeline, TorchDQNAgent, make_agent

LIVE = LivePipeline


# --- rows ----------------------------------------------------------------------------------------


def test_reward_belongs_to_the_action_that_earned_it():
    source = Script([item(1, 7), item(2, 0.5), item(3, 0.25, terminated=True)])
    (data,) = windows(LIVE(source, Echo(), reconnect_on_disconnect=False))
    assert data.observations.tolist() == [1, 2]
    assert data.actions.tolist() == [10, 20] == source.actions
    assert data.rewards.tolist() == [0.5, 0.25]  # the 7 came before there was any action
    assert data.terminated.tolist() == [False, True]
    assert data.truncated.tolist() == [False, False]
    assert [info["x"] for info in data.infos] == [2, 3]
    assert data.final_rows.tolist() == [1]
    assert data.final_observations.tolist() == [3]
    assert data.final_obs is None
    assert data.metadata["episode_returns"] == [0.75]
    assert data.metadata["episode_lengths"] == [2]
    assert data.metadata["episodic"]
    assert (data.n_envs, data.n_steps, data.valid.all()) == (1, 2, True)


def test_actions_reach_a_source_that_waits_for_them():
    data = windows(LIVE(LockStep(4), Echo()), 2)
    for window in data:
        assert window.observations.tolist() == [0, 1, 2, 3]
        assert window.rewards.tolist() == window.actions.tolist() == [0, 10, 20, 30]
    assert [window.episode_id for window in data] == [0, 1]


def test_source_without_send_action_is_a_feed_to_watch():
    class Prices:
        def stream(self) -> Any:
            yield from [([1.0, 2.0], 0, False, False, None), ([1.5, 2.5], 3, False, True, None)]

    class Hold:
        def act(self, observation: Any) -> Any:
            return [0.5, 0.5]

    (data,) = windows(LIVE(Prices(), Hold(), reconnect_on_disconnect=False))
    assert data.observations.tolist() == [[1.0, 2.0]]
    assert data.actions.tolist() == [[0.5, 0.5]]
    assert data.truncated.tolist() == [True]
    assert data.final_observations.tolist() == [[1.5, 2.5]]


def test_dict_observations_and_actions_keep_their_structure():
    def shown(x: float) -> Any:
        return {"price": np.array([x, x], np.float64), "open": np.int64(x)}

    class Trader:
        def act(self, observation: Any) -> Any:
            return {"side": 1, "size": observation["price"][:1] * 2}

    source = Script([(shown(x), x, x == 3, False, {}) for x in (1, 2, 3)])
    (data,) = windows(LIVE(source, Trader(), reconnect_on_disconnect=False))
    assert data.observations["price"].tolist() == [[1, 1], [2, 2]]
    assert data.observations["price"].dtype == np.float32
    assert data.observations["open"].tolist() == [1, 2]
    assert data.actions["side"].tolist() == [1, 1]
    assert data.actions["size"].tolist() == [[2], [4]]


def dqn() -> TorchDQNAgent:
    network = nn.Linear(4, 2)
    optimizer = torch.optim.Adam(network.parameters())
    return TorchDQNAgent(network, 2, optimizer, HyperparamSet({"batch_size": 32}), device="cpu", seed=0)


@pytest.mark.parametrize("algo", ["ppo", "dqn"])
def test_agents_of_this_package_are_told_the_spaces_and_learn(algo):
    class Cart:
        """CartPole, one step behind its actions."""

        def __init__(self) -> None:
            self.env = gym.make("CartPole-v1")
            self.observation_space, self.action_space = self.env.observation_space, self.env.action_space
            self.answers: queue.Queue[int] = queue.Queue()

        def stream(self) -> Any:
            while True:
                observation, info = self.env.reset(seed=1)
                yield observation, 0.0, False, False, info
                over = False
                while not over:
                    try:
                        action = self.answers.get(timeout=5)
                    except queue.Empty:
                        return
                    observation, reward, terminated, truncated, info = self.env.step(action)
                    over = terminated or truncated
                    yield observation, reward, terminated, truncated, info

        def send_action(self, action: int) -> None:
            assert type(action) is int
            self.answers.put(action)

    pipeline = LIVE(Cart(), episode_boundary_fn=LIVE.every_n_steps(64), span_episodes=True)
    agent: Any = make_agent("ppo", pipeline, seed=0) if algo == "ppo" else dqn()
    pipeline.set_agent(agent)
    first, second = itertools.islice(pipeline.episodes(), 2)
    for data in (first, second):
        assert data.length == 64
        diagnostics = agent.learn(data)
        if algo == "ppo":
            assert data.grid("log_probs").shape == data.grid("values").shape == (64, 1)
            assert (data.log_probs < 0).all()
            assert diagnostics["n_updates"] > 0
        else:
            assert diagnostics["buffer_size"] == agent.env_steps
    assert agent.env_steps == 128
    pipeline.data_source.answers.put(0)
    pipeline.teardown()


def test_window_is_not_written_to_after_the_yield_and_shares_nothing_with_the_source():
    shown = np.zeros(2, np.float32)

    def items() -> Any:
        for x in range(6):
            shown[:] = x
            yield shown, x, False, False, {}
            time.sleep(0.02)

    class Source:
        def stream(self) -> Any:
            return items()

    class Spoiler:
        def act(self, observation: Any) -> int:
            observation[:] = -1
            return 0

    pipeline = LIVE(Source(), Spoiler(), LIVE.every_n_steps(2), reconnect_on_disconnect=False, buffer_size=1)
    first, second, third = windows(pipeline)
    assert first.rewards.tolist() == [1, 2]
    assert second.rewards.tolist() == [3, 4]
    assert third.rewards.tolist() == [5]
    assert (first.observations >= 0).all() and first.observations[1, 0] >= first.observations[0, 0]


def test_masks_travel_with_the_observation_they_came_with():
    class Masked(Script):
        observation_space = spaces.Box(-10, 10, (1,), np.float32)
        action_space = spaces.Discrete(3)

    def shown(x: float, mask: list[int] | None, over: bool = False) -> Any:
        return np.full(1, x, np.float32), 0.0, over, False, {} if mask is None else {"action_mask": mask}

    source = Masked([shown(0, [0, 0, 1]), shown(1, None), shown(2, [0, 1, 0]), shown(3, None, True)])
    pipeline = LIVE(source, reconnect_on_disconnect=False)
    pipeline.set_agent(make_agent("ppo", pipeline, seed=0))
    (data,) = windows(pipeline)
    assert data.action_masks.tolist() == [[False, False, True], [True, True, True], [False, True, False]]
    assert data.actions[[0, 2]].tolist() == [2, 1] == [source.actions[0], source.actions[2]]


# --- boundaries ----------------------------------------------------------------------------------


def test_every_n_steps_ends_a_window_and_the_episode_goes_on():
    first, second = windows(LIVE(LockStep(100), Echo(), LIVE.every_n_steps(3)), 2)
    assert first.observations.tolist() == [0, 1, 2]
    assert first.final_obs.tolist() == 3 == first.next_observations[0]
    assert not first.dones.any()
    assert second.observations.tolist() == [3, 4, 5]
    assert second.metadata["episode_returns"] == []


def test_end_of_an_episode_ends_the_window_unless_it_spans_episodes():
    lengths = [w.length for w in windows(LIVE(LockStep(3), Echo(), LIVE.every_n_steps(5)), 4)]
    assert lengths == [3, 3, 3, 3]
    first, second = windows(LIVE(LockStep(3), Echo(), LIVE.every_n_steps(5), span_episodes=True), 2)
    assert first.observations.tolist() == [0, 1, 2, 0, 1]
    assert first.terminated.tolist() == [False, False, True, False, False]
    assert first.episode_starts == [0, 3]
    assert second.observations.tolist() == [2, 0, 1, 2, 0]
    assert second.metadata["episode_returns"] == [30.0, 30.0]  # the first was begun a window earlier


def test_every_n_seconds_ends_a_window_also_when_nothing_arrives():
    class Stalls(Script):
        def stream(self) -> Any:
            yield item(0)
            yield item(1, 5.0)
            self.closed.wait(20)

    pipeline = LIVE(Stalls(), Echo(), LIVE.every_n_seconds(0.3))
    began = time.monotonic()
    (data,) = windows(pipeline, 1)
    assert 0.25 < time.monotonic() - began < 5
    assert data.rewards.tolist() == [5.0]
    assert data.final_obs == 1


@pytest.fixture
def slow_source(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes sources that take 100 s for each answer, by a clock on which nothing else takes time."""
    clock = [5000.0]

    def sleep(seconds: float) -> None:
        clock[0] += seconds

    frozen = SimpleNamespace(monotonic=lambda: clock[0], sleep=sleep)
    for module in ("optix_fast.pipelines.live", "optix_fast.pipelines.live_window", "live_sources"):
        monkeypatch.setattr(f"{module}.time", frozen)
    return lambda length: LockStep(length, pause=100)


def test_every_n_seconds_ends_windows_of_a_busy_source(slow_source):
    data = windows(LIVE(slow_source(10_000), Echo(), LIVE.every_n_seconds(350)), 3)
    assert [window.length for window in data] == [4, 4, 4]


def test_own_boundary_is_asked_with_rows_seconds_and_the_last_observation(slow_source):
    asked = []

    def boundary(steps: int, elapsed: float, observation: Any) -> bool:
        asked.append((steps, elapsed, float(observation)))
        return bool(observation == 2)

    first, second = windows(LIVE(slow_source(5), Echo(), boundary), 2)
    # Seconds since the first action of the window.
    assert asked == [(1, 100, 1.0), (2, 200, 2.0), (1, 100, 3.0), (2, 200, 4.0), (3, 300, 5.0)]
    assert (first.length, second.length) == (2, 3)


def test_unanswered_action_opens_the_next_window_after_a_silence():
    gate = threading.Event()

    class Pauses(Script):
        def stream(self) -> Any:
            yield from [item(0), item(1, 1.0), item(2, 2.0)]
            gate.wait(10)
            yield item(3, 3.0, terminated=True)

    agent = Echo()
    pipeline = LIVE(Pauses(), agent, silence_timeout=0.2, reconnect_on_disconnect=False)
    iterator = pipeline.episodes()
    first = next(iterator)
    gate.set()
    second = next(iterator)
    pipeline.teardown()
    assert first.rewards.tolist() == [1.0, 2.0]
    assert first.final_obs == 2
    assert second.observations.tolist() == [2]
    assert second.actions.tolist() == [20]
    assert second.rewards.tolist() == [3.0]
    assert agent.seen == [0, 1, 2]  # no observation was acted on twice
    assert second.metadata["episode_returns"] == [6.0]
