"""PPO's updates of one window in one call of the core."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from optix_fast import _native
from optix_fast.agents.native_nets import (
    Networks,
    UnsupportedError,
    adam_parameters,
    check_parameter,
    note_step,
)
from optix_fast.agents.ppo_config import PPOConfig
from optix_fast.types import NonFiniteError

_core: Any = _native.core
_CLIP_MODES = {"max": 1, "clipped": 2}

STATISTICS = ("policy_loss", "value_loss", "entropy", "approx_kl", "clip_fraction")


class Rows(NamedTuple):
    """What is learned from, R rows: contiguous tensors on the CPU, floats of the networks' dtype.

    observations [R, D], normalised; actions [R] int64, or the samples before squashing [R, A]; log_probs,
    values, advantages, returns [R]; action_masks [R, K] bool, or None.
    """

    observations: Tensor
    actions: Tensor
    log_probs: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor
    action_masks: Tensor | None = None


class Updated(NamedTuple):
    """means: of the minibatches' statistics; n_updates: minibatches used, fewer after a KL stop."""

    means: dict[str, float]
    n_updates: int


def check_update(
    networks: Networks, optimizer: torch.optim.Optimizer, log_std: nn.Parameter | None
) -> list[nn.Parameter]:
    """The parameters that an update trains.

    Raises:
        UnsupportedError: the core does not serve this optimizer, or not in this state; with the reason.
    """
    parameters = list(networks.parameters())
    if log_std is not None:
        check_parameter(log_std, "log_std")
        if log_std.dtype != parameters[0].dtype:
            raise UnsupportedError("log_std has another dtype than the networks")
        parameters.append(log_std)
    adam_parameters(optimizer, parameters, create=False)
    return parameters


def ppo_update(
    networks: Networks,
    optimizer: torch.optim.Optimizer,
    rows: Rows,
    permutations: Tensor,
    config: PPOConfig,
    *,
    normal: bool = False,
    log_std: nn.Parameter | None = None,
) -> Updated:
    """Every epoch and minibatch, in place on the networks' parameters and the optimizer's state.

    Args:
        networks: from networks_of, a moment ago.
        optimizer: Adam or AdamW over all their parameters (and log_std).
        rows: of the window.
        permutations: int64 [E, R], the order of the rows in each epoch.
        config: its n_epochs is not read: E is.
        normal: a Gaussian policy instead of a categorical one.
        log_std: a Gaussian's free log_std [A]; None where the actor returns mean ‖ log_std.

    Raises:
        UnsupportedError: see check_update.
        NonFiniteError: a loss or gradient norm is NaN or infinite; parameters and optimizer are as before.
        ValueError: rows that do not fit the networks, or actions that were impossible.
    """
    parameters = check_update(networks, optimizer, log_std)
    adam = adam_parameters(optimizer, parameters, create=True)
    failed, n_updates, sums = _core.ppo_update(
        networks.described(), adam, rows._asdict(), permutations, _options(config, normal, log_std)
    )
    # Written behind autograd's back, also when all was put back.
    torch.autograd.graph.increment_version([tensor for entry in adam for tensor in entry[:4]])
    if failed is not None:
        raise NonFiniteError(failed)
    note_step(optimizer)
    return Updated(_means(sums, n_updates), n_updates)


def _means(sums: Sequence[float], n: int) -> dict[str, float]:
    return {name: total / n for name, total in zip(STATISTICS, sums, strict=True)}


def _options(config: PPOConfig, normal: bool, log_std: Tensor | None) -> Mapping[str, Any]:
    return {
        "normal": normal,
        "log_std": log_std,
        "minibatch_size": config.minibatch_size,
        "clip_ratio": config.clip_ratio,
        "value_clip_mode": 0 if config.value_clip is None else _CLIP_MODES[config.value_clip_mode],
        "value_clip": config.value_clip or 0.0,
        "vf_coef": config.vf_coef,
        "entropy_coef": config.entropy_coef,
        "normalize_advantages": config.normalize_advantages == "minibatch",
        "max_norm": config.max_grad_norm or math.inf,
        "kl_limit": math.inf if config.target_kl is None else 1.5 * config.target_kl,
    }
