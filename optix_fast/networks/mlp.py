"""Multi-layer perceptrons."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import nn

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "celu": nn.CELU,
    "selu": nn.SELU,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "gelu_tanh": functools.partial(nn.GELU, approximate="tanh"),
    "mish": nn.Mish,
    "softplus": nn.Softplus,
    "sigmoid": nn.Sigmoid,
    "log_sigmoid": nn.LogSigmoid,
    "softsign": nn.Softsign,
    "relu6": nn.ReLU6,
    "hardtanh": nn.Hardtanh,
    "hardsigmoid": nn.Hardsigmoid,
    "hardswish": nn.Hardswish,
}


def mlp(
    sizes: Sequence[int],
    activation: str = "tanh",
    output_gain: float | None = 1.0,
    generator: torch.Generator | None = None,
) -> nn.Sequential:
    """Linear layers with an activation between them, none after the last.

    Weights are orthogonal with gain √2 (the last layer: `output_gain`), biases zero, as PPO's
    implementations have it. Without an output_gain all are uniform in ±1/√n_in, as torch's own Linear starts
    and SAC's implementations leave it. torch's global random state is not touched.

    Args:
        sizes: input, hidden …, output widths; at least two.
        activation: a name of ACTIVATIONS: tanh, relu, leaky_relu, elu, celu, selu, silu, gelu, gelu_tanh,
            mish, softplus, sigmoid, log_sigmoid, softsign, relu6, hardtanh, hardsigmoid or hardswish.
        output_gain: gain of the last layer; None: see above.
        generator: source of the weights; None takes one seeded by the operating system.

    Raises:
        ValueError: fewer than two sizes, a size below 1, or an unknown activation.
    """
    if len(sizes) < 2 or min(sizes) < 1:
        raise ValueError(f"sizes must be at least two positive widths, got {list(sizes)}")
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
    layers: list[nn.Module] = []
    last = len(sizes) - 2
    for i, (n_in, n_out) in enumerate(itertools.pairwise(sizes)):
        if output_gain is None:
            layers.append(uniform_linear(n_in, n_out, generator))
        else:
            gain = output_gain if i == last else math.sqrt(2.0)
            layers.append(orthogonal_linear(n_in, n_out, gain, generator))
        if i < last:
            layers.append(ACTIVATIONS[activation]())
    return nn.Sequential(*layers)


def orthogonal_linear(
    n_in: int, n_out: int, gain: float, generator: torch.Generator | None = None
) -> nn.Linear:
    """A Linear layer with an orthogonal weight and zero bias."""
    layer = _empty_linear(n_in, n_out)
    nn.init.orthogonal_(layer.weight, gain, generator=_or_fresh(generator))
    nn.init.zeros_(layer.bias)
    return layer


def uniform_linear(n_in: int, n_out: int, generator: torch.Generator | None = None) -> nn.Linear:
    """A Linear layer with weight and bias uniform in ±1/√n_in."""
    layer, bound = _empty_linear(n_in, n_out), 1.0 / math.sqrt(n_in)
    generator = _or_fresh(generator)
    for parameter in (layer.weight, layer.bias):
        nn.init.uniform_(parameter, -bound, bound, generator=generator)
    return layer


def _empty_linear(n_in: int, n_out: int) -> nn.Linear:
    # By way of the meta device, where the layer's own initialisation draws nothing. (to_empty(), which does
    # the rest too, imports sympy for it.)
    layer = nn.Linear(n_in, n_out, device="meta")
    layer.weight = nn.Parameter(torch.empty(n_out, n_in, device="cpu"))
    layer.bias = nn.Parameter(torch.empty(n_out, device="cpu"))
    return layer


def _or_fresh(generator: torch.Generator | None) -> torch.Generator:
    if generator is None:
        generator = torch.Generator()
        generator.seed()
    return generator
