"""DQN's updates in the core: K of them in one call, in place on the user's network and optimizer."""

from __future__ import annotations

from torch import nn

from optix_fast import _native
from optix_fast.learners.dqn.config import DQNConfig
from optix_fast.learners.dqn.update import DQNModel, Updated
from optix_fast.learners.experience import Draws, Experience
from optix_fast.learners.native.threads import learner_threads
from optix_fast.learners.native.updates import Recognised, Trained
from optix_fast.networks.modes import check_batch

_core = _native.core
_NAMES = {"q_network": "the network", "target": "the target network"}


def recognise(model: DQNModel, create: bool = False) -> tuple[Recognised, Trained, list[nn.Parameter]]:
    """The model as the core sees it, the network's parameters, and the target's.

    Raises:
        UnsupportedError: the core does not serve the model; with the reason.
    """
    found = Recognised(model, create, _NAMES)
    targets = found.targets("target")
    return found, found.trained("optimizer", "q_network"), targets


def dqn_update(
    model: DQNModel, experience: Experience, draws: Draws, config: DQNConfig, updates_before: int
) -> Updated:
    """The updates of update.dqn_update, by one call of the core.

    Raises:
        UnsupportedError: the core does not serve this model, or these observations; with the reason.
        NonFiniteError: a target, loss or gradient is NaN or infinite; networks, optimizer and priorities are
            as before.
        ValueError: an action that the network does not have, a replay that does not fit it, or a batch of one
            row for a batch norm.
    """
    found, trained, targets = recognise(model, create=True)
    check_batch(model.networks().items(), draws.batch_size)
    options = _core.DQNOptions(
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
    result = _core.dqn_update(
        found.described(), trained, targets, found.view_of(experience),
        experience.described(draws, config), options,
    )  # fmt: skip
    found.conclude(result, experience)
    n = max(result.updates, 1)
    return Updated(result.updates, result.copies, result.loss / n, result.td_error / n, result.q_value / n)
