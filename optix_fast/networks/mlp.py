"""Multi-layer perceptrons."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import nn

from optix_fast.networks.batch_renorm import BatchRenorm
from optix_fast.networks.residual import Residual

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


NORMS: dict[str, Callable[[int], nn.Module]] = {
    "layer": nn.LayerNorm,
    "rms": nn.RMSNorm,
    "batch": nn.BatchNorm1d,
    "batch_renorm": BatchRenorm,
}


def mlp(
    sizes: Sequence[int],
    activation: str = "tanh",
    output_gain: float | None = 1.0,
    generator: torch.Generator | None = None,
    *,
    norm: str | None = None,
    residual: bool = False,
    dropout: float = 0.0,
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
        norm: between each hidden layer and its activation: "layer" (Ba et al. 2016), "rms" (Zhang & Sennrich
            2019), "batch" (Ioffe & Szegedy 2015), "batch_renorm" (Ioffe 2017) or None.
        residual: hidden layers that are as wide as what they read are added to it; see Residual.
        dropout: share of each hidden layer's activations that training sets to zero (Srivastava et al. 2014),
            in [0, 1); 0: no Dropout.

    Raises:
        ValueError: fewer than two sizes, a size below 1, an unknown activation or norm, or a dropout out of
            its range.
    """
    if len(sizes) < 2 or min(sizes) < 1:
        raise ValueError(f"sizes must be at least two positive widths, got {list(sizes)}")
    is_orthogonal = output_gain is not None
    hidden = hidden_layers(
        sizes[:-1], activation, generator, is_orthogonal=is_orthogonal, norm=norm, residual=residual,
        dropout=dropout,
    )  # fmt: skip
    n_in, n_out = sizes[-2:]
    if output_gain is None:
        return nn.Sequential(*hidden, uniform_linear(n_in, n_out, generator))
    return nn.Sequential(*hidden, orthogonal_linear(n_in, n_out, output_gain, generator))


def hidden_layers(
    sizes: Sequence[int],
    activation: str,
    generator: torch.Generator | None = None,
    *,
    is_orthogonal: bool = True,
    norm: str | None = None,
    residual: bool = False,
    dropout: float = 0.0,
) -> list[nn.Module]:
    """The layers of an mlp but for the last: each a Linear, a norm where one is asked for, an activation, and
    Dropout likewise.

    A Linear before a batch norm has no bias: the norm subtracts it again with the batch's mean, and its
    gradient would be rounding that Adam turns into steps.

    Args:
        sizes: input and hidden widths.
        is_orthogonal: weights are orthogonal with gain √2; else as torch's own Linear starts.
        activation, generator, norm, residual, dropout: see mlp.

    Raises:
        ValueError: an unknown activation or norm, or a dropout out of its range.
    """
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
    if norm is not None and norm not in NORMS:
        raise ValueError(f"norm must be one of {', '.join(NORMS)} or None, got {norm!r}")
    if not 0.0 <= dropout < 1.0:
        raise ValueError(f"dropout must be at least 0 and below 1, got {dropout!r}")
    layers: list[nn.Module] = []
    bias = norm not in ("batch", "batch_renorm")
    for n_in, n_out in itertools.pairwise(sizes):
        block: list[nn.Module] = [
            orthogonal_linear(n_in, n_out, math.sqrt(2.0), generator, bias)
            if is_orthogonal
            else uniform_linear(n_in, n_out, generator, bias)
        ]
        if norm is not None:
            block.append(NORMS[norm](n_out))
        block.append(ACTIVATIONS[activation]())
        if dropout > 0.0:
            block.append(nn.Dropout(dropout))
        layers += [Residual(nn.Sequential(*block))] if residual and n_in == n_out else block
    return layers


def orthogonal_linear(
    n_in: int, n_out: int, gain: float, generator: torch.Generator | None = None, bias: bool = True
) -> nn.Linear:
    """A Linear layer with an orthogonal weight and zero bias, or none."""
    layer = _empty_linear(n_in, n_out, bias)
    nn.init.orthogonal_(layer.weight, gain, generator=_or_fresh(generator))
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def uniform_linear(
    n_in: int, n_out: int, generator: torch.Generator | None = None, bias: bool = True
) -> nn.Linear:
    """A Linear layer with weight and bias, if it has one, uniform in ±1/√n_in."""
    layer, bound = _empty_linear(n_in, n_out, bias), 1.0 / math.sqrt(n_in)
    generator = _or_fresh(generator)
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, -bound, bound, generator=generator)
    return layer


def _empty_linear(n_in: int, n_out: int, bias: bool) -> nn.Linear:
    # By way of the meta device, where the layer's own initialisation draws nothing. (to_empty(), which does
    # the rest too, imports sympy for it.)
    layer = nn.Linear(n_in, n_out, bias, device="meta")
    layer.weight = nn.Parameter(torch.empty(n_out, n_in, device="cpu"))
    if bias:
        layer.bias = nn.Parameter(torch.empty(n_out, device="cpu"))
    return layer


def _or_fresh(generator: torch.Generator | None) -> torch.Generator:
    if generator is None:
        generator = torch.Generator()
        generator.seed()
    return generator
