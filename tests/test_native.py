"""What loads and why: backend(), build_info(), and the environment variables that decide."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES

import pytest

import optix_fast
from optix_fast import _native

ROOT = pathlib.Path(__file__).parent.parent
INFO = optix_fast.build_info()

# Makes `import optix_fast._C` fail, as on a machine where the core was never built.
WITHOUT_CORE = "import sys; sys.modules['optix_fast._C'] = None; "
REPORT = "import optix_fast; print(optix_fast.backend(), '|', optix_fast.build_info()['reason'])"


def python(code, tmp_path, **environment):
    clean = {k: v for k, v in os.environ.items() if not k.startswith("OPTIX_FAST_")}
    return subprocess.run(
        [sys.executable, "-W", "always::RuntimeWarning", "-c", code],
        env=clean | environment,
        cwd=tmp_path,  # not the source tree, which would be imported in place of what is installed
        capture_output=True,
        text=True,
        check=False,
    )


def test_build_info_says_what_runs():
    info = optix_fast.build_info()
    assert info["backend"] == optix_fast.backend()
    if optix_fast.backend() == "torch":
        assert info["reason"]
        return
    assert info["reason"] == ""
    assert info["version"] == optix_fast.__version__
    assert info["simd"] in info["simd_compiled"]
    assert "portable" in info["simd_compiled"]
    assert info["dlpack"].startswith("1.")
    assert info["compiler"]
    assert "-O3" in info["compiler_flags"]
    assert (info["cuda_toolkit"] is not None) == info["cuda"]


def test_without_the_core_one_warning_says_why(tmp_path):
    if _native._chosen_pure():
        pytest.skip("a pure install gives no warning")
    ran = python(WITHOUT_CORE + REPORT, tmp_path)
    assert ran.returncode == 0
    assert ran.stdout.startswith("torch | the compiled core ")
    assert ran.stderr.count("RuntimeWarning: optix_fast runs its slower torch reference") == 1


@pytest.mark.parametrize("installed", [True, False])
def test_source_folder_without_its_core_says_what_to_do(tmp_path, installed):
    package = ROOT / "optix_fast"
    source = tmp_path / "checkout" / "optix_fast"
    shutil.copytree(package, source, ignore=shutil.ignore_patterns("*.so", "_build_mode.py", "__pycache__"))
    (tmp_path / "checkout" / "csrc").mkdir()
    path = ""
    if installed:
        path = str(tmp_path / "site")
        (tmp_path / "site" / "optix_fast").mkdir(parents=True)
        (tmp_path / "site" / "optix_fast" / f"_C{EXTENSION_SUFFIXES[0]}").touch()
    ran = python("import sys; sys.path.insert(0, ''); " + REPORT, source.parent, PYTHONPATH=path)
    assert ran.stdout.startswith(f"torch | the compiled core is not built in {source}")
    assert "This is the source folder" in ran.stderr
    if installed:
        assert (
            f"the installed package in {tmp_path / 'site' / 'optix_fast'}: start Python in another"
            in ran.stderr
        )
    assert "`pip install -e .`" in ran.stderr


def test_backend_torch_is_silent(tmp_path):
    ran = python(WITHOUT_CORE + REPORT, tmp_path, OPTIX_FAST_BACKEND="torch")
    assert ran.stdout == "torch | OPTIX_FAST_BACKEND=torch\n"
    assert "RuntimeWarning" not in ran.stderr


def test_backend_native_without_the_core_is_an_error(tmp_path):
    ran = python(WITHOUT_CORE + REPORT, tmp_path, OPTIX_FAST_BACKEND="native")
    assert ran.returncode == 1
    assert "ImportError: OPTIX_FAST_BACKEND=native, but " in ran.stderr


def test_unknown_backend(tmp_path):
    ran = python(REPORT, tmp_path, OPTIX_FAST_BACKEND="cuda")
    assert ran.returncode == 1
    message = "ValueError: OPTIX_FAST_BACKEND must be auto, native or torch, got 'cuda'"
    assert message in ran.stderr


def test_a_chosen_pure_install_gives_no_warning(tmp_path):
    marker = (
        "import sys, types; m = types.ModuleType('optix_fast._build_mode'); m.PURE = True; "
        "sys.modules['optix_fast._build_mode'] = m; "
    )
    ran = python(WITHOUT_CORE + marker + REPORT, tmp_path)
    assert ran.stdout == "torch | a pure-Python install (OPTIX_FAST_PURE=1)\n"
    assert "RuntimeWarning" not in ran.stderr


@pytest.mark.native
def test_torch_without_the_exchange_is_named_when_the_first_tensor_would_cross(tmp_path):
    old_torch = (
        "import sys, types; t = types.ModuleType('torch'); t.Tensor = type('Tensor', (), {}); "
        "t.__spec__ = None; sys.modules['torch'] = t; "
    )
    ran = python(old_torch + "import optix_fast; print(optix_fast.backend())", tmp_path)
    assert ran.stdout == "native\n"
    ran = python(old_torch + "import optix_fast; optix_fast.build_info()", tmp_path)
    assert "ImportError: torch has no DLPack exchange API; torch 2.10 or newer is needed" in ran.stderr


@pytest.mark.native
def test_unknown_simd_path(tmp_path):
    ran = python(REPORT, tmp_path, OPTIX_FAST_SIMD="sse9")
    assert ran.returncode == 1
    message = "ValueError: OPTIX_FAST_SIMD must be avx512, avx2 or portable, got 'sse9'"
    assert message in ran.stderr


@pytest.mark.slow
@pytest.mark.native
@pytest.mark.parametrize("path", sorted(set(INFO.get("simd_compiled", [])) - {INFO.get("simd")}))
def test_every_other_simd_path_passes_the_parity_tables(path, tmp_path):
    tests = [str(ROOT / "tests" / name) for name in ("ops", "test_random.py")]
    settings = ["-c", str(ROOT / "pyproject.toml"), f"--rootdir={ROOT}"]
    arguments = [*tests, *settings, "-p", "no:cacheprovider", "-p", "no:xdist", "-k", "parity and not cuda"]
    code = (
        "import optix_fast, pytest, sys; print(optix_fast.build_info()['simd']); "
        f"sys.exit(pytest.main({arguments!r}))"
    )
    ran = python(code, tmp_path, OPTIX_FAST_SIMD=path, OPTIX_FAST_BACKEND="native")
    if "this processor lacks it" in ran.stderr:
        pytest.skip(f"this processor lacks {path}")
    assert ran.stdout.startswith(f"{path}\n"), ran.stderr
    assert ran.returncode == 0, ran.stdout[-4000:]
    assert " passed" in ran.stdout


@pytest.mark.native
def test_kernels_give_the_floating_point_unit_back(tmp_path):
    # GCC read 8-byte vectors through MMX registers in the portable gae of two columns, and numpy's next
    # remainder, which runs on the x87 unit they share, was NaN.
    code = (
        "import torch, numpy as np; from optix_fast import ops;"
        "z = torch.zeros(64, 2); f = torch.ones(64, 2, dtype=torch.bool);"
        "ops.gae(z, z, z[0], f, f, z); print(np.float64(7.5) % 2.0)"
    )
    assert python(code, tmp_path, OPTIX_FAST_SIMD="portable").stdout.strip() == "1.5"
