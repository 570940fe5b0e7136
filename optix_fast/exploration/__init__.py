"""What makes an agent look where it has not been."""

from optix_fast.exploration.rnd import RNDPipeline

__all__ = ["RNDPipeline"]
