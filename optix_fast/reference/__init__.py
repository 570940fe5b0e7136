"""The operations in plain torch: the specification that the native core is tested against.

Same names and signatures as :mod:`optix_fast.ops`; they run on any device and wherever the core does not.
"""

from optix_fast.reference.distributions import Categorical, Hybrid, MultiDiscrete, Normal
from optix_fast.reference.gae import gae
from optix_fast.reference.ppo_loss import PPOLoss, ppo_loss
from optix_fast.reference.sum_tree import SumTree
from optix_fast.reference.tanh_normal import tanh_normal_log_prob, tanh_normal_sample

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
