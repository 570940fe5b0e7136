"""The squashed Gaussian in plain torch, differentiated by autograd."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from optix_fast.reference.checks import check_first, check_like

if TYPE_CHECKING:
    from optix_fast.random import RandomStream

ACTION_LIMIT = 1.0 - 1e-6
_HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)


def _check_params(op: str, mean: torch.Tensor, log_std: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    mean = check_first(op, "mean", mean, "[B, A]", (2,))
    shared = getattr(log_std, "ndim", 2) == 1
    dims, shape = ("[A]", mean.shape[1:]) if shared else ("[B, A]", mean.shape)
    return mean, check_like(op, "log_std", log_std, mean.dtype, dims, shape, mean.device)


def _log_slope(u: torch.Tensor) -> torch.Tensor:
    """log(1 − tanh²u) = 2(ln 2 − u − softplus(−2u)): even in u, so taken from |u|, where nothing cancels."""
    u = torch.where(u < 0, -u, u)
    return 2.0 * (math.log(2.0) - u - torch.log1p(torch.exp(-2.0 * u)))


def tanh_normal_log_prob(
    mean: torch.Tensor,
    log_std: torch.Tensor,
    action: torch.Tensor | None = None,
    pre_tanh: torch.Tensor | None = None,
) -> torch.Tensor:
    """As :func:`optix_fast.ops.tanh_normal_log_prob`; differentiable any number of times."""
    op = "tanh_normal_log_prob"
    mean, log_std = _check_params(op, mean, log_std)
    if (action is None) == (pre_tanh is None):
        given = "neither" if action is None else "both"
        raise ValueError(f"{op}: exactly one of action and pre_tanh must be given, got {given}")
    if action is not None:
        action = check_like(op, "action", action, mean.dtype, "[B, A]", mean.shape, mean.device)
        u = torch.atanh(action.clamp(-ACTION_LIMIT, ACTION_LIMIT))
    else:
        u = check_like(op, "pre_tanh", pre_tanh, mean.dtype, "[B, A]", mean.shape, mean.device)
    z = (u - mean) * torch.exp(-log_std)
    return (-0.5 * z * z - log_std - _HALF_LOG_2PI - _log_slope(u)).sum(dim=1)


def tanh_normal_sample(
    mean: torch.Tensor, log_std: torch.Tensor, stream: RandomStream
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """As :func:`optix_fast.ops.tanh_normal_sample`, with a stream; differentiable any number of times."""
    mean, log_std = _check_params("tanh_normal_sample", mean, log_std)
    return tanh_normal_of_noise(mean, log_std, torch.from_numpy(stream.normal(tuple(mean.shape))).to(mean))


def tanh_normal_of_noise(
    mean: torch.Tensor, log_std: torch.Tensor, noise: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The sample that the normal numbers `noise` [B, A] make: action, log_prob, pre_tanh."""
    pre_tanh = mean + torch.exp(log_std) * noise
    log_prob = (-0.5 * noise * noise - log_std - _HALF_LOG_2PI - _log_slope(pre_tanh)).sum(dim=1)
    return torch.tanh(pre_tanh), log_prob, pre_tanh
