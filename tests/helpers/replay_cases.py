"""What the tests of the replay buffers share: a list of transitions that does what the buffer promises."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from optix_fast.types import tree_leaves


def same(a: Any, b: Any) -> bool:
    """Equal observations, leaf by leaf."""
    return all(np.array_equal(x, y) for x, y in zip(tree_leaves(a), tree_leaves(b), strict=True))


@dataclass
class Transition:
    observation: Any
    action: Any
    reward: float
    next_observation: Any
    terminated: bool
    truncated: bool
    successor: Transition | None = None  # the same environment's next one


class NaiveBuffer:
    """All transitions that ever came, as objects in a list."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.all: list[Transition] = []
        self.last: dict[int, Transition] = {}

    def push(self, env: int, *fields: Any) -> None:
        new = Transition(*fields)
        before = self.last.pop(env, None)
        if before is not None:
            before.successor = new
        if not (new.terminated or new.truncated):
            self.last[env] = new
        self.all.append(new)

    def flush(self) -> None:
        self.last.clear()

    @property
    def live(self) -> list[Transition]:
        return self.all[-self.capacity :]

    def row(self, i: int) -> Transition:
        """What lies in row i of the ring: of all whose number is i modulo the capacity, the newest."""
        newest = max(n for n in range(len(self.all)) if n % self.capacity == i)
        return self.all[newest]

    def target(self, start: Transition, n_step: int, gamma: float) -> tuple[float, Any, float, int]:
        """(reward, o′, discount, m) in double precision."""
        reward, power, at, m = 0.0, 1.0, start, 0
        while True:
            reward += power * at.reward
            power *= gamma
            m += 1
            if at.terminated:
                return reward, at.next_observation, 0.0, m
            if m == n_step or at.truncated or at.successor is None:
                return reward, at.next_observation, power, m
            at = at.successor


def check_equal(buffer: Any, naive: NaiveBuffer) -> None:
    """Every row of the buffer, its link and its target, against the list."""
    size = len(naive.live)
    assert len(buffer) == size
    if size == 0:
        return
    batch = buffer.batch(np.arange(size))
    for i in range(size):
        row = naive.row(i)
        got = [tuple(leaf[i] for leaf in tree_leaves(tree)) for tree in (batch[0], batch[3])]
        reward, following, discount, m = naive.target(row, buffer.n_step, buffer.gamma)
        assert same(got[0], tuple(tree_leaves(row.observation)))
        assert same(got[1], tuple(tree_leaves(following)))
        assert np.array_equal(batch.actions[i], row.action)
        np.testing.assert_allclose(batch.rewards[i], reward, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(batch.discounts[i], discount, rtol=1e-6)
        assert batch.n_steps[i] == m


def assert_same_state(a: Any, b: Any) -> None:
    """Two state dicts of replay buffers, number by number."""
    left, right = (tree_leaves({**s, "rows": s["rows"] or {}}) for s in (a, b))
    assert len(left) == len(right)
    for x, y in zip(left, right, strict=True):
        np.testing.assert_array_equal(x, y)
