"""Models for the tests of CrossQ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sac_cases import GAMMA, MakeOptimizer, plain_adam, soft_parts
from torch import nn

from optix_fast.learners.crossq.config import CrossQConfig
from optix_fast.learners.crossq.update import CrossQModel


def make_model(
    actor: nn.Module,
    critics: Sequence[nn.Module],
    make_optimizer: MakeOptimizer = plain_adam,
    log_alpha: float = 0.0,
) -> CrossQModel:
    """The networks with optimizers."""
    parts = soft_parts(actor, critics, make_optimizer, log_alpha)
    return CrossQModel(actor=actor, critics=nn.ModuleList(critics), **parts)


def config_of(**params: Any) -> CrossQConfig:
    return CrossQConfig(**{"gamma": GAMMA, "batch_size": 32, "replay_capacity": 400, **params})
