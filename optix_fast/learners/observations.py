"""Observations as an agent's networks read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from torch import nn

from optix_fast.types import Array, Tree


def fit_observations(observations: Tree, space: Any, network: nn.Module) -> Tree:
    """A batch of observations for the agent, checked; integers as float32 where floats are read.

    Args:
        observations: [N, …], or a tree of such arrays.
        space: of one observation; None where the agent does not know it, and then the network's first layer
            decides.
        network: what reads them.

    Raises:
        ValueError: another shape, or a part is missing. TypeError: another kind of thing.
    """
    if space is not None:
        return _fit(observations, space, "observation")
    width = _width(network)
    if width is None or isinstance(observations, Mapping | tuple):
        return observations
    array = np.asarray(observations)
    if array.shape[-1:] != (width,):
        raise _shape_error("observation", (width,), array)
    return array if array.dtype.kind == "f" else array.astype(np.float32)


def _fit(batch: Tree, space: Any, name: str) -> Tree:
    if isinstance(space, spaces.Dict):
        if not isinstance(batch, Mapping):
            raise TypeError(f"{name} must be a dict of {', '.join(space.spaces)}, got {_said(batch)}")
        missing = [key for key in space.spaces if key not in batch and key != "action_mask"]
        if missing:
            raise ValueError(f"{name} must hold {', '.join(map(repr, missing))}; it has {', '.join(batch)}")
        known = space.spaces
        return {k: _fit(v, known[k], f"{name}[{k!r}]") if k in known else v for k, v in batch.items()}
    if isinstance(space, spaces.Tuple):
        if not isinstance(batch, tuple) or len(batch) != len(space.spaces):
            raise TypeError(f"{name} must be a tuple of {len(space.spaces)} parts, got {_said(batch)}")
        parts = zip(batch, space.spaces, strict=True)
        return tuple(_fit(part, sub, f"{name}[{i}]") for i, (part, sub) in enumerate(parts))
    if space.shape is None:
        return batch
    if isinstance(batch, Mapping | tuple):
        raise TypeError(f"{name} must be one array, got {_said(batch)}")
    array = np.asarray(batch)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name} must be numbers, got {array.dtype}")
    if array.shape[1:] != space.shape:
        raise _shape_error(name, space.shape, array)
    is_float = array.dtype.kind == "f" or np.dtype(space.dtype).kind != "f"
    return array if is_float else array.astype(np.float32)


def _shape_error(name: str, shape: tuple[int, ...], batch: Array) -> ValueError:
    many = ", ".join(map(str, ("N", *shape)))
    return ValueError(
        f"{name} must have shape {list(shape)}, or [{many}] in a batch, got {list(batch.shape[1:])}"
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
