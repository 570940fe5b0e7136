"""The autonomous loop: scores, checkpoints, convergence."""

from optix_fast.loop.backoff_scheduler import BackoffScheduler
from optix_fast.loop.checkpoints import CheckpointRegistry
from optix_fast.loop.controller import LoopController
from optix_fast.loop.diagnostics import DiagnosticController
from optix_fast.loop.evaluation import EvaluationResult, evaluate_policy
from optix_fast.loop.evaluators import TorchEvaluator
from optix_fast.loop.optimizer import RLOptimizer
from optix_fast.loop.run_state import RunSummary

__all__ = [
    "BackoffScheduler",
    "CheckpointRegistry",
    "DiagnosticController",
    "EvaluationResult",
    "LoopController",
    "RLOptimizer",
    "RunSummary",
    "TorchEvaluator",
    "evaluate_policy",
]
