"""What the agents share beside their base class: devices, arguments, tensors, one step of an optimizer,
optimizer state."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from optix_fast._native import backend as process_backend
from optix_fast.locks import exclusive
from optix_fast.networks.heads import CategoricalHead
from optix_fast.types import Array, NonFiniteError, Stateful, Tree, tree_map


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


def require(name: str, value: Any, kind: type, optional: bool = False) -> None:
    """Raise TypeError unless the argument is of this kind, or None where that is allowed."""
    if not isinstance(value, kind) and not (optional and value is None):
        raise TypeError(f"{name} must be a {kind.__name__}, got {type(value).__name__}")


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


# --- learning -------------------------------------------------------------------------------------

Method = TypeVar("Method", bound=Callable[..., Any])


def as_in_training(method: Method) -> Method:
    """The method under the agent's lock, with gradients and ordinary tensors also where the caller has
    switched them off (no_grad, inference_mode)."""
    with_gradients = torch.inference_mode(False)(torch.enable_grad()(method))
    return exclusive(with_gradients)


# --- one step of an optimizer ---------------------------------------------------------------------


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
    places = [i for group in saved for i in group["params"]]
    for place, parameter in zip(places, parameters, strict=True):
        for key, value in state["state"].get(str(place), {}).items():
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


def module_state(module: nn.Module) -> dict[str, Tensor]:
    """A copy of module.state_dict()."""
    return {key: value.detach().clone() for key, value in module.state_dict().items()}


def perturb(parameters: Iterable[nn.Parameter], scale: float, normal: Any) -> None:
    """Multiply each parameter by 1 + scale·N(0, 1); `normal(shape)` draws the numbers."""
    with torch.no_grad():
        for parameter in parameters:
            noise = torch.from_numpy(np.asarray(normal(tuple(parameter.shape)), np.float32))
            parameter.mul_(1.0 + scale * noise.to(parameter.device))
