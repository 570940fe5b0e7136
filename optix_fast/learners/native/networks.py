"""Which networks and optimizers the compiled learners serve, and their description for the core.

Recognised anew before each window and each update: modules and optimizer stay the user's, who may change them
at any time.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules import module as nn_module
from torch.optim import optimizer as optim_module

if TYPE_CHECKING:
    from optix_fast._C import Activation

# The names of csrc/mlp/mlp.h.
_ACTIVATIONS: dict[type[nn.Module], Activation] = {
    nn.Identity: "identity",
    nn.Tanh: "tanh",
    nn.ReLU: "relu",
    nn.LeakyReLU: "leaky_relu",
    nn.ELU: "elu",
    nn.CELU: "celu",
    nn.SELU: "selu",
    nn.Hardtanh: "hardtanh",
    nn.ReLU6: "hardtanh",
    nn.Sigmoid: "sigmoid",
    nn.SiLU: "silu",
    nn.GELU: "gelu",
    nn.Softplus: "softplus",
    nn.LogSigmoid: "log_sigmoid",
    nn.Mish: "mish",
    nn.Softsign: "softsign",
    nn.Hardsigmoid: "hardsigmoid",
    nn.Hardswish: "hardswish",
}
_SERVED = (
    f"Linear, {', '.join(kind.__name__ for kind in _ACTIVATIONS if kind is not nn.Identity)} and Identity"
)

_MODULE_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_GLOBAL_MODULE_HOOKS = tuple(f"_global{name}" for name in _MODULE_HOOKS)
_OPTIMIZER_HOOKS = ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")
_GLOBAL_OPTIMIZER_HOOKS = ("_global_optimizer_pre_hooks", "_global_optimizer_post_hooks")
_OPTIMIZER_FLAGS = ("amsgrad", "maximize", "capturable", "differentiable")
_STATE = ("step", "exp_avg", "exp_avg_sq")


class UnsupportedError(Exception):
    """What the core does not serve; the message is the reason, in the user's words."""


class Layer(NamedTuple):
    """A Linear with the activation behind it, and the numbers that the activation depends on, in the order
    of csrc/mlp/mlp.h."""

    linear: nn.Linear
    activation: Activation = "identity"
    constants: tuple[float, float] = (0.0, 0.0)

    def described(self) -> tuple[Tensor, Tensor | None, Activation, tuple[float, float]]:
        """For the core."""
        return self.linear.weight, self.linear.bias, self.activation, self.constants

    def parameters(self) -> list[nn.Parameter]:
        """Weight and, where there is one, bias."""
        found = self.linear._parameters
        return [parameter for parameter in (found["weight"], found["bias"]) if parameter is not None]


class Networks(NamedTuple):
    """Actor and critic as layers: those that both share, and what each has of its own. Where nothing but the
    actor is asked for, the critic has none."""

    trunk: list[Layer]
    actor: list[Layer]
    critic: list[Layer]

    def described(self) -> tuple[list[Any], ...]:
        """For the core."""
        return tuple([layer.described() for layer in part] for part in self)

    def parameters(self) -> Iterator[nn.Parameter]:
        """Each once, in the order of the layers."""
        for part in self:
            for layer in part:
                yield from layer.parameters()

    @property
    def outputs(self) -> int:
        """Width of the actor's outputs."""
        return self.actor[-1].linear.out_features


def networks_of(actor: nn.Module, critic: nn.Module | None) -> Networks:
    """Actor and critic, or an actor alone, as the core sees them.

    Raises:
        UnsupportedError: with the reason.
    """
    check_surroundings()
    if critic is None:
        alone = Networks([], layers_of(actor, "the network"), [])
        check_distinct(list(alone.parameters()))
        return alone
    actor_layers, critic_layers = layers_of(actor, "actor"), layers_of(critic, "critic")
    shared = 0
    for one, other in zip(actor_layers, critic_layers, strict=False):
        if one != other:
            break
        shared += 1
    networks = Networks(actor_layers[:shared], actor_layers[shared:], critic_layers[shared:])
    if not networks.actor or not networks.critic:
        raise UnsupportedError("actor or critic has no layer of its own")
    check_distinct(list(networks.parameters()))
    if actor_layers[0].linear.in_features != critic_layers[0].linear.in_features:
        raise UnsupportedError("actor and critic read observations of different widths")
    if networks.critic[-1].linear.out_features != 1:
        raise UnsupportedError("the critic has more than one output")
    return networks


def check_surroundings() -> None:
    """Nothing outside of the networks changes what they compute.

    Raises:
        UnsupportedError: with the reason.
    """
    for name in _GLOBAL_MODULE_HOOKS:
        if getattr(nn_module, name):
            raise UnsupportedError("a global module hook is registered")
    if torch.is_autocast_enabled("cpu"):
        raise UnsupportedError("autocast is enabled")


def check_distinct(parameters: list[nn.Parameter]) -> None:
    """Each parameter has memory of its own, and all have one dtype.

    Raises:
        UnsupportedError: with the reason.
    """
    if len({parameter.data_ptr() for parameter in parameters}) < len(parameters):
        raise UnsupportedError("a parameter is used in more than one place")
    if any(parameter.dtype != parameters[0].dtype for parameter in parameters):
        raise UnsupportedError("the networks mix dtypes")


