"""The dense kernels under the learners, against torch: shapes, activations, precisions, instruction sets."""

from __future__ import annotations

import copy
import itertools
import math
from typing import Any

import pytest
import torch
from core_networks import run_core, run_torch
from torch import nn

from optix_fast import _native
from optix_fast.learners.native.networks import stack_of

core: Any = _native.core
pytestmark = pytest.mark.native

ACTIVATIONS = [
    nn.Identity(), nn.Tanh(), nn.ReLU(), nn.LeakyReLU(0.1), nn.ELU(0.7), nn.SiLU(), nn.GELU(),
    nn.GELU(approximate="tanh"), nn.CELU(0.5), nn.SELU(), nn.Hardtanh(), nn.Hardtanh(-0.5, 2.0), nn.ReLU6(),
    nn.Sigmoid(), nn.Softplus(), nn.Softplus(2.0, 5.0), nn.LogSigmoid(), nn.Mish(), nn.Softsign(),
    nn.Hardsigmoid(), nn.Hardswish(),
]  # fmt: skip


def double_tolerance(activation: nn.Module) -> float:
    """(torch differentiates Hardsigmoid by the float next to ⅙, in float64 too.)"""
    return 1e-7 if isinstance(activation, nn.Hardsigmoid) else 1e-12


def network(sizes: list[int], activation: nn.Module, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(sum(sizes))
    parts: list[nn.Module] = []
    for n_in, n_out in itertools.pairwise(sizes):
        parts += [nn.Linear(n_in, n_out), copy.deepcopy(activation)]
    return nn.Sequential(*parts[:-1]).to(dtype)


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm().clamp_min(1e-30))


# Widths that fill vectors, that do not, narrower and wider than a cache line; every remainder of 6 rows.
SHAPES = [
    ([4, 64, 64, 2], 64), ([4, 64, 64, 1], 1), ([17, 256, 256, 6], 37), ([3, 50, 33, 9], 62), ([1, 1, 1], 5),
    ([5, 7], 11), ([100, 24, 130, 18], 23), ([16, 16, 16], 6), ([376, 64, 34], 16), ([2, 8, 8], 3),
]  # fmt: skip


