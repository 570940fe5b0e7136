"""The Gaussian squashed by tanh: samples, log-probabilities, and gradients formed in the forward pass."""

from __future__ import annotations

from typing import Any

import torch

from optix_fast import _native, reference
from optix_fast.ops._dispatch import register, serves
from optix_fast.random import RandomStream, default_stream

_core = _native.core


def _refuse_second_derivative(op: str) -> None:
    # Asked for with create_graph: the gradients of the forward pass would silently count as constants there.
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        raise RuntimeError(
            f"{op}: differentiable once only; optix_fast.reference.{op} has second derivatives"
        )


# ---- log_prob --------------------------------------------------------------------------------------------


# All of this is written out, not looped: at a batch of 64 the interpreter takes longer than the kernel.


def _log_prob_native(
    mean: torch.Tensor, log_std: torch.Tensor, value: torch.Tensor, squashed: bool, n_grads: int
) -> list[torch.Tensor]:
    """log_prob [B]; its gradients [B, A]: ``n_grads`` 0 none, 2 by mean and log_std, 3 by value too."""
    log_prob = mean.new_empty(mean.size(0) if mean.dim() else 0)
    by_mean = torch.empty_like(mean) if n_grads else None
    by_log_std = torch.empty_like(mean) if n_grads else None
    by_value = torch.empty_like(mean) if n_grads == 3 else None
    _core.tanh_normal_log_prob(mean, log_std, value, squashed, log_prob, by_mean, by_log_std, by_value)
    return [t for t in (log_prob, by_mean, by_log_std, by_value) if t is not None]


def _log_prob_shapes(
    mean: torch.Tensor, log_std: torch.Tensor, value: torch.Tensor, squashed: bool, n_grads: int
) -> list[torch.Tensor]:
    return [
        mean.new_empty(mean.size(0) if mean.dim() else 0),
        *(torch.empty_like(mean) for _ in range(n_grads)),
    ]


register(
    "tanh_normal_log_prob(Tensor mean, Tensor log_std, Tensor value, bool squashed, int n_grads) -> Tensor[]",
    _log_prob_native,
    _log_prob_shapes,
    cuda=True,
)


class _LogProb(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, mean: torch.Tensor, log_std: torch.Tensor, value: torch.Tensor, squashed: bool
    ) -> torch.Tensor:
        ctx.shared_log_std = log_std.ndim == 1
        by_value = None
        if torch.compiler.is_compiling():
            n_grads = 3 if ctx.needs_input_grad[2] else 2
            outputs = torch.ops.optix_fast.tanh_normal_log_prob(mean, log_std, value, squashed, n_grads)
            log_prob, by_mean, by_log_std = outputs[:3]
            if n_grads == 3:
                by_value = outputs[3]
        else:
            log_prob = mean.new_empty(mean.size(0) if mean.dim() else 0)
            by_mean, by_log_std = torch.empty_like(mean), torch.empty_like(mean)
            if ctx.needs_input_grad[2]:
                by_value = torch.empty_like(mean)
            _core.tanh_normal_log_prob(
                mean, log_std, value, squashed, log_prob, by_mean, by_log_std, by_value
            )
        ctx.save_for_backward(by_mean, by_log_std, by_value)
        return log_prob  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, by_log_prob: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        _refuse_second_derivative("tanh_normal_log_prob")
        by_mean, by_log_std, by_value = ctx.saved_tensors
        if torch.compiler.is_compiling() or not by_log_prob.is_cpu:
            column = by_log_prob.unsqueeze(1)
            out_mean, out_log_std = by_mean * column, by_log_std * column
            out_value = None if by_value is None else by_value * column
        else:
            out_mean, out_log_std = torch.empty_like(by_mean), torch.empty_like(by_mean)
            out_value = None if by_value is None else torch.empty_like(by_mean)
            _core.tanh_normal_scale(
                by_log_prob.contiguous(), by_mean, by_log_std, by_value, out_mean, out_log_std, out_value
            )
        if ctx.shared_log_std:
            out_log_std = out_log_std.sum(dim=0)
        return out_mean, out_log_std, out_value, None


def tanh_normal_log_prob(
    mean: torch.Tensor,
    log_std: torch.Tensor,
    action: torch.Tensor | None = None,
    pre_tanh: torch.Tensor | None = None,
) -> torch.Tensor:
    """Log-probability of actions under a diagonal Gaussian squashed by tanh.

    ::

        a = tanh u,   z = (u − mean)/σ,   σ = exp(log_std)
        log π(a) = Σ_j [ −½z² − log_std − ½·ln 2π − 2(ln 2 − u − softplus(−2u)) ]

    The last term is log(1 − tanh²u) in a form that is as exact for |u| = 10⁴ as for 0. An action near ±1 has
    lost digits of u to rounding, so give ``pre_tanh`` where it was kept.

    Args:
        mean: float32 or float64 [B, A]. Differentiable.
        log_std: [B, A], or [A] for all samples. Differentiable, and not clamped.
        action: [B, A] in [−1, 1]; |action| is limited to 1 − 1e-6. Differentiable (0 where limited).
        pre_tanh: [B, A], u. Differentiable. Exactly one of the two must be given.

    Returns:
        [B], once differentiable. A NaN stays in its row.

    Raises:
        ValueError, TypeError: an argument of another shape, type or device, or not contiguous; both or
            neither of action and pre_tanh.
        RuntimeError: a second derivative is asked for; the reference has it.

    Source: Haarnoja et al., "Soft actor-critic", 2018, appendix C.
    """
    if (action is None) == (pre_tanh is None):
        given = "neither" if action is None else "both"
        raise ValueError(
            f"tanh_normal_log_prob: exactly one of action and pre_tanh must be given, got {given}"
        )
    if not serves(mean, cuda=True):
        return reference.tanh_normal_log_prob(mean, log_std, action, pre_tanh)
    squashed = pre_tanh is None
    value: Any = action if squashed else pre_tanh
    if torch.is_grad_enabled() and (
        mean.requires_grad
        or getattr(log_std, "requires_grad", False)
        or getattr(value, "requires_grad", False)
    ):
        return _LogProb.apply(mean, log_std, value, squashed)  # type: ignore[no-any-return,no-untyped-call]
    if torch.compiler.is_compiling():
        compiled: list[torch.Tensor] = torch.ops.optix_fast.tanh_normal_log_prob(
            mean, log_std, value, squashed, 0
        )
        return compiled[0]
    return _log_prob_native(mean, log_std, value, squashed, 0)[0]


