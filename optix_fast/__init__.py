"""Reinforcement learning on a compiled core."""

from optix_fast._native import backend, build_info

__version__ = "0.1.0"

__all__ = ["__version__", "backend", "build_info"]
