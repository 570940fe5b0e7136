"""SAC's updates in the core: K of them in one call, in place on the user's modules and optimizers."""

from __future__ import annotations

from torch import Tensor, nn

from optix_fast import _native
from optix_fast.learners.experience import Draws, Experience
from optix_fast.learners.native.networks import UnsupportedError, check_parameter
from optix_fast.learners.native.threads import learner_threads
from optix_fast.learners.native.updates import Recognised, Trained
from optix_fast.learners.sac.config import SACConfig
from optix_fast.learners.sac.update import SACModel, Updated, means_of

_core = _native.core


def recognise(
    model: SACModel, create: bool = False, learn_alpha: bool = True
) -> tuple[Recognised, tuple[Trained, Trained, list[nn.Parameter], Trained]]:
    """The model as the core sees it, and what the core changes: the actor's parameters, the critics', their
    targets', the temperature's.

    Raises:
        UnsupportedError: the core does not serve the model; with the reason.
    """
    if model.discrete:
        raise UnsupportedError("a categorical policy is updated in torch")
    found = Recognised(model, create)
    check_parameter(model.log_alpha, "log_alpha")
    width, odd = divmod(found.outputs("actor"), 2)
    if odd:
        raise UnsupportedError("the actor does not return mean and log_std")
    found.check_critics(width, "critic1", "critic2", "target1", "target2")
    targets = found.targets("target1", "target2")
    learned = learn_alpha and model.log_alpha.requires_grad
    return found, (
        found.trained("actor", "actor"),
        found.trained("critic", "critic1", "critic2"),
        targets,
        found.adam("alpha", [model.log_alpha]) if learned else [],
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
    found, parameters = recognise(model, create=True, learn_alpha=config.learn_alpha)
    options = _core.SACOptions(
        n_step=config.n_step,
        gamma=config.gamma,
        tau=config.tau,
        target_entropy=target_entropy,
        max_grad_norm=config.max_grad_norm,
        threads=learner_threads(),
    )
    result = _core.sac_update(
        found.described(), parameters, model.log_alpha, found.view_of(experience),
        experience.described(draws, config), noise.to(found.dtype), options,
    )  # fmt: skip
    found.conclude(result, experience)
    return Updated(draws.updates, means_of(result.sums, draws.updates))
