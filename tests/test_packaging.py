"""What pyproject.toml asks of a user's machine: nothing that no code stands behind."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path
from typing import Any

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# Distributions whose module has another name.
MODULES = {"pyyaml": "yaml"}
# Extras that serve development, not users.
OF_DEVELOPERS = {"test", "dev", "bench"}


def name_of(requirement: str) -> str:
    return re.split(r"[\[<>=!~ ]", requirement)[0]


def imported() -> set[str]:
    """Top-level modules that the package imports, at the top of a file or inside a function."""
    found: set[str] = set()
    for path in (ROOT / "optix_fast").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.split(".")[0])
    return found


def test_every_dependency_is_imported() -> None:
    names, used = [name_of(requirement) for requirement in PROJECT["dependencies"]], imported()
    assert [name for name in names if MODULES.get(name, name) not in used] == []


def test_every_extra_of_users_stands_for_environments_with_presets() -> None:
    presets = (ROOT / "optix_fast" / "presets.py").read_text()
    extras = set(PROJECT["optional-dependencies"]) - OF_DEVELOPERS
    assert [extra for extra in sorted(extras) if f'"gymnasium.envs.{extra}"' not in presets] == []


def test_the_tests_get_what_they_need_to_run_whole() -> None:
    needed = {"pytest", "pytest-benchmark", "pytest-timeout", "pytest-xdist", "hypothesis"}
    extra = PROJECT["optional-dependencies"]["test"]
    assert needed <= {name_of(requirement) for requirement in extra}
    assert "gymnasium[mujoco]" in extra
