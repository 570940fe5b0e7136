"""The actions of a window as updates read them."""

from __future__ import annotations

from typing import Any

import numpy as np

from optix_fast.networks.heads import CategoricalHead, GreedyHead, SquashedHead
from optix_fast.types import Array, EpisodeData


def raw_actions(head: CategoricalHead | GreedyHead | SquashedHead, window: EpisodeData) -> Array:
    """The actions of a window for off-policy updates: int64 [R], or float32 [R, A] within (−1, 1).

    Raises:
        ValueError: the window is empty, or has other actions than the policy.
    """
    if window.length == 0:
        raise ValueError("episode_data must hold at least one row")
    if isinstance(head, CategoricalHead):
        assert head.n_actions is not None
        return action_indices(head, window.actions, window.length, head.n_actions)
    return head.raw_of(window.actions)


def action_indices(head: CategoricalHead, actions: Any, n_rows: int, n_actions: int) -> Array:
    """Which of the network's outputs the actions of a window are, int64 [n_rows].

    Raises:
        ValueError: not so many integers, or none of the network's.
    """
    given = np.asarray(actions)
    if given.shape != (n_rows,) or given.dtype.kind not in "iu":
        raise ValueError(
            f"episode_data.actions must be integers [{n_rows}], got {given.dtype} {list(given.shape)}"
        )
    index = head.raw_of(given)
    if index.min() < 0 or index.max() >= n_actions:
        raise ValueError(
            f"episode_data.actions must be among the model's {n_actions}, "
            f"got {int(given.min())} to {int(given.max())}"
        )
    return index
