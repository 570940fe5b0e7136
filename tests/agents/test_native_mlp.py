"""The dense kernels under the learners, against torch: shapes, activations, precisions, instruction sets."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
from torch import nn

from optix_fast import _native
from optix_fast.learners.native.networks import stack_of

core: Any = _native.core
pytestmark = pytest.mark.native

ACTIVATIONS = [
    nn.Identity(), nn.Tanh(), nn.ReLU(), nn.LeakyReLU(0.1), nn.ELU(0.7), nn.SiLU(), nn.GELU(),
    nn.GELU(approximate="tanh"),
]  # fmt: skip


def network(sizes: list[int], activation: nn.Module, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(sum(sizes))
    parts: list[nn.Module] = []
    for n_in, n_out in itertools.pairwise(sizes):
        parts += [nn.Linear(n_in, n_out), copy.deepcopy(activation)]
    return nn.Sequential(*parts[:-1]).to(dtype)


def run_core(net: nn.Module, x: torch.Tensor, by_output: torch.Tensor, head: bool) -> list[torch.Tensor]:
    """Output, gradient by the input, gradients by the parameters."""
    stack = stack_of(net, "net")
    output, by_input = torch.empty_like(by_output), torch.empty_like(x)
    grads = [tuple(None if p is None else torch.empty_like(p) for p in la.tensors()) for la in stack.layers]
    core.mlp(stack.described(), head, False, x, output, by_output, grads, by_input)
    return [output, by_input, *(g for pair in grads for g in pair if g is not None)]


def run_torch(net: nn.Module, x: torch.Tensor, by_output: torch.Tensor) -> list[torch.Tensor]:
    x = x.clone().requires_grad_()
    output = net(x)
    gradients = torch.autograd.grad(output, [x, *net.parameters()], by_output)
    return [output.detach(), *gradients]


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
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    for head in (True, False):
        ours = run_core(net, x, by_output, head)
        for mine, theirs in zip(ours, run_torch(net, x, by_output), strict=True):
            assert relative(mine, theirs) < tolerance


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_activations_over_their_whole_range(activation: nn.Module) -> None:
    """From 1e-20 to 100 on both sides, so that no interval of a piecewise formula is forgotten."""
    z = torch.cat([torch.linspace(-100, 100, 4001), torch.logspace(-20, 2, 500), torch.zeros(1)])
    z = torch.cat([z, -z])[:, None].contiguous()
    net = nn.Sequential(nn.Linear(1, 1, bias=False), activation)
    with torch.no_grad():
        net[0].weight.fill_(1.0)
    ours, slope = run_core(net, z, torch.ones_like(z), head=True)[:2]
    with torch.enable_grad():
        exact_z = z.double().requires_grad_()
        exact = activation(exact_z)
        (exact_slope,) = torch.autograd.grad(exact.sum(), exact_z)
    torch.testing.assert_close(ours.double(), exact.detach(), rtol=1e-6, atol=1e-6)
    # The derivative of ELU and LeakyReLU at 0 is taken from the left, as torch does.
    torch.testing.assert_close(slope.double(), exact_slope, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_nan_and_infinity_are_not_swallowed(activation: nn.Module) -> None:
    x = torch.tensor([[1.0], [float("nan")], [float("inf")], [float("-inf")]])
    net = nn.Sequential(nn.Linear(1, 1, bias=False), activation, nn.Identity())
    with torch.no_grad():
        net[0].weight.fill_(1.0)
    ours = run_core(net, x, torch.ones_like(x), head=True)[0]
    assert ours[1].isnan()
    if not isinstance(activation, nn.SiLU | nn.GELU):  # there torch itself has NaN at −∞
        torch.testing.assert_close(ours, net(x).detach(), equal_nan=True, rtol=1e-6, atol=1e-6)


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


@pytest.mark.parametrize("path", ["portable", "avx2", "avx512"])
def test_every_instruction_set_computes_the_same(path: str) -> None:
    before = core.build_info()["simd"]
    try:
        core.select_simd(path)
    except ValueError:
        pytest.skip(f"{path} is not compiled or not supported here")
    try:
        for activation in ACTIVATIONS:
            net = network([17, 40, 64, 5], activation)
            x, by_output = torch.randn(29, 17), torch.randn(29, 5)
            ours = run_core(net, x, by_output, head=True)
            assert all(
                torch.equal(a, b) for a, b in zip(ours, run_core(net, x, by_output, head=True), strict=True)
            )
            for mine, theirs in zip(ours, run_torch(net, x, by_output), strict=True):
                assert relative(mine, theirs) < 1e-5
    finally:
        core.select_simd(before)


def test_wrong_shapes_are_named() -> None:
    net = network([4, 8, 2], nn.Tanh())
    layers = stack_of(net, "net").described()
    with pytest.raises(ValueError, match=r"mlp: weight must be float32 \[out, in\] = \[8, 5\]"):
        core.mlp(layers, True, False, torch.zeros(3, 5), torch.zeros(3, 2), None, [], None)
