"""What the torch agents share: device, hyperparameters, optimizer state, weight files."""

from __future__ import annotations

import difflib
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from optix_fast.networks.heads import CategoricalHead
from optix_fast.types import Array, HyperparamSet, Stateful, Tree, tree_map

Config = TypeVar("Config")


def resolve_device(device: str | torch.device) -> torch.device:
    """ "auto" is CUDA where there is one, else the CPU.

    Raises:
        ValueError: not a device, or one that this machine does not have.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"device must be 'auto', 'cpu', 'cuda' or 'cuda:N', got {device!r}") from error
    if resolved.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {device!r} was asked for, but torch sees no CUDA device")
    return resolved


def unknown_keys(params: Mapping[str, Any], config: type[Any]) -> list[str]:
    """One sentence for each key that `config` does not have, naming the nearest one that it has."""
    known = [f.name for f in fields(config)]
    messages = []
    for key in params:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
            messages.append(f"unknown hyperparameter {key!r}; the nearest known one is {near[0]!r}")
    return messages


def check_hyperparams(hyperparams: HyperparamSet, config: type[Any]) -> HyperparamSet:
    """A copy of the set; warns once about keys that the agent does not read.

    Raises:
        TypeError: not a HyperparamSet.
    """
    if not isinstance(hyperparams, HyperparamSet):
        raise TypeError(f"hyperparams must be a HyperparamSet, got {type(hyperparams).__name__}")
    for message in unknown_keys(hyperparams.params, config):
        warnings.warn(message, UserWarning, stacklevel=4)
    return hyperparams.copy()


def read_config(config: type[Config], params: Mapping[str, Any]) -> Config:
    """The config dataclass from a params dict; missing keys take their defaults, unknown ones are
    left out. The dataclass checks its own values."""
    known = {f.name for f in fields(config)}  # type: ignore[arg-type]
    return config(**{key: value for key, value in params.items() if key in known})


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


def unique_parameters(modules: Iterable[nn.Module]) -> list[nn.Parameter]:
    """The trainable parameters of the modules, each once, however much they share."""
    seen: dict[int, nn.Parameter] = {}
    for module in modules:
        for parameter in module.parameters():
            if parameter.requires_grad:
                seen.setdefault(id(parameter), parameter)
    return list(seen.values())


def explained_variance(values: Tensor, returns: Tensor) -> float:
    """1 − Var(returns − values) / Var(returns); NaN where the returns do not vary."""
    variance = float(returns.var(correction=0))
    if variance < 1e-8:
        return math.nan
    return 1.0 - float((returns - values).var(correction=0)) / variance


# --- state --------------------------------------------------------------------------------------


@contextmanager
def restored_on_error(agent: Stateful) -> Iterator[None]:
    """Undo a failed update: whatever it raises, the agent is as it was."""
    before = agent.state_dict()
    try:
        yield
    except BaseException:
        agent.load_state_dict(before)
        raise


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """optimizer.state_dict() with copied tensors and string keys."""
    state = optimizer.state_dict()
    return {
        "state": {
            str(i): {k: v.clone() if isinstance(v, Tensor) else v for k, v in entry.items()}
            for i, entry in state["state"].items()
        },
        "param_groups": [dict(group) for group in state["param_groups"]],
    }


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Restore what `optimizer_state` gave."""
    optimizer.load_state_dict(
        {
            "state": {int(i): dict(entry) for i, entry in state["state"].items()},
            "param_groups": [dict(group) for group in state["param_groups"]],
        }
    )


def module_state(module: nn.Module) -> dict[str, Tensor]:
    """A copy of module.state_dict()."""
    return {key: value.detach().clone() for key, value in module.state_dict().items()}


# --- weight files -------------------------------------------------------------------------------


def save_module(module: nn.Module, directory: str, name: str) -> None:
    """Write a module's state dict to <directory>/<name>.safetensors."""
    Path(directory).mkdir(parents=True, exist_ok=True)
    tensors = {key: value.cpu().contiguous() for key, value in module_state(module).items()}
    save_file(tensors, str(Path(directory) / f"{name}.safetensors"))


def read_module_file(directory: str, name: str) -> dict[str, Tensor]:
    """The tensors of <name>.safetensors, or of an older run's <name>.pt (tensors only, nothing else
    is unpickled).

    Raises:
        FileNotFoundError: neither file is there.
        ValueError: the file is damaged.
    """
    path = Path(directory) / f"{name}.safetensors"
    older = Path(directory) / f"{name}.pt"
    try:
        if path.exists():
            return load_file(str(path))
        if older.exists():
            loaded: dict[str, Tensor] = torch.load(older, map_location="cpu", weights_only=True)
            return loaded
    except Exception as error:
        raise ValueError(f"weights of {name!r} in {directory} cannot be read: {error}") from error
    raise FileNotFoundError(f"{directory} holds neither {path.name} nor {older.name}")


def load_module(module: nn.Module, tensors: Mapping[str, Tensor], name: str) -> None:
    """Load the tensors into the module, all or (RuntimeError) none."""
    check_matches(module, tensors, name)
    module.load_state_dict(tensors)


def load_module_mean(module: nn.Module, directories: Sequence[str], name: str) -> None:
    """Load the element-wise mean of several saved modules, all or (RuntimeError) none.

    Raises:
        ValueError: there is no directory.
    """
    if not directories:
        raise ValueError("paths must name at least one directory")
    states = [read_module_file(directory, name) for directory in directories]
    for state in states:
        check_matches(module, state, name)
    module.load_state_dict(mean_of(states))


def check_matches(module: nn.Module, tensors: Mapping[str, Tensor], name: str) -> None:
    """Refuse tensors that do not fit the module.

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


def mean_of(states: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Element-wise mean of state dicts; integer tensors are taken from the first."""
    return {
        key: torch.stack([state[key] for state in states]).mean(dim=0) if value.is_floating_point() else value
        for key, value in states[0].items()
    }


def perturb(parameters: Iterable[nn.Parameter], scale: float, normal: Any) -> None:
    """Multiply each parameter by 1 + scale·N(0, 1); `normal(shape)` draws the numbers."""
    with torch.no_grad():
        for parameter in parameters:
            noise = torch.from_numpy(np.asarray(normal(tuple(parameter.shape)), np.float32))
            parameter.mul_(1.0 + scale * noise.to(parameter.device))
