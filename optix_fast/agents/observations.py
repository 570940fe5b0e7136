"""Whether observations are what an agent's networks read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from torch import nn

from optix_fast.types import Tree


def check_observations(observations: Tree, space: Any, network: nn.Module) -> None:
    """Raise ValueError or TypeError unless this is a batch of observations for the agent.

    Args:
        observations: [N, …], or a tree of such arrays.
        space: of one observation; None where nobody has told the agent, and then the network's first layer
            decides.
        network: what reads them.
    """
    if space is None:
        width = _width(network)
        shape = np.shape(observations) if not isinstance(observations, Mapping | tuple) else None
        if width is not None and shape is not None and shape[-1:] != (width,):
            raise ValueError(
                f"observation must have shape [{width}], or [N, {width}] in a batch, got {list(shape[1:])}"
            )
        return
    _check(observations, space, "observation")


def _check(batch: Tree, space: Any, name: str) -> None:
    if isinstance(space, spaces.Dict):
        if not isinstance(batch, Mapping):
            raise TypeError(f"{name} must be a dict of {', '.join(space.spaces)}, got {_said(batch)}")
        missing = [key for key in space.spaces if key not in batch and key != "action_mask"]
        if missing:
            raise ValueError(f"{name} must hold {', '.join(map(repr, missing))}; it has {', '.join(batch)}")
        for key, sub in space.spaces.items():
            if key in batch:
                _check(batch[key], sub, f"{name}[{key!r}]")
    elif isinstance(space, spaces.Tuple):
        if not isinstance(batch, tuple) or len(batch) != len(space.spaces):
            raise TypeError(f"{name} must be a tuple of {len(space.spaces)} parts, got {_said(batch)}")
        for i, sub in enumerate(space.spaces):
            _check(batch[i], sub, f"{name}[{i}]")
    elif space.shape is not None:
        if isinstance(batch, Mapping | tuple):
            raise TypeError(f"{name} must be one array, got {_said(batch)}")
        array = np.asarray(batch)
        if array.dtype.kind not in "biuf":
            raise TypeError(f"{name} must be numbers, got {array.dtype}")
        if array.shape[1:] != space.shape:
            raise ValueError(
                f"{name} must have shape {list(space.shape)}, with or without a batch axis in front as the "
                f"method wants it; got {list(array.shape[1:])}"
            )


def has_batch_axis(observation: Tree, space: Any, network: nn.Module) -> bool:
    """Whether these are N observations and not one."""
    if isinstance(space, spaces.Dict):
        return any(
            has_batch_axis(observation[key], sub, network)
            for key, sub in space.spaces.items()
            if isinstance(observation, Mapping) and key in observation
        )
    if isinstance(space, spaces.Tuple) and isinstance(observation, tuple):
        pairs = zip(observation, space.spaces, strict=False)
        return any(has_batch_axis(part, sub, network) for part, sub in pairs)
    dimensions = np.ndim(observation) if not isinstance(observation, Mapping | tuple) else 0
    if space is not None and space.shape is not None:
        return dimensions == len(space.shape) + 1
    return _width(network) is not None and dimensions == 2


def _width(network: nn.Module) -> int | None:
    """Features that the network's first layer reads, where that is a Linear of a Sequential."""
    while isinstance(network, nn.Sequential) and len(network):
        network = network[0]
    return network.in_features if isinstance(network, nn.Linear) else None


def _said(value: Any) -> str:
    kind = type(value).__name__
    return f"a {kind} of shape {list(value.shape)}" if hasattr(value, "shape") else f"a {kind}"
