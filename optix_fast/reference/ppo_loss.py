"""The clipped surrogate loss of PPO in plain torch, differentiated by autograd."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch

from optix_fast.reference.checks import check_first, check_like
from optix_fast.reference.distributions import Categorical, Distribution, Hybrid, MultiDiscrete, Normal


class PPOLoss(NamedTuple):
    """The loss, which carries the gradient, and its statistics, which do not.

    ``stats`` is one float32 tensor [5 + components] that holds policy_loss, value_loss, entropy, approx_kl,
    clip_fraction and the entropies of the components; the properties of these names are views of it.
    """

    loss: torch.Tensor
    stats: torch.Tensor

    @property
    def policy_loss(self) -> torch.Tensor:
        return self.stats[0]

    @property
    def value_loss(self) -> torch.Tensor:
        return self.stats[1]

    @property
    def entropy(self) -> torch.Tensor:
        return self.stats[2]

    @property
    def approx_kl(self) -> torch.Tensor:
        return self.stats[3]

    @property
    def clip_fraction(self) -> torch.Tensor:
        return self.stats[4]

    @property
    def entropies(self) -> torch.Tensor:
        return self.stats[5:]


def per_component(name: str, value: float | Sequence[float], components: int) -> tuple[float, ...]:
    """``value`` once for every component of the action; a number stands for all of them."""
    if isinstance(value, (int, float)):
        numbers: tuple[float, ...] = (float(value),) * components
    elif isinstance(value, (list, tuple)) and all(isinstance(number, (int, float)) for number in value):
        numbers = tuple(map(float, value))
    else:
        raise TypeError(f"ppo_loss: {name} must be a number or one per component, got {type(value).__name__}")
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


def _check_actions(
    actions: torch.Tensor, n: int, action_mask: torch.Tensor | None, where: str = "", whole: str = ""
) -> None:
    """Data that no loss can be computed from. Skipped while compiling: it reads the data on the host."""
    if torch.compiler.is_compiling():
        return
    outside = ~((actions >= 0) & (actions < n) & (actions == actions.trunc()))
    fault = outside
    if action_mask is not None:
        empty = ~action_mask.any(dim=1)
        indices = torch.where(outside, torch.zeros_like(actions), actions).long()
        masked = ~action_mask.gather(1, indices.unsqueeze(1)).squeeze(1)
        fault = outside | empty | masked
    if not bool(fault.any()):
        return
    row = int(fault.int().argmax())
    at = f"at row {row}{where}"
    action = f"{actions[row].item():.6f}".removesuffix(".000000")
    if action_mask is not None and bool(empty[row]):
        raise ValueError(f"ppo_loss: action_mask forbids every action {at}")
    if bool(outside[row]):
        raise ValueError(f"ppo_loss: actions must be {whole}in [0, K) = [0, {n}), got {action} {at}")
    raise ValueError(f"ppo_loss: action_mask forbids the action taken, {action} {at}")


def _discrete(
    nvec: tuple[int, ...],
    logits: torch.Tensor,
    actions: torch.Tensor,
    action_mask: torch.Tensor | None,
    hybrid: bool,
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """log π(a) and entropy of every row, for each component."""
    log_probs, entropies = [], []
    offset = 0
    for k, n in enumerate(nvec):
        columns = slice(offset, offset + n)
        mask = None if action_mask is None else action_mask[:, columns]
        _check_actions(actions[:, k], n, mask, f", component {k}", "whole numbers " if hybrid else "")
        log_prob, entropy = _categorical(logits[:, columns], actions[:, k].long(), mask)
        log_probs.append(log_prob)
        entropies.append(entropy)
        offset += n
    return log_probs, entropies


def _evaluate(
    dist: Distribution, params: torch.Tensor, actions: torch.Tensor, action_mask: torch.Tensor | None
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """log π(a) [B], and the entropies of every component, each [B]. Checks actions and mask."""
    op = "ppo_loss"
    (batch, width), dtype, device = params.shape, params.dtype, params.device

    def check_mask(logits: int, dims: str) -> None:
        if action_mask is not None:
            check_like(op, "action_mask", action_mask, torch.bool, dims, (batch, logits), device)

    if isinstance(dist, Categorical):
        actions = check_like(op, "actions", actions, torch.int64, "[B]", (batch,), device)
        check_mask(width, "[B, K]")
        _check_actions(actions, width, action_mask)
        log_prob, entropy = _categorical(params, actions, action_mask)
        return log_prob, [entropy]
    if isinstance(dist, Normal):
        if width % 2:
            raise ValueError(
                f"ppo_loss: params of a Normal must be [B, 2A] (mean and log_std), got [{batch}, {width}]"
            )
        actions = check_like(op, "actions", actions, dtype, "[B, A]", (batch, width // 2), device)
        log_prob, entropy = _normal(params, actions.detach())
        return log_prob, [entropy]
    logits, parts = sum(dist.nvec), len(dist.nvec)
    if isinstance(dist, MultiDiscrete):
        if width != logits:
            raise ValueError(
                f"ppo_loss: params of a MultiDiscrete must be [B, sum of nvec] = [B, {logits}], "
                f"got [{batch}, {width}]"
            )
        actions = check_like(op, "actions", actions, torch.int64, "[B, C]", (batch, parts), device)
        check_mask(logits, "[B, sum of nvec]")
        log_probs, entropies = _discrete(dist.nvec, params, actions, action_mask, False)
        return torch.stack(log_probs).sum(dim=0), entropies
    if width <= logits or (width - logits) % 2:
        raise ValueError(
            f"ppo_loss: params of a Hybrid must be [B, sum of nvec + 2A] = [B, {logits} + 2A] "
            f"(logits, mean and log_std), got [{batch}, {width}]"
        )
    dims = (width - logits) // 2
    actions = check_like(op, "actions", actions, dtype, "[B, C + A]", (batch, parts + dims), device).detach()
    check_mask(logits, "[B, sum of nvec]")
    log_probs, entropies = _discrete(dist.nvec, params[:, :logits], actions, action_mask, True)
    log_prob, entropy = _normal(params[:, logits:], actions[:, parts:])
    return torch.stack([*log_probs, log_prob]).sum(dim=0), [*entropies, entropy]


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
    batch, dtype, device = params.shape[0], params.dtype, params.device
    if params.numel() == 0:
        raise ValueError("ppo_loss: params must not be empty")

    def per_sample(name: str, value: torch.Tensor) -> torch.Tensor:
        return check_like(op, name, value, dtype, "[B]", (batch,), device)

    log_probs, entropy_rows = _evaluate(dist, params, actions, action_mask)
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
    entropies = torch.stack([rows.mean() for rows in entropy_rows])

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
    return PPOLoss(loss, stats)


__all__ = ["Categorical", "Hybrid", "MultiDiscrete", "Normal", "PPOLoss", "ppo_loss"]
