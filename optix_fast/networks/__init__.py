"""Builders of networks, and the policy heads that turn their outputs into actions."""

from optix_fast.networks.batch_renorm import BatchRenorm
from optix_fast.networks.dueling import DuelingQNetwork
from optix_fast.networks.encoders import ObservationEncoder
from optix_fast.networks.heads import CategoricalHead, GreedyHead, MultiDiscreteHead, NormalHead, PolicyHead
from optix_fast.networks.mlp import mlp
from optix_fast.networks.residual import Residual

__all__ = [
    "BatchRenorm",
    "CategoricalHead",
    "DuelingQNetwork",
    "GreedyHead",
    "MultiDiscreteHead",
    "NormalHead",
    "ObservationEncoder",
    "PolicyHead",
    "Residual",
    "mlp",
]
