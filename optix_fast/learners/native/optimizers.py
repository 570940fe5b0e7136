"""Which optimizers the compiled learners serve, and their description for the core.

Checked before each update: the optimizer stays the user's, who may change it at any time.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import optimizer as optim_module

from optix_fast.networks.plan import UnsupportedError

_OPTIMIZER_HOOKS = ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")
_GLOBAL_OPTIMIZER_HOOKS = ("_global_optimizer_pre_hooks", "_global_optimizer_post_hooks")
_OPTIMIZER_FLAGS = ("amsgrad", "maximize", "capturable", "differentiable")
_STATE = ("step", "exp_avg", "exp_avg_sq")


def adam_parameters(
    optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], create: bool
) -> list[tuple[Any, ...]]:
    """Each parameter with its Adam state and its group's numbers, as the core reads them; a frozen one alone.
    With `create`, state that is missing is made as torch makes it; without, only the checks are of use.

    Raises:
        UnsupportedError: with the reason.
    """
    groups = check_adam(optimizer, parameters)
    return [
        (p, *_state(optimizer, p, create), *_numbers(groups[id(p)])) if p.requires_grad else (p,)
        for p in parameters
    ]


def check_adam(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter]) -> dict[int, dict[str, Any]]:
    """The group of each parameter, by id, of an optimizer that is plain Adam or AdamW over just these.

    Raises:
        UnsupportedError: with the reason.
    """
    if type(optimizer) not in (torch.optim.Adam, torch.optim.AdamW):
        raise UnsupportedError(f"the optimizer is {type(optimizer).__name__} (Adam and AdamW are served)")
    if any(getattr(optim_module, name) for name in _GLOBAL_OPTIMIZER_HOOKS):
        raise UnsupportedError("a global optimizer hook is registered")
    if any(getattr(optimizer, name) for name in _OPTIMIZER_HOOKS):
        raise UnsupportedError("the optimizer has a step hook")
    # A learning-rate scheduler wraps step() to note that it was called, see note_step.
    step = optimizer.__dict__.get("step")
    if step is not None and not getattr(step, "_wrapped_by_lr_sched", False):
        raise UnsupportedError("the optimizer has a step() of its own")
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    if any(p.requires_grad and id(p) not in groups for p in parameters):
        raise UnsupportedError("the optimizer does not hold every parameter of the networks")
    own = {id(p) for p in parameters}
    if any(p.requires_grad and id(p) not in own for g in optimizer.param_groups for p in g["params"]):
        raise UnsupportedError("the optimizer holds parameters that are not the policy's")
    for group in optimizer.param_groups:
        _check_group(group)
    return groups


def note_step(optimizer: torch.optim.Optimizer) -> None:
    """What a learning-rate scheduler wants to know: that the optimizer has stepped."""
    if "step" in optimizer.__dict__:
        optimizer._opt_called = True  # type: ignore[attr-defined]


def _check_group(group: dict[str, Any]) -> None:
    for flag in _OPTIMIZER_FLAGS:
        if group.get(flag):
            raise UnsupportedError(f"the optimizer is set to {flag}")
    for key in ("lr", "eps", "weight_decay"):
        if isinstance(group[key], Tensor):
            raise UnsupportedError(f"the optimizer's {key} is a tensor")
    if any(isinstance(beta, Tensor) for beta in group["betas"]):
        raise UnsupportedError("the optimizer's betas are tensors")


def _numbers(group: dict[str, Any]) -> tuple[Any, ...]:
    beta1, beta2 = group["betas"]
    return (
        float(group["lr"]), float(beta1), float(beta2), float(group["eps"]), float(group["weight_decay"]),
        bool(group.get("decoupled_weight_decay", False)),
    )  # fmt: skip


def _state(optimizer: torch.optim.Optimizer, parameter: nn.Parameter, create: bool) -> tuple[Tensor, ...]:
    state = optimizer.state.get(parameter)
    if not state:
        if torch.get_default_dtype() != torch.float32:
            raise UnsupportedError("torch's default dtype is not float32")
        if not create:
            return ()
        state = optimizer.state[parameter]
        state["step"] = torch.tensor(0.0)
        state["exp_avg"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        state["exp_avg_sq"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
    if set(state) != set(_STATE):
        raise UnsupportedError(f"the optimizer's state holds {', '.join(sorted(state))}")
    step = state["step"]
    if not isinstance(step, Tensor) or step.dtype != torch.float32 or step.device.type != "cpu" or step.ndim:
        raise UnsupportedError("the optimizer's step counter is not a float32 number on the cpu")
    for key in _STATE[1:]:
        moment = state[key]
        if (
            moment.dtype != parameter.dtype
            or moment.device != parameter.device
            or moment.shape != parameter.shape
            or not moment.is_contiguous()
        ):
            raise UnsupportedError(f"the optimizer's {key} is not like its parameter")
    return step, state["exp_avg"], state["exp_avg_sq"]
