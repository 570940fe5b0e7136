"""The clipped surrogate loss of PPO, with its gradients computed in the forward pass."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch.compiler import is_compiling

from optix_fast import _native, reference
from optix_fast.ops._dispatch import register, serves
from optix_fast.reference.distributions import (
    Categorical,
    Distribution,
    Hybrid,
    MultiDiscrete,
    Normal,
    PolicyKind,
)
from optix_fast.reference.ppo_loss import PPOLoss, per_component

_core = _native.core
_DISTRIBUTIONS = (Categorical, MultiDiscrete, Normal, Hybrid)
_CLIP_MODES = ("max", "clipped")
_CUDA_COMPONENTS = 32


class _Options(NamedTuple):
    """What is not a tensor, in the order of the registered op."""

    clip_ratio: float
    value_clip_mode: str  # "none": no clipping
    value_clip: float
    vf_coef: float
    entropy_coef: Sequence[float]
    entropy_floor: Sequence[float]  # empty: none
    entropy_floor_coef: Sequence[float]
    normalize_advantages: bool


@functools.cache
def _results(components: int, dtype: torch.dtype, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Tensors like loss and stats: one is made faster like another than from its description."""
    return (
        torch.empty((), dtype=dtype, device=device),
        torch.empty(5 + components, dtype=torch.float32, device=device),
    )


def _call_core(
    params: torch.Tensor,
    values: torch.Tensor,
    dist: Distribution,
    data: tuple[Any, ...],
    options: _Options,
    gradients: bool,
) -> tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor, torch.Tensor] | None]:
    """(loss, stats, (∂loss/∂params, ∂loss/∂values) where wanted)."""
    actions, old_log_probs, advantages, returns, old_values, action_mask = data
    like_loss, like_stats = _results(dist.components, params.dtype, params.device)
    loss, stats = torch.empty_like(like_loss), torch.empty_like(like_stats)
    found: tuple[torch.Tensor, torch.Tensor] | None = _core.ppo_loss(
        dist.kind, dist.nvec, params, actions, old_log_probs, advantages, values, returns, old_values,
        action_mask, *options, loss, stats, gradients,
    )  # fmt: skip
    return loss, stats, found


# ---- the registered op, which torch.compile sees ------------------------------------------------------


def _ppo_loss_registered(
    kind: PolicyKind,
    nvec: Sequence[int],
    params: torch.Tensor,
    actions: torch.Tensor,
    old_log_probs: torch.Tensor,
    advantages: torch.Tensor,
    values: torch.Tensor,
    returns: torch.Tensor,
    old_values: torch.Tensor | None,
    action_mask: torch.Tensor | None,
    *options: Any,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """(loss, stats, ∂loss/∂params, ∂loss/∂values)."""
    loss, stats = (torch.empty_like(t) for t in _results(len(options[4]), params.dtype, params.device))
    found = _core.ppo_loss(
        kind, nvec, params, actions, old_log_probs, advantages, values, returns, old_values,
        action_mask, *_Options(*options), loss, stats, True,
    )  # fmt: skip
    assert found is not None
    return loss, stats, *found


def _ppo_loss_shapes(
    kind: PolicyKind, nvec: Sequence[int], params: torch.Tensor, *others: Any
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    entropy_coef: Sequence[float] = others[-4]
    return (
        torch.empty((), dtype=params.dtype, device=params.device),
        torch.empty(5 + len(entropy_coef), dtype=torch.float32, device=params.device),
        torch.empty_like(params),
        torch.empty(params.shape[:1], dtype=params.dtype, device=params.device),
    )


register(
    "ppo_loss(str kind, int[] nvec, Tensor params, Tensor actions, Tensor old_log_probs, Tensor advantages, "
    "Tensor values, Tensor returns, Tensor? old_values, Tensor? action_mask, float clip_ratio, "
    "str value_clip_mode, float value_clip, float vf_coef, float[] entropy_coef, float[] entropy_floor, "
    "float[] entropy_floor_coef, bool normalize_advantages) -> (Tensor, Tensor, Tensor, Tensor)",
    _ppo_loss_registered,
    _ppo_loss_shapes,
    cuda=True,
)


def _loss_and_gradients(
    params: torch.Tensor,
    values: torch.Tensor,
    dist: Distribution,
    data: tuple[Any, ...],
    options: _Options,
    gradients: bool = True,
) -> tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor, torch.Tensor] | None]:
    if not is_compiling():
        return _call_core(params, values, dist, data, options, gradients)
    actions, old_log_probs, advantages, returns, old_values, action_mask = data
    loss, stats, by_params, by_values = torch.ops.optix_fast.ppo_loss(
        dist.kind, dist.nvec, params, actions, old_log_probs, advantages, values, returns, old_values,
        action_mask, *options,
    )  # fmt: skip
    return loss, stats, (by_params, by_values)


