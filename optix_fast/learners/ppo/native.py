"""PPO's update in the core: every epoch and minibatch of a window in one call."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from optix_fast import _native
from optix_fast.learners.native.networks import (
    Networks,
    UnsupportedError,
    adam_parameters,
    learner_threads,
    networks_of,
    note_step,
    trained_parameters,
)
from optix_fast.learners.ppo.batch import Batch
from optix_fast.learners.ppo.config import KL_STOP, PPOConfig
from optix_fast.learners.ppo.update import PPOModel, Updated, updated_of
from optix_fast.ops import Normal
from optix_fast.types import NonFiniteError

_core: Any = _native.core
_CLIP_MODES = {"max": 1, "clipped": 2}


def recognise(model: PPOModel, create: bool = False) -> tuple[Networks, list[tuple[Any, ...]]]:
    """The networks as the core sees them, and the parameters with their optimizer state.

    Raises:
        UnsupportedError: the core does not serve the model; with the reason.
    """
    networks = networks_of(model.actor, model.critic)
    return networks, adam_parameters(model.optimizer, trained_parameters(networks, model.log_std), create)


def ppo_update(model: PPOModel, batch: Batch, permutations: Tensor, config: PPOConfig) -> Updated:
    """The updates of update.ppo_update, by one call of the core.

    Raises:
        UnsupportedError: the core does not serve this model, or these observations; with the reason.
        NonFiniteError: a loss or gradient norm is NaN or infinite; parameters and optimizer are as before.
        ValueError: rows that do not fit the networks, or actions that were impossible.
    """
    observations = batch.observations
    if type(observations) is not Tensor or observations.ndim != 2 or not observations.is_floating_point():
        raise UnsupportedError("the observations are not one float array [R, D]")
    networks, adam = recognise(model, create=True)
    rows = {k: None if part is None else part.contiguous() for k, part in batch._asdict().items()}
    failed, n_updates, sums = _core.ppo_update(
        networks.described(), adam, rows, permutations, _options(config, model)
    )
    # Written behind autograd's back, also when all was put back.
    torch.autograd.graph.increment_version([tensor for entry in adam for tensor in entry[:4]])
    if failed is not None:
        raise NonFiniteError(failed)
    note_step(model.optimizer)
    return updated_of([total / n_updates for total in sums], n_updates)


def _options(config: PPOConfig, model: PPOModel) -> Mapping[str, Any]:
    dist = model.head.dist
    return {
        "threads": learner_threads(),
        "normal": isinstance(dist, Normal),
        "nvec": dist.nvec,
        "log_std": model.log_std,
        "minibatch_size": config.minibatch_size,
        "clip_ratio": config.clip_ratio,
        "value_clip_mode": 0 if config.value_clip is None else _CLIP_MODES[config.value_clip_mode],
        "value_clip": config.value_clip or 0.0,
        "vf_coef": config.vf_coef,
        "entropy_coef": config.entropy_coef,
        "normalize_advantages": config.normalize_advantages == "minibatch",
        "max_norm": config.max_grad_norm or math.inf,
        "kl_limit": math.inf if config.target_kl is None else KL_STOP * config.target_kl,
    }
