"""The card in a weight file: what the weights belong to, so that nothing else loads them by mistake.

JSON in the metadata of every network's safetensors file.
"""

from __future__ import annotations

import json
import secrets
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from safetensors import safe_open
from torch import nn

from optix_fast import optimizers
from optix_fast.networks.batch_renorm import BatchRenorm
from optix_fast.networks.dueling import DuelingQNetwork
from optix_fast.networks.encoders import EncodedCritic, ObservationEncoder
from optix_fast.networks.residual import Residual

Card = dict[str, Any]

_KEY = "optix_fast"
_SAVE = "optix_fast.save"
# Layers and the attributes that their constructors take.
LAYERS: dict[str, tuple[type[nn.Module], tuple[str, ...]]] = {
    kind.__name__: (kind, arguments)
    for kind, arguments in (
        (nn.Linear, ("in_features", "out_features", "bias")),
        *((kind, ()) for kind in (nn.Identity, nn.Tanh, nn.ReLU, nn.SiLU, nn.Sigmoid, nn.Mish, nn.SELU)),
        *((kind, ()) for kind in (nn.ReLU6, nn.Hardsigmoid, nn.Hardswish, nn.Softsign, nn.LogSigmoid)),
        (nn.LeakyReLU, ("negative_slope",)),
        (nn.ELU, ("alpha",)),
        (nn.CELU, ("alpha",)),
        (nn.PReLU, ("num_parameters",)),
        (nn.Hardtanh, ("min_val", "max_val")),
        (nn.GELU, ("approximate",)),
        (nn.Softplus, ("beta", "threshold")),
        (nn.Flatten, ("start_dim", "end_dim")),
        (nn.Dropout, ("p",)),
        (nn.LayerNorm, ("normalized_shape", "eps", "elementwise_affine", "bias")),
        (nn.RMSNorm, ("normalized_shape", "eps", "elementwise_affine")),
        (nn.BatchNorm1d, ("num_features", "eps", "momentum", "affine", "track_running_stats")),
        (BatchRenorm, ("features", "momentum", "eps", "warmup_steps", "r_max", "d_max", "affine")),
        (nn.Conv1d, ("in_channels", "out_channels", "kernel_size", "stride", "padding", "bias")),
        (nn.Conv2d, ("in_channels", "out_channels", "kernel_size", "stride", "padding", "bias")),
        (nn.MaxPool2d, ("kernel_size", "stride", "padding")),
    )
}
# Modules that are their children, and the attributes that they have besides.
CONTAINERS: dict[str, tuple[type[nn.Module], tuple[str, ...]]] = {
    "Sequential": (nn.Sequential, ()),
    "ModuleList": (nn.ModuleList, ()),
    "DuelingQNetwork": (DuelingQNetwork, ()),
    "EncodedCritic": (EncodedCritic, ("action_dim",)),
    "Residual": (Residual, ()),
}
# What changes nothing in the meaning of weights.
_FREE = ("p",)


def write(card: Card) -> dict[str, str]:
    """The card as a file's metadata. Infinities, which standard JSON does not have, are Python's."""
    return {_KEY: json.dumps(card)}


def mark_of_a_save() -> dict[str, str]:
    """Metadata that all files of one save share, and no others."""
    return {_SAVE: secrets.token_hex(8)}


def mark_in(path: Path) -> str | None:
    """What marks the save that a file comes from; empty where an older version wrote it, or a file of another
    kind in its place; None where the file is damaged."""
    metadata = _metadata_of(path) if path.exists() else {}
    return None if metadata is None else metadata.get(_SAVE, "")


