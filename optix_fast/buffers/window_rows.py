"""From a window of experience to the rows that a replay buffer stores."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from optix_fast.types import Array, EpisodeData, Tree, tree_leaves, tree_map


class WindowRows(NamedTuple):
    """n rows of a window, step-major, and where the observation after each of them is."""

    n: int
    observations: Tree  # [n, …]
    envs: npt.NDArray[np.int64]
    following: npt.NDArray[np.int64]  # that row of observations, or ~that of others
    others: Tree  # [n_others, …]
    n_others: int
    rewards: Array
    terminated: Array
    truncated: Array
    kept: npt.NDArray[np.int64] | None  # which rows of the window; None: all


def rows_of_window(window: EpisodeData) -> WindowRows:
    """The rows of which it is known what followed them.

    Raises:
        ValueError: the fields do not fit together.
    """
    n_steps, n_envs, n_rows = window.n_steps, window.n_envs, window.length
    valid = np.ones((n_steps, n_envs), np.bool_) if window.valid is None else window.valid
    observations = tree_map(np.asarray, window.observations)
    rewards = np.asarray(window.rewards)
    terminated, truncated = np.asarray(window.terminated, np.bool_), np.asarray(window.truncated, np.bool_)
    for name, leaf in (
        *(("observations", leaf) for leaf in tree_leaves(observations)),
        ("rewards", rewards),
        ("terminated", terminated),
        ("truncated", truncated),
    ):
        if len(leaf) != int(valid.sum()):
            raise ValueError(
                f"ReplayBuffer: the window's {name} must have {int(valid.sum())} rows, got {len(leaf)}"
            )
    position = np.flatnonzero(valid)  # t·N + n of each row
    row_at = np.full((n_steps + 1) * n_envs, -1)
    row_at[position] = np.arange(n_rows)
    following = row_at[position + n_envs]
    others, n_finals, n_others = _others(window, observations)
    done = terminated | truncated
    if n_others > n_finals:
        last = position >= (n_steps - 1) * n_envs
        following[last] = ~(n_finals + position[last] % n_envs)
        known = (following >= 0) | last
    else:
        known = following >= 0
    final_at = np.full(n_steps * n_envs, -1)
    if n_finals:
        final_at[window.final_rows] = np.arange(n_finals)
    final = final_at[position[done]]
    # What follows a terminated row is never looked at: where it is not known, its own observation stands in.
    following[done] = np.where(final >= 0, ~final, np.flatnonzero(done))
    known[done] = (final >= 0) | terminated[done]
    rows = WindowRows(
        n_rows,
        observations,
        position % n_envs,
        following,
        others,
        n_others,
        rewards,
        terminated,
        truncated,
        None,
    )
    return rows if known.all() else _only(rows, np.flatnonzero(known))


def _others(window: EpisodeData, observations: Tree) -> tuple[Tree, int, int]:
    """Final observations, then what each environment shows last; how many of the first, and in all."""
    parts, n_finals = [], 0
    if window.final_rows is not None and len(window.final_rows):
        parts.append(window.final_observations)
        n_finals = len(window.final_rows)
    shown = window.next_observations
    if shown is None and window.final_obs is not None:
        shown = tree_map(lambda leaf: np.asarray(leaf)[None], window.final_obs)
    if shown is not None:
        parts.append(shown)
    if not parts:
        return tree_map(lambda leaf: leaf[:0], observations), 0, 0
    others = tree_map(lambda *leaves: np.concatenate(leaves), *parts) if len(parts) > 1 else parts[0]
    others = tree_map(np.asarray, others)
    return others, n_finals, len(tree_leaves(others)[0])


def _only(rows: WindowRows, kept: npt.NDArray[np.int64]) -> WindowRows:
    """The kept ones; what follows them may be the observation of one that is not."""
    others = tree_map(lambda *leaves: np.concatenate(leaves), rows.others, rows.observations)
    following = np.where(rows.following >= 0, ~(rows.n_others + rows.following), rows.following)

    def pick(leaf: Any) -> Any:
        return leaf[kept]

    return WindowRows(
        len(kept),
        tree_map(pick, rows.observations),
        rows.envs[kept],
        following[kept],
        others,
        rows.n_others + rows.n,
        rows.rewards[kept],
        rows.terminated[kept],
        rows.truncated[kept],
        kept,
    )
