"""Truncated quantile critics (Kuznetsov et al. 2020) for bounded Box action spaces."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from torch import nn

from optix_fast.agents.building import Algorithm, Options, Parts, adam, is_bounded_box, outputs_of
from optix_fast.agents.hyperparams import read_config
from optix_fast.agents.soft_actor_critic import SoftActorCritic, Updates, temperature_optimizer
from optix_fast.learners.model import target_of
from optix_fast.learners.tqc import native
from optix_fast.learners.tqc.config import PRESETS, TQCConfig
from optix_fast.learners.tqc.update import TQCModel, tqc_update
from optix_fast.networks.plan import Plan, UnsupportedError


class TorchTQCAgent(SoftActorCritic):
    """TQC: SAC whose critics return quantiles of the return; the greatest ones of their targets are left out,
    which bounds overestimation. The arguments are SoftActorCritic's: each critic returns [B, M], and the
    hyperparameters are those of TQCConfig.
    """

    algorithm = "tqc"
    config_type = TQCConfig
    _updates_of = Updates(native.recognise, native.tqc_update, tqc_update)
    _model: TQCModel

    def _make_model(self, critics: Sequence[nn.Module], **parts: Any) -> TQCModel:
        networks = nn.ModuleList(critics)
        return TQCModel(critics=networks, targets=target_of(networks), **parts)

    def _check_config(self, config: TQCConfig) -> None:
        super()._check_config(config)
        for critic in self._model.critics:
            plan = Plan("critic")
            # Of modules that no plan describes, the first update tells how many outputs they have.
            with suppress(UnsupportedError):
                outputs = plan(critic, plan.input).width
                if outputs is not None:
                    config.check_dropped(outputs)


def _build(parts: Parts, options: Options) -> TorchTQCAgent:
    config, width = read_config(TQCConfig, parts.params), outputs_of(parts.action_space)
    config.check_dropped(config.n_quantiles)
    actor = parts.network(2 * width)
    critics = [parts.critic(width, config.n_quantiles) for _ in range(config.n_critics)]
    return TorchTQCAgent(
        actor, critics, width, adam(config, actor), adam(config, *critics), temperature_optimizer(config),
        **parts.common(config),
    )  # fmt: skip


ALGORITHM = Algorithm(
    TQCConfig, _build, "a Box action space with finite bounds", is_bounded_box, presets=PRESETS
)
