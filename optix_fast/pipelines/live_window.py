"""A live window that is still growing: its number of rows is known when it ends."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from gymnasium import spaces

from optix_fast.pipelines.rows import WindowRows, write
from optix_fast.pipelines.window import add_single_environment_fields
from optix_fast.types import Array, EpisodeData, Tree, tree_map


@dataclass
class LiveRow:
    """An observation, the action it was answered with, and, once the next observation is there, what
    that action earned.

    Args:
        columns: the agent's own, such as log_probs, one entry each.
        mask: the actions that were allowed, if the source said so.
        final_observation: set where terminated or truncated.
        final_mask: the actions that were allowed there, if the source said so.
    """

    observation: Tree
    action: Tree
    columns: dict[str, Array]
    mask: Array | None
    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False
    info: Mapping[str, Any] = field(default_factory=dict)
    final_observation: Tree = None
    final_mask: Any = None

    @property
    def is_over(self) -> bool:
        """Whether it ended an episode."""
        return self.terminated or self.truncated


@dataclass
class LiveWindow:
    """What has come together since the last window.

    Args:
        rows: complete ones.
        returns, lengths: of the episodes that ended.
        began: when the first action was taken (time.monotonic), None before.
        lag: seconds that an observation waited for the agent, at most.
        disconnects: times that the connection was lost within an episode.
    """

    rows: list[LiveRow] = field(default_factory=list)
    returns: list[float] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    began: float | None = None
    lag: float = 0.0
    disconnects: int = 0

    def note_action(self, arrived_at: float) -> None:
        """The agent answers an observation that came at that time."""
        now = time.monotonic()
        self.began = now if self.began is None else self.began
        self.lag = max(self.lag, now - arrived_at)

    def elapsed(self) -> float:
        """Seconds since the first action."""
        return 0.0 if self.began is None else time.monotonic() - self.began

    def cut(self, last_observation: Tree, mask: Any = None) -> None:
        """The connection was lost after `last_observation`, which had that action mask."""
        self.disconnects += 1
        if self.rows and not self.rows[-1].is_over:  # else the lost episode has no row yet
            self.rows[-1].truncated = True
            self.rows[-1].final_observation, self.rows[-1].final_mask = last_observation, mask

    def to_episode_data(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        episode_id: int,
        next_observation: Tree,
        episodic: bool,
        next_mask: Any = None,
    ) -> EpisodeData:
        """The rows as one window [T = len(rows), N = 1]. `next_observation` may be None when the last
        row ended an episode; `next_mask` is its action mask."""
        columns = WindowRows(len(self.rows), 1, observation_space, action_space)
        for t, row in enumerate(self.rows):
            _fill(columns, t, row)
        if next_observation is None:
            next_observation = self.rows[-1].final_observation
        metadata = {
            "episode_returns": self.returns,
            "episode_lengths": self.lengths,
            "episodic": episodic,
            "disconnects": self.disconnects,
            "lag_seconds": self.lag,
        }
        next_observations = tree_map(lambda leaf: np.asarray(leaf)[None], next_observation)
        masks = None if next_mask is None else np.asarray(next_mask, np.bool_)[None]
        data = columns.to_episode_data(
            episode_id, next_observations, metadata, batched_infos=False, next_masks=masks
        )
        add_single_environment_fields(data)
        return data


def _fill(columns: WindowRows, t: int, row: LiveRow) -> None:
    at = (t, 0)
    write(columns.observations, at, row.observation)
    write(columns.actions, at, row.action)
    columns.rewards[at] = row.reward
    columns.terminated[at] = row.terminated
    columns.truncated[at] = row.truncated
    columns.infos.append(row.info)
    for name, value in row.columns.items():
        columns.column(name, value.shape, value.dtype)[at] = value
    if row.mask is not None:
        if columns.action_masks is None:
            columns.action_masks = np.ones((columns.n_steps, 1, *row.mask.shape), np.bool_)
        columns.action_masks[at] = row.mask
    if row.is_over:
        columns.add_final(t, 0, row.final_observation, row.final_mask)


def space_like(value: Tree) -> spaces.Space[Any]:
    """A space that `value` is an element of, for a source that does not tell its own: unbounded, with the
    integers of an integer array, else floats.

    Raises:
        TypeError: a leaf is not a number or an array of numbers.
    """
    if isinstance(value, Mapping):
        return spaces.Dict({key: space_like(part) for key, part in value.items()})
    if isinstance(value, tuple):
        return spaces.Tuple([space_like(part) for part in value])
    array = np.asarray(value)
    if array.dtype.kind == "b":
        return spaces.MultiBinary(array.shape)
    if array.dtype.kind not in "iuf":
        raise TypeError(f"must be numbers or arrays of numbers, got {value!r}")
    if array.dtype.kind in "iu" and isinstance(value, np.ndarray | np.generic):
        limits = np.iinfo(array.dtype)
        return spaces.Box(limits.min, limits.max, array.shape, array.dtype.type)
    return spaces.Box(-np.inf, np.inf, array.shape, np.float32)
