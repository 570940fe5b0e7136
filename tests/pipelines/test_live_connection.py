"""LivePipeline: what a lost connection, a slow learner and an end do."""

from __future__ import annotations

import contextlib
import itertools
import queue
import threading
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from live_sources import Echo, LockStep, Script, item, windows

from optix_fast import LivePipeline

LIVE = LivePipeline


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


@settings(max_examples=40, deadline=None)
@given(
    connections=st.lists(st.lists(st.sampled_from("..TX"), max_size=8), min_size=1, max_size=5),
    broken=st.booleans(),
    window_size=st.integers(1, 8),
    span=st.booleans(),
    buffer_size=st.integers(1, 4),
)
def test_rows_are_the_steps_that_were_seen_whole(connections, broken, window_size, span, buffer_size):
    number = itertools.count()
    scripts, expected = [], []
    for kinds in connections:
        items = [(float(next(number)), kind) for kind in kinds]
        script: list[Any] = [item(x, x + 0.5, kind == "T", kind == "X") for x, kind in items]
        scripts.append([*script, ConnectionError()] if broken else script)
        for i, ((x, kind), (after, following)) in enumerate(itertools.pairwise(items)):
            if kind == ".":  # the last of an episode is not acted on
                cut = following == "." and i == len(items) - 2
                expected.append((x, after + 0.5, following == "T", following == "X" or cut))
    # After the last connection nothing more comes, and it gives up.
    scripts += [[OSError()] for _ in range(8)]
    boundary = LIVE.every_n_steps(window_size)
    pipeline = LIVE(
        Script(*scripts),
        Echo(),
        boundary,
        buffer_size,
        span_episodes=span,
        reconnect_delay=1e-3,
        max_reconnect_delay=1e-3,
        max_attempts=8,
    )
    seen: list[Any] = []
    iterator = pipeline.episodes()
    with contextlib.suppress(ConnectionError):
        while True:
            data = next(iterator)
            assert data.length <= window_size
            columns = (data.observations, data.rewards, data.terminated, data.truncated)
            seen += list(zip(*(column.tolist() for column in columns), strict=True))
    pipeline.teardown()
    assert [row[:3] for row in seen] == [row[:3] for row in expected]
    # That a row was the last before a cut is known too late when its window had been yielded by then.
    assert all(got <= cut for (*_, got), (*_, cut) in zip(seen, expected, strict=True))
    if len(expected) < window_size:
        assert [row[3] for row in seen] == [row[3] for row in expected]


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
