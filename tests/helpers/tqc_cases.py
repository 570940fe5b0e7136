"""Models for the tests of TQC."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from sac_cases import GAMMA, MakeOptimizer, plain_adam, soft_parts
from torch import nn

from optix_fast.learners.model import target_of
from optix_fast.learners.tqc.config import TQCConfig
from optix_fast.learners.tqc.update import TQCModel


def make_model(
    actor: nn.Module,
    critics: Sequence[nn.Module],
    make_optimizer: MakeOptimizer = plain_adam,
    log_alpha: float = 0.0,
) -> TQCModel:
    """The networks with optimizers and target critics."""
    networks = nn.ModuleList(critics)
    parts = soft_parts(actor, critics, make_optimizer, log_alpha)
    return TQCModel(actor=actor, critics=networks, targets=target_of(networks), **parts)


def smallest_model() -> TQCModel:
    """μ = log σ = 0·s, Z_1 = (s + 2a, s), Z_2 = (3s, 0)."""
    actor = nn.Linear(1, 2, bias=False)
    critics = [nn.Linear(2, 2, bias=False) for _ in range(2)]
    with torch.no_grad():
        actor.weight.zero_()
        critics[0].weight.copy_(torch.tensor([[1.0, 2.0], [1.0, 0.0]]))
        critics[1].weight.copy_(torch.tensor([[3.0, 0.0], [0.0, 0.0]]))
    return make_model(actor, critics)


def config_of(**params: Any) -> TQCConfig:
    return TQCConfig(**{"gamma": GAMMA, "batch_size": 32, "replay_capacity": 400, **params})
