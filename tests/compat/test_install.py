"""The old import paths: what they serve, and what they say about the rest."""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

import optix_fast
from optix_fast.compat import install, served_names
from optix_fast.compat.finder import OldPackage
from optix_fast.compat.tensor_optix_names import ELSEWHERE, MODULES, NOTES

PATHS = [(path, name) for path, names in MODULES.items() for name in names]


def dotted(*parts: str) -> str:
    return ".".join(part for part in parts if part)


@pytest.mark.parametrize("root", ["tensor_optix", "optix_fast.compat.tensor_optix"])
def test_every_path_serves_the_object_or_says_why_not(installed, root):
    served = served_names()
    for path, name in PATHS:
        module = importlib.import_module(dotted(root, path))
        if served[name].startswith("not served: "):
            with pytest.raises(ImportError, match=f"tensor_optix.{name} is not served by optix_fast .*: .+"):
                getattr(module, name)
            assert name not in module.__all__
        else:
            home, _, attribute = served[name].rpartition(".")
            assert getattr(module, name) is getattr(importlib.import_module(home), attribute)
            assert name in module.__all__ and name in dir(module)


def test_what_exists_today_is_served(installed):
    served = served_names()
    for name in (
        "EpisodeData", "EvalMetrics", "HyperparamSet", "PolicySnapshot", "LoopState", "BaseAgent",
        "BaseEvaluator", "BaseOptimizer", "BasePipeline", "LoopCallback", "BatchPipeline", "LivePipeline",
        "VectorBatchPipeline", "RNDPipeline", "RunningMeanStd", "ObsNormalizer", "RewardNormalizer",
        "compute_gae", "make_minibatches", "RLOptimizer", "TorchEvaluator", "TorchPPOAgent",
        "TorchGaussianPPOAgent", "LoopController", "CheckpointRegistry", "BackoffScheduler",
        "PrioritizedReplayBuffer", "TorchAgent", "TorchDQNAgent", "TorchSACAgent", "SPSAOptimizer",
        "BackoffOptimizer", "MomentumOptimizer", "PBTOptimizer",
        "TrialOrchestrator",
    ):  # fmt: skip
        assert served[name] == f"optix_fast.{name}"
    assert served["TFEvaluator"] == "optix_fast.TorchEvaluator"
    assert served["TFPPOAgent"] == "not served: TensorFlow is not served; see TorchPPOAgent"


def test_statements_that_users_write(installed):
    names: dict[str, object] = {}
    exec(
        "import tensor_optix\n"
        "import tensor_optix.core.types as types\n"
        "from tensor_optix import *\n"
        "from tensor_optix.core import CheckpointRegistry\n"
        "from tensor_optix.pipeline.vector_pipeline import VectorBatchPipeline\n"
        "from tensor_optix.core.base_pipeline import EpisodeBoundaryFn\n"
        "data = tensor_optix.core.types.EpisodeData\n",
        names,
    )
    assert names["BatchPipeline"] is optix_fast.BatchPipeline
    assert names["CheckpointRegistry"] is optix_fast.CheckpointRegistry
    assert names["data"] is optix_fast.EpisodeData
    assert "TFPPOAgent" not in names


def test_names_that_never_were_are_ordinary_errors(installed):
    import tensor_optix

    with pytest.raises(AttributeError, match="module 'tensor_optix' has no attribute 'Nothing'"):
        tensor_optix.Nothing  # noqa: B018
    with pytest.raises(ModuleNotFoundError, match="tensor_optix.nothing"):
        importlib.import_module("tensor_optix.nothing")
    with pytest.raises(ImportError, match="cannot import name 'RLOptimizer'"):
        exec("from tensor_optix.core.types import RLOptimizer")


def test_missing_name_is_served_from_the_day_it_exists(monkeypatch):
    package = OldPackage("old", {"": ("Tuner",)}, {}, {"Tuner": "not yet"})
    with pytest.raises(ImportError, match=r"old.Tuner is not served by optix_fast .*: not yet"):
        package.get("Tuner")
    monkeypatch.setattr(optix_fast, "__all__", [*optix_fast.__all__, "Tuner"])
    monkeypatch.setattr(optix_fast, "Tuner", 7, raising=False)
    assert package.get("Tuner") == 7


def test_table_is_whole():
    names = {name for _, name in PATHS}
    assert set(ELSEWHERE) <= names
    assert set(NOTES) <= names
    for path in MODULES:
        parent = path.rpartition(".")[0]
        assert parent in MODULES, f"{path} has no parent"


def test_nothing_is_installed_unasked(tmp_path: Path):
    code = (
        "import sys, optix_fast.compat\n"
        "try: import tensor_optix\n"
        "except ModuleNotFoundError: print('none')\n"
        "optix_fast.compat.install(); optix_fast.compat.install()\n"
        "import tensor_optix.algorithms.torch_ppo as old\n"
        "print(sum('OldPackageFinder' in type(f).__name__ for f in sys.meta_path), 'torch' in sys.modules)\n"
        "print(old.TorchPPOAgent.__module__)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["none", "2", "False", "optix_fast.agents.ppo"]


def test_real_package_is_not_shadowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "tensor_optix").mkdir()
    (tmp_path / "tensor_optix" / "__init__.py").write_text("REAL = True\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    before = list(sys.meta_path)
    with pytest.raises(RuntimeError, match=r"a package tensor_optix is installed .*compat.tensor_optix"):
        install()
    assert sys.meta_path == before
    assert importlib.util.find_spec("tensor_optix").origin == str(tmp_path / "tensor_optix" / "__init__.py")
