"""Buffers: what off-policy agents learn from, and rollouts in plain arrays."""

from optix_fast.buffers.prioritized import PrioritizedBatch, PrioritizedReplayBuffer
from optix_fast.buffers.replay import ReplayBuffer
from optix_fast.buffers.ring import ReplayBatch, ReplayView
from optix_fast.buffers.segments import ReplaySegments, with_rows
from optix_fast.buffers.trajectory import compute_gae, make_minibatches

__all__ = [
    "PrioritizedBatch",
    "PrioritizedReplayBuffer",
    "ReplayBatch",
    "ReplayBuffer",
    "ReplaySegments",
    "ReplayView",
    "compute_gae",
    "make_minibatches",
    "with_rows",
]
