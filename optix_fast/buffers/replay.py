"""The replay buffer: transitions in a ring, each observation stored once, n-step targets made when drawn."""

from __future__ import annotations

import operator
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces

from optix_fast.buffers.layout import (
    Column,
    Layout,
    entry_of,
    fit_vector,
    layout_of_rows,
    layout_of_spaces,
    require_memory,
)
from optix_fast.buffers.ring import GOES_ON, ReplayBatch, ReplayView, Ring
from optix_fast.buffers.segments import ReplaySegments, StoredRows
from optix_fast.buffers.window_rows import complete_masks, rows_of_window
from optix_fast.random import RandomStream
from optix_fast.serialization import load_state, save_state
from optix_fast.types import EpisodeData, Tree, tree_map

_FILE = "replay.safetensors"
# Every row needs at least this much, so an impossible capacity is refused before the first push.
_NUMBER = np.dtype(np.uint8)
_LEAST_ROW = Layout(Column("observations", (), _NUMBER), Column("actions", (), _NUMBER))


class ReplayBuffer:
    """The newest ``capacity`` transitions of any number of environments.

    An observation is stored once: the next observation of a row is the row that the same environment pushed
    after it. Only the newest one of each environment and the last ones of episodes are kept beside. n-step
    targets are made when a batch is drawn: Σ_{k<m} γ^k·r_{t+k} + γ^m·V(o_{t+m}), with m = n_step or as far as
    the episode and the stored rows go. V counts unless the last of these rows terminated; a truncated one is
    bootstrapped from its true final observation. So n_step and gamma may change at any time, and no
    transition waits for others or is dropped.

    Floats are stored as float32, uint8 (images) as it is, other integers as int64. Observations may be dicts
    or tuples of arrays; an action is a number or an array. Arrays are allocated by the first push, or at once
    when both spaces are given. Used by one thread at a time.

    Args:
        capacity: C, rows kept.
        n_step: n, the most rewards in a target; 1 or more.
        gamma: γ, in [0, 1].
        observation_space, action_space: of one environment; both or neither.
        seed: of the draws; None takes one from the operating system.

    Raises:
        ValueError, TypeError: an argument outside its range, rows of another shape or kind than the first
            ones, a reward that is not finite, an index outside [0, len), a draw of more rows than there are.
            Nothing has then changed.
        MemoryError: the capacity does not fit into this machine's memory.
    """

    def __init__(
        self,
        capacity: int,
        *,
        n_step: int = 1,
        gamma: float = 0.99,
        observation_space: spaces.Space[Any] | None = None,
        action_space: spaces.Space[Any] | None = None,
        seed: int | None = None,
    ) -> None:
        self.capacity = _integer("capacity", capacity)
        if self.capacity < 1:
            raise ValueError(f"ReplayBuffer: capacity must be 1 or more, got {capacity}")
        require_memory(self.capacity, _LEAST_ROW.bytes_for(self.capacity))
        if (observation_space is None) != (action_space is None):
            raise ValueError("ReplayBuffer: observation_space and action_space must be given together")
        self.n_step, self.gamma = 1, 0.99
        self.set_params(n_step=n_step, gamma=gamma)
        self._stream = RandomStream(seed, "replay")
        self._ring: Ring | None = None
        # Of the last push_rows, for the next one, which mostly has as many rows.
        self._envs = np.arange(1)
        self._next_index, self._no_flags = ~self._envs, np.zeros(1, np.bool_)
        self._joins = np.full(1, GOES_ON, np.uint8)
        if observation_space is not None and action_space is not None:
            self._ring = Ring(self.capacity, layout_of_spaces(observation_space, action_space))

    def __len__(self) -> int:
        """Rows that can be drawn."""
        return 0 if self._ring is None else self._ring.size

    @property
    def pushed(self) -> int:
        """Rows that ever came."""
        return 0 if self._ring is None else self._ring.pushed

    def set_params(self, *, n_step: int | None = None, gamma: float | None = None) -> None:
        """Changes how targets are made, from the next batch on."""
        n_step = self.n_step if n_step is None else _integer("n_step", n_step)
        gamma = self.gamma if gamma is None else float(gamma)
        if n_step < 1:
            raise ValueError(f"ReplayBuffer: n_step must be 1 or more, got {n_step}")
        if not 0.0 <= gamma <= 1.0:
            raise ValueError(f"ReplayBuffer: gamma must be in [0, 1], got {gamma}")
        self.n_step, self.gamma = n_step, gamma

    # --- storing --------------------------------------------------------------------------------

    def push(
        self,
        obs: Tree,
        action: Any,
        reward: float,
        next_obs: Tree,
        done: bool,
        truncated: bool = False,
        env: int = 0,
        *,
        action_mask: Any = None,
        next_action_mask: Any = None,
    ) -> None:
        """Stores one transition of one environment.

        It goes on from what was pushed last with the same `env`, unless that was done or truncated, or
        `flush_episode` came between; whether the observations are equal plays no part, so each may have been
        normalized when it was seen. Transitions of several environments, one after the other, need an `env`
        of their own each: n-step targets would mix them.

        Args:
            obs, next_obs: the observation acted on and the one that followed, in an ended episode its last.
            done: the episode terminated there: nothing follows next_obs. Not for a time limit, which is
            truncated: the episode was cut there, and next_obs still has a value.
            env: number of the environment, from 0.
            action_mask, next_action_mask: bool [K], the actions that obs and next_obs allow; None for both:
            all. next_action_mask may be left out of a terminated transition only.
        """
        env = _environment(env)
        self._push_rows(
            _lead(obs),
            np.asarray(action)[None],
            (reward,),
            _lead(next_obs),
            (done,),
            (truncated,),
            _row(action_mask),
            _row(next_action_mask),
            np.array([env]),
            env + 1,
        )

    def push_rows(
        self,
        observations: Tree,
        actions: Any,
        rewards: Any,
        next_observations: Tree,
        terminated: Any,
        truncated: Any = None,
        *,
        action_masks: Any = None,
        next_action_masks: Any = None,
    ) -> None:
        """Stores one transition of each of N environments, [N, …] all; row n is always environment n's, and
        goes on from that environment's last one as :meth:`push` says.

        next_observations: the true last observation where an episode ended, not the reset's.
        action_masks, next_action_masks: bool [N, K], the actions that they allow; None for both: all.

        Raises:
            ValueError: action_masks alone, where an episode goes on: targets would use forbidden actions.
        """
        self._push_rows(
            observations, actions, rewards, next_observations, terminated, truncated, action_masks,
            next_action_masks,
        )  # fmt: skip

    def _push_rows(
        self,
        observations: Tree,
        actions: Any,
        rewards: Any,
        next_observations: Tree,
        terminated: Any,
        truncated: Any,
        action_masks: Any,
        next_action_masks: Any,
        envs: npt.NDArray[np.int64] | None = None,
        n_envs: int | None = None,
    ) -> None:
        n = len(rewards)
        if n != len(self._envs):
            self._envs = np.arange(n)
            self._next_index, self._no_flags = ~self._envs, np.zeros(n, np.bool_)
            self._joins = np.full(n, GOES_ON, np.uint8)
        masks = None
        if action_masks is not None or next_action_masks is not None:
            ends = fit_vector("terminated", terminated, self._no_flags.dtype, n)
            if next_action_masks is None and not ends.all():
                raise ValueError(
                    "ReplayBuffer: action_masks without next_action_masks: targets would use actions that "
                    "the next observation forbids; give both (a terminated transition needs no next mask)"
                )
            masks = complete_masks(action_masks, [(next_action_masks, n)], n, n, self._next_index, ends)
        self._push(
            observations,
            next_observations,
            n,
            self._envs if envs is None else envs,
            self._next_index,
            actions,
            rewards,
            terminated,
            self._no_flags if truncated is None else truncated,
            self._joins,
            n if n_envs is None else n_envs,
            masks,
        )

    def push_window(self, window: EpisodeData, actions: Any = None) -> int:
        """Stores the rows of a window; returns how many.

        All valid ones, with the observations that truly followed them. Only of a hand-made window that does
        not carry them (no ``next_observations`` or ``final_obs``, no ``final_observations``) those rows are
        left out of which it is not known what followed; a terminated row needs none. Masks of actions are
        stored with the observations that they belong to.

        Args:
            window: as a pipeline yields it, of always the same environments.
            actions: [R, …], stored in the place of window.actions.

        Raises:
            ValueError: the fields do not fit together, or to the rows stored before, or a mask allows no
                action.
        """
        rows = rows_of_window(window)
        if rows.n == 0:
            return 0
        actions = np.asarray(window.actions if actions is None else actions)
        if len(actions) != window.length:
            raise ValueError(
                f"ReplayBuffer: actions must have one row for each of the window's {window.length}, "
                f"got {len(actions)}"
            )
        self._push(
            rows.observations,
            rows.others,
            rows.n_others,
            rows.envs,
            rows.next_index,
            actions if rows.kept is None else actions[rows.kept],
            rows.rewards,
            rows.terminated,
            rows.truncated,
            rows.joins,
            window.n_envs,
            rows.masks,
        )
        return rows.n

    def flush_episode(self) -> None:
        """Tells that what is pushed next continues nothing. No transition is lost by it."""
        if self._ring is not None:
            self._ring.cut()

    def _push(self, observations: Tree, others: Tree, n_others: int, envs: Any, *rest: Any) -> None:
        masks, ring = rest[-1], self._ring
        if ring is None:
            ring = Ring(self.capacity, layout_of_rows(observations, rest[1]))
        if masks is not None and ring.layout.masks is None:
            ring = ring.with_masks(masks[0].shape[1])
        ring.push(observations, others, n_others, envs, *rest)
        self._ring = ring

    # --- drawing --------------------------------------------------------------------------------

    def sample(self, n: int) -> ReplayBatch:
        """n rows, each drawn uniformly and with replacement."""
        return self._gather(self.sample_indices(n))

    def sample_indices(self, n: int, *, replace: bool = True) -> npt.NDArray[np.int64]:
        """n positions, each drawn uniformly; without replacement, no two are equal."""
        size = self.require_rows(n)
        if replace:
            return self._stream.integers(0, max(size, 1), n)
        if 2 * n >= size:
            return self._stream.permutation(size)[:n]
        drawn = self._stream.integers(0, size, n)
        while True:
            # What has come before is drawn again.
            first = np.unique(drawn, return_index=True)[1]
            if len(first) == n:
                return drawn
            first.sort()
            drawn = np.concatenate([drawn[first], self._stream.integers(0, size, n - len(first))])

    def require_rows(self, n: int) -> int:
        """len, where n rows can be drawn from them; a ValueError where they cannot."""
        n, size = _integer("n", n), len(self)
        if not 0 <= n <= size:
            raise ValueError(f"ReplayBuffer: n must be in [0, len] = [0, {size}], got {n}")
        return size

    def batch(self, indices: npt.NDArray[np.int64] | torch.Tensor) -> ReplayBatch:
        """The rows at the given positions, int64 [B] in [0, len)."""
        rows_asked = np.asarray(indices)
        if rows_asked.ndim != 1 or rows_asked.dtype != np.int64:
            raise ValueError(
                f"ReplayBuffer: indices must be int64 [B], got {rows_asked.dtype} {list(rows_asked.shape)}"
            )
        return self._gather(np.ascontiguousarray(rows_asked))

    def _gather(self, indices: npt.NDArray[np.int64]) -> ReplayBatch:
        return self._filled().gather(indices, self.n_step, self.gamma)

    def _filled(self) -> Ring:
        if self._ring is None:
            raise ValueError("ReplayBuffer: nothing has been pushed yet")
        return self._ring

    def view(self) -> ReplayView:
        """The memory itself, without a copy; for observations that are one float array.

        Raises:
            ValueError: nothing has been pushed, or the observations are images, integers or trees.
        """
        return self._filled().view()

    # --- state ----------------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        """What a copy or a pickle holds: the core's handles are not copied but made again."""
        return {"capacity": self.capacity, "state": self.state_dict()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["capacity"], seed=0)  # type: ignore[misc]
        self.load_state_dict(state["state"])

    def state_dict(self, segments: ReplaySegments | None = None) -> dict[str, Any]:
        """The live rows, copied, with the place in the random stream and how targets are made. With
        `segments`, new rows are written there, and what refers to them is in the state instead."""
        ring = None if self._ring is None or self._ring.pushed == 0 else self._ring
        save = Ring.state_dict if segments is None else segments.save
        return {
            "capacity": self.capacity,
            "n_step": self.n_step,
            "gamma": self.gamma,
            "stream": self._stream.state_dict(),
            "rows": None if ring is None else save(ring),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues exactly where that state was taken; all or nothing.

        Raises:
            ValueError: not such a state, or one of another capacity or of other observations and actions.
        """
        self.__dict__.update(self.loaded(state).__dict__)

    def loaded(self, state: Mapping[str, Any]) -> ReplayBuffer:
        """The buffer that `load_state_dict` makes of this one, which stays as it is."""
        if entry_of(state, "capacity") != self.capacity:
            raise ValueError(
                f"ReplayBuffer: the state is of capacity {state['capacity']}, the buffer's is {self.capacity}"
            )
        fresh = ReplayBuffer(
            self.capacity, n_step=entry_of(state, "n_step"), gamma=entry_of(state, "gamma"), seed=0
        )
        fresh._stream.load_state_dict(entry_of(state, "stream"))
        rows, layout = entry_of(state, "rows"), None if self._ring is None else self._ring.layout
        if rows is not None:
            if isinstance(rows, StoredRows):
                fresh._ring = rows.load(self.capacity, layout)
            else:
                fresh._ring = Ring.from_state(self.capacity, rows, layout)
        elif layout is not None:
            fresh._ring = Ring(self.capacity, layout)
        return fresh

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Writes `state_dict()` to <directory>/replay.safetensors, atomically."""
        Path(directory).mkdir(parents=True, exist_ok=True)
        save_state(Path(directory) / _FILE, self.state_dict())

    def load(self, directory: str | os.PathLike[str]) -> None:
        """Reads what `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is damaged, or of another buffer (see `load_state_dict`).
        """
        self.load_state_dict(load_state(Path(directory) / _FILE))


def _integer(name: str, value: object) -> int:
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"ReplayBuffer: {name} must be an integer, got {type(value).__name__}") from None


def _environment(env: object) -> int:
    number = _integer("env", env)
    if number < 0:
        raise ValueError(f"ReplayBuffer: env must be 0 or more, got {number}")
    return number


def _row(mask: Any) -> Any:
    return None if mask is None else np.asarray(mask)[None]


def _lead(tree: Tree) -> Tree:
    return tree_map(lambda leaf: np.asarray(leaf)[None], tree)
