"""Shape, type and device checks of the reference, in the words the compiled core uses for the same faults."""

from __future__ import annotations

from collections.abc import Sequence

import torch

FLOATS = (torch.float32, torch.float64)


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def require_tensor(op: str, name: str, value: object) -> torch.Tensor:
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{op}: {name} must be a torch.Tensor, got {type(value).__name__}")
    if not value.is_contiguous():
        raise ValueError(f"{op}: {name} must be contiguous, got one with strides {list(value.stride())}")
    return value


def check_first(
    op: str, name: str, value: object, dims: str, ndims: Sequence[int], dtypes: Sequence[torch.dtype] = FLOATS
) -> torch.Tensor:
    """The first argument, which fixes element type, device and sizes for the others."""
    tensor = require_tensor(op, name, value)
    if tensor.dtype not in dtypes or tensor.ndim not in ndims:
        expected = " or ".join(dtype_name(d) for d in dtypes)
        got = f"{dtype_name(tensor.dtype)} {list(tensor.shape)}"
        raise ValueError(f"{op}: {name} must be {expected} {dims}, got {got}")
    return tensor


def check_like(
    op: str,
    name: str,
    value: object,
    dtype: torch.dtype,
    dims: str,
    shape: Sequence[int],
    device: torch.device,
) -> torch.Tensor:
    """A later argument: exactly this type and shape, on the first one's device."""
    tensor = require_tensor(op, name, value)
    if tensor.dtype != dtype or tuple(tensor.shape) != tuple(shape) or tensor.device != device:
        got = f"{dtype_name(tensor.dtype)} {list(tensor.shape)}"
        if tensor.device != device:
            got += f" on {tensor.device}"
        raise ValueError(
            f"{op}: {name} must be {dtype_name(dtype)} {dims} = {list(shape)} on {device}, got {got}"
        )
    return tensor
