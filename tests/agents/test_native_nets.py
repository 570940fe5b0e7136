"""Which networks and optimizers the compiled learners take, and the reasons they give for others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from optix_fast.learners.native.networks import (
    UnsupportedError,
    networks_of,
    trained_parameters,
)
from optix_fast.learners.native.optimizers import Trained
from optix_fast.networks import mlp

pytestmark = pytest.mark.native


def pair() -> tuple[nn.Sequential, nn.Sequential]:
    return mlp([4, 8, 8, 3]), mlp([4, 8, 8, 1])


def unsupported_reason(
    actor: nn.Module, critic: nn.Module, make: Callable[[list[Any]], torch.optim.Optimizer] = torch.optim.Adam
) -> str:
    """Why the two, or the optimizer over them, are not taken."""
    trainable = {id(p): p for net in (actor, critic) for p in net.parameters() if p.requires_grad}
    optimizer = make(list(trainable.values()))
    with pytest.raises(UnsupportedError) as caught:
        Trained(optimizer, list(networks_of(actor, critic).parameters()), create=False)
    return str(caught.value)


def accepted(actor: nn.Module, critic: nn.Module) -> bool:
    networks_of(actor, critic)
    return True


# --- networks -----------------------------------------------------------------------------------


def test_a_single_linear_and_nested_sequentials_are_layers() -> None:
    networks = networks_of(
        nn.Linear(4, 3), nn.Sequential(nn.Sequential(nn.Linear(4, 5), nn.ELU()), nn.Linear(5, 1))
    )
    assert [len(part.layers) for part in networks] == [0, 1, 2]
    assert networks.outputs == 3


def test_leading_layers_that_both_use_are_the_trunk() -> None:
    trunk = mlp([4, 8, 8])
    trunk.append(nn.Tanh())
    networks = networks_of(nn.Sequential(trunk, nn.Linear(8, 3)), nn.Sequential(*trunk, nn.Linear(8, 1)))
    assert [len(part.layers) for part in networks] == [2, 1, 1]
    assert len(list(networks.parameters())) == 8


def turned_hardtanh() -> nn.Hardtanh:
    layer = nn.Hardtanh()
    layer.min_val = 2.0  # the constructor would refuse it
    return layer


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda net: net.append(nn.PReLU()), "actor: PReLU is not served"),
        (lambda net: net.insert(1, nn.GroupNorm(2, 8)), "actor: GroupNorm is not served"),
        (lambda net: net.insert(1, nn.LayerNorm(9)), "the widths of its layers do not fit"),
        (lambda net: net.insert(1, nn.Dropout(1.0)), "actor: Dropout with p = 1.0 is not served"),
        (lambda net: nn.utils.parametrizations.orthogonal(net[0]), "ParametrizedLinear is not served"),
        (lambda net: net.insert(0, nn.Tanh()), "the width of its input is not known"),
        (lambda net: setattr(net[0], "forward", lambda x: x), "Linear has a forward of its own"),
        (lambda net: net[1].register_forward_hook(lambda *_: None), "actor: Tanh has a hook"),
        (lambda net: net.register_forward_pre_hook(lambda *_: None), "actor: Sequential has a hook"),
        (lambda net: net[0].weight.register_hook(lambda g: g), "the weight of a Linear has a hook"),
        (lambda net: net.bfloat16(), "the weight of a Linear is bfloat16"),
        (lambda net: net.double(), "the networks mix dtypes"),
        (lambda net: net.to("meta"), "the weight of a Linear is on meta"),
        (lambda net: net.__setitem__(2, nn.Linear(9, 8)), "the widths of its layers do not fit"),
        (lambda net: net.__setitem__(2, nn.Bilinear(8, 8, 8)), "Bilinear is not served"),
        (lambda net: net.__setitem__(1, nn.LeakyReLU(-0.1)), "actor: LeakyReLU(negative_slope=-0.1) (such"),
        (lambda net: net.__setitem__(1, nn.ELU(-1.0)), "ELU(alpha=-1.0) (such numbers are not served)"),
        (lambda net: net.__setitem__(1, nn.CELU(0.0)), "actor: CELU(alpha=0.0) (such"),
        (lambda net: net.__setitem__(1, nn.Softplus(-1.0)), "Softplus(beta=-1.0, threshold=20.0) (such"),
        (lambda net: net.__setitem__(1, turned_hardtanh()), "Hardtanh(min_val=2.0, max_val=1.0) (such"),
    ],
)
def test_networks_that_are_not_taken(change: Callable[[nn.Sequential], Any], reason: str) -> None:
    actor, critic = pair()
    assert accepted(actor, critic)
    change(actor)
    assert reason in unsupported_reason(actor, critic)


def test_a_subclass_of_linear_may_compute_anything() -> None:
    class Scaled(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2.0 * super().forward(x)

    actor, critic = pair()
    actor[0] = Scaled(4, 8)
    assert "Scaled is not served" in unsupported_reason(actor, critic)


def test_memory_that_is_transposed_or_shared() -> None:
    actor, critic = pair()
    actor[0].weight.data = actor[0].weight.data.t().contiguous().t()
    assert unsupported_reason(actor, critic) == "actor: the weight of a Linear is not contiguous"
    actor, critic = pair()
    critic[2].weight = actor[2].weight
    assert "used in more than one place" in unsupported_reason(actor, critic)
    actor, critic = pair()
    critic[2].weight.data = actor[2].weight.data
    assert "used in more than one place" in unsupported_reason(actor, critic)


def test_everything_shared_leaves_no_head() -> None:
    net = mlp([4, 8, 1])
    with pytest.raises(UnsupportedError, match="no layer of its own"):
        networks_of(net, net)


def test_a_critic_of_two_outputs() -> None:
    with pytest.raises(UnsupportedError, match="the critic has more than one output"):
        networks_of(mlp([4, 8, 3]), mlp([4, 8, 2]))


def test_frozen_parameters_are_left_out() -> None:
    actor, critic = pair()
    actor[0].requires_grad_(False)
    trained = trained_parameters(networks_of(actor, critic), None)
    assert {id(p) for p in trained} == {id(p) for net in (actor[2:], critic) for p in net.parameters()}
    for net in (actor, critic):
        net.requires_grad_(False)
    with pytest.raises(UnsupportedError, match="every parameter is frozen"):
        trained_parameters(networks_of(actor, critic), None)


def test_hooks_and_autocast_are_noticed_and_forgotten() -> None:
    actor, critic = pair()
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    assert unsupported_reason(actor, critic) == "a global module hook is registered"
    handle.remove()
    handle = critic[1].register_full_backward_hook(lambda *_: None)
    assert unsupported_reason(actor, critic) == "critic: Tanh has a hook"
    handle.remove()
    with torch.autocast("cpu", torch.bfloat16):
        assert unsupported_reason(actor, critic) == "autocast is enabled"
    assert accepted(actor, critic)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda p: p.register_hook(lambda grad: grad), "the weight of a Linear has a hook"),
        (lambda p: p.register_post_accumulate_grad_hook(lambda _: None), "the weight of a Linear has a hook"),
        (lambda p: setattr(p, "data", p.data.t()), "the weight of a Linear is not contiguous"),
        (lambda p: setattr(p, "data", p.data.half()), "the weight of a Linear is float16"),
        (lambda p: setattr(p, "data", p.data[:4]), "a Linear's weight is not [8, 8]"),
    ],
    ids=["hook", "hook behind", "transposed", "half", "shape"],
)
def test_a_parameter_that_changes_after_it_was_accepted(
    change: Callable[[nn.Parameter], object], reason: str
) -> None:
    actor, critic = pair()
    assert accepted(actor, critic) and accepted(actor, critic)
    change(actor[2].weight)
    assert reason in unsupported_reason(actor, critic)


def test_a_parameter_in_the_place_of_another_one() -> None:
    actor, critic = pair()
    assert accepted(actor, critic) and accepted(actor, critic)
    new = nn.Parameter(torch.zeros(8, 8))
    actor[2].weight = new
    assert any(p is new for p in networks_of(actor, critic).parameters())
    actor[2].weight = nn.Parameter(torch.zeros(8, 7))
    assert "a Linear's weight is not [8, 8]" in unsupported_reason(actor, critic)


# --- optimizers ---------------------------------------------------------------------------------


def hooked(parameters: list[Any]) -> torch.optim.Optimizer:
    optimizer = torch.optim.Adam(parameters)
    optimizer.register_step_post_hook(lambda *_: None)
    return optimizer


def stepping_otherwise(parameters: list[Any]) -> torch.optim.Optimizer:
    optimizer = torch.optim.Adam(parameters)
    optimizer.step = lambda closure=None: None  # type: ignore[method-assign]
    return optimizer


class MyAdam(torch.optim.Adam):
    pass


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda p: torch.optim.RAdam(p), "the optimizer is RAdam"),
        (lambda p: MyAdam(p), "the optimizer is MyAdam"),
        (lambda p: torch.optim.Adam(p, amsgrad=True), "set to amsgrad"),
        (lambda p: torch.optim.Adam(p, maximize=True), "set to maximize"),
        (lambda p: torch.optim.Adam(p, differentiable=True), "set to differentiable"),
        (lambda p: torch.optim.Adam(p, lr=torch.tensor(1e-3)), "lr is a tensor"),
        (lambda p: torch.optim.Adam(p[1:]), "does not hold every parameter"),
        (lambda p: torch.optim.Adam([*p, nn.Parameter(torch.zeros(3))]), "are not the policy's"),
        (hooked, "the optimizer has a step hook"),
        (stepping_otherwise, "the optimizer has a step() of its own"),
    ],
)
def test_optimizers_that_are_not_taken(make: Callable[[Any], torch.optim.Optimizer], reason: str) -> None:
    assert reason in unsupported_reason(*pair(), make)


def test_state_of_another_kind() -> None:
    actor, critic = pair()
    parameters = [*actor.parameters(), *critic.parameters()]
    optimizer = torch.optim.Adam(parameters)
    Trained(optimizer, parameters, create=True).conclude()
    assert set(optimizer.state[parameters[0]]) == {"step", "exp_avg", "exp_avg_sq"}
    optimizer.state[parameters[0]]["step"] = 3.0
    with pytest.raises(UnsupportedError, match="step counter"):
        Trained(optimizer, parameters, create=True)
    optimizer.state[parameters[0]]["step"] = torch.tensor(3.0)
    optimizer.state[parameters[1]]["exp_avg"] = torch.zeros(3, dtype=torch.float64)
    with pytest.raises(UnsupportedError, match="exp_avg is not like its parameter"):
        Trained(optimizer, parameters, create=True)