def layers_of(module: nn.Module, name: str) -> list[Layer]:
    """A Linear, or a Sequential of Linear and activations, as layers.

    Raises:
        UnsupportedError: with the reason.
    """
    layers: list[Layer] = []
    may_activate = False
    for part in _flattened(module, name):
        if isinstance(part, nn.Linear):
            _check_linear(part, name)
            layers.append(Layer(part))
            may_activate = True
        elif not isinstance(part, nn.Identity):
            if not may_activate:
                raise UnsupportedError(f"{name}: {type(part).__name__} does not follow a Linear")
            layers[-1] = Layer(layers[-1].linear, *_activation(part, name))
            may_activate = False
    if not layers:
        raise UnsupportedError(f"{name} has no Linear layer")
    for one, following in itertools.pairwise(layers):
        if one.linear.out_features != following.linear.in_features:
            raise UnsupportedError(f"{name}: the widths of its layers do not fit together")
    return layers


def _flattened(module: nn.Module, name: str) -> Iterator[nn.Module]:
    # Not a loop: this is asked of every module for every window, which may be one step long.
    has_hook = (
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )
    if has_hook:
        raise UnsupportedError(f"{name}: {type(module).__name__} has a hook")
    if "forward" in module.__dict__:
        raise UnsupportedError(f"{name}: {type(module).__name__} has a forward of its own")
    # Exactly these classes: a subclass, or what parametrizations make of a layer, may compute anything.
    if type(module) is nn.Sequential:
        for child in module.children():
            yield from _flattened(child, name)
    elif type(module) is nn.Linear or type(module) in _ACTIVATIONS:
        yield module
    else:
        raise UnsupportedError(
            f"{name}: {type(module).__name__} is not served (a Sequential of {_SERVED} is)"
        )


def _activation(module: nn.Module, name: str) -> tuple[Activation, tuple[float, float]]:
    kind = type(module)
    activation, first, second = _ACTIVATIONS[kind], 0.0, 0.0
    served = True
    if isinstance(module, nn.LeakyReLU):
        first = module.negative_slope
        served = first >= 0
    elif isinstance(module, nn.ELU):
        first = module.alpha
        served = first >= 0
    elif isinstance(module, nn.CELU):
        first = module.alpha
        served = first > 0
    elif kind is nn.ReLU6:  # whatever its inherited bounds say
        second = 6.0
    elif isinstance(module, nn.Hardtanh):
        first, second = module.min_val, module.max_val
        served = first < second
    elif isinstance(module, nn.Softplus):
        first, second = module.beta, module.threshold
        served = first > 0
    elif isinstance(module, nn.GELU) and module.approximate == "tanh":
        activation = "gelu_tanh"
    if not served:
        raise UnsupportedError(f"{name}: {module} (such numbers are not served)")
    return activation, (first, second)


def _check_linear(linear: nn.Linear, name: str) -> None:
    for key in ("weight", "bias"):
        if key not in linear._parameters:
            raise UnsupportedError(f"{name}: the {key} of a Linear is computed, not a parameter")
        parameter = linear._parameters[key]
        if parameter is not None:
            check_parameter(parameter, f"{name}: the {key} of a Linear")
    shape = (linear.out_features, linear.in_features)
    if linear.weight.shape != shape or linear.out_features < 1 or linear.in_features < 1:
        raise UnsupportedError(f"{name}: a Linear's weight is not [out_features, in_features]")


def check_parameter(parameter: Any, what: str) -> None:
    """A plain parameter in the CPU's memory.

    Raises:
        UnsupportedError: with the reason.
    """
    if type(parameter) is not nn.Parameter:
        raise UnsupportedError(f"{what} is a {type(parameter).__name__}")
    if parameter.device.type != "cpu":
        raise UnsupportedError(f"{what} is on {parameter.device}")
    if parameter.dtype not in (torch.float32, torch.float64):
        raise UnsupportedError(f"{what} is {str(parameter.dtype).removeprefix('torch.')}")
    if parameter.layout != torch.strided or not parameter.is_contiguous():
        raise UnsupportedError(f"{what} is not contiguous")
    if parameter._backward_hooks or getattr(parameter, "_post_accumulate_grad_hooks", None):
        raise UnsupportedError(f"{what} has a hook")


def trained_parameters(networks: Networks, log_std: nn.Parameter | None) -> list[nn.Parameter]:
    """What an update changes: everything that is not frozen.

    Raises:
        UnsupportedError: with the reason.
    """
    parameters = list(networks.parameters())
    if log_std is not None:
        check_parameter(log_std, "log_std")
        if log_std.dtype != parameters[0].dtype:
            raise UnsupportedError("log_std has another dtype than the networks")
        parameters.append(log_std)
    trained = [p for p in parameters if p.requires_grad]
    if not trained:
        raise UnsupportedError("every parameter is frozen")
    return trained


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
