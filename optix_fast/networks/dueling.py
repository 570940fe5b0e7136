"""The dueling network: action values as a state's value plus each action's advantage."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from optix_fast.networks.mlp import hidden_layers, orthogonal_linear
from optix_fast.networks.plan import Plan, Value


class DuelingQNetwork(nn.Module):
    """Q(o, a) = V(o) + A(o, a) − mean_a A(o, a), both from one trunk of hidden layers.

    Args:
        n_in: width of an observation.
        n_actions: K.
        hidden_sizes: widths of the trunk's layers; at least one.
        activation: a name of `optix_fast.networks.mlp.ACTIVATIONS`.
        generator: source of the weights; None takes one seeded by the operating system.
        norm, residual, dropout: of the hidden layers, see mlp.

    Source: Wang et al., "Dueling network architectures for deep reinforcement learning", 2016.
    """

    def __init__(
        self,
        n_in: int,
        n_actions: int,
        hidden_sizes: Sequence[int] = (64, 64),
        activation: str = "relu",
        generator: torch.Generator | None = None,
        *,
        norm: str | None = None,
        residual: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if not hidden_sizes:
            raise ValueError("hidden_sizes must name at least one width")
        hidden = hidden_layers(
            [n_in, *hidden_sizes], activation, generator, norm=norm, residual=residual, dropout=dropout
        )
        self.trunk = nn.Sequential(*hidden)
        self.value = orthogonal_linear(hidden_sizes[-1], 1, 1.0, generator)
        self.advantage = orthogonal_linear(hidden_sizes[-1], n_actions, 1.0, generator)

    def forward(self, observations: Tensor) -> Tensor:
        """Observations [B, n_in] → values [B, K]."""
        features = self.trunk(observations)
        advantages = self.advantage(features)
        values: Tensor = self.value(features) + advantages - advantages.mean(dim=-1, keepdim=True)
        return values

    def native_plan(self, plan: Plan, x: Value) -> Value:
        """The same, for the compiled core."""
        features = plan(self.trunk, x)
        return plan.dueling(plan(self.value, features), plan(self.advantage, features))
