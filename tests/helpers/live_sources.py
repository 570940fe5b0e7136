"""Sources and an agent for the tests of LivePipeline."""

from __future__ import annotations

import itertools
import queue
import threading
import time
from typing import Any

import numpy as np

from optix_fast import LivePipeline


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


def windows(pipeline: LivePipeline, count: int | None = None) -> list[Any]:
    try:
        return list(itertools.islice(pipeline.episodes(), count))
    finally:
        pipeline.teardown()
