"""LivePipeline over a real local socket whose server hangs up, resets the connection and goes away."""

from __future__ import annotations

import contextlib
import itertools
import json
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optix_fast import BaseAgent, HyperparamSet, LivePipeline, RLOptimizer

EPISODE = 7


class Server:
    """Shows [connection, step] and pays connection·1000 + step·10 + action, the action having reached it
    before the next observation is sent. Episodes have EPISODE steps. Connection i ends after hang_up[i]
    actions, with a reset (RST) where i is odd; after the last the server is gone."""

    def __init__(self, hang_up: list[int]) -> None:
        self.hang_up, self.served = hang_up, 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = self.listener.getsockname()
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        for number, limit in enumerate(self.hang_up):
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError, ValueError):  # the client has gone
                self._play(connection, number, limit)
            self.served += 1
        self.listener.close()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
        self.listener.close()
        self.thread.join(5)

    def _play(self, connection: socket.socket, number: int, limit: int) -> None:
        actions = 0
        with connection.makefile("rw") as lines:
            while True:
                reward, step = 0, 0
                while True:
                    over = step == EPISODE
                    lines.write(json.dumps([[number, step], reward, over]) + "\n")
                    lines.flush()
                    if actions == limit:
                        if number % 2:
                            connection.setsockopt(
                                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                            )
                        return
                    if over:
                        break
                    action = int(lines.readline())
                    actions, step = actions + 1, step + 1
                    reward = number * 1000 + step * 10 + action


@pytest.fixture
def serve() -> Iterator[Any]:
    servers: list[Server] = []

    def make(hang_up: list[int]) -> Server:
        servers.append(Server(hang_up))
        return servers[-1]

    yield make
    for server in servers:
        server.close()


class Client:
    def __init__(self, address: Any) -> None:
        self.address = address
        self.socket: Any = None

    def stream(self) -> Iterator[Any]:
        with socket.create_connection(self.address) as self.socket, self.socket.makefile("r") as lines:
            for line in lines:
                observation, reward, over = json.loads(line)
                yield np.array(observation, np.float32), reward, over, False, {}

    def send_action(self, action: int) -> None:
        self.socket.sendall(f"{action}\n".encode())

    def close(self) -> None:
        with contextlib.suppress(AttributeError, OSError):
            self.socket.shutdown(socket.SHUT_RDWR)


class Digits(BaseAgent):
    """Acts 0, 1, 2, …, 9, 0, … and keeps every window it learned from."""

    def __init__(self) -> None:
        self.count = itertools.count()
        self.windows: list[Any] = []

    def act(self, observation: Any) -> int:
        return next(self.count) % 10

    def learn(self, episode_data: Any) -> dict[str, Any]:
        self.windows.append(episode_data)
        return {}

    def get_hyperparams(self) -> HyperparamSet:
        return HyperparamSet({})

    def set_hyperparams(self, hyperparams: HyperparamSet) -> None:
        pass

    def save_weights(self, path: str) -> None:
        Path(path).mkdir(parents=True, exist_ok=True)

    def load_weights(self, path: str) -> None:
        pass


def check(data: Any) -> None:
    """Every row is whole: the reward is that of its own observation and action."""
    number, step = data.observations[:, 0], data.observations[:, 1]
    assert data.rewards.tolist() == (number * 1000 + (step + 1) * 10 + data.actions).tolist()
    assert data.terminated.tolist() == (step == EPISODE - 1).tolist()
    same = number[1:] == number[:-1]
    following = np.where(data.dones[:-1], 0, step[:-1] + 1)
    assert step[1:][same].tolist() == following[same].tolist()  # no row is missing, none is there twice
    assert data.dones[:-1][~same].all()  # where the connection changes, an episode has ended
    for row, final in zip(data.final_rows, data.final_observations, strict=True):
        assert final.tolist() == [number[row], step[row] + 1]


@pytest.mark.parametrize("span", [False, True])
def test_every_row_is_right_through_hang_ups_and_resets(serve, span):
    server = serve([10, 4, 25, 7, 0, 40])
    boundary = LivePipeline.every_n_steps(5)
    pipeline = LivePipeline(
        Client(server.address), Digits(), boundary, span_episodes=span, reconnect_delay=0.01, max_attempts=3
    )
    windows = []
    iterator = pipeline.episodes()
    with pytest.raises(ConnectionError, match="brought nothing in 3 attempts"):
        windows.extend(data for data in iter(lambda: next(iterator), None))
    pipeline.teardown()
    assert server.served == 6
    for data in windows:
        check(data)
    # All the rewards that were sent have found their rows, save those that a reset overtook.
    rows = sum(data.length for data in windows)
    assert 10 + 25 + 40 <= rows <= 10 + 4 + 25 + 7 + 40
    assert pipeline.total_steps == rows
    disconnects = sum(data.metadata["disconnects"] for data in windows)
    assert 3 <= disconnects <= 6
    if span:
        assert {data.length for data in windows[:-1]} == {5}


def test_loop_trains_on_a_source_that_hangs_up_and_tears_it_down(serve, tmp_path):
    server = serve([9] * 50)
    agent = Digits()
    pipeline = LivePipeline(Client(server.address), episode_boundary_fn=LivePipeline.every_n_steps(6))
    optimizer = RLOptimizer(agent=agent, pipeline=pipeline, checkpoint_dir=tmp_path, max_episodes=12)
    optimizer.run()
    assert optimizer.stop_reason == "budget"
    assert len(agent.windows) == 12
    for data in agent.windows:
        check(data)
    assert optimizer.env_steps == sum(data.length for data in agent.windows) == pipeline.total_steps
    names = [thread.name for thread in threading.enumerate()]
    assert "LivePipeline-producer" not in names


def test_stop_from_another_thread_ends_a_run_on_a_silent_source(tmp_path):
    class Silent:
        def __init__(self) -> None:
            self.closed = threading.Event()

        def stream(self) -> Iterator[Any]:
            for x in range(3):
                yield np.array([0.0, x], np.float32), 1.0, False, False, {}
            self.closed.wait(30)

        def close(self) -> None:
            self.closed.set()

    agent = Digits()
    pipeline = LivePipeline(Silent())
    optimizer = RLOptimizer(agent=agent, pipeline=pipeline, checkpoint_dir=tmp_path)
    threading.Timer(0.3, optimizer.stop).start()
    optimizer.run()
    assert optimizer.stop_reason == "stopped"
    assert [data.length for data in agent.windows] == [2]  # what there was is learned from


def test_server_that_comes_back_later_is_found_again(serve):
    first = serve([8])
    client = Client(first.address)
    pipeline = LivePipeline(client, Digits(), reconnect_delay=0.05, max_reconnect_delay=0.1)
    iterator = pipeline.episodes()
    assert next(iterator).length == EPISODE
    assert next(iterator).truncated.tolist() == [True]
    first.thread.join(5)
    time.sleep(0.3)  # a few attempts are refused
    second = serve([100])
    client.address = second.address
    data = next(iterator)
    check(data)
    assert data.terminated[-1]
    pipeline.teardown()
