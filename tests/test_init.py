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


def test_agents_and_command_line_do_not_load_the_compiler_of_torch(tmp_path: Path) -> None:
    code = (
        "import sys, optix_fast.agents, optix_fast.cli.train, optix_fast.ops;"
        "print(sorted({'torch._dynamo', 'torch._inductor', 'sympy', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
