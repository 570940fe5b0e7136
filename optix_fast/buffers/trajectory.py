"""Advantages and minibatches for learners that keep their rollouts in plain arrays (seed 003)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from optix_fast.ops.gae import gae
from optix_fast.random import RandomStream, default_stream
from optix_fast.types import Array


def compute_gae(
    rewards: Any,
    values: Any,
    dones: Any,
    gamma: float = 0.99,
    gae_lambda: float = 0.95,
    last_value: float = 0.0,
) -> tuple[Array, Array]:
    """Generalised advantage estimates of one environment's rollout, every end being a termination.

        δ_t = r_t + γ·V_{t+1}·(1 − d_t) − V_t,  A_t = δ_t + γλ·(1 − d_t)·A_{t+1},  returns = A + V

    An episode that a time limit has cut is not over: `ops.gae` tells the two apart and is to be
    preferred where the flags are known.

    Args:
        rewards, values, dones: [T]; one window's, in the order of time.
        gamma, gae_lambda: between 0 and 1.
        last_value: V of the state after the last row; not used when that row is done.

    Returns:
        advantages, returns: float32 [T].

    Raises:
        ValueError: the lengths differ, or gamma or gae_lambda is out of range.
    """
    columns = {"rewards": rewards, "values": values, "dones": dones}
    arrays = {name: np.asarray(column, np.float32) for name, column in columns.items()}
    for name, array in arrays.items():
        if array.ndim != 1 or len(array) != len(arrays["rewards"]):
            raise ValueError(
                f"compute_gae: {name} must have shape [T] = [{arrays['rewards'].size}], "
                f"got {list(array.shape)}"
            )
    advantages, returns = gae(
        torch.from_numpy(arrays["rewards"].copy()),
        torch.from_numpy(arrays["values"].copy()),
        float(last_value),
        torch.from_numpy(arrays["dones"] != 0),
        gamma=gamma,
        gae_lambda=gae_lambda,
    )
    return advantages.numpy(), returns.numpy()


def make_minibatches(
    data: Mapping[str, Any], minibatch_size: int, shuffle: bool = True, *, stream: RandomStream | None = None
) -> Iterator[dict[str, Array]]:
    """The rows of several columns in minibatches, the same rows of each; the last may be shorter.

    Args:
        data: name → array [T, …].
        minibatch_size: rows.
        shuffle: in a new random order at each call, else in the given one.
        stream: where the order is drawn from; default the process-wide stream.

    Raises:
        ValueError: there is no column, the lengths differ, or minibatch_size is below 1.
    """
    if minibatch_size < 1:
        raise ValueError(f"minibatch_size must be at least 1, got {minibatch_size}")
    columns = {name: np.asarray(column) for name, column in data.items()}
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) != 1:
        raise ValueError(f"data must have columns of one length, got {lengths}")
    rows = next(iter(lengths.values()))
    drawn_from = default_stream() if stream is None else stream
    order = drawn_from.permutation(rows) if shuffle else np.arange(rows)
    starts = range(0, rows, minibatch_size)
    return ({k: v[order[i : i + minibatch_size]] for k, v in columns.items()} for i in starts)
