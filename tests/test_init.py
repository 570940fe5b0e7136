"""The package's front door: names, and how much importing it costs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import optix_fast


def test_every_public_name_is_importable_and_listed_once() -> None:
    assert len(set(optix_fast.__all__)) == len(optix_fast.__all__)
    assert set(optix_fast._EXPORTS) < set(optix_fast.__all__)
    for name in optix_fast.__all__:
        assert getattr(optix_fast, name) is not None
        assert name in dir(optix_fast)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'PPO'"):
        optix_fast.PPO  # noqa: B018


def test_importing_the_package_does_not_import_torch_or_gymnasium(tmp_path: Path) -> None:
    code = "import sys, optix_fast; print(sorted({'torch', 'gymnasium', 'matplotlib'} & set(sys.modules)))"
    # Run elsewhere: the source tree would be imported in place of what is installed.
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


# Each takes longer to import than all of this package, and a run needs none of it before its first step.
NOT_NEEDED = {"torch._dynamo", "torch._inductor", "sympy", "matplotlib", "rich"}


def loaded_by(code: str, names: set[str], where: Path) -> str:
    """Which of the modules a new process has loaded after the code."""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}\nprint(sorted({names!r} & set(sys.modules)))"],
        cwd=where, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.splitlines()[-1]


def test_agents_and_command_line_do_not_load_what_they_do_not_need(tmp_path: Path) -> None:
    code = "import optix_fast.agents, optix_fast.cli.train, optix_fast.cli.settings, optix_fast.ops"
    assert loaded_by(code, NOT_NEEDED | {"tensorboard", "google.protobuf"}, tmp_path) == "[]"


@pytest.mark.native
def test_a_run_loads_neither_the_compiler_of_torch_nor_sympy(tmp_path: Path) -> None:
    names = NOT_NEEDED - {"matplotlib"}
    code = f"""
from pathlib import Path
from optix_fast.cli.settings import complete_config
from optix_fast.cli.train import train
for algo in ("ppo", "dqn", "sac", "td3", "tqc", "crossq"):
    env = "CartPole-v1" if algo in ("ppo", "dqn") else "Pendulum-v1"
    train(complete_config(env, {{"algo": algo, "steps": 64, "n_steps": 32, "n_envs": 1}}), Path(algo))
    assert not {names!r} & set(sys.modules), algo"""
    assert loaded_by(code, names, tmp_path) == "[]"


@pytest.mark.slow
def test_optimizers_are_hidden_from_a_compiler_that_is_loaded(tmp_path: Path) -> None:
    code = """
import torch
from optix_fast.cli.torch_start import postpone_compiler
postpone_compiler()
optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
hidden = torch.optim.Optimizer.zero_grad.__wrapped__
assert "torch._dynamo" not in sys.modules
import torch._dynamo
optimizer.zero_grad()
assert hidden.__dynamo_disable._torchdynamo_disable"""
    assert loaded_by(code, set(), tmp_path) == "[]"
