"""The fused operations: a public function each, native where the core serves the device, else the reference."""

from optix_fast.ops.gae import gae

__all__ = ["gae"]
