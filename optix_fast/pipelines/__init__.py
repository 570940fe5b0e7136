"""Pipelines step environments, or follow a live source, and yield windows."""

from optix_fast.pipelines.batch import BatchPipeline
from optix_fast.pipelines.feed import DataSource
from optix_fast.pipelines.live import LivePipeline
from optix_fast.pipelines.vector import VectorBatchPipeline

__all__ = ["BatchPipeline", "DataSource", "LivePipeline", "VectorBatchPipeline"]
