"""Residual connections."""

from __future__ import annotations

from torch import Tensor, nn

from optix_fast.networks.plan import Plan, Value


class Residual(nn.Module):
    """x + body(x).

    Args:
        body: [B, D] → [B, D].

    Source: He et al., "Deep residual learning for image recognition", 2016.
    """

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        """[B, D] → [B, D]."""
        y: Tensor = x + self.body(x)
        return y

    def native_plan(self, plan: Plan, x: Value) -> Value:
        """The same, for the compiled core."""
        return plan.add(x, plan(self.body, x))
