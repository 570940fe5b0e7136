"""Which implementation runs, and the registration of the native ones with torch.library."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from optix_fast import _native

# torch.library is untyped; this is the one place that calls it.
_library: Any = torch.library.Library("optix_fast", "DEF")  # type: ignore[no-untyped-call]

_HAS_CORE = _native.backend() == "native"
_HAS_CUDA = bool(_native.build_info().get("cuda"))


def serves(tensor: object, *, cuda: bool = False) -> bool:
    """Whether the core runs an op whose first argument is ``tensor``.

    On the CPU always; on CUDA where the op has a kernel there (``cuda``) and this build has it. What is no
    tensor at all goes to the reference, whose checks have the words for that.
    """
    if not _HAS_CORE or not isinstance(tensor, torch.Tensor):
        return False
    return tensor.is_cpu or (cuda and _HAS_CUDA and tensor.is_cuda)


def register(
    schema: str, native: Callable[..., Any], shapes: Callable[..., Any], *, cuda: bool = False
) -> None:
    """Makes ``native`` callable as torch.ops.optix_fast.<name>, which torch.compile sees as one node.

    Without the core nothing is registered: the reference is plain torch, which the compiler traces into.
    """
    if not _HAS_CORE:
        return
    name = schema.split("(", 1)[0]
    _library.define(schema)
    _library.impl(name, native, "CPU")
    if cuda and _HAS_CUDA:
        _library.impl(name, native, "CUDA")
    # What a compiler asks for shapes. (register_fake looks through all loaded modules for its caller.)
    _library.impl(name, shapes, "Meta")
