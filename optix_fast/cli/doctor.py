"""What `optix-fast doctor` prints."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from typing import Any

import torch

from optix_fast import __version__
from optix_fast._native import backend, build_info

_PACKAGES = ("numpy", "gymnasium", "safetensors")


def report() -> str:
    """Versions, the compiled core, devices, and why the reference runs where it does."""
    info = build_info()
    lines = [("optix_fast", __version__), ("python", platform.python_version())]
    lines += _core_lines(info)
    lines += [("torch", torch.__version__), ("torch threads", str(torch.get_num_threads()))]
    lines += [(name, importlib.metadata.version(name)) for name in _PACKAGES]
    lines += [("devices", _devices())]
    lines += [("what runs", sentence) for sentence in what_runs(info)]
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in lines)


def what_runs(info: dict[str, Any]) -> list[str]:
    """One sentence for each device: native or reference, and why."""
    if backend() != "native":
        return [f"reference (plain torch) everywhere: {info['reason']}"]
    sentences = [f"cpu: native, {info['simd']} kernels"]
    if not torch.cuda.is_available():
        sentences.append("cuda: nothing, torch sees no CUDA device")
    elif info["cuda"]:
        sentences.append("cuda: native")
    else:
        sentences.append(
            "cuda: reference (plain torch), the core was built without CUDA (no nvcc at build time, "
            "or OPTIX_FAST_CUDA=OFF)"
        )
    return sentences


def _core_lines(info: dict[str, Any]) -> list[tuple[str, str]]:
    if backend() != "native":
        return [("core", f"not in use: {info['reason']}")]
    cuda = "no"
    if info["cuda"]:
        cuda = f"toolkit {info['cuda_toolkit']}, architectures {_joined(info['cuda_architectures'])}"
    chosen = "OPTIX_FAST_SIMD" if "OPTIX_FAST_SIMD" in os.environ else "this processor"
    return [
        ("core", f"{info['version']}, built by {info['compiler']}"),
        ("simd", f"{info['simd']} (for {chosen}; compiled: {_joined(info['simd_compiled'])})"),
        ("cuda in the core", cuda),
    ]


def _devices() -> str:
    names = [f"cpu ({platform.processor() or platform.machine()}, {os.cpu_count()} cores)"]
    if torch.cuda.is_available():
        names += [f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in range(torch.cuda.device_count())]
    return ", ".join(names)


def _joined(value: Any) -> str:
    return value if isinstance(value, str) else ", ".join(str(item) for item in value)
