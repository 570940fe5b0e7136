"""optix_fast: reinforcement-learning agents with a compiled core.

Names are imported when they are first used, so that `import optix_fast` stays quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from optix_fast import algorithms
from optix_fast._native import backend, build_info

__version__ = "0.1.0"

# Public name → the module that defines it.
_EXPORTS = {
    "BaseAgent": "types",
    "BaseEvaluator": "types",
    "BaseOptimizer": "types",
    "BasePipeline": "types",
    "EpisodeData": "types",
    "EvalMetrics": "types",
    "HyperparamSet": "types",
    "LoopCallback": "types",
    "LoopState": "types",
    "NonFiniteError": "types",
    "PolicySnapshot": "types",
    "StopTraining": "types",
    "no_recording": "types",
    "RandomStream": "random",
    "TrainConfig": "config",
    "BatchPipeline": "pipelines",
    "LivePipeline": "pipelines",
    "VectorBatchPipeline": "pipelines",
    "PrioritizedReplayBuffer": "buffers",
    "RNDPipeline": "exploration",
    "ReplayBuffer": "buffers",
    "compute_gae": "buffers",
    "make_minibatches": "buffers",
    "ObsNormalizer": "envs.normalizers",
    "RewardNormalizer": "envs.normalizers",
    "RunningMeanStd": "envs.normalizers",
    "Agent": "agents",
    "TorchAgent": "agents",
    "make_agent": "agents",
    "BackoffOptimizer": "tuners",
    "BackoffScheduler": "loop",
    "CheckpointRegistry": "loop",
    "DiagnosticController": "loop",
    "LoopController": "loop",
    "FixedHyperparams": "tuners",
    "MetaAction": "population",
    "MetaController": "population",
    "MomentumOptimizer": "tuners",
    "PBTOptimizer": "tuners",
    "RLOptimizer": "loop",
    "RegimeDetector": "population",
    "SPSAOptimizer": "tuners",
    "TorchEvaluator": "loop",
    "TrialOrchestrator": "trials",
    "evaluate_policy": "loop",
    **dict.fromkeys(algorithms.__all__, "agents"),
}

__all__ = [
    "Agent",
    "BackoffOptimizer",
    "BackoffScheduler",
    "BaseAgent",
    "BaseEvaluator",
    "BaseOptimizer",
    "BasePipeline",
    "BatchPipeline",
    "CheckpointRegistry",
    "DiagnosticController",
    "EpisodeData",
    "EvalMetrics",
    "FixedHyperparams",
    "HyperparamSet",
    "LivePipeline",
    "LoopCallback",
    "LoopController",
    "LoopState",
    "MetaAction",
    "MetaController",
    "MomentumOptimizer",
    "NonFiniteError",
    "ObsNormalizer",
    "PBTOptimizer",
    "PolicySnapshot",
    "PrioritizedReplayBuffer",
    "RLOptimizer",
    "RNDPipeline",
    "RandomStream",
    "RegimeDetector",
    "ReplayBuffer",
    "RewardNormalizer",
    "RunningMeanStd",
    "SPSAOptimizer",
    "StopTraining",
    "TorchAgent",
    "TorchEvaluator",
    "TrainConfig",
    "TrialOrchestrator",
    "VectorBatchPipeline",
    "__version__",
    "backend",
    "build_info",
    "compute_gae",
    "evaluate_policy",
    "make_agent",
    "make_minibatches",
    "no_recording",
    "ops",
]
__all__ += algorithms.__all__

if TYPE_CHECKING:
    from optix_fast import ops
    from optix_fast.agents import (
        Agent,
        TorchAgent,
        make_agent,
    )
    from optix_fast.algorithms import *  # noqa: F403
    from optix_fast.buffers import PrioritizedReplayBuffer, ReplayBuffer, compute_gae, make_minibatches
    from optix_fast.config import TrainConfig
    from optix_fast.envs.normalizers import ObsNormalizer, RewardNormalizer, RunningMeanStd
    from optix_fast.exploration import RNDPipeline
    from optix_fast.loop import (
        BackoffScheduler,
        CheckpointRegistry,
        DiagnosticController,
        LoopController,
        RLOptimizer,
        TorchEvaluator,
        evaluate_policy,
    )
    from optix_fast.pipelines import BatchPipeline, LivePipeline, VectorBatchPipeline
    from optix_fast.population import MetaAction, MetaController, RegimeDetector
    from optix_fast.random import RandomStream
    from optix_fast.trials import TrialOrchestrator
    from optix_fast.tuners import (
        BackoffOptimizer,
        FixedHyperparams,
        MomentumOptimizer,
        PBTOptimizer,
        SPSAOptimizer,
    )
    from optix_fast.types import (
        BaseAgent,
        BaseEvaluator,
        BaseOptimizer,
        BasePipeline,
        EpisodeData,
        EvalMetrics,
        HyperparamSet,
        LoopCallback,
        LoopState,
        NonFiniteError,
        PolicySnapshot,
        StopTraining,
        no_recording,
    )


def __getattr__(name: str) -> Any:
    if name == "ops":
        return import_module("optix_fast.ops")
    module = _EXPORTS.get(name)
    if module is None:
        raise AttributeError(f"module 'optix_fast' has no attribute {name!r}")
    value = getattr(import_module(f"optix_fast.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