def read(directory: str, names: Iterable[str] | None = None) -> Card | None:
    """The card of a weight directory; None where an older version wrote it.

    Args:
        names: of the files to look at; None: all.

    Raises:
        ValueError: the files are those of several algorithms.
    """
    folder = Path(directory)
    files = (
        sorted(folder.glob("*.safetensors"))
        if names is None
        else [folder / f"{n}.safetensors" for n in names]
    )
    found = {card["algorithm"]: card for path in reversed(files) if (card := _card_in(path)) is not None}
    if len(found) > 1:
        raise ValueError(
            f"{directory} holds the files of several agents ({', '.join(sorted(found))}); keep those of one"
        )
    return next(iter(found.values()), None)


def _card_in(path: Path) -> Card | None:
    text = (_metadata_of(path) or {}).get(_KEY)
    try:
        card: Card | None = None if text is None else json.loads(text)
        return card
    except ValueError:
        return None


def _metadata_of(path: Path) -> dict[str, str] | None:
    try:
        with safe_open(str(path), framework="np") as file:
            return file.metadata() or {}
    except Exception:
        # A missing or damaged file is named by whoever reads its tensors.
        return None


# --- networks -----------------------------------------------------------------------------------


def of_module(module: nn.Module) -> Card:
    """What a network is made of; of a class that is not known here, its name and its children."""
    kind = type(module).__name__
    card: Card = {"type": kind}
    if isinstance(module, ObservationEncoder):
        card["space"] = of_space(module.space)
    elif kind in LAYERS and type(module) is LAYERS[kind][0]:
        values = {name: getattr(module, name) for name in LAYERS[kind][1]}
        card |= {k: v is not None if k == "bias" else v for k, v in values.items()}
    else:
        known = kind in CONTAINERS and type(module) is CONTAINERS[kind][0]
        card |= {name: getattr(module, name) for name in CONTAINERS[kind][1]} if known else {"custom": True}
        card["children"] = {name: of_module(child) for name, child in module.named_children()}
    return card


def unknown_in(card: Card, where: str) -> str:
    """The first part of a described network that its card cannot rebuild; empty where it can."""
    if card.get("custom") or card.get("space", 0) is None:
        return f"{where} ({card['type']})"
    inner = (unknown_in(child, f"{where}.{name}") for name, child in card.get("children", {}).items())
    return next((found for found in inner if found), "")


def differences_of(saved: Card, own: Card, where: str) -> list[str]:
    """How two networks differ whose tensors fit each other."""
    if saved.get("custom") or own.get("custom"):
        pairs = saved.get("children", {}), own.get("children", {})
        shared = [name for name in pairs[0] if name in pairs[1]]
        return [d for n in shared for d in differences_of(pairs[0][n], pairs[1][n], f"{where}.{n}")]
    if saved["type"] != own["type"]:
        return [f"{where} is {saved['type']} in the file, {own['type']} here"]
    ours, theirs = own.get("children", {}), saved.get("children", {})
    found = [
        f"{where}: {key} is {saved.get(key)!r} in the file, {own.get(key)!r} here"
        for key in {**saved, **own}
        if key not in ("type", "children", *_FREE) and _plain(saved.get(key)) != _plain(own.get(key))
    ]
    if list(ours) != list(theirs):
        return [*found, f"{where} has the layers {list(theirs)} in the file, {list(ours)} here"]
    return found + [d for n in ours for d in differences_of(theirs[n], ours[n], f"{where}.{n}")]


# --- optimizers -----------------------------------------------------------------------------------


def of_optimizer(optimizer: torch.optim.Optimizer, names: Mapping[int, str]) -> Card | None:
    """An optimizer of torch or of this package with its groups; None where it is another one, or trains what
    has no name.

    Args:
        names: of the parameters, by id.
    """
    kind = type(optimizer)
    if optimizer_class(kind.__name__) is not kind:
        return None
    groups = []
    for group in optimizer.param_groups:
        if any(id(p) not in names for p in group["params"]):
            return None
        settings = {k: _number(v) for k, v in group.items() if k not in ("params", "param_names")}
        groups.append({**settings, "params": [names[id(p)] for p in group["params"]]})
    return {"type": kind.__name__, "groups": groups}


