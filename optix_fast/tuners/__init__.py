"""Tuners change hyperparameters while a run goes on."""

from optix_fast.tuners.backoff import BackoffOptimizer
from optix_fast.tuners.choice import FixedHyperparams, fill_bounds, make_tuner, tuner_name
from optix_fast.tuners.momentum import MomentumOptimizer
from optix_fast.tuners.pbt import PBTOptimizer
from optix_fast.tuners.spsa import SPSAOptimizer

__all__ = [
    "BackoffOptimizer",
    "FixedHyperparams",
    "MomentumOptimizer",
    "PBTOptimizer",
    "SPSAOptimizer",
    "fill_bounds",
    "make_tuner",
    "tuner_name",
]
