"""Generalised advantage estimation."""

from __future__ import annotations

import torch
from torch.compiler import is_compiling

from optix_fast import _native, reference
from optix_fast.ops._dispatch import register, serves
from optix_fast.reference.gae import require_out

_core = _native.core


def _gae_native(
    rewards: torch.Tensor,
    values: torch.Tensor,
    last_value: torch.Tensor | float,
    terminated: torch.Tensor,
    truncated: torch.Tensor | None,
    final_values: torch.Tensor | None,
    gamma: float,
    gae_lambda: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    pair: tuple[torch.Tensor, torch.Tensor] = _core.gae(
        rewards, values, last_value, terminated, truncated, final_values, gamma, gae_lambda, None
    )
    return pair


def _gae_shapes(
    rewards: torch.Tensor,
    values: torch.Tensor,
    last_value: torch.Tensor,
    terminated: torch.Tensor,
    truncated: torch.Tensor | None,
    final_values: torch.Tensor | None,
    gamma: float,
    gae_lambda: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.empty_like(rewards), torch.empty_like(rewards)


register(
    "gae(Tensor rewards, Tensor values, Tensor last_value, Tensor terminated, Tensor? truncated, "
    "Tensor? final_values, float gamma, float gae_lambda) -> (Tensor, Tensor)",
    _gae_native,
    _gae_shapes,
    cuda=True,
)


def gae(
    rewards: torch.Tensor,
    values: torch.Tensor,
    last_value: torch.Tensor | float,
    terminated: torch.Tensor,
    truncated: torch.Tensor | None = None,
    final_values: torch.Tensor | None = None,
    *,
    gamma: float = 0.99,
    gae_lambda: float = 0.95,
    out: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Advantages and returns of a rollout, telling the two ways an episode ends apart.

    ::

        V'  = final_values[t]  where truncated[t], else values[t+1]  (last row: last_value)
        δ_t = r_t + γ·V'·(1 − terminated_t) − V_t
        A_t = δ_t + γλ·(1 − (terminated_t ∨ truncated_t))·A_{t+1}
        R_t = A_t + V_t

    λ = 1 gives the discounted return minus the value, λ = 0 the one-step temporal difference.

    Args:
        rewards: float32 or float64 [T, N], row t holding step t of N environments, or [T] for one.
        values: like rewards: V of the state each step started from.
        last_value: [N], or one number for all: V of the state after the last row. Not read where the last
            row ended an episode.
        terminated: bool, like rewards: the episode ended in a terminal state, whose value is 0.
        truncated: bool, like rewards: the episode was cut off (a time limit), so the value of its true final
            state counts. A row that is both is terminated.
        final_values: like rewards: V of that true final state; read only where truncated. Required with
            truncated.
        gamma: discount γ in [0, 1].
        gae_lambda: λ in [0, 1].
        out: (advantages, returns) to write into and to return, each like rewards, sharing no memory with the
            inputs. Saves the allocation, which for a large rollout costs more than the arithmetic: the
            system hands fresh memory out page by page (docs/performance.md).

    Returns:
        (advantages, returns), each like rewards, or out. They carry no gradient: inputs are taken as data. A
        NaN in the data stays within its own episode.

    Raises:
        ValueError, TypeError: an argument of another shape, type or device, or not contiguous; γ or λ outside
            [0, 1]; truncated without final_values, or the reverse; an out that requires a gradient.

    Source: Schulman et al., "High-dimensional continuous control using generalized advantage estimation",
    2016.
    """
    if not 0.0 <= gamma <= 1.0:
        raise ValueError(f"gae: gamma must be in [0, 1], got {gamma}")
    if not 0.0 <= gae_lambda <= 1.0:
        raise ValueError(f"gae: gae_lambda must be in [0, 1], got {gae_lambda}")
    if (truncated is None) != (final_values is None):
        given, missing = ("final_values", "truncated") if truncated is None else ("truncated", "final_values")
        raise ValueError(f"gae: {given} needs {missing}, got None")
    if out is not None:
        require_out(out)
    if not serves(rewards, cuda=True):
        return reference.gae(
            rewards,
            values,
            last_value,
            terminated,
            truncated,
            final_values,
            gamma=gamma,
            gae_lambda=gae_lambda,
            out=out,
        )
    if is_compiling():
        if not isinstance(last_value, torch.Tensor):
            last_value = torch.full((), last_value, dtype=rewards.dtype, device=rewards.device)
        compiled: tuple[torch.Tensor, torch.Tensor] = torch.ops.optix_fast.gae(
            rewards, values, last_value, terminated, truncated, final_values, gamma, gae_lambda
        )
        return compiled if out is None else (out[0].copy_(compiled[0]), out[1].copy_(compiled[1]))
    pair: tuple[torch.Tensor, torch.Tensor] = _core.gae(
        rewards, values, last_value, terminated, truncated, final_values, gamma, gae_lambda, out
    )
    if out is not None:
        torch.autograd.graph.increment_version(out)
    return pair
