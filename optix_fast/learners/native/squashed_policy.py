"""What the soft actor-critics' updates in the core share; see learners/squashed_policy.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from optix_fast.learners.config import SoftConfig
from optix_fast.learners.critics import Updated, updated_of
from optix_fast.learners.experience import Draws, Experience
from optix_fast.learners.native.networks import UnsupportedError, check_parameter
from optix_fast.learners.native.threads import learner_threads
from optix_fast.learners.native.updates import Recognised, Trained
from optix_fast.learners.squashed_policy import STATISTICS, SoftModel
from optix_fast.networks.modes import check_batch


def recognise(
    model: SoftModel, create: bool = False, learn_alpha: bool = True, outputs: int | None = 1
) -> tuple[Recognised, tuple[Trained, Trained, list[nn.Parameter], Trained]]:
    """The model as the core sees it, and what the core changes: the actor's parameters, the critics', their
    targets', the temperature's.

    Args:
        outputs: of each critic; None: any number, the same of all.

    Raises:
        UnsupportedError: the core does not serve the model; with the reason.
    """
    found = Recognised(model, create)
    check_parameter(model.log_alpha, "log_alpha")
    width, odd = divmod(found.outputs("actor"), 2)
    if odd:
        raise UnsupportedError("the actor does not return mean and log_std")
    found.check_critics(width, outputs)
    targets = found.targets(*found.target_critics)
    learned = learn_alpha and model.log_alpha.requires_grad
    return found, (
        found.trained("actor", "actor"),
        found.trained("critic", *found.critics),
        targets,
        found.trained_by("alpha", [model.log_alpha]) if learned else [],
    )


def soft_update(
    update: Callable[..., Any],
    options: type[Any],
    model: SoftModel,
    found: Recognised,
    parameters: tuple[Any, ...],
    experience: Experience,
    draws: Draws,
    noise: Tensor,
    config: SoftConfig,
    target_entropy: float,
    **own: Any,
) -> Updated:
    """K updates by one call of the core.

    Args:
        update, options: the core's function, and the class of its options.
        found, parameters: as `recognise` gave them.
        own: options of this algorithm alone.

    Raises:
        UnsupportedError: the core does not serve these observations; with the reason.
        NonFiniteError: a loss or gradient is NaN or infinite; model and priorities are as before.
        ValueError: a replay that does not fit the networks, or a batch of one row for a batch norm.
    """
    check_batch(model.networks().items(), draws.batch_size)
    given = options(
        n_step=config.n_step,
        gamma=config.gamma,
        target_entropy=target_entropy,
        max_grad_norm=config.max_grad_norm,
        threads=learner_threads(),
        **own,
    )
    (actor,) = found.described(["actor"])
    networks = actor, *map(list, map(found.described, (found.critics, found.target_critics)))
    result = update(
        networks, parameters, model.log_alpha, found.view_of(experience),
        experience.described(draws, config), noise.to(found.dtype), given,
    )  # fmt: skip
    found.conclude(result, experience, idle=() if result.actor_updates else ("actor", "alpha"))
    return updated_of(STATISTICS, result.sums, draws.updates, result.actor_updates)
