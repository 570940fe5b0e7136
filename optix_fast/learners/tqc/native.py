"""TQC's updates in the core: K of them in one call, in place on the user's modules and optimizers."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from optix_fast import _native
from optix_fast.learners.critics import Updated
from optix_fast.learners.experience import Draws, Experience
from optix_fast.learners.native import squashed_policy
from optix_fast.learners.native.squashed_policy import soft_update
from optix_fast.learners.tqc.config import TQCConfig
from optix_fast.learners.tqc.update import TQCModel

_core = _native.core


def recognise(model: TQCModel, create: bool = False, learn_alpha: bool = True) -> tuple[Any, Any]:
    """As squashed_policy.recognise."""
    return squashed_policy.recognise(model, create, learn_alpha, outputs=None)


def tqc_update(
    model: TQCModel,
    experience: Experience,
    draws: Draws,
    noise: Tensor,
    config: TQCConfig,
    target_entropy: float,
) -> Updated:
    """The updates of update.tqc_update, by one call of the core; errors as of soft_update."""
    found, parameters = recognise(model, create=True, learn_alpha=config.learn_alpha)
    return soft_update(
        _core.tqc_update, _core.TQCOptions, model, found, parameters, experience, draws, noise, config,
        target_entropy, tau=config.tau, n_quantiles=found.outputs("critic1"),
        top_quantiles_to_drop_per_net=config.top_quantiles_to_drop_per_net,
    )  # fmt: skip