def optimizer_class(name: str) -> type[torch.optim.Optimizer] | None:
    """The optimizer of torch, or of this package, with the name."""
    found: type[torch.optim.Optimizer] | None = getattr(torch.optim, name, getattr(optimizers, name, None))
    return found


def plain_values(params: Mapping[str, Any]) -> dict[str, Any]:
    """The values that JSON can hold; numpy's numbers as Python's."""
    values = {key: _number(value) for key, value in params.items()}
    return {k: v for k, v in values.items() if v is None or isinstance(v, bool | int | float | str)}


def _number(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic | torch.Tensor) else value


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


# --- spaces -----------------------------------------------------------------------------------------


def of_space(space: spaces.Space[Any] | None) -> Card | None:
    """A space; None for one that is not known here."""
    if isinstance(space, spaces.Box):
        bounds = {name: _bounds(getattr(space, name)) for name in ("low", "high")}
        return {"type": "Box", "shape": list(space.shape), "dtype": str(space.dtype), **bounds}
    if isinstance(space, spaces.Discrete):
        return {"type": "Discrete", "n": int(space.n), "start": int(space.start)}
    if isinstance(space, spaces.MultiDiscrete):
        return {"type": "MultiDiscrete", "nvec": space.nvec.tolist(), "start": space.start.tolist()}
    if isinstance(space, spaces.MultiBinary):
        return {"type": "MultiBinary", "n": np.asarray(space.n).tolist()}
    parts: Iterable[tuple[str, Any]]
    if isinstance(space, spaces.Dict):
        parts = space.spaces.items()
    elif isinstance(space, spaces.Tuple):
        parts = ((str(i), sub) for i, sub in enumerate(space.spaces))
    else:
        return None
    inner = {name: of_space(sub) for name, sub in parts}
    return None if None in inner.values() else {"type": type(space).__name__, "spaces": inner}


def make_space(card: Card | None) -> spaces.Space[Any] | None:
    """The space that a card describes."""
    if card is None:
        return None
    kind = card["type"]
    if kind == "Box":
        shape, dtype = tuple(card["shape"]), np.dtype(card["dtype"])
        low, high = (_array(card[name], shape, dtype) for name in ("low", "high"))
        return spaces.Box(low, high, shape, dtype.type)
    if kind == "Discrete":
        return spaces.Discrete(card["n"], start=card["start"])
    if kind == "MultiDiscrete":
        return spaces.MultiDiscrete(np.array(card["nvec"]), start=np.array(card["start"]))
    if kind == "MultiBinary":
        return spaces.MultiBinary(card["n"])
    inner = {name: make_space(sub) for name, sub in card["spaces"].items()}
    # A plain dict would be sorted, and networks read the parts in order.
    return spaces.Dict(OrderedDict(inner)) if kind == "Dict" else spaces.Tuple(tuple(inner.values()))  # type: ignore[arg-type]


def without_bounds(card: Card | None) -> Card | None:
    """An observation space as far as networks depend on it: the bounds of Boxes are left out."""
    if card is None:
        return None
    if "spaces" in card:
        return {**card, "spaces": {name: without_bounds(sub) for name, sub in card["spaces"].items()}}
    return {key: value for key, value in card.items() if key not in ("low", "high")}


def _bounds(values: Any) -> Any:
    """One number where all are equal; infinities, which JSON does not have, as text."""
    numbers = [v if np.isfinite(v) else str(v) for v in values.reshape(-1).tolist()]
    return numbers[0] if numbers and all(n == numbers[0] for n in numbers) else numbers


def _array(bounds: Any, shape: tuple[int, ...], dtype: Any) -> Any:
    numbers = [bounds] if not isinstance(bounds, list) else bounds
    array = np.array([float(n) if isinstance(n, str) else n for n in numbers], dtype)
    return np.broadcast_to(array, shape).copy() if array.size == 1 else array.reshape(shape)
