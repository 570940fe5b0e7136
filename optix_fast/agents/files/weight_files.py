"""Weight files: modules as safetensors, all or nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from optix_fast.serialization import Write

State = dict[str, Tensor]


def module_writer(module: nn.Module, metadata: Mapping[str, str]) -> Write:
    """What writes a module's state dict to a file, with text under `metadata`."""

    def write(temporary: Path) -> None:
        tensors = {
            key: value.detach().cpu().clone().contiguous() for key, value in module.state_dict().items()
        }
        save_file(tensors, str(temporary), dict(metadata))

    return write


def read_module_file(directory: str, name: str) -> State:
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
            loaded: State = torch.load(older, map_location="cpu", weights_only=True)
            return loaded
    except Exception as error:
        raise ValueError(f"weights of {name!r} in {directory} cannot be read: {error}") from error
    raise FileNotFoundError(f"{directory} holds neither {path.name} nor {older.name}")


def mean_of(states: Sequence[State]) -> State:
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