@pytest.mark.parametrize(("sizes", "rows"), SHAPES, ids=str)
@pytest.mark.parametrize("head", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_outputs_and_gradients_equal_torchs(
    sizes: list[int], rows: int, head: bool, dtype: torch.dtype
) -> None:
    net = network(sizes, nn.Tanh(), dtype)
    x, by_output = torch.randn(rows, sizes[0], dtype=dtype), torch.randn(rows, sizes[-1], dtype=dtype)
    tolerance = 3e-6 if dtype == torch.float32 else 1e-13
    for ours, theirs in zip(run_core(net, x, by_output, head), run_torch(net, x, by_output), strict=True):
        assert relative(ours, theirs) < tolerance


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_every_activation_hidden_and_last(activation: nn.Module, dtype: torch.dtype) -> None:
    net = nn.Sequential(*network([6, 40, 24, 3], activation, dtype), activation)
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(3.0)  # into the bends, and for tanh into saturation
    x, by_output = 2.0 * torch.randn(30, 6, dtype=dtype), torch.randn(30, 3, dtype=dtype)
    tolerance = 1e-5 if dtype == torch.float32 else double_tolerance(activation)
    for head in (True, False):
        ours = run_core(net, x, by_output, head)
        for mine, theirs in zip(ours, run_torch(net, x, by_output), strict=True):
            assert relative(mine, theirs) < tolerance


def at_points(activation: nn.Module, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """f and f' of the core for z [N]."""
    net = nn.Sequential(nn.Linear(1, 1, bias=False, dtype=z.dtype), activation)
    with torch.no_grad():
        net[0].weight.fill_(1.0)
    column = z[:, None].contiguous()
    value, slope = run_core(net, column, torch.ones_like(column), head=True)[:2]
    return value[:, 0], slope[:, 0]


def at_points_in_torch(activation: nn.Module, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.enable_grad():
        leaf = z.clone().requires_grad_()
        value = activation(leaf)
        (slope,) = torch.autograd.grad(value.sum(), leaf)
    return value.detach(), slope


WHOLE_RANGE = torch.cat([
    torch.linspace(-100, 100, 4001), torch.logspace(-20, 2, 500), -torch.logspace(-20, 2, 500),
    torch.tensor([0.0, -0.0, 1e4, -1e4]),
])  # fmt: skip


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_activations_over_their_whole_range(activation: nn.Module) -> None:
    """From 1e-20 to 10 000 on both sides, so that no interval of a piecewise formula is forgotten."""
    z = WHOLE_RANGE
    if isinstance(activation, nn.Softplus):  # float may be on the other side of the threshold than double
        z = z[(z.double() * activation.beta - activation.threshold).abs() > 1e-3]
    (ours, slope), (exact, exact_slope) = at_points(activation, z), at_points_in_torch(activation, z.double())
    torch.testing.assert_close(ours.double(), exact, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(slope.double(), exact_slope, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_activations_in_double(activation: nn.Module) -> None:
    z = WHOLE_RANGE.double()
    for ours, exact in zip(at_points(activation, z), at_points_in_torch(activation, z), strict=True):
        torch.testing.assert_close(ours, exact, rtol=double_tolerance(activation), atol=1e-12)


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_the_derivative_at_a_bend_is_torchs(activation: nn.Module, dtype: torch.dtype) -> None:
    """At every number where a formula changes, and at its neighbours on both sides."""
    bends = torch.tensor([0.0, -0.0, 0.5, 1.0, 2.0, 2.5, 3.0, 6.0, 20.0], dtype=dtype)
    bends = torch.cat([bends, -bends])
    infinity = torch.tensor(float("inf"), dtype=dtype)
    z = torch.cat([bends, torch.nextafter(bends, infinity), torch.nextafter(bends, -infinity)])
    tolerance = 2e-6 if dtype == torch.float32 else double_tolerance(activation)
    for ours, theirs in zip(at_points(activation, z), at_points_in_torch(activation, z), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_nan_and_infinity_are_not_swallowed(activation: nn.Module) -> None:
    x = torch.tensor([1.0, float("nan"), float("inf"), float("-inf")])
    ours, theirs = at_points(activation, x)[0], activation(x)
    assert ours[1].isnan()
    if isinstance(activation, nn.GELU):
        theirs[2] = float("inf")  # torch multiplies infinities by zero there, in float32 alone
    torch.testing.assert_close(ours, theirs, equal_nan=True, rtol=1e-6, atol=1e-6)


SATURATING = [nn.Tanh(), nn.Sigmoid(), nn.Softsign(), nn.Hardsigmoid()]


@pytest.mark.parametrize("activation", SATURATING, ids=str)
def test_values_do_not_leave_their_range(activation: nn.Module) -> None:
    """tanh's quotient rounds to 1 + 2.4e-7 for some arguments near 9."""
    z = torch.linspace(7.0, 11.0, 40_001)
    for points in (z, -z):
        assert float(at_points(activation, points)[0].abs().max()) <= 1.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_gelu_keeps_its_digits_in_the_tail(dtype: torch.dtype) -> None:
    """z·Φ(z) = z·erfc(−z/√2)/2, not by way of 1 + erf, which is zero below −6 (and −9 in double)."""
    z = torch.linspace(-15.0, 15.0, 3001, dtype=dtype)
    value, slope = at_points(nn.GELU(), z)
    tail = [math.erfc(-x / math.sqrt(2.0)) / 2.0 for x in z.tolist()]
    distribution = torch.tensor(tail, dtype=torch.float64)
    exact = z.double() * distribution
    density = torch.exp(-0.5 * z.double() ** 2) / math.sqrt(2.0 * math.pi)
    exact_slope = distribution + z.double() * density
    normal = exact.abs() > torch.finfo(dtype).smallest_normal
    tolerance = 1e-6 if dtype == torch.float32 else 1e-12
    error = ((value.double() - exact) / exact)[normal].abs()
    assert float(error.max()) < tolerance
    # The derivative has a root near −0.75.
    away = normal & (exact_slope.abs() > torch.finfo(dtype).smallest_normal) & ((z + 0.75).abs() > 0.25)
    assert float(((slope.double() - exact_slope) / exact_slope)[away].abs().max()) < 4 * tolerance


@pytest.mark.parametrize(("sizes", "rows"), SHAPES, ids=str)
def test_the_way_of_single_rows_gives_the_same_outputs(sizes: list[int], rows: int) -> None:
    net = network(sizes, nn.Tanh())
    x = torch.randn(rows, sizes[0])
    output = torch.empty(rows, sizes[-1])
    core.mlp(stack_of(net, "net").described(), True, True, x, output, None, [], None)
    assert relative(output, net(x).detach()) < 1e-6


def test_layers_without_bias() -> None:
    net = nn.Sequential(nn.Linear(5, 32, bias=False), nn.Tanh(), nn.Linear(32, 2, bias=False))
    x, output = torch.randn(9, 5), torch.empty(9, 2)
    for few in (True, False):
        core.mlp(stack_of(net, "net").described(), True, few, x, output, None, [], None)
        assert relative(output, net(x).detach()) < 1e-6


@pytest.mark.usefixtures("every_simd_path")
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_every_instruction_set_computes_the_same(activation: nn.Module) -> None:
    net = network([17, 40, 64, 5], activation)
    x, by_output = torch.randn(29, 17), torch.randn(29, 5)
    ours, again = run_core(net, x, by_output), run_core(net, x, by_output)
    assert all(map(torch.equal, ours, again))
    for mine, theirs in zip(ours, run_torch(net, x, by_output), strict=True):
        assert relative(mine, theirs) < 1e-5


def test_wrong_shapes_are_named() -> None:
    net = network([4, 8, 2], nn.Tanh())
    layers = stack_of(net, "net").described()
    with pytest.raises(ValueError, match=r"mlp: weight must be float32 \[out, in\] = \[8, 5\]"):
        core.mlp(layers, True, False, torch.zeros(3, 5), torch.zeros(3, 2), None, [], None)
