"""DQN's updates in the core: K of them in one call, in place on the user's network and optimizer."""

from __future__ import annotations

from typing import Any

from torch import nn

from optix_fast import _native
from optix_fast.learners.dqn.config import DQNConfig
from optix_fast.learners.dqn.update import DQNModel, Updated
from optix_fast.learners.experience import Draws, Experience
from optix_fast.learners.native.networks import (
    adam_parameters,
    check_distinct,
    check_surroundings,
    layers_of,
)
from optix_fast.learners.native.threads import learner_threads
from optix_fast.learners.native.updates import (
    Stack,
    check_copy,
    check_trained,
    conclude,
    described,
    parameters_of,
    view_of,
)

_core = _native.core


def recognise(
    model: DQNModel, create: bool = False
) -> tuple[Stack, Stack, list[tuple[Any, ...]], list[nn.Parameter]]:
    """Network and target network as the core sees them, the network's parameters with their optimizer state,
    and the target's.

    Raises:
        UnsupportedError: the core does not serve the model; with the reason.
    """
    check_surroundings()
    online, target = layers_of(model.q_network, "the network"), layers_of(model.target, "the target network")
    trained, targets = parameters_of(online), parameters_of(target)
    check_distinct([*trained, *targets])
    check_copy(online, target, "the target network is not like the network")
    check_trained(trained, "every parameter is frozen")
    return online, target, adam_parameters(model.optimizer, trained, create), targets


def dqn_update(
    model: DQNModel, experience: Experience, draws: Draws, config: DQNConfig, updates_before: int
) -> Updated:
    """The updates of update.dqn_update, by one call of the core.

    Raises:
        UnsupportedError: the core does not serve this model, or these observations; with the reason.
        NonFiniteError: a target, loss or gradient is NaN or infinite; networks, optimizer and priorities are
            as before.
        ValueError: an action that the network does not have, or a replay that does not fit it.
    """
    online, target, adam, targets = recognise(model, create=True)
    view = view_of(experience, online, "the network does not read one flat observation")
    result = _core.dqn_update(
        described([online, target]),
        adam, targets, view, experience.described(draws, config), _options(config, updates_before),
    )  # fmt: skip
    conclude(result, model, experience, adam, targets)
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