# ---- autograd and the public function -----------------------------------------------------------------


class _PPOLossFunction(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        params: torch.Tensor,
        values: torch.Tensor,
        dist: Distribution,
        data: tuple[Any, ...],
        options: _Options,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        loss, stats, gradients = _loss_and_gradients(params, values, dist, data, options)
        ctx.save_for_backward(*gradients)  # type: ignore[misc]
        ctx.mark_non_differentiable(stats)
        ctx.set_materialize_grads(False)
        return loss, stats

    @staticmethod
    def backward(ctx: Any, by_loss: torch.Tensor | None, by_stats: None) -> tuple[torch.Tensor | None, ...]:
        # Asked for with create_graph: the gradients below would silently count as constants there.
        if torch.is_grad_enabled() and not is_compiling():
            raise RuntimeError(
                "ppo_loss: differentiable once only; optix_fast.reference.ppo_loss has second derivatives"
            )
        if by_loss is None:
            return None, None, None, None, None
        grad_params, grad_values = ctx.saved_tensors
        # loss.backward() sends a 1, and then the gradients are already right. Only the CPU is asked: reading
        # the number from a GPU would wait for it.
        if is_compiling() or not by_loss.is_cpu or by_loss.item() != 1.0:
            grad_params, grad_values = grad_params * by_loss, grad_values * by_loss
        return grad_params, grad_values, None, None, None


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
    value_clip_mode: Literal["max", "clipped"] = "max",
    vf_coef: float,
    entropy_coef: float | Sequence[float],
    entropy_floor: float | Sequence[float] | None = None,
    entropy_floor_coef: float | Sequence[float] = 1.0,
    action_mask: torch.Tensor | None = None,
    normalize_advantages: bool = False,
) -> PPOLoss:
    """Loss and statistics of one PPO minibatch.

    ::

        ratio       = exp(log π(a) − old_log_probs)
        policy_loss = −mean min(ratio·A, clip(ratio, 1 − ε, 1 + ε)·A)
        value_loss  = mean (V − R)²                                       without value_clip
                      mean max((V − R)², (V_c − R)²)                      "max": the PPO paper's code
                      mean (V_c − R)²                                     "clipped": Stable-Baselines3
                      V_c = V_old + clip(V − V_old, −c, c)
        loss        = policy_loss + vf_coef·value_loss
                      + Σ_k (floor_coef_k·max(0, floor_k − H_k) − entropy_coef_k·H_k)
        approx_kl   = mean((ratio − 1) − log ratio);  clip_fraction = mean[|ratio − 1| > ε]

    H_k is the mean entropy of component k of the action. A Categorical and a Normal have one component each,
    the Normal's being the sum over its dimensions; a MultiDiscrete has one per variable, a Hybrid those and
    then its Gaussian. log π sums over the components.

    Args:
        dist: Categorical(), MultiDiscrete(nvec), Normal() or Hybrid(nvec).
        params: float32 or float64 [B, D], differentiable: logits [B, K]; the logits of all components side
            by side [B, sum of nvec]; mean ‖ log_std [B, 2A]; logits ‖ mean ‖ log_std [B, sum of nvec + 2A].
        actions: int64 [B]; int64 [B, C]; like params [B, A] (before any squashing); like params [B, C + A],
            the discrete ones as whole numbers.
        old_log_probs: [B], log-probability of the actions under the policy that took them.
        advantages: [B].
        values: [B], V of the current critic. Differentiable.
        returns: [B], the critic's targets.
        old_values: [B], V when the actions were taken; needed with value_clip, else not read.
        clip_ratio: ε > 0.
        value_clip: c > 0, or None for no clipping.
        value_clip_mode: "max" or "clipped".
        vf_coef: weight of the value loss, ≥ 0.
        entropy_coef: weight of the entropy, a number or one per component.
        entropy_floor: entropy below which a penalty sets in, a number or one per component.
        entropy_floor_coef: what a nat below the floor costs, a number or one per component. The default 1
            leaves the penalty in the units of the floor; it is not multiplied by entropy_coef.
        action_mask: bool [B, K] or [B, sum of nvec], laid out like the logits, False where an action is
            impossible: it gets probability and gradient 0.
        normalize_advantages: (A − mean)/(std + 1e-8), std unbiased; a batch of one is left alone.

    Returns:
        PPOLoss. Only ``loss`` carries a gradient (once differentiable). One ``stats.tolist()`` reads all
        statistics at once. NaN or infinite numbers in the data are no error here: they reach the loss, where
        the caller finds them.

    Raises:
        ValueError, TypeError: an argument of another shape, type or device, not contiguous, or empty; an
            action outside [0, K) or forbidden by the mask; a mask that forbids every action of a row;
            options that contradict each other. On CUDA, where looking at the data would wait for the device,
            an impossible action or row makes the loss NaN instead.

    Source: Schulman et al., "Proximal policy optimization algorithms", 2017; the entropy floor is that of
    adaptive entropy control for hybrid policies.
    """
    if not isinstance(dist, _DISTRIBUTIONS):
        raise TypeError(
            "ppo_loss: dist must be Categorical(), MultiDiscrete(nvec), Normal() or Hybrid(nvec), "
            f"got {dist!r}"
        )
    if not clip_ratio > 0.0:
        raise ValueError(f"ppo_loss: clip_ratio must be above 0, got {clip_ratio}")
    if value_clip_mode not in _CLIP_MODES:
        raise ValueError(f"ppo_loss: value_clip_mode must be 'max' or 'clipped', got {value_clip_mode!r}")
    if value_clip is not None:
        if not value_clip > 0.0:
            raise ValueError(f"ppo_loss: value_clip must be above 0 or None, got {value_clip}")
        if old_values is None:
            raise ValueError("ppo_loss: value_clip needs old_values, got None")
    if not 0.0 <= vf_coef < float("inf"):
        raise ValueError(f"ppo_loss: vf_coef must be 0 or more and finite, got {vf_coef}")
    if action_mask is not None and isinstance(dist, Normal):
        raise ValueError("ppo_loss: action_mask needs discrete actions, got Normal()")
    components = dist.components
    entropy_coef = per_component("entropy_coef", entropy_coef, components)
    floors = () if entropy_floor is None else per_component("entropy_floor", entropy_floor, components)
    floor_coefs = per_component("entropy_floor_coef", entropy_floor_coef, components)

    if not serves(params, cuda=components <= _CUDA_COMPONENTS):
        return reference.ppo_loss(
            dist,
            params,
            actions,
            old_log_probs,
            advantages,
            values,
            returns,
            old_values,
            clip_ratio=clip_ratio,
            value_clip=value_clip,
            value_clip_mode=value_clip_mode,
            vf_coef=vf_coef,
            entropy_coef=entropy_coef,
            entropy_floor=floors or None,
            entropy_floor_coef=floor_coefs,
            action_mask=action_mask,
            normalize_advantages=normalize_advantages,
        )
    options = _Options(
        clip_ratio,
        "none" if value_clip is None else value_clip_mode,
        0.0 if value_clip is None else value_clip,
        vf_coef,
        entropy_coef,
        floors,
        floor_coefs,
        normalize_advantages,
    )
    data = (actions, old_log_probs, advantages, returns, old_values, action_mask)
    if torch.is_grad_enabled() and (params.requires_grad or getattr(values, "requires_grad", False)):
        apply: Any = _PPOLossFunction.apply
        loss, stats = apply(params, values, dist, data, options)
    else:
        loss, stats, _ = _loss_and_gradients(params, values, dist, data, options, gradients=False)
    return PPOLoss(loss, stats)
