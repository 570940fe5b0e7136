"""TD3's updates in the core: K of them in one call, in place on the user's modules and optimizers."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from optix_fast import _native
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
    check_critics,
    check_trained,
    conclude,
    described,
    parameters_of,
    view_of,
)
from optix_fast.learners.td3.config import TD3Config
from optix_fast.learners.td3.update import TD3Model, Updated, updated_of

_core = _native.core
_Trained = list[tuple[Any, ...]]


def recognise(
    model: TD3Model, create: bool = False
) -> tuple[list[Stack], tuple[_Trained, list[nn.Parameter], _Trained, list[nn.Parameter]]]:
    """The networks as the core sees them, in the model's order, and what it changes: the actor's parameters,
    its target's, the critics', their targets'.

    Raises:
        UnsupportedError: the core does not serve the model; with the reason.
    """
    check_surroundings()
    stacks = [layers_of(net, name) for name, net in model.modules().items()]
    actor, critic1, critic2, target_actor, target1, target2 = stacks
    check_distinct(parameters_of(*stacks))
    check_critics(actor, (critic1, critic2, target1, target2), actor[-1].linear.out_features)
    check_copy(actor, target_actor, "the target actor is not like the actor")
    for critic, target in ((critic1, target1), (critic2, target2)):
        check_copy(critic, target, "a target critic is not like its critic")
    trained = parameters_of(actor), parameters_of(critic1, critic2)
    for parameters in trained:
        check_trained(parameters, "every parameter of a network is frozen")
    return stacks, (
        adam_parameters(model.actor_optimizer, trained[0], create),
        parameters_of(target_actor),
        adam_parameters(model.critic_optimizer, trained[1], create),
        parameters_of(target1, target2),
    )


def td3_update(
    model: TD3Model,
    experience: Experience,
    draws: Draws,
    noise: Tensor,
    config: TD3Config,
    updates_before: int,
) -> Updated:
    """The updates of update.td3_update, by one call of the core.

    Raises:
        UnsupportedError: the core does not serve this model, or these observations; with the reason.
        NonFiniteError: a loss or gradient is NaN or infinite; model and priorities are as before.
        ValueError: a replay that does not fit the networks.
    """
    stacks, parameters = recognise(model, create=True)
    view = view_of(experience, stacks[0], "the networks do not read one flat observation")
    options = _core.TD3Options(
        n_step=config.n_step,
        gamma=config.gamma,
        tau=config.tau,
        policy_delay=config.policy_delay,
        target_noise=config.target_noise,
        target_noise_clip=config.target_noise_clip,
        max_grad_norm=config.max_grad_norm,
        updates_before=updates_before,
        threads=learner_threads(),
    )
    result = _core.td3_update(
        described(stacks), parameters, view,
        experience.described(draws, config), noise.to(stacks[0][0].linear.weight.dtype), options,
    )  # fmt: skip
    actor, actor_target, critics, critic_targets = parameters
    conclude(result, model, experience, [*actor, *critics], [*actor_target, *critic_targets])
    return updated_of(result.sums, draws.updates, result.actor_updates)
