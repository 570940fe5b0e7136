"""Buffers: what off-policy agents learn from."""

from optix_fast.buffers.prioritized import PrioritizedBatch, PrioritizedReplayBuffer
from optix_fast.buffers.replay import ReplayBuffer
from optix_fast.buffers.ring import ReplayBatch, ReplayView

__all__ = ["PrioritizedBatch", "PrioritizedReplayBuffer", "ReplayBatch", "ReplayBuffer", "ReplayView"]
