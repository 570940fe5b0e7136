"""CrossQ's networks."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import nn

from optix_fast.networks.batch_renorm import BatchRenorm
from optix_fast.networks.mlp import ACTIVATIONS, uniform_linear


def normalized_mlp(
    sizes: Sequence[int],
    activation: str = "relu",
    generator: torch.Generator | None = None,
    *,
    dropout: float = 0.0,
) -> nn.Sequential:
    """An MLP whose Linear layers all read normalized numbers, [B, sizes[0]] → [B, sizes[-1]]:

        BatchRenorm → (Linear → activation → BatchRenorm → Dropout)* → Linear

    The weights start as torch's own Linear does; torch's global random state is not touched.

    Args:
        sizes: input, hidden …, output widths; at least two.
        activation: a name of networks.mlp.ACTIVATIONS.
        generator: source of the weights; None takes one seeded by the operating system.
        dropout: share of what each Linear but the first reads that training sets to zero, in [0, 1); 0: no
            Dropout.

    Raises:
        ValueError: fewer than two sizes, a size below 1, an unknown activation, or a dropout out of range.

    Source: the policies of sb3-contrib's and SBX's CrossQ, which have the same order (and no Dropout).
    """
    if len(sizes) < 2 or min(sizes) < 1:
        raise ValueError(f"sizes must be at least two positive widths, got {list(sizes)}")
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
    if not 0.0 <= dropout < 1.0:
        raise ValueError(f"dropout must be at least 0 and below 1, got {dropout!r}")
    layers: list[nn.Module] = [BatchRenorm(sizes[0])]
    for n_in, n_out in itertools.pairwise(sizes[:-1]):
        layers += [uniform_linear(n_in, n_out, generator), ACTIVATIONS[activation](), BatchRenorm(n_out)]
        if dropout > 0.0:
            layers.append(nn.Dropout(dropout))
    return nn.Sequential(*layers, uniform_linear(sizes[-2], sizes[-1], generator))
