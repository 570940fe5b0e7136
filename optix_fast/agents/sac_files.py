"""Weight files of SAC: actor, critic1, critic2, log_alpha."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from optix_fast.agents import agent as shared
from optix_fast.agents.sac import SACModel

_NETWORKS = ("actor", "critic1", "critic2")
_ALPHA = "log_alpha"


def save(model: SACModel, path: str) -> None:
    """Write <path>/actor, critic1, critic2 and log_alpha, each .safetensors."""
    modules = model.modules()
    for name in _NETWORKS:
        shared.save_module(modules[name], path, name)
    shared.save_module(nn.ParameterDict({_ALPHA: model.log_alpha}), path, _ALPHA)


def load_mean(model: SACModel, paths: Sequence[str]) -> None:
    """Load the element-wise mean of what was saved in `paths`; the targets stay.

    Raises:
        FileNotFoundError, ValueError: a file is missing or damaged, or no path is given.
        RuntimeError: the files are of another architecture. Nothing is loaded then.
    """
    if not paths:
        raise ValueError("paths must name at least one directory")
    modules, states = model.modules(), [_read(path) for path in paths]
    for state in states:
        for name in _NETWORKS:
            shared.check_matches(modules[name], state[name], name)
        if state[_ALPHA][_ALPHA].numel() != 1:
            raise RuntimeError("the saved log_alpha is not one number")
    mean = {name: shared.mean_of([state[name] for state in states]) for name in states[0]}
    for name in _NETWORKS:
        modules[name].load_state_dict(mean[name])
    with torch.no_grad():
        model.log_alpha.copy_(mean[_ALPHA][_ALPHA].reshape(()))


def _read(path: str) -> dict[str, dict[str, Tensor]]:
    state = {name: shared.read_module_file(path, name) for name in _NETWORKS}
    older = Path(path) / "log_alpha.npy"
    if not older.exists():
        return {**state, _ALPHA: shared.read_module_file(path, _ALPHA)}
    try:
        value = np.load(older, allow_pickle=False)
    except Exception as error:
        raise ValueError(f"{older} cannot be read: {error}") from error
    return {**state, _ALPHA: {_ALPHA: torch.as_tensor(value, dtype=torch.float32)}}
