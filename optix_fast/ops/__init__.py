"""The fused operations: native where the core serves the device, the torch reference elsewhere."""

from optix_fast.ops.gae import gae
from optix_fast.ops.ppo_loss import ppo_loss
from optix_fast.ops.sum_tree import SumTree
from optix_fast.ops.tanh_normal import tanh_normal_log_prob, tanh_normal_sample
from optix_fast.reference.distributions import Categorical, Hybrid, MultiDiscrete, Normal
from optix_fast.reference.ppo_loss import PPOLoss

__all__ = [
    "Categorical",
    "Hybrid",
    "MultiDiscrete",
    "Normal",
    "PPOLoss",
    "SumTree",
    "gae",
    "ppo_loss",
    "tanh_normal_log_prob",
    "tanh_normal_sample",
]
