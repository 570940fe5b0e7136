"""TD3's updates in the core: K of them in one call, in place on the user's modules and optimizers."""

from __future__ import annotations

from torch import Tensor, nn

from optix_fast import _native
from optix_fast.learners.critics import Updated, updated_of
from optix_fast.learners.experience import Draws, Experience
from optix_fast.learners.native.threads import learner_threads
from optix_fast.learners.native.updates import Recognised, Trained
from optix_fast.learners.td3.config import TD3Config
from optix_fast.learners.td3.update import STATISTICS, TD3Model
from optix_fast.networks.modes import check_batch

_core = _native.core


def recognise(
    model: TD3Model, create: bool = False
) -> tuple[Recognised, tuple[Trained, list[nn.Parameter], Trained, list[nn.Parameter]]]:
    """The model as the core sees it, and what the core changes: the actor's parameters, its target's, the
    critics', their targets'.

    Raises:
        UnsupportedError: the core does not serve the model; with the reason.
    """
    found = Recognised(model, create)
    found.check_critics(found.outputs("actor"))
    targets = found.targets("target_actor"), found.targets(*found.target_critics)
    actor, critics = found.trained("actor", "actor"), found.trained("critic", *found.critics)
    return found, (actor, targets[0], critics, targets[1])


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
        ValueError: a replay that does not fit the networks, or a batch of one row for a batch norm.
    """
    found, parameters = recognise(model, create=True)
    check_batch(model.networks().items(), draws.batch_size)
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
    actor, target_actor = found.described(["actor", "target_actor"])
    networks = actor, target_actor, *map(list, map(found.described, (found.critics, found.target_critics)))
    result = _core.td3_update(
        networks, parameters, found.view_of(experience),
        experience.described(draws, config), noise.to(found.dtype), options,
    )  # fmt: skip
    found.conclude(result, experience, idle=() if result.actor_updates else ("actor",))
    return updated_of(STATISTICS, result.sums, draws.updates, result.actor_updates)
