"""CrossQ (Bhatt et al. 2024) for bounded Box action spaces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from optix_fast.agents.building import Algorithm, Options, Parts, adam, is_bounded_box, outputs_of
from optix_fast.agents.hyperparams import read_config
from optix_fast.agents.soft_actor_critic import SoftActorCritic, Updates, temperature_optimizer
from optix_fast.learners.crossq import native
from optix_fast.learners.crossq.config import PRESETS, CrossQConfig
from optix_fast.learners.crossq.networks import normalized_mlp
from optix_fast.learners.crossq.update import CrossQModel, crossq_update
from optix_fast.learners.native.squashed_policy import recognise


class TorchCrossQAgent(SoftActorCritic):
    """CrossQ: SAC without target networks; batch norms in the critics see s and s' together, and the actor is
    updated less often. The arguments are SoftActorCritic's: each critic returns [B, 1] or [B], actor and
    critics should have batch norms (as learners.crossq.networks.normalized_mlp, which make_agent builds), and
    the hyperparameters are those of CrossQConfig.
    """

    default_param_bounds = {  # noqa: RUF012 (the documented class attribute)
        "learning_rate": (1e-4, 3e-3),
        "gamma": (0.97, 0.999),
    }
    default_log_params = ["learning_rate"]  # noqa: RUF012
    algorithm = "crossq"
    config_type = CrossQConfig
    _updates_of = Updates(recognise, native.crossq_update, crossq_update)
    _model: CrossQModel

    def _make_model(self, critics: Sequence[nn.Module], **parts: Any) -> CrossQModel:
        return CrossQModel(critics=nn.ModuleList(critics), **parts)

    def _progress(self) -> tuple[int, ...]:
        return (self.updates,)


def _build(parts: Parts, options: Options) -> TorchCrossQAgent:
    config, width = read_config(CrossQConfig, parts.params), outputs_of(parts.action_space)
    if parts.norm not in (None, "batch_renorm") or parts.residual:
        raise ValueError(
            "crossq's networks have batch renormalization before each Linear layer: norm must be None or "
            f"'batch_renorm' and residual False, got {parts.norm!r} and {parts.residual}"
        )

    def layers(sizes: Sequence[int]) -> nn.Sequential:
        return normalized_mlp(sizes, parts.activation, parts.generator, dropout=parts.dropout)

    actor = parts.network(2 * width, make_layers=layers)
    critics = [parts.critic(width, make_layers=layers) for _ in range(2)]
    return TorchCrossQAgent(
        actor, critics, width, adam(config, actor, beta1=0.5), adam(config, *critics, beta1=0.5),
        temperature_optimizer(config), **parts.common(config),
    )  # fmt: skip


ALGORITHM = Algorithm(
    CrossQConfig, _build, "a Box action space with finite bounds", is_bounded_box, presets=PRESETS
)