# ---- sample ----------------------------------------------------------------------------------------------


def _draw(
    mean: torch.Tensor, log_std: torch.Tensor, stream: RandomStream, differentiable: bool
) -> tuple[Any, ...]:
    """action, log_prob, pre_tanh, then what backward needs (else two Nones): 1 − action² and σ·ε."""
    action, pre_tanh = (torch.empty_like(mean, requires_grad=False) for _ in range(2))
    log_prob = torch.empty(mean.shape[:1], dtype=mean.dtype, device=mean.device)
    slope, spread = (
        torch.empty_like(mean, requires_grad=False) if differentiable else None for _ in range(2)
    )
    outputs = (action, log_prob, pre_tanh, slope, spread)
    stream.draw(lambda key, offset: _core.tanh_normal_sample(mean, log_std, key, offset, *outputs))
    return outputs


class _Sample(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, mean: torch.Tensor, log_std: torch.Tensor, stream: RandomStream
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        action, log_prob, pre_tanh, slope, spread = _draw(mean, log_std, stream, True)
        ctx.save_for_backward(action, slope, spread)
        ctx.set_materialize_grads(False)
        ctx.shared_log_std = log_std.ndim == 1
        return action, log_prob, pre_tanh

    @staticmethod
    def backward(
        ctx: Any,
        by_action: torch.Tensor | None,
        by_log_prob: torch.Tensor | None,
        by_pre_tanh: torch.Tensor | None,
    ) -> tuple[torch.Tensor | None, ...]:
        # The noise stays as it is: ∂u/∂mean = 1, ∂u/∂log_std = σ·ε, and of log π only its last term knows u.
        _refuse_second_derivative("tanh_normal_sample")
        action, slope, spread = ctx.saved_tensors
        by_u = torch.zeros_like(slope) if by_pre_tanh is None else by_pre_tanh
        if by_action is not None:
            by_u = torch.addcmul(by_u, by_action, slope)
        if by_log_prob is None:
            by_log_std = by_u * spread
        else:
            column = by_log_prob.unsqueeze(1)
            by_u = torch.addcmul(by_u, column, action, value=2.0)
            by_log_std = by_u * spread - column
        if ctx.shared_log_std:
            by_log_std = by_log_std.sum(dim=0)
        return by_u, by_log_std, None


def tanh_normal_sample(
    mean: torch.Tensor, log_std: torch.Tensor, stream: RandomStream | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Actions drawn from a diagonal Gaussian squashed by tanh, and their log-probability.

    ::

        u = mean + exp(log_std)·ε,   action = tanh u,   log_prob as tanh_normal_log_prob(pre_tanh=u)

    with ε the next B·A numbers that ``stream.normal`` would give (float32, also for float64). Gradients flow
    through the samples (the reparameterisation of the source) from all three results; torch.compile runs it
    outside of its graph.

    Args:
        mean: float32 or float64 [B, A]. Differentiable.
        log_std: [B, A], or [A] for all samples. Differentiable, and not clamped.
        stream: where ε comes from; None is optix_fast.random.default_stream().

    Returns:
        (action [B, A], log_prob [B], pre_tanh [B, A] = u), once differentiable.

    Raises:
        ValueError, TypeError: an argument of another shape, type or device, or not contiguous; the stream
            does not move then.
        RuntimeError: a second derivative is asked for; the reference has it.

    Source: Haarnoja et al., "Soft actor-critic", 2018.
    """
    if stream is None:
        stream = default_stream()
    elif not isinstance(stream, RandomStream):
        raise TypeError(
            f"tanh_normal_sample: stream must be a RandomStream or None, got {type(stream).__name__}"
        )
    if torch.compiler.is_compiling():
        # There, and only there, torch's compiler is loaded already; importing it takes longer than torch.
        from optix_fast.ops._outside_graph import sample_outside_the_graph

        return sample_outside_the_graph(mean, log_std, stream)
    return _sample(mean, log_std, stream)


def _sample(
    mean: torch.Tensor, log_std: torch.Tensor, stream: RandomStream
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    if not serves(mean, cuda=True):
        return reference.tanh_normal_sample(mean, log_std, stream)
    if torch.is_grad_enabled() and (mean.requires_grad or getattr(log_std, "requires_grad", False)):
        return _Sample.apply(mean, log_std, stream)  # type: ignore[no-any-return,no-untyped-call]
    action, log_prob, pre_tanh, *_ = _draw(mean, log_std, stream, False)
    return action, log_prob, pre_tanh
