"""Generalised advantage estimation in plain torch."""

from __future__ import annotations

import torch

from optix_fast.reference.checks import check_first, check_like, require_tensor


def require_out(out: object) -> None:
    if not isinstance(out, tuple) or len(out) != 2:
        raise TypeError(f"gae: out must be a tuple (advantages, returns), got {type(out).__name__}")
    advantages, returns = out
    if getattr(advantages, "requires_grad", False) or getattr(returns, "requires_grad", False):
        raise ValueError("gae: out must not require a gradient")


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
    """The recurrence of :func:`optix_fast.ops.gae`, one time step per line of Python."""
    rewards = check_first("gae", "rewards", rewards, "[T, N] or [T]", (2, 1)).detach()
    dtype, device, shape = rewards.dtype, rewards.device, rewards.shape
    dims = "[T, N]" if rewards.ndim == 2 else "[T]"
    values = check_like("gae", "values", values, dtype, dims, shape, device).detach()
    terminated = check_like("gae", "terminated", terminated, torch.bool, dims, shape, device)
    n_envs = shape[1] if rewards.ndim == 2 else 1
    if isinstance(last_value, (float, int)):
        successor = torch.full(shape[1:], float(last_value), dtype=dtype, device=device)
    else:
        last = require_tensor("gae", "last_value", last_value)
        dims_of_last, shape_of_last = ("[]", ()) if last.ndim == 0 else ("[N]", (n_envs,))
        check_like("gae", "last_value", last, dtype, dims_of_last, shape_of_last, device)
        successor = last.detach().expand(n_envs).reshape(shape[1:])

    # V' of every row: the next row's value, or the true final state's where an episode was cut off.
    successors = torch.cat([values[1:], successor.unsqueeze(0)]) if shape[0] else values
    done = terminated
    if truncated is not None:
        truncated = check_like("gae", "truncated", truncated, torch.bool, dims, shape, device)
        final = check_like("gae", "final_values", final_values, dtype, dims, shape, device).detach()
        successors = torch.where(truncated, final, successors)
        done = terminated | truncated
    zero = torch.zeros((), dtype=dtype, device=device)
    deltas = rewards + gamma * torch.where(terminated, zero, successors) - values

    if out is not None:
        require_out(out)
        check_like("gae", "advantages", out[0], dtype, dims, shape, device)
        check_like("gae", "returns", out[1], dtype, dims, shape, device)
    advantages = torch.empty_like(rewards)
    running = torch.zeros(shape[1:], dtype=dtype, device=device)
    for t in range(shape[0] - 1, -1, -1):
        running = deltas[t] + gamma * gae_lambda * torch.where(done[t], zero, running)
        advantages[t] = running
    if out is None:
        return advantages, advantages + values
    return out[0].copy_(advantages), out[1].copy_(advantages + values)
