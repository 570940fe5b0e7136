"""What loaded and why: the compiled core, or the reason it is not there.

``OPTIX_FAST_BACKEND`` decides: ``auto`` (the default) takes the core where it is built and says once, as a
RuntimeWarning, when it is not; ``native`` makes a missing core an error; ``torch`` leaves it alone.
``OPTIX_FAST_SIMD`` (``avx512``, ``avx2`` or ``portable``) forces one instruction set of the CPU kernels.
"""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from importlib.machinery import EXTENSION_SUFFIXES
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

Backend = Literal["native", "torch"]
BACKENDS = ("auto", "native", "torch")
_HERE = os.path.dirname(os.path.abspath(__file__))


def _requested() -> str:
    requested = os.environ.get("OPTIX_FAST_BACKEND", "auto")
    if requested not in BACKENDS:
        raise ValueError(f"OPTIX_FAST_BACKEND must be auto, native or torch, got {requested!r}")
    return requested


def _chosen_pure() -> bool:
    """Whether this installation was made with OPTIX_FAST_PURE=1 (the build writes that file)."""
    try:
        mode = importlib.import_module("optix_fast._build_mode")
    except ImportError:
        return False
    return bool(mode.PURE)


def _advice() -> str:
    """How to get the core, in one or two sentences."""
    if not os.path.isdir(os.path.join(os.path.dirname(_HERE), "csrc")):
        return "`pip install .` builds the core."
    built = _built_elsewhere()
    if built is None:
        return "This is the source folder: `pip install -e .` builds the core in it."
    return (
        f"This is the source folder, which Python finds before the installed package in {built}: start "
        "Python in another folder, or build the core here with `pip install -e .`."
    )


def _built_elsewhere() -> str | None:
    """The folder of another optix_fast on the import path that has its core."""
    for entry in sys.path:
        folder = os.path.join(os.path.abspath(entry), "optix_fast")
        cores = [os.path.join(folder, f"_C{suffix}") for suffix in EXTENSION_SUFFIXES]
        if os.path.realpath(folder) != os.path.realpath(_HERE) and any(map(os.path.isfile, cores)):
            return folder
    return None


def _load() -> tuple[ModuleType | None, str]:
    """The core and an empty reason, or None and the reason."""
    requested = _requested()
    if requested == "torch":
        return None, "OPTIX_FAST_BACKEND=torch"
    try:
        from optix_fast import _C
    except ImportError as error:
        if _chosen_pure():
            reason = "a pure-Python install (OPTIX_FAST_PURE=1)"
        elif isinstance(error, ModuleNotFoundError) or "cannot import name '_C'" in str(error):
            reason = f"the compiled core is not built in {_HERE}"
        else:
            reason = f"the compiled core could not be loaded: {error}"
        if requested == "native":
            raise ImportError(f"OPTIX_FAST_BACKEND=native, but {reason}. {_advice()}") from error
        if not _chosen_pure():
            warnings.warn(
                f"optix_fast runs its slower torch reference: {reason}. {_advice()} "
                "OPTIX_FAST_BACKEND=torch silences this.",
                RuntimeWarning,
                stacklevel=2,
            )
        return None, reason
    simd = os.environ.get("OPTIX_FAST_SIMD")
    if simd is not None:
        _C.select_simd(simd)
    return _C, ""


_loaded, _reason = _load()

# Typed as if it were always there: what uses it asks backend() first.
if TYPE_CHECKING:
    from optix_fast import _C

    core = _C
else:
    core = _loaded


def backend() -> Backend:
    """``"native"`` when the compiled core is in use, ``"torch"`` when the reference is."""
    return "torch" if _loaded is None else "native"


def build_info() -> dict[str, Any]:
    """What this installation is made of.

    Keys: ``backend``, ``reason`` (why the core is not in use, else empty) and, with the core, ``version``,
    ``compiler``, ``compiler_flags``, ``simd`` (in use), ``simd_compiled``, ``cuda``, ``cuda_architectures``,
    ``cuda_toolkit``, ``dlpack`` (the version torch speaks; asking for it imports torch).
    """
    info: dict[str, Any] = {"backend": backend(), "reason": _reason}
    if _loaded is not None:
        info.update(core.build_info())
    return info
