"""The one reader of action masks: what an environment allows, from its info or its observation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from optix_fast.types import Array, Tree


def mask_of(observation: Tree, info: Mapping[str, Any]) -> Any:
    """The action mask that came with an observation: `info["action_mask"]`, else the key `action_mask` of a
    Dict observation; None where there is neither."""
    mask = info.get("action_mask")
    if mask is not None:
        return mask
    return observation.get("action_mask") if isinstance(observation, Mapping) else None


def masks_of(observations: Tree, info: Mapping[str, Any], n_envs: int) -> Array | None:
    """The masks [N, K] of a vector environment's N observations; None where no environment gave one.

    An environment that gave none, while others did, allows every action.
    """
    mask = mask_of(observations, info)
    if mask is None:
        return None
    told = info.get("_action_mask") if info.get("action_mask") is not None else None
    if told is None:
        return np.array(mask, np.bool_)
    known = [np.asarray(mask[i], np.bool_) for i in np.flatnonzero(told)]
    masks = np.ones((n_envs, *known[0].shape), np.bool_)
    masks[told] = known
    return masks


def check_masks(masks: Array, action_space: spaces.Space[Any], environment: str) -> None:
    """Raise ValueError unless masks [N, K] have an entry for each action of a discrete space: n of a
    Discrete, sum(nvec) of a MultiDiscrete, two for each bit of a MultiBinary."""
    if isinstance(action_space, spaces.Discrete):
        width = int(action_space.n)
    elif isinstance(action_space, spaces.MultiDiscrete):
        width = int(action_space.nvec.sum())
    elif isinstance(action_space, spaces.MultiBinary):
        width = 2 * int(np.prod(action_space.shape))
    else:
        return
    if masks.shape[1:] != (width,):
        raise ValueError(
            f"environment {environment}: action_mask must have {width} entries, "
            f"got shape {list(masks.shape[1:])}"
        )
