"""Prioritized replay: a replay buffer whose rows are drawn in proportion to their last TD error."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces

from optix_fast.buffers.layout import entry_of
from optix_fast.buffers.replay import ReplayBuffer
from optix_fast.buffers.ring import ReplayBatch
from optix_fast.buffers.segments import ReplaySegments
from optix_fast.ops import SumTree
from optix_fast.serialization import load_state, save_state
from optix_fast.types import Array, EpisodeData, Tree

_FILE = "replay.safetensors"
# Leaves stay within what a float32 holds, for every alpha: a leaf of zero would never be drawn again.
_LEAST, _GREATEST = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)


class _Rows(NamedTuple):
    observations: Tree  # [B, …]
    actions: Array  # int64 [B] or float32 [B, A]
    rewards: npt.NDArray[np.float32]  # Σ γ^k·r over n_steps rows
    next_observations: Tree  # [B, …], n_steps later
    dones: npt.NDArray[np.float32]  # 1 where next_observations has no value: terminated, not truncated
    weights: npt.NDArray[np.float32]  # in (0, 1]
    indices: npt.NDArray[np.int64]  # for update_priorities
    n_steps: npt.NDArray[np.int32]  # the power of γ that V(next_observations) is discounted by


class PrioritizedBatch(_Rows):
    """B rows, in the order in which callers take them apart.

    Attributes:
        action_masks, next_action_masks: as in :class:`ReplayBatch`.
    """

    action_masks: npt.NDArray[np.bool_] | None = None
    next_action_masks: npt.NDArray[np.bool_] | None = None


class PrioritizedReplayBuffer:
    """A :class:`ReplayBuffer` (``replay``) with a priority for each row.

    P(i) = p_i^α / Σ_j p_j^α,  p_i = |TD error_i| + eps,  weight_i = (N·P(i))^−β / max of the batch

    A new row has the greatest priority that any row ever had (1 at first), so it is drawn soon. Draws are
    stratified: one from each of B equal parts of Σp^α. With alpha = 0 they are uniform and without
    replacement, all weights are 1, and no priorities are kept up to date; switching alpha on later finds all
    rows that are stored, those that came meanwhile as new ones.

    Args:
        capacity: C, rows kept.
        alpha: how much priorities count, from 0 (not at all) up.
        beta: how much of the bias the weights correct, from 0 up; 1 is all of it.
        n_step, gamma: of the targets, as :class:`ReplayBuffer`.
        eps: what every priority has, however small the error; above 0.
        beta_steps: after this many batches beta has grown in a straight line to 1; None leaves it alone.
        observation_space, action_space: as :class:`ReplayBuffer`.
        seed: of the draws; None takes one from the operating system.

    Raises:
        ValueError, TypeError: an argument outside its range, a TD error or reward that is not finite, an
            index outside [0, len), a draw of more rows than there are, or what :class:`ReplayBuffer` refuses.
            Nothing has then changed.
        MemoryError: the capacity does not fit.

    Source: Schaul et al., "Prioritized experience replay", 2016.
    """

    def __init__(
        self,
        capacity: int,
        alpha: float = 0.0,
        beta: float = 0.4,
        n_step: int = 1,
        gamma: float = 0.99,
        eps: float = 1e-6,
        *,
        beta_steps: int | None = None,
        observation_space: spaces.Space[Any] | None = None,
        action_space: spaces.Space[Any] | None = None,
        seed: int | None = None,
    ) -> None:
        self.eps = _in_range("eps", eps, above_zero=True)
        if beta_steps is not None and beta_steps < 1:
            raise ValueError(f"PrioritizedReplayBuffer: beta_steps must be 1 or more, got {beta_steps}")
        self.beta_steps = beta_steps
        self.replay = ReplayBuffer(
            capacity,
            n_step=n_step,
            gamma=gamma,
            observation_space=observation_space,
            action_space=action_space,
            seed=seed,
        )
        self._alpha = _in_range("alpha", alpha)
        self._first_beta = _in_range("beta", beta)
        self._batches = 0
        self._max_priority = 1.0
        self._tree = SumTree(self.replay.capacity, seed=seed)
        self._leaf_alpha = self._alpha or 1.0  # the power that the leaves carry
        self._entered = 0  # rows that ever came, as far as the tree knows

    def __len__(self) -> int:
        """Rows that can be drawn."""
        return len(self.replay)

    @property
    def capacity(self) -> int:
        """C."""
        return self.replay.capacity

    @property
    def alpha(self) -> float:
        """How much priorities count."""
        return self._alpha

    @property
    def beta(self) -> float:
        """Of the next batch."""
        return self._beta_of(self._batches)

    @property
    def n_step(self) -> int:
        """The most rewards in a target."""
        return self.replay.n_step

    @property
    def gamma(self) -> float:
        """γ."""
        return self.replay.gamma

    @property
    def max_priority(self) -> float:
        """The greatest |TD error| + eps so far, which new rows get; before alpha, 1 at first."""
        return self._max_priority

    @max_priority.setter
    def max_priority(self, value: float) -> None:
        self._max_priority = _in_range("max_priority", value, above_zero=True)

    def set_params(
        self,
        alpha: float | None = None,
        beta: float | None = None,
        n_step: int | None = None,
        gamma: float | None = None,
    ) -> None:
        """Changes any of them at run time. beta is the schedule's first value; the schedule starts again."""
        new_alpha = self._alpha if alpha is None else _in_range("alpha", alpha)
        new_beta = self._first_beta if beta is None else _in_range("beta", beta)
        self.replay.set_params(n_step=n_step, gamma=gamma)
        if beta is not None:
            self._first_beta, self._batches = new_beta, 0
        self._alpha = new_alpha
        if new_alpha not in (0.0, self._leaf_alpha):
            rows = np.arange(min(self._entered, self.capacity))
            leaves = self._tree.priorities(rows).numpy().astype(np.float64)
            self._tree.update(rows, _leaf(leaves, new_alpha / self._leaf_alpha))
            self._leaf_alpha = new_alpha

    # --- storing --------------------------------------------------------------------------------

    def push(
        self,
        obs: Tree,
        action: Any,
        reward: float,
        next_obs: Tree,
        done: bool,
        truncated: bool = False,
        env: int = 0,
        *,
        action_mask: Any = None,
        next_action_mask: Any = None,
    ) -> None:
        """Stores one transition, see :meth:`ReplayBuffer.push`."""
        masks = {"action_mask": action_mask, "next_action_mask": next_action_mask}
        self.replay.push(obs, action, reward, next_obs, done, truncated, env, **masks)

    def push_rows(
        self,
        observations: Tree,
        actions: Any,
        rewards: Any,
        next_observations: Tree,
        terminated: Any,
        truncated: Any = None,
        *,
        action_masks: Any = None,
        next_action_masks: Any = None,
    ) -> None:
        """Stores one transition of each of N environments, see :meth:`ReplayBuffer.push_rows`."""
        masks = {"action_masks": action_masks, "next_action_masks": next_action_masks}
        columns = (observations, actions, rewards, next_observations, terminated, truncated)
        self.replay.push_rows(*columns, **masks)

    def push_window(self, window: EpisodeData, actions: Any = None) -> int:
        """Stores the rows of a window, see :meth:`ReplayBuffer.push_window`."""
        return self.replay.push_window(window, actions)

    def flush_episode(self) -> None:
        """Tells that what is pushed next continues nothing. No transition is lost by it."""
        self.replay.flush_episode()

    # --- drawing --------------------------------------------------------------------------------

    @property
    def tree(self) -> SumTree:
        """p^α of every row, the newest ones entered. What writes to it keeps `max_priority` true."""
        pushed = self.replay.pushed
        if self._entered != pushed:
            first = max(self._entered, pushed - self.capacity)
            new = np.arange(first, pushed) % self.capacity
            self._tree.update(new, float(_leaf(np.float64(self._max_priority), self._leaf_alpha)))
            self._entered = pushed
        return self._tree

    def sample(self, n: int) -> PrioritizedBatch:
        """n rows with their weights."""
        if self._alpha == 0.0:
            indices = self.replay.sample_indices(n, replace=False)
            return _batch(self.replay.batch(indices), np.ones(len(indices), np.float32))
        self.replay.require_rows(n)
        found, _, weights = self.tree.sample_weighted(n, self._beta_of(self._batches))
        self._batches += 1
        return _batch(self.replay.batch(found.numpy()), weights.numpy())

    def draw(
        self, uniforms: npt.NDArray[np.float64], beta: float
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """(indices, weights) that B given numbers in [0, 1) lead to; number j draws from part j of B."""
        tree, n = self.tree, len(uniforms)
        self.replay.require_rows(n)
        found = tree.find((np.arange(n) + uniforms) * (tree.total / max(n, 1)))
        leaves = tree.priorities(found).numpy().astype(np.float64)
        weights = (leaves.min(initial=np.inf) / leaves) ** beta
        return found.numpy(), weights.astype(np.float32)

    def next_betas(self, n: int) -> npt.NDArray[np.float64]:
        """beta of the next n batches, which are then counted as drawn."""
        first = self._batches
        self._batches += n
        return np.array([self._beta_of(first + i) for i in range(n)], np.float64)

    def _beta_of(self, batch: int) -> float:
        if self.beta_steps is None or self._first_beta >= 1.0:
            return self._first_beta
        return self._first_beta + (1.0 - self._first_beta) * min(batch / self.beta_steps, 1.0)

    def update_priorities(
        self,
        indices: npt.NDArray[np.int64] | torch.Tensor,
        td_errors: npt.NDArray[Any] | torch.Tensor,
    ) -> None:
        """The TD errors of drawn rows, [B] both, become their priorities; of equal indices the last counts.

        With alpha = 0 they are checked and forgotten.
        """
        rows, errors = np.asarray(indices), np.asarray(td_errors, np.float64)
        if rows.ndim != 1 or rows.dtype != np.int64 or errors.shape != rows.shape:
            raise ValueError(
                f"PrioritizedReplayBuffer: indices must be int64 [B] and td_errors [B], "
                f"got {rows.dtype} {list(rows.shape)} and {list(errors.shape)}"
            )
        if len(rows) == 0:
            return
        priorities = np.abs(errors)
        priorities += self.eps
        greatest = float(priorities.max())
        if not greatest < math.inf:
            at = int(np.flatnonzero(~np.isfinite(errors))[0])
            raise ValueError(
                f"PrioritizedReplayBuffer: td_errors must be finite, got {errors[at]} at position {at}"
            )
        # As unsigned numbers the negative ones are the greatest.
        if rows.view(np.uint64).max() >= len(self):
            at = int(np.flatnonzero((rows < 0) | (rows >= len(self)))[0])
            raise ValueError(
                f"PrioritizedReplayBuffer: indices must be in [0, len) = [0, {len(self)}), "
                f"got {rows[at]} at position {at}"
            )
        if self._alpha == 0.0:
            return
        self.tree.update(np.ascontiguousarray(rows), _leaf(priorities, self._leaf_alpha, greatest))
        self._max_priority = max(self._max_priority, greatest)

    # --- state ----------------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        """What a copy or a pickle holds: the core's handles are not copied but made again."""
        return {"capacity": self.capacity, "state": self.state_dict()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["capacity"], seed=0)  # type: ignore[misc]
        self.load_state_dict(state["state"])

    def state_dict(self, segments: ReplaySegments | None = None) -> dict[str, Any]:
        """The rows, their priorities, the random streams and all parameters; a copy. `segments`: see
        :meth:`ReplayBuffer.state_dict`."""
        tree = self.tree.state_dict()
        return {
            "replay": self.replay.state_dict(segments),
            "alpha": self._alpha,
            "beta": self._first_beta,
            "eps": self.eps,
            "beta_steps": self.beta_steps,
            "batches": self._batches,
            "max_priority": self._max_priority,
            "leaf_alpha": self._leaf_alpha,
            "leaves": tree["priorities"][: len(self)].clone(),
            "stream": tree["stream"],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues exactly where that state was taken; all or nothing.

        Raises:
            ValueError: not such a state, or one of another capacity or of other observations and actions.
        """
        fresh = PrioritizedReplayBuffer(
            self.capacity,
            entry_of(state, "alpha"),
            entry_of(state, "beta"),
            eps=entry_of(state, "eps"),
            beta_steps=entry_of(state, "beta_steps"),
            seed=0,
        )
        fresh.max_priority = entry_of(state, "max_priority")
        fresh._leaf_alpha = _in_range("leaf_alpha", entry_of(state, "leaf_alpha"), above_zero=True)
        fresh._batches = int(entry_of(state, "batches"))
        fresh.replay = self.replay.loaded(entry_of(state, "replay"))
        leaves, size = torch.as_tensor(entry_of(state, "leaves")), len(fresh)
        if leaves.shape != (size,) or not bool((leaves > 0).all()):
            raise ValueError(f"PrioritizedReplayBuffer: the state's leaves must be {size} positive numbers")
        padded = torch.zeros(self.capacity)
        padded[:size] = leaves
        fresh._tree.load_state_dict({"priorities": padded, "stream": entry_of(state, "stream")})
        fresh._entered = fresh.replay.pushed
        self.__dict__.update(fresh.__dict__)

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Writes `state_dict()` to <directory>/replay.safetensors, atomically."""
        Path(directory).mkdir(parents=True, exist_ok=True)
        save_state(Path(directory) / _FILE, self.state_dict())

    def load(self, directory: str | os.PathLike[str]) -> None:
        """Reads what `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is damaged, or of another buffer (see `load_state_dict`).
        """
        self.load_state_dict(load_state(Path(directory) / _FILE))


def _batch(rows: ReplayBatch, weights: npt.NDArray[np.float32]) -> PrioritizedBatch:
    batch = PrioritizedBatch(
        rows.observations,
        rows.actions,
        rows.rewards,
        rows.next_observations,
        rows.terminated.astype(np.float32),
        weights,
        rows.indices,
        rows.n_steps,
    )
    batch.action_masks, batch.next_action_masks = rows.action_masks, rows.next_action_masks
    return batch


def _leaf(priorities: Any, alpha: float, greatest: float = math.inf) -> Any:
    """p^α, float64 in, float32 out. Of priorities up to `greatest`, small powers need no watching."""
    if alpha <= 1.0 and greatest <= _GREATEST:
        return np.maximum(priorities**alpha, _LEAST).astype(np.float32)
    with np.errstate(over="ignore", under="ignore"):
        return np.clip(priorities**alpha, _LEAST, _GREATEST).astype(np.float32)


def _in_range(name: str, value: float, above_zero: bool = False) -> float:
    number = float(value)
    if not (number > 0.0 if above_zero else number >= 0.0) or number == math.inf:
        expected = "above 0" if above_zero else "not negative"
        raise ValueError(f"PrioritizedReplayBuffer: {name} must be finite and {expected}, got {value}")
    return number
