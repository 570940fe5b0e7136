"""Batch renormalization."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class BatchRenorm(nn.Module):
    """Normalizes each column of [B, features], in training by nearly the same numbers as in evaluation.

        training    μ, v: mean and biased variance of the column, σ = √(v + eps);  x̂ = (x − μ)/σ
                    y = x̂·r + d,  r = σ/σ̄ in [1/r_max, r_max],  d = (μ − μ̄)/σ̄ in [−d_max, d_max]
                    no gradient passes through r and d; in the first warmup_steps batches r = 1, d = 0
                    then  μ̄ ← μ̄ + momentum·(μ − μ̄),  v̄ ← v̄ + momentum·(v − v̄)
        evaluation  y = (x − μ̄)/σ̄

    and then y·weight + bias. μ̄ and v̄ are `running_mean` and `running_var`, σ̄ = √(v̄ + eps);
    `num_batches_tracked` counts the batches. (torch's BatchNorm1d moves its running variance towards the
    unbiased one; here it is the biased one, as in CrossQ's implementation.)

    Args:
        features: columns.
        momentum: share of a new batch in the running statistics, in [0, 1].
        eps: added to the variance.
        warmup_steps: batches that are normalized as BatchNorm1d does it.
        r_max: bound of r, at least 1.
        d_max: bound of d, at least 0.
        affine: learn weight and bias.

    Raises:
        ValueError: a number is out of its range; in training, a batch of fewer than two rows.

    Source: Ioffe, "Batch renormalization: towards reducing minibatch dependence in batch-normalized models",
    2017; defaults and running variance: Bhatt et al., "CrossQ", 2024.
    """

    weight: nn.Parameter | None
    bias: nn.Parameter | None
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(
        self,
        features: int,
        momentum: float = 0.01,
        eps: float = 1e-3,
        warmup_steps: int = 100_000,
        r_max: float = 3.0,
        d_max: float = 5.0,
        affine: bool = True,
    ) -> None:
        super().__init__()
        if not (features >= 1 and 0.0 <= momentum <= 1.0 and eps > 0.0 and warmup_steps >= 0):
            raise ValueError(
                "BatchRenorm needs features >= 1, momentum in [0, 1], eps > 0 and warmup_steps >= 0, got "
                f"{features}, {momentum}, {eps} and {warmup_steps}"
            )
        if not (r_max >= 1.0 and d_max >= 0.0):
            raise ValueError(f"BatchRenorm needs r_max >= 1 and d_max >= 0, got {r_max} and {d_max}")
        self.features, self.momentum, self.eps = features, momentum, eps
        self.warmup_steps, self.r_max, self.d_max, self.affine = warmup_steps, r_max, d_max, affine
        self.register_parameter("weight", nn.Parameter(torch.ones(features)) if affine else None)
        self.register_parameter("bias", nn.Parameter(torch.zeros(features)) if affine else None)
        self.register_buffer("running_mean", torch.zeros(features))
        self.register_buffer("running_var", torch.ones(features))
        self.register_buffer("num_batches_tracked", torch.tensor(0, dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        """[B, features] → [B, features]."""
        if x.ndim != 2 or x.shape[1] != self.features:
            raise ValueError(f"BatchRenorm needs [B, {self.features}], got {list(x.shape)}")
        y = self._renormalized(x) if self.training else self._by_running(x)
        if self.weight is not None and self.bias is not None:
            y = y * self.weight + self.bias
        return y

    def _by_running(self, x: Tensor) -> Tensor:
        return (x - self.running_mean) / torch.sqrt(self.running_var + self.eps)

    def _renormalized(self, x: Tensor) -> Tensor:
        if len(x) < 2:
            raise ValueError(f"BatchRenorm needs at least 2 rows in training, got {list(x.shape)}")
        variance, mean = torch.var_mean(x, dim=0, correction=0)
        sigma = torch.sqrt(variance + self.eps)
        y = (x - mean) / sigma
        with torch.no_grad():
            running = torch.sqrt(self.running_var + self.eps)
            # Without asking the device how many batches there were.
            is_warm = (self.num_batches_tracked >= self.warmup_steps).to(x.dtype)
            r = torch.clamp(sigma / running, 1.0 / self.r_max, self.r_max)
            d = torch.clamp((mean - self.running_mean) / running, -self.d_max, self.d_max)
            r, d = 1.0 + is_warm * (r - 1.0), is_warm * d
            self.running_mean.lerp_(mean.detach().to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_(variance.detach().to(self.running_var.dtype), self.momentum)
            self.num_batches_tracked.add_(1)
        return y * r + d

    def extra_repr(self) -> str:
        """The constructor's arguments."""
        return (
            f"{self.features}, momentum={self.momentum}, eps={self.eps}, warmup_steps={self.warmup_steps}, "
            f"r_max={self.r_max}, d_max={self.d_max}, affine={self.affine}"
        )
