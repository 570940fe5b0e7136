"""From observations of any supported space to one flat feature vector."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from optix_fast.networks.flat_layout import FlatLayout
from optix_fast.networks.plan import Plan, Value


class ObservationEncoder(nn.Module):
    """Flattens a batch of observations to [B, features]: Box values as they are (uint8 scaled to
    [0, 1]), discrete values one-hot, Dict (in key order) and Tuple parts side by side. The Dict key
    `action_mask` is not a feature.

    Args:
        space: of one observation.

    Raises:
        TypeError: a space other than Box, Discrete, MultiDiscrete, MultiBinary, Dict, Tuple.
    """

    def __init__(self, space: spaces.Space[Any]) -> None:
        super().__init__()
        self.space = space
        self.features = _features(space)

    def forward(self, observations: Any) -> Tensor:
        return torch.cat(_encode(self.space, observations), dim=-1)

    def native_plan(self, plan: Plan, x: Value) -> Value:
        """The same, for the compiled core."""
        layout = FlatLayout.of(self.space)
        return encode_flat(plan, plan.flattened(x, layout), layout)


def encode_flat(plan: Plan, x: Value, layout: FlatLayout) -> Value:
    """What ObservationEncoder makes of rows of a layout, which are the first columns of x."""
    runs: list[tuple[int, int]] = []  # of numbers that lie side by side: first column and end
    parts: list[Value] = []

    def end_run() -> None:
        if runs:
            first, end = runs.pop()
            parts.append(x if end - first == x.width else plan.columns(x, first, end - first))

    for leaf in layout.leaves:
        if not leaf.sizes:
            first = runs.pop()[0] if runs else leaf.first
            runs.append((first, leaf.first + leaf.width))
            continue
        end_run()
        for i, (n, start) in enumerate(zip(leaf.sizes, leaf.starts, strict=True)):
            parts.append(plan.one_hot(x, leaf.first + i, n, start))
    end_run()
    return plan.concatenate(*parts)


def needs_encoder(space: spaces.Space[Any]) -> bool:
    """False for the spaces whose batches already are [B, features] floats."""
    return not (
        isinstance(space, spaces.Box) and len(space.shape) == 1 and np.issubdtype(space.dtype, np.floating)
    )


def _features(space: spaces.Space[Any]) -> int:
    if isinstance(space, spaces.Box | spaces.MultiBinary):
        return math.prod(space.shape)
    if isinstance(space, spaces.Discrete):
        return int(space.n)
    if isinstance(space, spaces.MultiDiscrete):
        return int(space.nvec.sum())
    if isinstance(space, spaces.Dict):
        return sum(_features(sub) for key, sub in space.spaces.items() if key != "action_mask")
    if isinstance(space, spaces.Tuple):
        return sum(_features(sub) for sub in space.spaces)
    raise TypeError(
        "observation space must be built from Box, Discrete, MultiDiscrete, MultiBinary, Dict and "
        f"Tuple, got {type(space).__name__}"
    )


def _encode(space: spaces.Space[Any], batch: Any) -> list[Tensor]:
    if isinstance(space, spaces.Dict):
        return [
            part
            for key, sub in space.spaces.items()
            if key != "action_mask"
            for part in _encode(sub, batch[key])
        ]
    if isinstance(space, spaces.Tuple):
        return [part for sub, x in zip(space.spaces, batch, strict=True) for part in _encode(sub, x)]
    if isinstance(space, spaces.Discrete):
        return [_one_hot(batch.long() - int(space.start), int(space.n))]
    if isinstance(space, spaces.MultiDiscrete):
        flat = batch.long().reshape(len(batch), -1)
        return [
            _one_hot(flat[:, i] - int(start), int(n))
            for i, (n, start) in enumerate(zip(space.nvec.reshape(-1), space.start.reshape(-1), strict=True))
        ]
    flat = batch.float().reshape(len(batch), -1)
    return [flat / 255.0 if space.dtype == "uint8" else flat]


def _one_hot(index: Tensor, n: int) -> Tensor:
    return nn.functional.one_hot(index, n).float()


class EncodedCritic(nn.Module):
    """The value of an observation and an action, where the observation passes an encoder first.

    Args:
        encoder: observations → [B, F].
        layers: [B, F + A] → [B, 1].
        action_dim: A.
    """

    def __init__(self, encoder: ObservationEncoder, layers: nn.Module, action_dim: int) -> None:
        super().__init__()
        self.encoder, self.layers, self.action_dim = encoder, layers, action_dim

    def forward(self, observations: Any, actions: Tensor | None = None) -> Tensor:
        """Values [B, 1]. Without actions, they are the last columns of the observations."""
        if actions is None:
            observations, actions = observations.split(
                [observations.shape[1] - self.action_dim, self.action_dim], dim=1
            )
        values: Tensor = self.layers(torch.cat((self.encoder(observations), actions), dim=-1))
        return values

    def native_plan(self, plan: Plan, x: Value) -> Value:
        """The same, for the compiled core, of observation ‖ action."""
        layout = FlatLayout.of(self.encoder.space)
        x = plan.flattened(x, layout, self.action_dim)
        actions = plan.columns(x, layout.features, self.action_dim)
        return plan(self.layers, plan.concatenate(encode_flat(plan, x, layout), actions))
