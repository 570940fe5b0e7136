"""A step of an optimizer, and its state."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from optix_fast.types import NonFiniteError


def descend(
    loss: Tensor, optimizer: torch.optim.Optimizer, max_grad_norm: float | None, quantity: str = "gradient"
) -> float:
    """One step of the optimizer down the loss; returns the norm of the gradient before clipping.

    Only the optimizer's parameters get gradients, and only theirs count in the norm: gradients of others
    would add up from step to step.

    Raises:
        NonFiniteError: the norm is NaN or infinite; it carries `quantity`, and no parameter has changed.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
    optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(loss, inputs=parameters)
    norm = float(nn.utils.clip_grad_norm_(parameters, max_grad_norm or math.inf))
    if not math.isfinite(norm):
        raise NonFiniteError(quantity)
    optimizer.step()
    return norm


def descend_finite(
    name: str, loss: Tensor, optimizer: torch.optim.Optimizer, max_grad_norm: float | None
) -> None:
    """`descend`, with errors that name whose loss and gradient it is.

    Raises:
        NonFiniteError: the loss or the norm is NaN or infinite; nothing has changed.
    """
    if not math.isfinite(loss.item()):
        raise NonFiniteError(f"{name} loss")
    descend(loss, optimizer, max_grad_norm, f"{name} gradient")


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """optimizer.state_dict() with copied tensors and string keys.

    What the optimizer knows of parameters that it no longer holds, a replaced layer's, is left out; torch
    raises KeyError there.
    """
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    others = [p for p in optimizer.state if isinstance(p, Tensor) and id(p) not in held]
    aside = {p: optimizer.state.pop(p) for p in others}
    try:
        state = optimizer.state_dict()
    finally:
        optimizer.state.update(aside)
    return {
        "state": {
            str(i): {k: v.clone() if isinstance(v, Tensor) else v for k, v in entry.items()}
            for i, entry in state["state"].items()
        },
        # A learning rate may be a tensor, which the optimizer changes in place.
        "param_groups": [
            {k: v.clone() if isinstance(v, Tensor) else v for k, v in group.items()}
            for group in state["param_groups"]
        ],
    }


def check_optimizer_state(optimizer: torch.optim.Optimizer, state: Mapping[str, Any], name: str) -> None:
    """Raise ValueError unless `load_optimizer_state` can take the state."""
    groups, saved = optimizer.param_groups, state["param_groups"]
    sizes, saved_sizes = ([len(group["params"]) for group in each] for each in (groups, saved))
    if sizes != saved_sizes:
        raise ValueError(
            f"the state's {name} has parameter groups of {saved_sizes} parameters, not of {sizes}"
        )
    parameters = [p for group in groups for p in group["params"]]
    indices = [i for group in saved for i in group["params"]]
    for index, parameter in zip(indices, parameters, strict=True):
        for key, value in state["state"].get(str(index), {}).items():
            if isinstance(value, Tensor) and value.ndim and value.shape != parameter.shape:
                raise ValueError(
                    f"the state's {name} has {key} of shape {list(value.shape)} "
                    f"for a parameter of shape {list(parameter.shape)}"
                )


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Restore what `optimizer_state` gave."""
    optimizer.load_state_dict(
        {
            "state": {int(i): dict(entry) for i, entry in state["state"].items()},
            "param_groups": [dict(group) for group in state["param_groups"]],
        }
    )


def optimizer_like(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> torch.optim.Optimizer:
    """An optimizer of the same kind and settings for one parameter. What the constructor does not take (AdamW
    marks its groups with a setting of Adam's) is not handed to it."""
    group, kind = optimizer.param_groups[0], type(optimizer)
    taken = set(inspect.signature(kind.__init__).parameters) - {"self", "params"}
    return kind([parameter], **{key: value for key, value in group.items() if key in taken})
