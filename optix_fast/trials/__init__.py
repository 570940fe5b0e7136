"""Search across runs: many short trials, each with hyperparameters of its own."""

from optix_fast.trials.orchestrator import TrialOrchestrator
from optix_fast.trials.param_space import ParamSpace

__all__ = ["ParamSpace", "TrialOrchestrator"]
