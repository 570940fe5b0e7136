"""REINFORCE (Williams 1992), and A2C where there are values: what each row of a window is worth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from optix_fast import ops
from optix_fast.fields import number
from optix_fast.learners.config import Config
from optix_fast.learners.model import Model
from optix_fast.types import Array, EpisodeData, NonFiniteError


@dataclass(frozen=True)
class TorchAgentConfig(Config):
    """TorchAgent's hyperparameters, under the names that a HyperparamSet uses.

    Args:
        learning_rate: of the optimizer.
        gamma: discount.
        max_grad_norm: bound of the global gradient norm; 0 or None for none.
    """

    learning_rate: float = number(1e-3, 0.0)
    gamma: float = number(0.99, 0.0, 1.0)
    max_grad_norm: float | None = number(None, 0.0, infinite=True)


@dataclass
class PolicyGradientModel(Model):
    """Everything that an update changes.

    Args:
        model: observations → logits, [B, n_actions].
        optimizer: over its parameters, and all others that the loss trains.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer


class Targets(NamedTuple):
    """What each of the R valid rows of a window is worth, on one device.

    targets: advantages (A2C) or returns (REINFORCE), normalised, [R].
    returns: discounted, [R].
    values: of the window, [R]; None for REINFORCE.
    """

    targets: Tensor
    returns: Tensor
    values: Tensor | None


def make_targets(data: EpisodeData, gamma: float, device: torch.device) -> Targets:
    """G_t = r_t + γ·G_{t+1} within each episode, and G − V where the window has values; normalised to mean 0
    and (unbiased) standard deviation 1. A single row is left as it is.

    Nothing crosses the end of an episode. Where one was cut off, by a time limit or by the end of the window:
    with values, G goes on with what is known of the rest: `final_values` at a time limit; otherwise the row's
    own value is taken for its return, so that it teaches nothing itself and the rows before it are
    bootstrapped. Without values, G is the sum of what the window shows.

    Raises:
        ValueError: the window is empty or its fields do not fit together.
        NonFiniteError: a reward, value or final value is NaN or infinite.
    """
    if data.length == 0:
        raise ValueError("episode_data must hold at least one row")
    rewards = _finite(np.asarray(data.grid("rewards"), np.float32), "reward")
    ends = np.asarray(data.grid("dones"), np.bool_)
    values = None
    if data.values is not None:
        values = _finite(np.asarray(data.grid("values"), np.float32), "value")
        if values.shape != rewards.shape:
            raise ValueError(
                f"episode_data.values must be one number for each of the {data.length} rows, "
                f"got {list(np.shape(data.values))}"
            )
        cut = ~np.asarray(data.grid("terminated"), np.bool_)
        cut[:-1] &= ends[:-1]
        known = np.zeros_like(cut)
        if data.final_values is not None:
            known = cut & ends
            final = np.where(known, np.asarray(data.final_values, np.float32), np.float32(0.0))
            rewards = rewards + np.float32(gamma) * _finite(final, "final value")
        rewards = np.where(cut & ~known, values, rewards)

    def put(array: Array) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(device)

    # With λ = 1 and values of zero, GAE's advantages are the discounted returns.
    worth = put(rewards)
    returns, _ = ops.gae(worth, torch.zeros_like(worth), 0.0, put(ends), gamma=gamma, gae_lambda=1.0)
    valid = np.ones(ends.shape, np.bool_) if data.valid is None else data.valid
    rows = put(np.flatnonzero(valid))
    returns = returns.reshape(-1)[rows]
    if values is None:
        return Targets(_normalised(returns), returns, None)
    baseline = put(values).reshape(-1)[rows]
    return Targets(_normalised(returns - baseline), returns, baseline)


def _finite(array: Array, name: str) -> Array:
    if not np.isfinite(array).all():
        raise NonFiniteError(name)
    return array


def _normalised(x: Tensor) -> Tensor:
    return (x - x.mean()) / (x.std() + 1e-8) if len(x) > 1 else x
