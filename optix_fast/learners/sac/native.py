"""SAC's updates in the core: K of them in one call, in place on the user's modules and optimizers."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from optix_fast import _native
from optix_fast.learners.critics import Updated
from optix_fast.learners.experience import Draws, Experience
from optix_fast.learners.native import squashed_policy
from optix_fast.learners.native.networks import UnsupportedError
from optix_fast.learners.native.squashed_policy import soft_update
from optix_fast.learners.sac.config import SACConfig
from optix_fast.learners.sac.update import SACModel

_core = _native.core


def recognise(model: SACModel, create: bool = False, learn_alpha: bool = True) -> tuple[Any, Any]:
    """As squashed_policy.recognise."""
    if model.discrete:
        raise UnsupportedError("a categorical policy is updated in torch")
    return squashed_policy.recognise(model, create, learn_alpha)


def sac_update(
    model: SACModel,
    experience: Experience,
    draws: Draws,
    noise: Tensor,
    config: SACConfig,
    target_entropy: float,
) -> Updated:
    """The updates of update.sac_update, by one call of the core; errors as of soft_update."""
    found = recognise(model, create=True, learn_alpha=config.learn_alpha)
    return soft_update(
        _core.sac_update, _core.SACOptions, model, *found, experience, draws, noise, config, target_entropy,
        tau=config.tau,
    )  # fmt: skip
