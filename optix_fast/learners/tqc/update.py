"""Updates of truncated quantile critics (TQC) in plain torch: the specification of what the core computes.

Kuznetsov et al. 2020, "Controlling overestimation bias with truncated mixture of continuous distributional
quantile critics". What is not said here is SAC's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from optix_fast.learners.critics import Updated, outputs_of
from optix_fast.learners.experience import Draws, Experience, Transitions, discounted
from optix_fast.learners.optimizers import descend_finite
from optix_fast.learners.squashed_policy import Fitted, SoftModel, Step, soft_step, soft_updates
from optix_fast.learners.tqc.config import TQCConfig
from optix_fast.types import Tree


@dataclass(kw_only=True)
class TQCModel(SoftModel):
    """Everything that an update changes.

    Args:
        critics: K of them, observation ‖ action → M quantiles of the return, [B, M]. Observations that are
            not [B, D] are handed over apart: critic(observations, actions).
        targets: copies of the critics.
    """

    critics: nn.ModuleList
    targets: nn.ModuleList

    TARGETS: ClassVar[Mapping[str, str]] = {"targets": "critics"}


def tqc_update(
    model: TQCModel,
    experience: Experience,
    draws: Draws,
    noise: Tensor,
    config: TQCConfig,
    target_entropy: float,
) -> Updated:
    """K updates from the experience, in place.

    Args:
        draws: the random numbers that say which transitions; see Draws.
        noise: normal numbers [K, 2, B, A], see soft_step.

    Raises:
        NonFiniteError: a loss or gradient is NaN or infinite; model and priorities are as before.
        ValueError: critics of different numbers of quantiles, or no more of them than are dropped.
    """

    def step(k: int, batch: Transitions) -> Step:
        return tqc_step(model, batch, noise[k].to(model.log_alpha), config, target_entropy)

    return soft_updates(model, experience, draws, step)


def tqc_step(
    model: TQCModel, batch: Transitions, noise: Tensor, config: TQCConfig, target_entropy: float
) -> Step:
    """One update, see soft_step.

        z      the K·M quantiles Z̄_i(s', a') of all target critics, sorted, the K·drop greatest left out
        y      r + discount·(z − α·log π(a'|s')),  [B, N]
        critics mean w·ρ, ρ of a row: the mean over critics i, quantiles j and atoms k of
               |τ_j − 1(u < 0)|·huber(u),  u = y_k − Z_ij(s, a),  τ_j = (2j + 1)/2M,  j from 0
        V      the mean of all Z_ij(s, â)

    The TD error of a row is mean_i |mean_k y_k − mean_j Z_ij(s, a)|.

    Raises:
        NonFiniteError: a loss or gradient is NaN or infinite; what came before it has been changed.
        ValueError: see tqc_update.
    """

    def fit(next_actions: Tensor, next_entropy_cost: Tensor) -> Fitted:
        with torch.no_grad():
            next_quantiles = _quantiles(model.targets, batch.next_observations, next_actions)
            config.check_dropped(next_quantiles.shape[-1])
            atoms = _truncated(next_quantiles, config.top_quantiles_to_drop_per_net)
            # [N, B], as discounts are [B].
            target = (batch.rewards + discounted(batch, atoms.T - next_entropy_cost)).T
        quantiles = _quantiles(model.critics, batch.observations, batch.actions)
        losses = quantile_huber(quantiles, target)
        loss = (losses if batch.weights is None else batch.weights * losses).mean()
        descend_finite("critic", loss, model.critic_optimizer, config.max_grad_norm)
        values = quantiles.detach().mean(dim=-1)
        td_errors = (target.mean(dim=-1, keepdim=True) - values).abs().mean(dim=-1)
        return Fitted(loss, td_errors, values.mean())

    def value(actions: Tensor) -> Tensor:
        return _quantiles(model.critics, batch.observations, actions).mean(dim=(1, 2))

    step = soft_step(model, batch, noise, config, target_entropy, fit, value)
    model.move_targets(config.tau)
    return step


def quantile_huber(quantiles: Tensor, atoms: Tensor) -> Tensor:
    """ρ of tqc_step, [B], as sb3-contrib takes it: the mean over quantiles, too, where the paper has the sum.

    Args:
        quantiles: Z, [B, K, M].
        atoms: y, [B, N].
    """
    m = quantiles.shape[-1]
    midpoints = (torch.arange(m, dtype=quantiles.dtype, device=quantiles.device) + 0.5) / m
    u = atoms[:, None, None, :] - quantiles[..., None]
    size = u.abs()
    huber = torch.where(size > 1.0, size - 0.5, 0.5 * u.square())
    return ((midpoints[:, None] - (u.detach() < 0).to(u)).abs() * huber).mean(dim=(1, 2, 3))


def _truncated(quantiles: Tensor, dropped: int) -> Tensor:
    """The lowest K·(M − dropped) of each row's K·M, sorted."""
    k, m = quantiles.shape[1:]
    return quantiles.flatten(1).sort(dim=-1).values[:, : k * (m - dropped)]


def _quantiles(critics: nn.ModuleList, observations: Tree, actions: Tensor) -> Tensor:
    """[B, K, M]."""
    each = [outputs_of(critic, observations, actions) for critic in critics]
    widths = [quantiles.shape[-1] for quantiles in each]
    if len(set(widths)) > 1:
        raise ValueError(f"tqc_update: all critics must have as many outputs, got {widths}")
    return torch.stack(each, dim=1)
