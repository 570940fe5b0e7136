"""DQN's updates in the core: K of them in one call, in place on the user's network and optimizer."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from optix_fast import _native
from optix_fast.learners.dqn.config import DQNConfig
from optix_fast.learners.dqn.update import DQNModel, Updated
from optix_fast.learners.experience import Draws, Experience
from optix_fast.learners.native.networks import (
    Layer,
    UnsupportedError,
    adam_parameters,
    check_distinct,
    check_surroundings,
    layers_of,
    learner_threads,
    note_step,
)
from optix_fast.types import NonFiniteError

_core = _native.core


def recognise(
    model: DQNModel, create: bool = False
) -> tuple[list[Layer], list[Layer], list[tuple[Any, ...]], list[nn.Parameter]]:
    """Network and target network as the core sees them, the network's parameters with their optimizer state,
    and the target's.

    Raises:
        UnsupportedError: the core does not serve the model; with the reason.
    """
    online, target = networks_of_dqn(model)
    return online, target, adam_parameters(model.optimizer, _parameters(online), create), _parameters(target)


def networks_of_dqn(model: DQNModel) -> tuple[list[Layer], list[Layer]]:
    """Network and target network as the core sees them.

    Raises:
        UnsupportedError: with the reason.
    """
    check_surroundings()
    online, target = layers_of(model.q_network, "the network"), layers_of(model.target, "the target network")
    ours, theirs = _parameters(online), _parameters(target)
    check_distinct([*ours, *theirs])
    if [p.shape for p in ours] != [p.shape for p in theirs]:
        raise UnsupportedError("the target network is not like the network")
    if not any(p.requires_grad for p in ours):
        raise UnsupportedError("every parameter is frozen")
    return online, target


def _parameters(layers: list[Layer]) -> list[nn.Parameter]:
    return [parameter for layer in layers for parameter in layer.parameters()]


def dqn_update(
    model: DQNModel, experience: Experience, draws: Draws, config: DQNConfig, updates_before: int
) -> Updated:
    """The updates of dqn.dqn_update, by one call of the core.

    Raises:
        UnsupportedError: the core does not serve this model, or these observations; with the reason.
        NonFiniteError: a target, loss or gradient is NaN or infinite; networks, optimizer and priorities are
            as before.
        ValueError: an action that the network does not have, or a replay that does not fit it.
    """
    online, target, adam, targets = recognise(model, create=True)
    buffer = experience.buffer
    try:
        view = buffer.replay.view()
    except ValueError as error:
        raise UnsupportedError("the observations are not one float array") from error
    if view.observations.shape[1] != online[0].linear.in_features:
        raise UnsupportedError("the network does not read one flat observation")
    result = _core.dqn_update(
        ([layer.described() for layer in online], [layer.described() for layer in target]),
        adam, targets, view, experience.described(draws, config), _options(config, updates_before),
    )  # fmt: skip
    # Written behind autograd's back, also when all was put back.
    torch.autograd.graph.increment_version([*(t for entry in adam for t in entry[:4]), *targets])
    if result.failed is not None:
        raise NonFiniteError(result.failed)
    if result.max_priority is not None:
        buffer.max_priority = result.max_priority
    note_step(model.optimizer)
    n = max(result.updates, 1)
    return Updated(result.updates, result.copies, result.loss / n, result.td_error / n, result.q_value / n)


def _options(config: DQNConfig, updates_before: int) -> _core.DQNOptions:
    return _core.DQNOptions(
        n_step=config.n_step,
        gamma=config.gamma,
        double_q=config.double_q,
        loss=config.loss,
        max_grad_norm=config.max_grad_norm,
        tau=config.tau,
        target_update_freq=config.target_update_freq,
        updates_before=updates_before,
        threads=learner_threads(),
    )
