"""Tuners change hyperparameters while a run goes on."""

from optix_fast.tuners.backoff import BackoffOptimizer
from optix_fast.tuners.choice import FixedHyperparams, fill_bounds, make_tuner, tuner_name
from optix_fast.tuners.spsa import SPSAOptimizer

__all__ = ["BackoffOptimizer", "FixedHyperparams", "SPSAOptimizer", "fill_bounds", "make_tuner", "tuner_name"]
