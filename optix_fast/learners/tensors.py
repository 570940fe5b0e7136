"""Tensors from what pipelines hand over, and what networks make of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from optix_fast.types import Array, Tree, tree_map


def to_tensors(tree: Tree, device: torch.device) -> Tree:
    """A batch of observations as tensors: floats and images as float32, integers as int64."""

    def leaf(array: Any) -> Tensor:
        tensor = torch.as_tensor(array, device=device)
        if tensor.dtype == torch.uint8 or tensor.is_floating_point():
            return tensor.float()
        return tensor.long()

    return tree_map(leaf, tree)


def to_numpy(leaf: Any) -> Array:
    """A tensor, array, list or number as an array."""
    return leaf.detach().cpu().numpy() if isinstance(leaf, Tensor) else np.asarray(leaf)


def outputs_of(module: nn.Module, observations: Tree) -> Any:
    """module(observations), floats in the dtype of the module's own parameters."""
    own = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)
    return module(tree_map(lambda leaf: leaf.to(own) if leaf.is_floating_point() else leaf, observations))


def unique_parameters(modules: Iterable[nn.Module]) -> list[nn.Parameter]:
    """The trainable parameters of the modules, each once, however much they share."""
    seen: dict[int, nn.Parameter] = {}
    for module in modules:
        for parameter in module.parameters():
            if parameter.requires_grad:
                seen.setdefault(id(parameter), parameter)
    return list(seen.values())


def module_state(module: nn.Module) -> dict[str, Tensor]:
    """A copy of module.state_dict()."""
    return {key: value.detach().clone() for key, value in module.state_dict().items()}


def explained_variance(values: Tensor, returns: Tensor) -> float:
    """1 − Var(returns − values) / Var(returns); NaN where the returns do not vary."""
    variance = float(returns.var(correction=0))
    if variance < 1e-8:
        return math.nan
    return 1.0 - float((returns - values).var(correction=0)) / variance


def check_matches(module: nn.Module, tensors: Mapping[str, Tensor], name: str) -> None:
    """Raise unless the tensors fit the module.

    Raises:
        RuntimeError: names the missing, surplus and differently shaped keys.
    """
    own = module.state_dict()
    wrong = [f"missing {key}" for key in own if key not in tensors]
    wrong += [f"unexpected {key}" for key in tensors if key not in own]
    wrong += [
        f"{key} has shape {list(tensors[key].shape)}, not {list(own[key].shape)}"
        for key in own
        if key in tensors and tensors[key].shape != own[key].shape
    ]
    if wrong:
        raise RuntimeError(f"the saved {name} is of another architecture: {'; '.join(wrong)}")
