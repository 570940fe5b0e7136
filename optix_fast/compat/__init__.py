"""Code written for tensor_optix runs on optix_fast: change the import, or call `install()`.

    import optix_fast.compat

    optix_fast.compat.install()
    from tensor_optix import RLOptimizer  # optix_fast's

or `from optix_fast.compat.tensor_optix import RLOptimizer`, at any of the old import paths. They only
re-export what optix_fast has; a name that it does not have raises an ImportError that says why, and
`served_names()` lists both.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec

from optix_fast.compat import tensor_optix_names as _names
from optix_fast.compat.finder import OldPackage, OldPackageFinder

__all__ = ["install", "served_names"]

_TENSOR_OPTIX = OldPackage("tensor_optix", _names.MODULES, _names.ELSEWHERE, _names.NOTES)


def install() -> None:
    """Make `import tensor_optix`, and every module of it, resolve to optix_fast in this process.

    A second call does nothing.

    Raises:
        RuntimeError: a package of that name is installed or imported; code that means that one must
            not be given another.
    """
    finder = OldPackageFinder(_TENSOR_OPTIX.name, _TENSOR_OPTIX)
    if _has(finder):
        return
    spec = find_spec(_TENSOR_OPTIX.name)
    if spec is not None:
        raise RuntimeError(
            f"a package {_TENSOR_OPTIX.name} is installed ({spec.origin}): uninstall it, or import from "
            f"optix_fast.compat.{_TENSOR_OPTIX.name}"
        )
    sys.meta_path.append(finder)


def served_names() -> dict[str, str]:
    """Every old name → the name that serves it ("optix_fast.RLOptimizer"), or why there is none."""
    names = dict.fromkeys(name for names in _names.MODULES.values() for name in names)
    return {name: _TENSOR_OPTIX.where(name) or f"not served: {_TENSOR_OPTIX.note(name)}" for name in names}


def _has(finder: OldPackageFinder) -> bool:
    return any(isinstance(other, OldPackageFinder) and other.root == finder.root for other in sys.meta_path)


_own = OldPackageFinder(f"{__name__}.{_TENSOR_OPTIX.name}", _TENSOR_OPTIX)
if not _has(_own):
    sys.meta_path.append(_own)
