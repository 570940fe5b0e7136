"""Checks of the arguments that agents are made with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from optix_fast._native import backend as process_backend


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


def require(kind: type, /, **arguments: Any) -> None:
    """Raise TypeError unless the arguments are of this kind."""
    for name, value in arguments.items():
        if not isinstance(value, kind):
            raise TypeError(f"{name} must be a {kind.__name__}, got {type(value).__name__}")


def require_optional(kind: type, /, **arguments: Any) -> None:
    """As `require`; None is allowed."""
    require(kind, **{name: value for name, value in arguments.items() if value is not None})


def require_count(name: str, value: Any) -> None:
    """Raise ValueError unless the argument is an integer of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")


def check_seed(seed: Any) -> None:
    """Raise TypeError or ValueError unless the argument is None or an integer of at least 0."""
    if seed is None:
        return
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer):
        raise TypeError(f"seed must be an integer or None, got {seed!r}")
    if seed < 0:
        raise ValueError(f"seed must be at least 0, or None, got {seed}")


def check_backend(backend: Any) -> None:
    """Raise ValueError unless it is a backend, RuntimeError for "native" without the compiled core."""
    if backend not in ("auto", "native", "torch"):
        raise ValueError(f"backend must be 'auto', 'native' or 'torch', got {backend!r}")
    if backend == "native" and process_backend() != "native":
        raise RuntimeError("backend='native': the compiled core is not loaded (optix-fast doctor)")


def check_disjoint(
    modules: Mapping[str, nn.Module], actor_optimizer: torch.optim.Optimizer, critic_optimizer: Any
) -> None:
    """Raise ValueError where a step of one side would train the other: the actor's loss is lowest where the
    critics overestimate, so they must not learn from it.

    Layers that actor and critics share are allowed if critic_optimizer alone trains them.
    """
    names = {id(p): f"{part}.{name}" for part, net in modules.items() for name, p in net.named_parameters()}
    critics = {id(p) for part, net in modules.items() if part != "actor" for p in net.parameters()}
    actor = {id(p) for p in modules["actor"].parameters()}
    by_actor, by_critic = (
        {id(p): p for group in optimizer.param_groups for p in group["params"]}
        for optimizer in (actor_optimizer, critic_optimizer)
    )
    advice = (
        "give each its own optimizer, over actor.parameters() and over those of the critics; layers "
        "that actor and critics share belong to critic_optimizer alone, or each needs a copy of its own"
    )
    wrong = [p for p in by_actor if p in critics or p in by_critic]
    if wrong:
        raise ValueError(
            f"actor_optimizer must not train parameters of the critics, but it holds "
            f"{names.get(wrong[0], 'one that critic_optimizer holds too')} (of {len(wrong)}): {advice}"
        )
    wrong = [p for p in by_critic if p in actor and p not in critics]
    if wrong:
        raise ValueError(
            f"critic_optimizer must not train parameters of the actor, but it holds {names[wrong[0]]} "
            f"(of {len(wrong)}): {advice}"
        )
