"""Pipelines step environments and yield windows."""

from optix_fast.pipelines.batch import BatchPipeline
from optix_fast.pipelines.vector import VectorBatchPipeline

__all__ = ["BatchPipeline", "VectorBatchPipeline"]
