"""Target networks: copies that lag behind the networks that are trained."""

from __future__ import annotations

import copy
import operator
from collections.abc import Iterable
from typing import Any

from torch import nn


def target_of(network: nn.Module) -> nn.Module:
    """A copy that nothing trains."""
    return copy.deepcopy(network).requires_grad_(False)


def renewed(target: nn.Module, network: nn.Module) -> nn.Module:
    """The target, or a new one where it no longer consists of the same layers as the network."""
    shapes, own = ([t.shape for t in net.state_dict().values()] for net in (target, network))
    return target if shapes == own and str(target) == str(network) else target_of(network)


class LayerWatch:
    """Tells whether a user has given networks other layers or parameters since it was asked last."""

    def __init__(self) -> None:
        self._seen: list[Any] = []

    def changed(self, networks: Iterable[nn.Module]) -> bool:
        """True at the first time, too."""
        modules = (module for network in networks for module in network.modules())
        found = [part for module in modules for part in (module, *module._parameters.values())]
        same = len(found) == len(self._seen) and all(map(operator.is_, found, self._seen))
        self._seen = found
        return not same
