"""LivePipeline: what is wrong is named."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from live_sources import Echo, Script, item, windows

from optix_fast import LivePipeline, NonFiniteError
from optix_fast.pipelines.feed import Feed

LIVE = LivePipeline


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


@pytest.mark.parametrize(("reward", "info"), [("x", {}), (None, {}), (1.0, "fast"), (1.0, 5)])
def test_item_with_wrong_parts_is_an_error_and_no_lost_connection(reward, info):
    source = Script([(np.zeros(2), reward, False, False, info)])
    pipeline = LIVE(source, Echo(), reconnect_delay=0.01, max_attempts=5)
    with pytest.raises(RuntimeError, match="must yield a number as reward, two flags and a dict as info"):
        next(pipeline.episodes())
    pipeline.teardown()


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
        (
            {"max_attempts": 3, "reconnect_on_disconnect": False},
            ValueError,
            "max_attempts has no meaning with reconnect_on_disconnect=False",
        ),
        (
            {"reconnect_delay": 9, "max_reconnect_delay": 5},
            ValueError,
            r"reconnect_delay \(9\) must not exceed max_reconnect_delay \(5\)",
        ),
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
