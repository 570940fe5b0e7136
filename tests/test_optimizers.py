"""optix_fast.optimizers."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from optix_fast.optimizers import RMSpropTF


def stepped(gradients: list[float], **numbers: Any) -> tuple[float, dict[str, Any]]:
    """A parameter that starts at 2, after a step for each gradient, and the optimizer's state."""
    parameter = nn.Parameter(torch.tensor([2.0], dtype=torch.float64))
    optimizer = RMSpropTF([parameter], lr=0.1, alpha=0.75, eps=0.25, **numbers)
    for gradient in gradients:
        parameter.grad = torch.tensor([gradient], dtype=torch.float64)
        optimizer.step()
    return parameter.item(), {name: tensor.item() for name, tensor in optimizer.state[parameter].items()}


def test_epsilon_is_inside_of_the_root_and_mean_squares_start_at_one() -> None:
    # v = 0.75 + 0.25·1.5² = 1.3125, √(v + 0.25) = 1.25, 1.5/1.25 = 1.2
    assert stepped([1.5]) == (pytest.approx(1.88), {"step": 1.0, "square_avg": 1.3125})


def test_momentum_sums_the_scaled_gradients() -> None:
    # Second step: b = 0.5·1.2 + 0; v = 0.75·1.3125
    value, state = stepped([1.5, 0.0], momentum=0.5)
    assert value == pytest.approx(2.0 - 0.1 * 1.2 - 0.1 * 0.6)
    assert state == {"step": 2.0, "square_avg": 0.984375, "momentum_buffer": pytest.approx(0.6)}


def test_centered_subtracts_the_mean_s_square() -> None:
    # ḡ = 0.25·4 = 1, v = 0.75 + 0.25·16 = 4.75, √(4.75 − 1 + 0.25) = 2, 4/2 = 2
    value, state = stepped([4.0], centered=True)
    assert value == pytest.approx(1.8)
    assert state == {"step": 1.0, "square_avg": 4.75, "grad_avg": 1.0}


def test_weight_decay_adds_to_the_gradient() -> None:
    # g = 0.5 + 0.5·2 = 1.5
    assert stepped([0.5], weight_decay=0.5)[0] == pytest.approx(1.88)


def test_without_epsilon_it_is_torch_s_rmsprop_but_for_the_start() -> None:
    torch.manual_seed(0)
    ours, theirs = (nn.Parameter(torch.ones(7, 3, dtype=torch.float64)) for _ in range(2))
    numbers = {"lr": 0.01, "alpha": 0.9, "eps": 0.0, "weight_decay": 0.1, "momentum": 0.5, "centered": True}
    one, other = RMSpropTF([ours], **numbers), torch.optim.RMSprop([theirs], **numbers)
    for step in range(5):
        ours.grad = torch.randn(7, 3, dtype=torch.float64)
        theirs.grad = ours.grad.clone()
        if step == 1:
            other.state[theirs]["square_avg"].copy_(one.state[ours]["square_avg"])
            theirs.data.copy_(ours.data)
            other.state[theirs]["momentum_buffer"].copy_(one.state[ours]["momentum_buffer"])
        one.step()
        other.step()
    assert torch.allclose(ours, theirs, rtol=1e-12, atol=0.0)


def test_state_goes_into_another_optimizer() -> None:
    parameter = nn.Parameter(torch.ones(3))
    optimizer = RMSpropTF([parameter], momentum=0.9)
    parameter.grad = torch.ones(3)
    optimizer.step()
    twin = copy.deepcopy(parameter)
    other = RMSpropTF([twin], lr=1.0)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for each, own in ((optimizer, parameter), (other, twin)):
        own.grad = torch.full((3,), 0.5)
        each.step()
    assert torch.equal(parameter, twin)


def test_parameters_without_a_gradient_stay_and_a_closure_s_loss_is_returned() -> None:
    moved, still = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    optimizer = RMSpropTF([moved, still])

    def closure() -> float:
        optimizer.zero_grad()
        loss = (3.0 * moved).sum()
        loss.backward()
        return loss.item()

    assert optimizer.step(closure) == 3.0
    assert moved.item() < 1.0 and still.item() == 1.0 and still not in optimizer.state


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("lr", -0.1),
        ("alpha", 1.0),
        ("alpha", -0.1),
        ("eps", -1e-8),
        ("weight_decay", -1.0),
        ("momentum", -1.0),
    ],
)
def test_numbers_outside_of_their_range_are_named(name: str, number: float) -> None:
    with pytest.raises(ValueError, match=f"{name} must be"):
        RMSpropTF([nn.Parameter(torch.ones(1))], **{name: number})
