"""The README's Python code, as a type checker sees it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow  # a minute where mypy has no cache of torch
def test_python_code_passes_strict_type_checks(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert blocks
    code = tmp_path / "readme.py"
    code.write_text("\n".join(blocks))
    # pyproject.toml sets strict.
    command = [sys.executable, "-m", "mypy", "--config-file", "pyproject.toml", str(code)]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr
