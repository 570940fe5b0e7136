"""Running statistics, and the normalisation of observations and rewards by them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from optix_fast import ops
from optix_fast.types import Array


class RunningMeanStd:
    """Mean and variance of a stream of samples, merged batch by batch (Chan et al. 1979).

    Starts at mean 0, variance 1 with the weight of `epsilon` samples. Statistics are float64 and
    the variance is the population's.

    Args:
        shape: of one sample.
        epsilon: the weight of the initial guess, in samples.
    """

    def __init__(self, shape: tuple[int, ...] = (), epsilon: float = 1e-4) -> None:
        self.mean: Array = np.zeros(shape, np.float64)
        self.var: Array = np.ones(shape, np.float64)
        self.count = float(epsilon)

    def update(self, batch: Any) -> None:
        """Merge samples: [N, *shape], or a single [*shape].

        Raises:
            ValueError: the shape fits neither, or a value is NaN or infinite; nothing changes then.
        """
        samples = np.asarray(batch, np.float64)
        shape = self.mean.shape
        if samples.shape == shape:
            samples = samples[None]
        if samples.shape[1:] != shape or samples.ndim != len(shape) + 1:
            raise ValueError(
                f"batch must have shape [N, *{list(shape)}] or {list(shape)}, got {list(samples.shape)}"
            )
        if samples.shape[0] == 0:
            return
        if not np.isfinite(samples).all():
            raise ValueError("batch holds NaN or infinite values")
        n = samples.shape[0]
        mean, var = samples.mean(axis=0), samples.var(axis=0)
        delta, total = mean - self.mean, self.count + n
        self.var = (self.var * self.count + var * n + np.square(delta) * (self.count * n / total)) / total
        self.mean = self.mean + delta * (n / total)
        self.count = total

    def normalize(self, x: Any, clip: float = 10.0) -> Array:
        """(x − mean)/√(var + 1e-8), clipped to ±clip when clip > 0; float32."""
        out = (np.asarray(x, np.float64) - self.mean) / np.sqrt(self.var + 1e-8)
        return (np.clip(out, -clip, clip) if clip > 0 else out).astype(np.float32)

    def state_dict(self) -> dict[str, Any]:
        """mean, var, count."""
        return {"mean": self.mean.copy(), "var": self.var.copy(), "count": self.count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore; the shape must be the same."""
        mean, var = np.array(state["mean"], np.float64), np.array(state["var"], np.float64)
        if mean.shape != self.mean.shape or var.shape != self.var.shape:
            raise ValueError(f"mean must have shape {list(self.mean.shape)}, got {list(mean.shape)}")
        self.mean, self.var, self.count = mean, var, float(state["count"])


class ObsNormalizer:
    """Normalises observations by their running mean and deviation.

    Given to an agent as `obs_normalizer=`, it belongs to the policy: it is saved with the weights
    and applied wherever the policy acts. The agent updates it once per window, after learning from
    it, so that a whole window is acted and learned with the same statistics.

    Args:
        obs_shape: of one observation.
        clip: bound of the result; 0 for none.
    """

    def __init__(self, obs_shape: tuple[int, ...] | int, clip: float = 10.0) -> None:
        shape = (obs_shape,) if isinstance(obs_shape, int) else tuple(obs_shape)
        self.clip = float(clip)
        self.statistics = RunningMeanStd(shape)

    @property
    def mean(self) -> Array:
        """Running mean, [*obs_shape]."""
        return self.statistics.mean

    @property
    def var(self) -> Array:
        """Running variance, [*obs_shape]."""
        return self.statistics.var

    def update(self, observations: Any) -> None:
        """Merge observations, [N, *obs_shape] or [*obs_shape]."""
        self.statistics.update(observations)

    def normalize(self, observations: Any) -> Array:
        """Normalised observations, float32, same shape."""
        return self.statistics.normalize(observations, self.clip)

    def state_dict(self) -> dict[str, Any]:
        """The statistics and the clip."""
        return {"clip": self.clip, "statistics": self.statistics.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore."""
        self.statistics.load_state_dict(state["statistics"])
        self.clip = float(state["clip"])


class RewardNormalizer:
    """Scales rewards by the running deviation of the discounted return, without centring them.

    ret_t = γ·ret_{t−1} + r_t within an episode, fed to the statistics; r / √(var + epsilon), clipped
    (the scheme of OpenAI Baselines' VecNormalize).

    Args:
        gamma: discount of the running return.
        clip: bound of the result; 0 for none.
        epsilon: added to the variance.
    """

    def __init__(self, gamma: float = 0.99, clip: float = 10.0, epsilon: float = 1e-8) -> None:
        if not 0.0 <= gamma <= 1.0:
            raise ValueError(f"gamma must be between 0 and 1, got {gamma}")
        self.gamma, self.clip, self.epsilon = float(gamma), float(clip), float(epsilon)
        self.statistics = RunningMeanStd()
        self._running_return: Array = np.zeros(1)

    def step(self, reward: float) -> None:
        """Advance the running return of a single environment by one reward."""
        self._running_return = self.gamma * self._running_return[:1] + float(reward)
        self.statistics.update(self._running_return)

    def reset(self) -> None:
        """An episode ended: the next reward begins a new running return."""
        self._running_return = np.zeros_like(self._running_return)

    def update_window(self, rewards: Array, dones: Array, valid: Array) -> None:
        """step() and reset() for every valid row of a window, environment by environment.

        Args:
            rewards, dones, valid: [T, N].
        """
        steps, n_envs = rewards.shape
        running = self._running_return
        if running.shape != (n_envs,):
            running = np.zeros(n_envs)
        rewards = np.where(valid, rewards, 0.0).astype(np.float64)
        # A discounted sum is GAE's recursion without values and with λ = 1, here from the first row to the
        # last; what stands before the first row is its bootstrap.
        before = np.vstack([np.zeros((1, n_envs), np.bool_), np.asarray(dones, np.bool_)[:-1]])
        zeros = torch.zeros(steps, n_envs, dtype=torch.float64)
        backwards, _ = ops.gae(
            torch.from_numpy(rewards[::-1].copy()), zeros, torch.from_numpy(running),
            torch.from_numpy(before[::-1].copy()), gamma=self.gamma, gae_lambda=1.0,
        )  # fmt: skip
        returns = backwards.numpy()[::-1]
        running = np.where(dones[-1], 0.0, returns[-1])
        # An invalid row follows the end of an episode: its running return is still zero there.
        self._running_return = running
        self.statistics.update(returns[valid])

    def normalize(self, rewards: Any) -> Array:
        """Scaled rewards, float32, same shape."""
        out = np.asarray(rewards, np.float64) / np.sqrt(self.statistics.var + self.epsilon)
        return (np.clip(out, -self.clip, self.clip) if self.clip > 0 else out).astype(np.float32)

    def state_dict(self) -> dict[str, Any]:
        """Statistics and running returns."""
        return {
            "statistics": self.statistics.state_dict(),
            "running_return": self._running_return.copy(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore."""
        self.statistics.load_state_dict(state["statistics"])
        self._running_return = np.array(state["running_return"], np.float64)
