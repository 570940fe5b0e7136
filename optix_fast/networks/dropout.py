"""What Dropout keeps in updates: random numbers of the agent, the same for torch and the core."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from optix_fast import _native
from optix_fast.reference import random as _reference

_random: Any = _native.core if _native.backend() == "native" else _reference
_PASS = 2**32  # blocks of random numbers that one pass may use


class Masks:
    """The masks of all Dropout layers of some networks, during one update.

    Element (i, j) of a layer's pass number k is kept where uniform number i·width + j at (key, k·2³²), see
    RandomStream, is at least p; what is kept is multiplied by 1/(1 − p). The key is seed + n for the n-th
    Dropout of the networks, in the order of their modules. Passes in training mode count, from 0 on.

    Args:
        seed: in [0, 2⁶⁴).
        networks: whose Dropouts are meant, see plain_dropouts.
    """

    def __init__(self, seed: int, networks: Iterable[nn.Module]) -> None:
        found = {id(layer): layer for network in networks for layer in plain_dropouts(network)}
        self._layers = list(found.values())
        self._keys = {id(layer._parameters): (seed + n) % 2**64 for n, layer in enumerate(self._layers)}

    def key_of(self, parameters: Mapping[str, Any] | None) -> int:
        """The key of the layer whose dict of (no) parameters this is."""
        return self._keys[id(parameters)]

    @contextmanager
    def in_torch(self) -> Iterator[None]:
        """The layers' forward draws these masks inside, instead of numbers of torch's global generator."""
        for layer in self._layers:
            layer.__dict__["forward"] = _masked(layer, self.key_of(layer._parameters))
        try:
            yield
        finally:
            for layer in self._layers:
                del layer.__dict__["forward"]


def plain_dropouts(network: nn.Module) -> Iterator[nn.Dropout]:
    """The modules whose class is nn.Dropout itself, with its own forward."""
    for module in network.modules():
        if type(module) is nn.Dropout and "forward" not in module.__dict__:
            yield module


def has_active_dropout(networks: Iterable[nn.Module]) -> bool:
    """Whether an update would draw a mask."""
    return any(layer.training and layer.p > 0.0 for network in networks for layer in plain_dropouts(network))


def mask_of(key: int, number: int, shape: torch.Size, p: float) -> Tensor:
    """What pass `number` multiplies [B, …] by: 0 or 1/(1 − p), float64."""
    uniform = np.empty(shape, np.float32)
    _random.random_uniform(key, number * _PASS, uniform)
    return torch.from_numpy((uniform >= np.float32(p)) / (1.0 - p))


def _masked(layer: nn.Dropout, key: int) -> Callable[[Tensor], Tensor]:
    passes = 0

    def forward(x: Tensor) -> Tensor:
        nonlocal passes
        if not layer.training or layer.p == 0.0:
            return x
        if layer.p >= 1.0:
            return x * 0.0
        passes += 1
        return x * mask_of(key, passes - 1, x.shape, layer.p).to(x)

    return forward
