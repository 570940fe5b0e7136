"""The clipped surrogate loss of PPO in plain torch, differentiated by autograd."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch

from optix_fast.reference.checks import check_first, check_like
from optix_fast.reference.distributions import Categorical, Distribution, Normal


class PPOLoss(NamedTuple):
    """The loss, which carries the gradient, and its statistics, which do not.

    ``stats`` is one float32 tensor [5 + components] that holds policy_loss, value_loss, entropy, approx_kl,
    clip_fraction and the entropies; the fields of these names are views of it.
    """

    loss: torch.Tensor
    policy_loss: torch.Tensor
    value_loss: torch.Tensor
    entropy: torch.Tensor
    approx_kl: torch.Tensor
    clip_fraction: torch.Tensor
    entropies: torch.Tensor
    stats: torch.Tensor

    @staticmethod
    def from_stats(loss: torch.Tensor, stats: torch.Tensor) -> PPOLoss:
        policy_loss, value_loss, entropy, approx_kl, clip_fraction, *_ = stats.unbind()
        return PPOLoss(loss, policy_loss, value_loss, entropy, approx_kl, clip_fraction, stats[5:], stats)


def per_component(name: str, value: float | Sequence[float], components: int) -> tuple[float, ...]:
    """``value`` once for every component of the action; a number stands for all of them."""
    numbers = (float(value),) * components if isinstance(value, (int, float)) else tuple(map(float, value))
    if len(numbers) != components:
        raise ValueError(
            f"ppo_loss: {name} must be a number or one per component, {components} here, got {len(numbers)}"
        )
    if not all(map(math.isfinite, numbers)):
        raise ValueError(f"ppo_loss: {name} must be finite, got {list(numbers)}")
    return numbers


def _categorical(
    logits: torch.Tensor, actions: torch.Tensor, action_mask: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """log π(a) and entropy of every row."""
    if action_mask is not None:
        logits = torch.where(action_mask, logits, -torch.inf)
    log_p = torch.log_softmax(logits, dim=1)
    p = log_p.exp()
    # 0·log 0, a masked or impossible action, counts nothing, and must not send NaN backwards.
    entropy = -(p * log_p.masked_fill(p == 0, 0.0)).sum(dim=1)
    return log_p.gather(1, actions.unsqueeze(1)).squeeze(1), entropy


def _normal(params: torch.Tensor, actions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    mean, log_std = params.chunk(2, dim=1)
    z = (actions - mean) * torch.exp(-log_std)
    half_log_2pi = 0.5 * math.log(2 * math.pi)
    log_prob = -(0.5 * z * z + log_std + half_log_2pi).sum(dim=1)
    return log_prob, (log_std + half_log_2pi + 0.5).sum(dim=1)


def _check_actions(actions: torch.Tensor, n: int, action_mask: torch.Tensor | None) -> None:
    """Data that no loss can be computed from. Skipped while compiling: it reads the data on the host."""
    if torch.compiler.is_compiling():
        return
    outside = (actions < 0) | (actions >= n)
    fault = outside
    if action_mask is not None:
        empty = ~action_mask.any(dim=1)
        masked = ~action_mask.gather(1, actions.clamp(0, n - 1).unsqueeze(1)).squeeze(1)
        fault = outside | empty | masked
    if not bool(fault.any()):
        return
    row = int(fault.int().argmax())
    action = int(actions[row])
    if action_mask is not None and bool(empty[row]):
        raise ValueError(f"ppo_loss: action_mask forbids every action at row {row}")
    if bool(outside[row]):
        raise ValueError(f"ppo_loss: actions must be in [0, K) = [0, {n}), got {action} at row {row}")
    raise ValueError(f"ppo_loss: action_mask forbids the action taken, {action} at row {row}")


def _value_loss(
    values: torch.Tensor,
    returns: torch.Tensor,
    old_values: torch.Tensor | None,
    value_clip: float | None,
    value_clip_mode: str,
) -> torch.Tensor:
    plain = (values - returns) ** 2
    if value_clip is None or old_values is None:
        return plain.mean()
    limited = old_values + (values - old_values).clamp(-value_clip, value_clip)
    clipped = (limited - returns) ** 2
    return (torch.maximum(plain, clipped) if value_clip_mode == "max" else clipped).mean()


def ppo_loss(
    dist: Distribution,
    params: torch.Tensor,
    actions: torch.Tensor,
    old_log_probs: torch.Tensor,
    advantages: torch.Tensor,
    values: torch.Tensor,
    returns: torch.Tensor,
    old_values: torch.Tensor | None = None,
    *,
    clip_ratio: float,
    value_clip: float | None = None,
    value_clip_mode: str = "max",
    vf_coef: float,
    entropy_coef: float | Sequence[float],
    entropy_floor: float | Sequence[float] | None = None,
    entropy_floor_coef: float | Sequence[float] = 1.0,
    action_mask: torch.Tensor | None = None,
    normalize_advantages: bool = False,
) -> PPOLoss:
    """The equations of :func:`optix_fast.ops.ppo_loss`, term by term."""
    op = "ppo_loss"
    params = check_first(op, "params", params, "[B, D]", (2,))
    batch, width = params.shape
    dtype, device = params.dtype, params.device
    if params.numel() == 0:
        raise ValueError("ppo_loss: params must not be empty")

    def per_sample(name: str, value: torch.Tensor) -> torch.Tensor:
        return check_like(op, name, value, dtype, "[B]", (batch,), device)

    if isinstance(dist, Normal):
        if width % 2:
            raise ValueError(
                f"ppo_loss: params of a Normal must be [B, 2A] (mean and log_std), got [{batch}, {width}]"
            )
        actions = check_like(op, "actions", actions, dtype, "[B, A]", (batch, width // 2), device)
        log_probs, entropy_rows = _normal(params, actions.detach())
    else:
        actions = check_like(op, "actions", actions, torch.int64, "[B]", (batch,), device)
        if action_mask is not None:
            check_like(op, "action_mask", action_mask, torch.bool, "[B, K]", (batch, width), device)
        _check_actions(actions, width, action_mask)
        log_probs, entropy_rows = _categorical(params, actions, action_mask)
    old_log_probs = per_sample("old_log_probs", old_log_probs).detach()
    advantages = per_sample("advantages", advantages).detach()
    values = per_sample("values", values)
    returns = per_sample("returns", returns).detach()
    if old_values is not None:
        old_values = per_sample("old_values", old_values).detach()

    if normalize_advantages and batch > 1:
        advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    log_ratio = log_probs - old_log_probs
    ratio = log_ratio.exp()
    clipped_ratio = ratio.clamp(1.0 - clip_ratio, 1.0 + clip_ratio)
    policy_loss = -torch.minimum(ratio * advantages, clipped_ratio * advantages).mean()
    value_loss = _value_loss(values, returns, old_values, value_clip, value_clip_mode)
    entropies = entropy_rows.mean().unsqueeze(0)

    def weights(name: str, value: float | Sequence[float]) -> torch.Tensor:
        numbers = per_component(name, value, dist.components)
        return torch.tensor(numbers, dtype=dtype, device=device)

    loss = policy_loss + vf_coef * value_loss - (weights("entropy_coef", entropy_coef) * entropies).sum()
    if entropy_floor is not None:
        missing = torch.relu(weights("entropy_floor", entropy_floor) - entropies)
        loss = loss + (weights("entropy_floor_coef", entropy_floor_coef) * missing).sum()

    with torch.no_grad():
        approx_kl = ((ratio - 1.0) - log_ratio).mean()
        clip_fraction = ((ratio - 1.0).abs() > clip_ratio).to(dtype).mean()
        scalars = torch.stack([policy_loss, value_loss, entropies.sum(), approx_kl, clip_fraction])
        stats = torch.cat([scalars, entropies]).float()
    return PPOLoss.from_stats(loss, stats)


__all__ = ["Categorical", "Normal", "PPOLoss", "ppo_loss"]
