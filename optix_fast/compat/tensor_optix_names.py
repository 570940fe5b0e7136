"""Which names tensor_optix 1.2.4 offers, where, and what stands for them in optix_fast (seed 003).

`MODULES` is every import path with its names. A name is served by the public name of optix_fast that is
called the same, unless `ELSEWHERE` says otherwise; so one that optix_fast comes to have is served from then
on. `NOTES` says why a name is not there (yet).
"""

from __future__ import annotations

_TYPES = ("EpisodeData", "EvalMetrics", "HyperparamSet", "PolicySnapshot", "LoopState")
_BASES = ("BaseAgent", "BaseEvaluator", "BaseOptimizer", "BasePipeline")
_POPULATION = (
    "PolicyManager",
    "PolicyManagerCallback",
    "EnsembleAgent",
    "RegimeDetector",
    "MetaController",
    "MetaAction",
)
_TUNERS = ("BackoffOptimizer", "MomentumOptimizer", "PBTOptimizer", "SPSAOptimizer")
_NORMALIZERS = ("RunningMeanStd", "ObsNormalizer", "RewardNormalizer")
_TRAJECTORY = ("compute_gae", "make_minibatches")
_TENSORFLOW = ("TFAgent", "TFPPOAgent", "TFDQNAgent", "TFSACAgent", "TFGaussianPPOAgent")
_TORCH = ("TorchAgent", "TorchPPOAgent", "TorchDQNAgent", "TorchSACAgent", "TorchGaussianPPOAgent")

# Path below the package → the names there. A path that others lie below is a package.
MODULES: dict[str, tuple[str, ...]] = {
    "": (
        *_TYPES, *_BASES, "LoopCallback", *_POPULATION, "BatchPipeline", "LivePipeline", *_TUNERS,
        *_NORMALIZERS, *_TRAJECTORY, "VectorBatchPipeline", "TrialOrchestrator", "RNDPipeline",
        "PrioritizedReplayBuffer", "DiagnosticController", "RLOptimizer", "TFEvaluator", *_TENSORFLOW,
        "TorchEvaluator", *_TORCH,
    ),
    "optimizer": ("RLOptimizer", "SPSAOptimizer", "BackoffOptimizer"),
    "orchestrator": ("TrialOrchestrator", "ParamSpace"),
    "core": (
        *_TYPES, *_BASES, "LoopController", "LoopCallback", "CheckpointRegistry", "BackoffScheduler",
        *_POPULATION,
    ),
    "core.types": _TYPES,
    "core.base_agent": ("BaseAgent",),
    "core.base_evaluator": ("BaseEvaluator",),
    "core.base_optimizer": ("BaseOptimizer",),
    "core.base_pipeline": ("BasePipeline", "EpisodeBoundaryFn"),
    "core.loop_controller": ("LoopController", "LoopCallback"),
    "core.backoff_scheduler": ("BackoffScheduler",),
    "core.checkpoint_registry": ("CheckpointRegistry",),
    "core.normalizers": _NORMALIZERS,
    "core.trajectory_buffer": _TRAJECTORY,
    "core.replay_buffer": ("PrioritizedReplayBuffer",),
    "core.policy_manager": ("PolicyManager", "PolicyManagerCallback"),
    "core.ensemble_agent": ("EnsembleAgent",),
    "core.regime_detector": ("RegimeDetector",),
    "core.meta_controller": ("MetaController", "MetaAction"),
    "core.diagnostic_controller": ("DiagnosticController",),
    "optimizers": _TUNERS,
    "optimizers.spsa_optimizer": ("SPSAOptimizer",),
    "optimizers.backoff_optimizer": ("BackoffOptimizer",),
    "optimizers.momentum_optimizer": ("MomentumOptimizer",),
    "optimizers.pbt_optimizer": ("PBTOptimizer",),
    "pipeline": ("BatchPipeline", "LivePipeline"),
    "pipeline.batch_pipeline": ("BatchPipeline",),
    "pipeline.live_pipeline": ("LivePipeline",),
    "pipeline.vector_pipeline": ("VectorBatchPipeline",),
    "exploration": ("RNDPipeline",),
    "exploration.rnd": ("RNDPipeline",),
    "adapters": (),
    "adapters.tensorflow": ("TFAgent", "TFEvaluator"),
    "adapters.tensorflow.tf_agent": ("TFAgent",),
    "adapters.tensorflow.tf_evaluator": ("TFEvaluator",),
    "adapters.pytorch": ("TorchAgent", "TorchEvaluator"),
    "adapters.pytorch.torch_agent": ("TorchAgent",),
    "adapters.pytorch.torch_evaluator": ("TorchEvaluator",),
    "algorithms": (*_TENSORFLOW[1:], *_TORCH[1:]),
    "algorithms.tf_ppo": ("TFPPOAgent",),
    "algorithms.tf_ppo_continuous": ("TFGaussianPPOAgent",),
    "algorithms.tf_dqn": ("TFDQNAgent",),
    "algorithms.tf_sac": ("TFSACAgent",),
    "algorithms.torch_ppo": ("TorchPPOAgent",),
    "algorithms.torch_ppo_continuous": ("TorchGaussianPPOAgent",),
    "algorithms.torch_dqn": ("TorchDQNAgent",),
    "algorithms.torch_sac": ("TorchSACAgent",),
}  # fmt: skip

# Old name → (module of optix_fast, name there), where it is no public name that is called the same.
ELSEWHERE: dict[str, tuple[str, str]] = {
    "EpisodeBoundaryFn": ("optix_fast.types", "EpisodeBoundaryFn"),
    "ParamSpace": ("optix_fast.trials", "ParamSpace"),
    # The two always scored alike, and neither needs TensorFlow.
    "TFEvaluator": ("optix_fast", "TorchEvaluator"),
}

NOTES: dict[str, str] = {
    **{name: f"TensorFlow is not served; see Torch{name[2:]}" for name in _TENSORFLOW},
    **dict.fromkeys(_POPULATION, "policy populations are not built yet"),
}
