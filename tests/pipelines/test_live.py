"""LivePipeline: what belongs to which action, where windows end, and what a lost connection does."""

from __future__ import annotations

import itertools
import queue
import threading
import time
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from optix_fast import HyperparamSet, LivePipeline, NonFiniteError, TorchDQNAgent, make_agent
from optix_fast.pipelines.feed import Feed

LIVE = LivePipeline


class Echo:
    """Answers observation x with 10·x and remembers what it saw."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def act(self, observation: Any) -> int:
        self.seen.append(float(observation))
        return int(10 * observation)


class Script:
    """Plays one list of items per connection; an exception in a list is raised. After the last list it
    waits until it is closed."""

    def __init__(self, *connections: list[Any]) -> None:
        self.connections = list(connections)
        self.times: list[float] = []
        self.actions: list[Any] = []
        self.closed = threading.Event()

    def stream(self) -> Any:
        self.times.append(time.monotonic())
        if not self.connections:
            self.closed.wait(20)
            return
        for item in self.connections.pop(0):
            if isinstance(item, Exception):
                raise item
            yield item

    def send_action(self, action: Any) -> None:
        self.actions.append(action)

    def close(self) -> None:
        self.closed.set()


class LockStep:
    """Shows 0, 1, 2, …; the reward of an action is the action itself. Episodes have `length` actions."""

    def __init__(self, length: int, pause: float = 0.0) -> None:
        self.length, self.pause = length, pause
        self.answers: queue.Queue[Any] = queue.Queue()
        self.closed = False

    def stream(self) -> Any:
        while not self.closed:
            yield 0.0, 1e9, False, False, {}
            for step in range(1, self.length + 1):
                action = None
                while action is None and not self.closed:
                    try:
                        action = self.answers.get(timeout=0.05)
                    except queue.Empty:
                        continue
                if action is None:
                    return
                time.sleep(self.pause)
                yield float(step), action, step == self.length, False, {"step": step}

    def send_action(self, action: Any) -> None:
        self.answers.put(action)

    def close(self) -> None:
        self.closed = True


def item(x: float, reward: float = 0.0, terminated: bool = False, truncated: bool = False) -> Any:
    return np.float32(x), reward, terminated, truncated, {"x": x}


@pytest.fixture(autouse=True)
def no_thread_is_left_behind() -> Any:
    yield
    for thread in threading.enumerate():
        if thread.name == "LivePipeline-producer":
            thread.join(5)
            assert not thread.is_alive()


def windows(pipeline: LivePipeline, count: int | None = None) -> list[Any]:
    try:
        return list(itertools.islice(pipeline.episodes(), count))
    finally:
        pipeline.teardown()


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


def test_every_n_seconds_ends_windows_of_a_busy_source():
    data = windows(LIVE(LockStep(10_000, pause=0.01), Echo(), LIVE.every_n_seconds(0.2)), 2)
    assert all(3 <= window.length <= 21 for window in data)


def test_own_boundary_is_asked_with_rows_seconds_and_the_last_observation():
    asked = []

    def boundary(steps: int, elapsed: float, observation: Any) -> bool:
        asked.append((steps, float(observation)))
        assert elapsed >= 0
        return bool(observation == 2)

    first, second = windows(LIVE(LockStep(5), Echo(), boundary), 2)
    assert asked == [(1, 1.0), (2, 2.0), (1, 3.0), (2, 4.0), (3, 5.0)]
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


# --- the connection ------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [[], [ConnectionResetError("gone")], [EOFError()], [OSError("cable")]])
def test_lost_connection_truncates_the_episode_and_keeps_its_rows(ending):
    source = Script([item(0), item(1, 1.0), item(2, 2.0), *ending], [item(7), item(8, 8.0, terminated=True)])
    pipeline = LIVE(source, Echo(), reconnect_delay=0.01)
    first, second = windows(pipeline, 2)
    assert first.observations.tolist() == [0, 1]
    assert first.rewards.tolist() == [1.0, 2.0]
    assert first.truncated.tolist() == [False, True]
    assert not first.terminated.any()
    assert first.final_observations.tolist() == [2]  # bootstrapped from there
    assert first.metadata["episode_returns"] == []  # nobody knows what it would have come to
    assert first.metadata["disconnects"] == 1
    assert second.observations.tolist() == [7]
    assert second.metadata["episode_returns"] == [8.0]
    assert second.metadata["disconnects"] == 0


def test_window_that_spans_episodes_goes_on_after_a_lost_connection():
    source = Script([item(0), item(1, 1.0), item(2, 2.0)], [item(7), item(8, 8.0), item(9, 9.0)])
    pipeline = LIVE(source, Echo(), LIVE.every_n_steps(4), span_episodes=True)
    (data,) = windows(pipeline, 1)
    assert data.observations.tolist() == [0, 1, 7, 8]
    assert data.truncated.tolist() == [False, True, False, False]
    assert data.final_observations.tolist() == [2]
    assert data.final_obs == 9


def test_episode_that_had_ended_is_not_cut_when_the_next_is_lost_at_once():
    source = Script(
        [item(0), item(1, 1.0, terminated=True), item(5), ConnectionError()],
        [item(6), ConnectionError()],
        [item(7), item(8, 8.0)],
    )
    pipeline = LIVE(source, Echo(), LIVE.every_n_steps(2), span_episodes=True, reconnect_delay=0.01)
    (data,) = windows(pipeline, 1)
    assert data.observations.tolist() == [0, 7]
    assert data.terminated.tolist() == [True, False]
    assert data.truncated.tolist() == [False, False]
    assert data.final_observations.tolist() == [1]
    assert data.metadata["disconnects"] == 2


def test_end_between_two_episodes_loses_nothing():
    source = Script([item(0), item(1, 1.0, terminated=True)], [item(5), item(6, 6.0, terminated=True)])
    first, second = windows(LIVE(source, Echo()), 2)
    assert not first.truncated.any()
    assert second.metadata["disconnects"] == 0
    assert source.times[1] - source.times[0] < 0.5  # a clean end that brought data: no pause


def test_without_reconnect_the_partial_window_is_the_last():
    source = Script([item(0), item(1, 1.0), item(2, 2.0), ConnectionError()], [item(3)])
    (data,) = windows(LIVE(source, Echo(), LIVE.every_n_steps(50), reconnect_on_disconnect=False))
    assert data.rewards.tolist() == [1.0, 2.0]
    assert data.truncated.tolist() == [False, True]
    assert len(source.times) == 1


def test_reconnect_backs_off_and_starts_over_after_data(caplog):
    failures = [[ConnectionError()] for _ in range(4)]
    source = Script(*failures, [item(0), item(1, terminated=True), ConnectionError()], [item(2)])
    source.send_action = None  # with it, the next connection waits for the last one's answers
    pipeline = LIVE(source, Echo(), LIVE.every_n_steps(1), reconnect_delay=0.1, max_reconnect_delay=0.25)
    iterator = pipeline.episodes()
    next(iterator)
    deadline = time.monotonic() + 5
    while len(source.times) < 6 and time.monotonic() < deadline:
        time.sleep(0.01)
    pipeline.teardown()
    said = [record.getMessage().rsplit(" in ")[1] for record in caplog.records]
    assert said[:5] == ["0.1 s", "0.2 s", "0.25 s", "0.25 s", "0.1 s"]
    assert (np.diff(source.times[:6]) >= [0.1, 0.2, 0.25, 0.25, 0.1]).all()


def test_gives_up_after_max_attempts_that_bring_nothing():
    source = Script([item(0), item(1, 1.0)], [OSError("no route")], [OSError("no route")], [item(2)])
    iterator = LIVE(source, Echo(), reconnect_delay=0.01, max_attempts=2).episodes()
    assert next(iterator).rewards.tolist() == [1.0]
    with pytest.raises(ConnectionError, match=r"Script brought nothing in 2 attempts: OSError: no route"):
        next(iterator)


def test_next_connection_waits_until_the_last_one_was_answered():
    source = Script([item(0), item(1, 1.0, terminated=True), item(2), item(3)], [item(4), item(5)])
    pipeline = LIVE(source, Echo())
    iterator = pipeline.episodes()
    next(iterator)
    time.sleep(0.1)  # while the agent learns, nothing is lost and nothing is connected
    assert (len(source.times), source.actions) == (1, [0])
    next(iterator)
    next(iterator)
    pipeline.teardown()
    assert source.actions == [0, 20, 30, 40, 50]
    assert len(source.times) >= 2


def test_slow_learner_is_not_a_disconnect():
    source = Script([item(x, 1.0) for x in range(40)])
    pipeline = LIVE(source, Echo(), LIVE.every_n_steps(3), buffer_size=2)
    iterator = pipeline.episodes()
    seen = []
    for _ in range(13):
        data = next(iterator)
        seen += data.observations.tolist()
        time.sleep(0.05)  # the buffer is full all the while
        assert data.metadata["disconnects"] == 0
    pipeline.teardown()
    assert seen == list(range(39))
    assert len(source.times) <= 2
    assert data.metadata["lag_seconds"] > 0.02


def test_action_that_cannot_be_sent_cuts_the_episode():
    class Breaks(Script):
        def send_action(self, action: Any) -> None:
            if action == 20:
                raise BrokenPipeError("gone")
            super().send_action(action)

    source = Breaks([item(0), item(1, 1.0), item(2, 2.0), ConnectionError()], [item(5), item(6, 6.0)])
    first, second = windows(LIVE(source, Echo(), reconnect_delay=0.01, silence_timeout=0.2), 2)
    assert first.rewards.tolist() == [1.0, 2.0]
    assert first.truncated.tolist() == [False, True]
    assert second.observations.tolist() == [5]


# --- ending --------------------------------------------------------------------------------------


def test_teardown_gives_the_partial_window_to_whoever_waits_and_ends_the_thread():
    source = Script([item(0), item(1, 1.0), item(2, 2.0)])
    source.connections.append([])
    pipeline = LIVE(source, Echo(), LIVE.every_n_steps(100), span_episodes=True, reconnect_delay=20)
    collected: list[Any] = []
    reader = threading.Thread(target=lambda: collected.extend(pipeline.episodes()))
    reader.start()
    deadline = time.monotonic() + 5
    while pipeline.total_steps < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    pipeline.teardown()
    reader.join(5)
    assert not reader.is_alive()
    assert [data.rewards.tolist() for data in collected] == [[1.0, 2.0]]
    pipeline.teardown()  # a second time does nothing


def test_pipeline_can_be_set_up_again():
    pipeline = LIVE(LockStep(3), Echo())
    (first,) = windows(pipeline, 1)
    pipeline.data_source.closed = False
    pipeline.data_source.answers = queue.Queue()
    (second,) = windows(pipeline, 1)
    assert first.rewards.tolist() == second.rewards.tolist() == [0, 10, 20]
    assert second.episode_id == 1


def test_interrupt_yields_the_window_as_it_stands_then_ends():
    source = Script([item(0), item(1, 1.0)])
    source.connections.append([OSError()])
    pipeline = LIVE(
        source, Echo(), reconnect_delay=20, span_episodes=True, episode_boundary_fn=lambda *_: False
    )
    iterator = pipeline.episodes()
    pipeline.setup()
    timer = threading.Timer(0.3, pipeline.interrupt)
    timer.start()
    assert next(iterator).rewards.tolist() == [1.0]
    threading.Timer(0.1, pipeline.interrupt).start()
    assert next(iterator, None) is None
    pipeline.teardown()


def test_source_that_cannot_be_interrupted_is_named(caplog, monkeypatch):
    monkeypatch.setattr("optix_fast.pipelines.feed._JOIN_SECONDS", 0.1)
    released = threading.Event()

    class Deaf:
        def stream(self) -> Any:
            released.wait(10)
            yield item(0)

    pipeline = LIVE(Deaf(), Echo())
    pipeline.setup()
    pipeline.teardown()
    released.set()
    assert "Deaf.stream is still waiting for data" in caplog.text


def test_counters_are_its_state():
    pipeline = LIVE(LockStep(3), Echo())
    windows(pipeline, 2)
    other = LIVE(LockStep(3), Echo())
    other.load_state_dict(pipeline.state_dict())
    (data,) = windows(other, 1)
    assert (data.episode_id, other.total_steps) == (2, 9)
    assert other.is_live


# --- errors --------------------------------------------------------------------------------------


def test_fault_of_the_source_is_an_error_that_names_it():
    pipeline = LIVE(Script([item(0), item(1, 1.0), KeyError("price")]), Echo())
    iterator = pipeline.episodes()
    assert next(iterator).rewards.tolist() == [1.0]
    with pytest.raises(RuntimeError, match="data source Script failed: KeyError: 'price'") as caught:
        next(iterator)
    pipeline.teardown()
    assert isinstance(caught.value.__cause__, KeyError)


@pytest.mark.parametrize("wrong", [(1.0, 2.0), None, "tick", (1, "x", 0, 0, {}, {})])
def test_item_of_another_form_is_an_error(wrong):
    with pytest.raises(
        RuntimeError, match=r"must yield \(observation, reward, terminated, truncated, info\)"
    ):
        windows(LIVE(Script([wrong]), Echo()))


def test_observation_unlike_the_first_is_an_error():
    items = [(np.zeros(2), 0, False, False, {}), (np.zeros(3), 0, False, False, {})]

    class Zero:
        def act(self, observation: Any) -> int:
            return 0

    with pytest.raises(ValueError, match=r"data source Script: observation .*its shape is \[3\], not \[2\]"):
        windows(LIVE(Script(items), Zero()))
    with pytest.raises(ValueError, match="must be numbers or arrays of numbers, got 'up'"):
        windows(LIVE(Script([("up", 0, False, False, {})]), Zero()))


def test_action_outside_the_sources_space_is_an_error():
    class Bounded(Script):
        observation_space = spaces.Box(-10, 10, (), np.float32)
        action_space = spaces.Discrete(3)

    with pytest.raises(ValueError, match=r"Echo.act returned 40, which does not fit .*out of range"):
        windows(LIVE(Bounded([item(4)]), Echo()))


@pytest.mark.parametrize("reward", [float("nan"), float("inf")])
def test_reward_that_is_not_finite_is_named(reward):
    with pytest.raises(NonFiniteError, match=r"reward \((nan|inf)\) from data source Script, step 0"):
        windows(LIVE(Script([item(0), item(1, reward)]), Echo()))


def test_agent_is_needed():
    with pytest.raises(RuntimeError, match="LivePipeline: set an agent"):
        next(LIVE(Script()).episodes())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"data_source": object()}, TypeError, r"data_source must be an object with a stream\(\) method"),
        ({"data_source": Script}, TypeError, "data_source must be an object"),
        ({"agent": Echo}, TypeError, "agent must be an object with an act"),
        ({"episode_boundary_fn": 5}, TypeError, "episode_boundary_fn must be a function, got 5"),
        ({"buffer_size": 0}, ValueError, "buffer_size must be an integer of at least 1"),
        ({"silence_timeout": 0}, ValueError, "silence_timeout must be a positive number"),
        ({"reconnect_delay": "1"}, TypeError, "reconnect_delay must be a number of seconds"),
        ({"max_attempts": 0}, ValueError, "max_attempts"),
        ({"span_episodes": True}, ValueError, "span_episodes=True needs an episode_boundary_fn"),
    ],
)
def test_wrong_arguments_are_named(options, error, message):
    with pytest.raises(error, match=message):
        LIVE(**{"data_source": Script(), **options})


def test_boundaries_check_their_numbers():
    with pytest.raises(ValueError, match="n must be an integer of at least 1, got 0"):
        LIVE.every_n_steps(0)
    with pytest.raises(ValueError, match="seconds must be a positive number"):
        LIVE.every_n_seconds(-1)


def test_feed_keeps_saying_that_it_has_ended():
    feed = Feed(Script([item(0)]), 10, False, 1.0, 1.0, None)
    kinds = [type(feed.get(5)).__name__ for _ in range(3)]
    assert kinds == ["Arrival", "Ended", "Ended"]
    feed.close()
