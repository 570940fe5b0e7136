"""PPO's update in the core: every epoch and minibatch of a window in one call."""

from __future__ import annotations

import torch
from torch import Tensor

from optix_fast import _native
from optix_fast.learners.native.networks import (
    Networks,
    UnsupportedError,
    networks_of,
    trained_parameters,
)
from optix_fast.learners.native.optimizers import Trained
from optix_fast.learners.native.threads import learner_threads
from optix_fast.learners.ppo.batch import Batch
from optix_fast.learners.ppo.config import PPOConfig
from optix_fast.learners.ppo.update import PPOModel, Updated, minibatch_sizes, updated_of
from optix_fast.networks.flat_layout import FlatLayout
from optix_fast.types import NonFiniteError, Tree

_core = _native.core


def recognise(model: PPOModel, create: bool = False) -> tuple[Networks, Trained]:
    """The networks as the core sees them, and the parameters with their optimizer state.

    Raises:
        UnsupportedError: the core does not serve the model; with the reason.
    """
    networks = networks_of(model.actor, model.critic)
    return networks, Trained(model.optimizer, trained_parameters(networks, model.log_std), create)


def ppo_update(model: PPOModel, batch: Batch, permutations: Tensor, config: PPOConfig) -> Updated:
    """The updates of update.ppo_update, by one call of the core.

    Raises:
        UnsupportedError: the core does not serve this model, or these observations; with the reason.
        NonFiniteError: a loss or gradient norm is NaN or infinite; parameters and optimizer are as before.
        ValueError: rows that do not fit the networks, actions that were impossible, or minibatches of one
            row for a batch norm, see update.minibatch_sizes.
    """
    networks, trained = recognise(model, create=True)
    sizes = minibatch_sizes(model, len(batch.returns), config.minibatch_size)
    observations = batch.observations
    if networks.layout is not None:
        observations = _flat(networks.layout, observations)
        batch = batch._replace(observations=observations)
    if type(observations) is not Tensor or observations.ndim != 2 or not observations.is_floating_point():
        raise UnsupportedError("the observations are not one float array [R, D]")
    rows = _core.PPORows(*(None if part is None else part.contiguous() for part in batch))  # type: ignore[arg-type]
    described = networks.described(model.masks)
    result = _core.ppo_update(
        described, trained.described, rows, permutations, _options(config, model, sizes), model.log_std
    )
    # Written behind autograd's back, also when all was put back.
    torch.autograd.graph.increment_version([*trained.tensors, *networks.statistics()])
    if result.failed is not None:
        raise NonFiniteError(result.failed)
    trained.conclude()
    return updated_of([total / result.updates for total in result.sums], result.updates)


def _flat(layout: FlatLayout, observations: Tree) -> Tensor:
    """The observations as rows.

    Raises:
        UnsupportedError: they are not of the layout's space.
        ValueError: a number that counts is out of its range.
    """
    try:
        flat = layout.flatten(observations)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise UnsupportedError(f"the observations are not those of the network: {error}") from error
    layout.check(flat)
    return torch.from_numpy(flat)


def _options(config: PPOConfig, model: PPOModel, sizes: list[int]) -> _core.PPOOptions:
    return _core.PPOOptions(
        kind=model.head.dist.kind,
        nvec=model.head.dist.nvec,
        minibatch_size=config.minibatch_size,
        joins_last_row=sizes[-1] > config.minibatch_size,
        clip_ratio=config.clip_ratio,
        value_clip=config.value_clip,
        value_clip_mode=config.value_clip_mode,
        vf_coef=config.vf_coef,
        entropy_coef=config.entropy_coef,
        normalize_advantages=config.normalize_advantages == "minibatch",
        max_grad_norm=config.max_grad_norm,
        target_kl=config.target_kl,
        threads=learner_threads(),
    )
