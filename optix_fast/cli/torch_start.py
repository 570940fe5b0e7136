"""Keeps torch from loading its compiler, which takes longer than all else at the start of a command."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer

# torch hides these from its compiler, and loads the compiler at the first call to do so.
_HIDDEN = ("add_param_group", "load_state_dict", "state_dict", "zero_grad")


def postpone_compiler() -> None:
    """Let optimizers work without torch._dynamo until something else has loaded it.

    A compiler that is not loaded compiles nothing, so there is nothing to hide from it; once it is loaded,
    torch does what it always does. Where a version of torch works in another way, this has no effect.
    """
    for name in _HIDDEN:
        method = getattr(Optimizer, name)
        original = getattr(method, "__wrapped__", None)
        if original is not None and not hasattr(original, "__dynamo_disable"):
            original.__dynamo_disable = _until_loaded(method, original)


def _until_loaded(method: Callable[..., Any], original: Any) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        if "torch._dynamo" not in sys.modules:
            return original(*args, **kwargs)
        vars(original).pop("__dynamo_disable", None)
        return method(*args, **kwargs)

    return call
