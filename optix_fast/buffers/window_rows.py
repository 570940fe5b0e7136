"""From a window of experience to the rows that a replay buffer stores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from optix_fast.buffers.ring import BEGINS, GOES_ON, IF_SAME, Masks
from optix_fast.types import Array, EpisodeData, Tree, tree_leaves, tree_map


class WindowRows(NamedTuple):
    """n rows of a window, step-major, and where the observation after each of them is."""

    n: int
    observations: Tree  # [n, …]
    envs: npt.NDArray[np.int64]
    next_index: npt.NDArray[np.int64]  # that row of observations, or ~that of others
    others: Tree  # [n_others, …]
    n_others: int
    rewards: Array
    terminated: Array
    truncated: Array
    joins: npt.NDArray[np.uint8]  # how a row relates to its environment's previous one, see buffers.ring
    masks: Masks | None  # of observations and others; None: every action is allowed
    kept: npt.NDArray[np.int64] | None  # which rows of the window; None: all


def rows_of_window(window: EpisodeData) -> WindowRows:
    """The rows of which it is known what followed them.

    Raises:
        ValueError: the fields do not fit together, or a mask allows no action.
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
    next_index = row_at[position + n_envs]
    done = terminated | truncated
    ends_done = n_rows > 0 and bool(done[-1])
    others, other_masks, n_finals, n_others = _others(window, observations, ends_done)
    if n_others > n_finals:
        last = position >= (n_steps - 1) * n_envs
        next_index[last] = ~(n_finals + position[last] % n_envs)
        known = (next_index >= 0) | last
    else:
        known = next_index >= 0
    final_at = np.full(n_steps * n_envs, -1)
    if n_finals:
        final_at[window.final_rows] = np.arange(n_finals)
    if ends_done and n_envs == 1 and window.final_obs is not None and final_at[position[-1]] < 0:
        final_at[position[-1]] = n_finals  # a hand-made window's: see _others
    final = final_at[position[done]]
    # What follows a terminated row is never looked at: where it is not known, its own observation stands in.
    next_index[done] = np.where(final >= 0, ~final, np.flatnonzero(done))
    known[done] = (final >= 0) | terminated[done]
    joins = np.full(n_rows, GOES_ON, np.uint8)
    # What came between two windows (a reset after an error, a resumed run) only the observations tell.
    joins[position < n_envs] = IF_SAME
    masks = complete_masks(
        _mask_of(window.action_masks, observations), other_masks, n_rows, n_others, next_index, terminated
    )
    rows = WindowRows(
        n_rows,
        observations,
        position % n_envs,
        next_index,
        others,
        n_others,
        rewards,
        terminated,
        truncated,
        joins,
        masks,
        None,
    )
    return (
        rows
        if known.all()
        else _only(rows, np.flatnonzero(known), np.where(position < n_envs, -1, row_at[position - n_envs]))
    )


def _others(
    window: EpisodeData, observations: Tree, ends_done: bool
) -> tuple[Tree, list[tuple[Any, int]], int, int]:
    """Final observations, then what each environment shows last, where these are known; their masks, part by
    part with the number of rows; how many of the first, and in all.

    Where the last row of a hand-made window of one environment ends an episode, `final_obs` is what it shows.
    """
    parts, masks, n_finals = [], [], 0
    if window.final_rows is not None and len(window.final_rows):
        parts.append(window.final_observations)
        n_finals = len(window.final_rows)
        masks.append((_mask_of(window.final_action_masks, window.final_observations), n_finals))
    shown = window.next_observations
    if window.final_obs is not None and window.n_envs == 1 and (shown is None or ends_done):
        shown = tree_map(lambda leaf: np.asarray(leaf)[None], window.final_obs)
    if shown is not None:
        parts.append(shown)
        masks.append((_mask_of(window.next_action_masks, shown), len(tree_leaves(shown)[0])))
    if not parts:
        return tree_map(lambda leaf: leaf[:0], observations), [], 0, 0
    others = tree_map(lambda *leaves: np.concatenate(leaves), *parts) if len(parts) > 1 else parts[0]
    others = tree_map(np.asarray, others)
    return others, masks, n_finals, len(tree_leaves(others)[0])


def _mask_of(given: Any, observations: Tree) -> Any:
    """Masks that come with observations: the window's own, or the key `action_mask` of a Dict observation."""
    if given is None and isinstance(observations, Mapping):
        return observations.get("action_mask")
    return given


def complete_masks(
    own: Any,
    others: Sequence[tuple[Any, int]],
    n: int,
    n_others: int,
    next_index: npt.NDArray[np.int64],
    terminated: Array,
) -> Masks | None:
    """Masks of n observations and of what follows them, from those that are known; None where none is.

    Every action is allowed where a mask is missing, and where nothing follows because the episode terminated.

    Args:
        own: [n, K] or None.
        others: parts with their numbers of rows, n_others in all; each [m, K] or None.
        next_index: see WindowRows.

    Raises:
        ValueError: a mask allows no action, or has another number of them than the others.
    """
    given = [np.asarray(part) for part in (own, *(part for part, _ in others)) if part is not None]
    if not given:
        return None
    widths = {part.shape[1:] for part in given}
    if len(widths) > 1 or given[0].ndim != 2:
        raise ValueError(
            f"ReplayBuffer: action masks must be [N, K] with one K, got rows of {sorted(widths)}"
        )
    shape = given[0].shape[1:]

    def complete(part: Any, rows: int) -> Array:
        return np.ones((rows, *shape), np.bool_) if part is None else np.array(part, np.bool_)

    mine = complete(own, n)
    after = [complete(part, rows) for part, rows in others] or [np.ones((n_others, *shape), np.bool_)]
    theirs = np.concatenate(after)
    beside = next_index < 0
    theirs[~next_index[beside & terminated]] = True
    if not mine.any(axis=1).all():
        raise ValueError(f"ReplayBuffer: action_masks: row {_first_without(mine)} allows no action")
    looked_at = np.flatnonzero(beside)
    if not theirs[~next_index[looked_at]].any(axis=1).all():
        at = looked_at[_first_without(theirs[~next_index[looked_at]])]
        raise ValueError(f"ReplayBuffer: action_masks: the mask after row {at} allows no action")
    return mine, theirs


def _first_without(masks: Array) -> int:
    return int(np.flatnonzero(~masks.any(axis=1))[0])


def _only(rows: WindowRows, kept: npt.NDArray[np.int64], before: npt.NDArray[np.int64]) -> WindowRows:
    """The kept ones; what follows them may be the observation of one that is not.

    Args:
        before: the environment's previous row, −1 where there is none, of each row.
    """
    others = tree_map(lambda *leaves: np.concatenate(leaves), rows.others, rows.observations)
    next_index = np.where(rows.next_index >= 0, ~(rows.n_others + rows.next_index), rows.next_index)

    follows_kept = np.isin(before, kept) | (rows.joins == IF_SAME)
    joins = np.where(follows_kept, rows.joins, BEGINS).astype(np.uint8)
    masks = rows.masks
    if masks is not None:
        masks = masks[0][kept], np.concatenate((masks[1], masks[0]))

    def pick(leaf: Any) -> Any:
        return leaf[kept]

    return WindowRows(
        len(kept),
        tree_map(pick, rows.observations),
        rows.envs[kept],
        next_index[kept],
        others,
        rows.n_others + rows.n,
        rows.rewards[kept],
        rows.terminated[kept],
        rows.truncated[kept],
        joins[kept],
        masks,
        kept,
    )
