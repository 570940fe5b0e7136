"""CrossQ's updates in the core: K of them in one call, in place on the user's modules and optimizers."""

from __future__ import annotations

from torch import Tensor

from optix_fast import _native
from optix_fast.learners.critics import Updated
from optix_fast.learners.crossq.config import CrossQConfig
from optix_fast.learners.crossq.update import CrossQModel
from optix_fast.learners.experience import Draws, Experience
from optix_fast.learners.native.squashed_policy import recognise, soft_update

_core = _native.core


def crossq_update(
    model: CrossQModel,
    experience: Experience,
    draws: Draws,
    noise: Tensor,
    config: CrossQConfig,
    target_entropy: float,
    updates_before: int,
) -> Updated:
    """The updates of update.crossq_update, by one call of the core; errors as of soft_update."""
    found = recognise(model, create=True, learn_alpha=config.learn_alpha)
    return soft_update(
        _core.crossq_update, _core.CrossQOptions, model, *found, experience, draws, noise, config,
        target_entropy, policy_delay=config.policy_delay, updates_before=updates_before,
    )  # fmt: skip
