"""SAC's updates in the core: K of them in one call, in place on the user's modules and optimizers."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from optix_fast import _native
from optix_fast.learners.experience import Draws, Experience
from optix_fast.learners.native.networks import (
    UnsupportedError,
    adam_parameters,
    check_distinct,
    check_parameter,
    check_surroundings,
    layers_of,
)
from optix_fast.learners.native.threads import learner_threads
from optix_fast.learners.native.updates import (
    Stack,
    check_copy,
    check_critics,
    check_trained,
    conclude,
    described,
    parameters_of,
    view_of,
)
from optix_fast.learners.sac.config import SACConfig
from optix_fast.learners.sac.update import SACModel, Updated, means_of

_core = _native.core
_Trained = list[tuple[Any, ...]]


def recognise(
    model: SACModel, create: bool = False, learn_alpha: bool = True
) -> tuple[list[Stack], tuple[_Trained, _Trained, list[nn.Parameter], _Trained]]:
    """The networks as the core sees them, in the model's order, and what it changes: the actor's parameters,
    the critics', their targets', the temperature's.

    Raises:
        UnsupportedError: the core does not serve the model; with the reason.
    """
    check_surroundings()
    if model.discrete:
        raise UnsupportedError("a categorical policy is updated in torch")
    stacks = [layers_of(net, name) for name, net in model.modules().items()]
    actor, critic1, critic2, target1, target2 = stacks
    check_distinct([*parameters_of(*stacks), model.log_alpha])
    check_parameter(model.log_alpha, "log_alpha")
    if actor[-1].linear.out_features % 2:
        raise UnsupportedError("the actor does not return mean and log_std")
    check_critics(actor, stacks[1:], actor[-1].linear.out_features // 2)
    for critic, target in ((critic1, target1), (critic2, target2)):
        check_copy(critic, target, "a target critic is not like its critic")
    trained = parameters_of(actor), parameters_of(critic1, critic2)
    for parameters in trained:
        check_trained(parameters, "every parameter of a network is frozen")
    learned = learn_alpha and model.log_alpha.requires_grad
    return stacks, (
        adam_parameters(model.actor_optimizer, trained[0], create),
        adam_parameters(model.critic_optimizer, trained[1], create),
        parameters_of(target1, target2),
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
    """The updates of update.sac_update, by one call of the core.

    Raises:
        UnsupportedError: the core does not serve this model, or these observations; with the reason.
        NonFiniteError: a loss or gradient is NaN or infinite; model and priorities are as before.
        ValueError: a replay that does not fit the networks.
    """
    stacks, parameters = recognise(model, create=True, learn_alpha=config.learn_alpha)
    view = view_of(experience, stacks[0], "the networks do not read one flat observation")
    options = _core.SACOptions(
        n_step=config.n_step,
        gamma=config.gamma,
        tau=config.tau,
        target_entropy=target_entropy,
        max_grad_norm=config.max_grad_norm,
        threads=learner_threads(),
    )
    result = _core.sac_update(
        described(stacks), parameters, model.log_alpha, view, experience.described(draws, config),
        noise.to(model.log_alpha.dtype), options,
    )  # fmt: skip
    actor, critics, targets, temperature = parameters
    conclude(result, model, experience, [*actor, *critics, *temperature], targets)
    return Updated(draws.updates, means_of(result.sums, draws.updates))
