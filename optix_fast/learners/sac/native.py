"""SAC's updates in the core: K of them in one call, in place on the user's modules and optimizers."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from optix_fast import _native
from optix_fast.learners.experience import Draws, Experience
from optix_fast.learners.native.networks import (
    Layer,
    UnsupportedError,
    adam_parameters,
    check_distinct,
    check_parameter,
    check_surroundings,
    layers_of,
    learner_threads,
    note_step,
)
from optix_fast.learners.sac.config import SACConfig
from optix_fast.learners.sac.update import SACModel, Updated, means_of
from optix_fast.types import NonFiniteError

_core = _native.core


class SACNetworks(NamedTuple):
    """Actor, critics and target critics as layers."""

    actor: list[Layer]
    critic1: list[Layer]
    critic2: list[Layer]
    target1: list[Layer]
    target2: list[Layer]

    def described(self) -> tuple[list[Any], ...]:
        """For the core."""
        return tuple([layer.described() for layer in part] for part in self)


def networks_of_sac(model: SACModel) -> SACNetworks:
    """The networks as the core sees them.

    Raises:
        UnsupportedError: with the reason.
    """
    check_surroundings()
    if model.discrete:
        raise UnsupportedError("a categorical policy is updated in torch")
    networks = SACNetworks(*(layers_of(net, name) for name, net in model.modules().items()))
    check_distinct([*_parameters(*networks), model.log_alpha])
    check_parameter(model.log_alpha, "log_alpha")
    _check_shapes(networks)
    return networks


def _parameters(*parts: list[Layer]) -> list[nn.Parameter]:
    # Not linear.parameters(): this is asked several times for every window, which may be one step long.
    of_layers = (layer.linear._parameters.values() for part in parts for layer in part)
    return [parameter for own in of_layers for parameter in own if parameter is not None]


def _check_shapes(networks: SACNetworks) -> None:
    actor = networks.actor
    outputs, features = actor[-1].linear.out_features, actor[0].linear.in_features
    if outputs % 2:
        raise UnsupportedError("the actor does not return mean and log_std")
    for critic in networks[1:]:
        if critic[0].linear.in_features != features + outputs // 2:
            raise UnsupportedError("a critic does not read observations and actions side by side")
        if critic[-1].linear.out_features != 1:
            raise UnsupportedError("a critic has more than one output")
    for critic, target in (networks[1::2], networks[2::2]):
        ours, theirs = _parameters(critic), _parameters(target)
        if [p.shape for p in ours] != [p.shape for p in theirs]:
            raise UnsupportedError("a target critic is not like its critic")


def recognise(
    model: SACModel, create: bool = False, learn_alpha: bool = True
) -> tuple[SACNetworks, tuple[Any, ...]]:
    """The networks as the core sees them, and what it changes: the actor's parameters, the critics', their
    targets, the temperature's, as adam_parameters describes them. With `create`, missing optimizer state is
    made.

    Raises:
        UnsupportedError: the core does not serve the model; with the reason.
    """
    networks = networks_of_sac(model)
    actor, critics = _parameters(networks.actor), _parameters(networks.critic1, networks.critic2)
    targets = _parameters(networks.target1, networks.target2)
    learned = learn_alpha and model.log_alpha.requires_grad
    for parameters in (actor, critics):
        if not any(p.requires_grad for p in parameters):
            raise UnsupportedError("every parameter of a network is frozen")
    return networks, (
        adam_parameters(model.actor_optimizer, actor, create),
        adam_parameters(model.critic_optimizer, critics, create),
        targets,
        adam_parameters(model.alpha_optimizer, [model.log_alpha], create) if learned else [],
    )


def sac_update(
    model: SACModel,
    experience: Experience,
    draws: Draws,
    noise: Tensor,
    config: SACConfig,
    target_entropy: float,
) -> Updated:
    """The updates of sac.sac_update, by one call of the core.

    Raises:
        UnsupportedError: the core does not serve this model, or these observations; with the reason.
        NonFiniteError: a loss or gradient is NaN or infinite; model and priorities are as before.
        ValueError: a replay that does not fit the networks.
    """
    networks, parameters = recognise(model, create=True, learn_alpha=config.learn_alpha)
    try:
        view = experience.buffer.replay.view()
    except ValueError as error:
        raise UnsupportedError("the observations are not one float array") from error
    if view.observations.shape[1] != networks.actor[0].linear.in_features:
        raise UnsupportedError("the networks do not read one flat observation")
    options = _core.SACOptions(
        n_step=config.n_step,
        gamma=config.gamma,
        tau=config.tau,
        target_entropy=target_entropy,
        max_grad_norm=config.max_grad_norm,
        threads=learner_threads(),
    )
    result = _core.sac_update(
        networks.described(), parameters, model.log_alpha, view, experience.described(draws, config),
        noise.to(model.log_alpha.dtype), options,
    )  # fmt: skip
    # Written behind autograd's back, also when all was put back.
    actor, critics, targets, temperature = parameters
    written = [tensor for entry in (*actor, *critics, *temperature) for tensor in entry[:4]]
    torch.autograd.graph.increment_version([*written, *targets])
    if result.failed is not None:
        raise NonFiniteError(result.failed)
    if result.max_priority is not None:
        experience.buffer.max_priority = result.max_priority
    for optimizer in model.optimizers().values():
        note_step(optimizer)
    return Updated(draws.updates, means_of(result.sums, draws.updates))
