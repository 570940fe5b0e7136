"""What the off-policy agents share: experience, when to learn from it, which transitions are drawn."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from torch import Tensor

from optix_fast import _native
from optix_fast.buffers import PrioritizedReplayBuffer, ReplaySegments
from optix_fast.buffers.window_rows import rows_of_window
from optix_fast.learners.config import ReplayConfig
from optix_fast.learners.tensors import to_tensors
from optix_fast.networks.encoders import needs_encoder
from optix_fast.networks.flat_layout import FlatLayout
from optix_fast.networks.plan import UnsupportedError
from optix_fast.random import RandomStream
from optix_fast.types import Array, EpisodeData, NonFiniteError, Tree, tree_leaves, tree_map

_core = _native.core

# Random numbers that are drawn ahead, at most.
_CHUNK_BYTES = 1 << 24


class Transitions(NamedTuple):
    """What one update learns from.

    observations, next_observations: [B, D], or trees of [B, …]; next: m steps later.
    actions: int64 [B], or [B, A].
    rewards: Σ γᵏ·r of those m steps, [B].
    discounts: γᵐ, zero where the episode has terminated, [B].
    weights: importance weights [B], None where all are 1.
    masks, next_masks: bool [B, K], the actions that are allowed; None where all are. After a terminated
        row, all are.
    """

    observations: Tree
    actions: Tensor
    rewards: Tensor
    next_observations: Tree
    discounts: Tensor
    weights: Tensor | None = None
    masks: Tensor | None = None
    next_masks: Tensor | None = None


def discounted(batch: Transitions, values: Tensor) -> Tensor:
    """discount·V(o′), [B]: zero where the episode has terminated, even if the network's value of its last
    observation is not finite (a simulator may have diverged)."""
    return torch.where(batch.discounts > 0, batch.discounts * values, 0.0)


def check_masks(op: str, masks: Tensor, values: Tensor) -> None:
    """Raise ValueError unless masks have one entry for each of a network's outputs [B, K]."""
    if masks.shape != values.shape:
        raise ValueError(
            f"{op}: action_masks must have one entry for each of the network's {values.shape[-1]} actions, "
            f"got {masks.shape[-1]}"
        )


class Means:
    """Means of statistics over the updates of a window, which come in several pieces.

    Args:
        names: of the statistics.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._sums, self._counts = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0)

    def add(self, n_updates: int, **means: float) -> None:
        """The means over further n updates."""
        for name, mean in means.items():
            self._sums[name] += mean * n_updates
            self._counts[name] += n_updates

    def all(self) -> dict[str, float]:
        """By name; zero where there was no update."""
        return {name: total / max(self._counts[name], 1) for name, total in self._sums.items()}


class Draws(NamedTuple):
    """The random numbers that choose the transitions of K updates, B each; both backends take the same ones.

    indices: int64 [K, B], rows of the replay, where all are equally likely; otherwise None, and
    uniforms: float64 [K, B] in [0, 1): number j of an update chooses the leaf at (j + u_j)/B of the total
        priority, as it is at that update.
    betas: float64 [K], exponents of the importance weights.
    """

    indices: npt.NDArray[np.int64] | None
    uniforms: npt.NDArray[np.float64] | None = None
    betas: npt.NDArray[np.float64] | None = None

    @property
    def updates(self) -> int:
        """K."""
        return self._shape[0]

    @property
    def batch_size(self) -> int:
        """B."""
        return self._shape[1]

    @property
    def _shape(self) -> tuple[int, ...]:
        chosen = self.uniforms if self.indices is None else self.indices
        assert chosen is not None
        return chosen.shape


class Experience:
    """The replay of an agent, and how many updates its transitions have earned.

    Every valid row of a window is stored. Once `first_update_at` rows have been, and enough for a batch, each
    further one earns `updates_per_step` updates; what is left of a fraction waits for the next window.

    Observations that are no plain vector are stored as flat rows of `layout`, which the core reads; torch is
    given them as they were. Images, and observations that carry action masks, are stored as they are.

    Args:
        config: as the agent's hyperparameters are at the start.
        stream: the draws come from a child of it.
    """

    def __init__(self, config: ReplayConfig, stream: RandomStream) -> None:
        self.buffer = PrioritizedReplayBuffer(
            config.replay_capacity, config.per_alpha, config.per_beta, config.n_step, config.gamma,
            config.per_eps, seed=0,
        )  # fmt: skip
        self.layout: FlatLayout | None = None
        self._is_flat = False  # what is stored
        self._stream = stream.spawn("replay")
        self._credit = 0.0
        self.stored = 0
        self._before: list[tuple[Tensor, Tensor]] = []

    def __len__(self) -> int:
        """Transitions that can be drawn."""
        return len(self.buffer)

    def bind(self, observation_space: Any) -> None:
        """Learn what one observation is. How transitions are stored stays, once there are some."""
        if len(self) == 0 or self._is_flat:
            self.layout = _layout_of(observation_space)

    def add(self, window: EpisodeData, config: ReplayConfig, actions: Array | None = None) -> int:
        """Store a window; returns how many updates are due.

        Args:
            actions: of its rows, as updates read them; None: the window's own.

        Raises:
            NonFiniteError: a reward, action or observation is NaN or infinite, other than the last one of an
                episode that terminated; nothing is stored then.
            ValueError: the window does not fit what was stored before, or the observation space.
        """
        if self.layout is not None:
            window = _flat_window(window, self.layout)
        is_flat = self.layout is not None
        _check_finite(window, actions)
        self.buffer.set_params(
            alpha=config.per_alpha, beta=config.per_beta, n_step=config.n_step, gamma=config.gamma
        )
        self.buffer.eps = config.per_eps
        rows = self.buffer.push_window(window, actions)
        self._is_flat = is_flat
        idle = max(config.first_update_at, config.batch_size)
        earning = min(rows, max(0, self.stored + rows - idle))
        self.stored += rows
        self._credit += earning * config.updates_per_step
        due = math.floor(self._credit)
        self._credit -= due
        return due

    def check_batch(self, config: ReplayConfig) -> None:
        """Raise ValueError where a batch has more rows than are ever stored."""
        if config.batch_size > self.buffer.capacity:
            raise ValueError(
                f"batch_size must be at most the replay's capacity = {self.buffer.capacity}, "
                f"got {config.batch_size}"
            )

    def draws(self, updates: int, config: ReplayConfig, row_bytes: int = 0) -> Iterator[Draws]:
        """For so many updates, in pieces that fit into a cache of reasonable size, together with row_bytes
        of what the caller draws itself for each transition."""
        most = max(1, _CHUNK_BYTES // ((8 + row_bytes) * config.batch_size))
        for at in range(0, updates, most):
            shape = (min(most, updates - at), config.batch_size)
            if config.per_alpha == 0.0:
                yield Draws(self._stream.integers(0, len(self), shape))
            else:
                uniforms = self._stream.integers(0, 2**53, shape).astype(np.float64) * 2.0**-53
                yield Draws(None, uniforms, np.full(shape[0], self._beta(config)))

    def _beta(self, config: ReplayConfig) -> float:
        if config.per_beta_steps is None:
            return config.per_beta
        return config.per_beta + (1.0 - config.per_beta) * min(1.0, self.stored / config.per_beta_steps)

    def described(self, draws: Draws, config: ReplayConfig) -> _core.UniformDraws | _core.PrioritizedDraws:
        """The draws for the core."""
        if draws.indices is not None:
            return _core.UniformDraws(torch.from_numpy(draws.indices))
        return _core.PrioritizedDraws(
            tree=self.buffer.tree.native,
            uniforms=torch.from_numpy(draws.uniforms),
            betas=torch.from_numpy(draws.betas),
            alpha=config.per_alpha,
            eps=config.per_eps,
            max_priority=self.buffer.max_priority,
        )

    # --- updates in torch -------------------------------------------------------------------------

    def batch(self, draws: Draws, k: int, like: Tensor) -> tuple[Transitions, Array]:
        """The transitions of update k with the device and the float type of `like`, and their rows."""
        weights = None
        if draws.indices is not None:
            indices = draws.indices[k]
        else:
            assert draws.uniforms is not None
            assert draws.betas is not None
            indices, given = self.buffer.draw(draws.uniforms[k], float(draws.betas[k]))
            weights = torch.from_numpy(given).to(like)
        rows = self.buffer.replay.batch(indices)

        def put(array: Array) -> Tensor:
            return torch.from_numpy(array).to(like)

        def observed(tree: Tree) -> Tree:
            if self.layout is not None:
                return self.layout.unflatten(put(tree))
            return tree_map(
                lambda leaf: leaf.to(like.dtype) if leaf.is_floating_point() else leaf,
                to_tensors(tree, like.device),
            )

        def allowed(masks: Array | None) -> Tensor | None:
            return None if masks is None else torch.from_numpy(masks).to(like.device)

        actions = torch.from_numpy(rows.actions).to(like.device)
        transitions = Transitions(
            observed(rows.observations),
            actions.to(like.dtype) if actions.is_floating_point() else actions,
            put(rows.rewards),
            observed(rows.next_observations),
            put(rows.discounts),
            weights,
            allowed(rows.action_masks),
            allowed(rows.next_action_masks),
        )
        return transitions, indices

    def update_priorities(self, indices: Array, errors: Tensor) -> None:
        """Priorities of rows, from their TD errors [B]; nothing where all rows are equally likely."""
        if self.buffer.alpha == 0.0:
            return
        rows = torch.from_numpy(indices)
        self._before.append((rows, self.buffer.tree.priorities(rows)))
        self.buffer.update_priorities(indices, errors.double().cpu().numpy())

    @contextmanager
    def priorities_kept_on_error(self) -> Iterator[None]:
        """Priorities are as they were if what is done inside fails."""
        self._before, greatest = [], self.buffer.max_priority
        try:
            yield
        except BaseException:
            for rows, priorities in reversed(self._before):
                self.buffer.tree.update(rows, priorities)
            self.buffer.max_priority = greatest
            raise
        finally:
            self._before = []

    # --- state ------------------------------------------------------------------------------------

    def state_dict(self, rows: bool | ReplaySegments = True) -> dict[str, Any]:
        """Everything, or all but the stored transitions; those may go into segments on disk."""
        state = {"credit": self._credit, "stored": self.stored, "stream": self._stream.state_dict()}
        if rows is False:
            return state
        stored = self.buffer.state_dict(None if rows is True else rows)
        return state | {"buffer": stored, "is_flat": self._is_flat}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what state_dict gave; without transitions in it, the stored ones stay."""
        # Transitions last: an agent whose state fails to load puts everything else back from a copy.
        self._credit, self.stored = float(state["credit"]), int(state["stored"])
        self._stream.load_state_dict(state["stream"])
        if "buffer" in state:
            self.buffer.load_state_dict(state["buffer"])
            self._is_flat = bool(state.get("is_flat", False))
            if len(self) > 0 and not self._is_flat:
                self.layout = None


def _layout_of(space: Any) -> FlatLayout | None:
    if space is None or _has_masks(space) or not needs_encoder(space):
        return None
    try:
        return FlatLayout.of(space)
    except UnsupportedError:
        return None


def _has_masks(space: Any) -> bool:
    if isinstance(space, spaces.Dict):
        return "action_mask" in space.spaces or any(map(_has_masks, space.spaces.values()))
    return isinstance(space, spaces.Tuple) and any(map(_has_masks, space.spaces))


def _flat_window(window: EpisodeData, layout: FlatLayout) -> EpisodeData:
    """The window with flat rows as observations."""

    def flat(observations: Tree) -> Array | None:
        if observations is None:
            return None
        try:
            rows = layout.flatten(observations)
        except (KeyError, TypeError, IndexError) as error:
            raise ValueError(
                f"the window's observations are not of the observation space: {error}"
            ) from error
        layout.check(rows)
        return rows

    final = window.final_obs
    if final is not None:
        batch = flat(tree_map(lambda leaf: np.asarray(leaf)[None], final))
        final = None if batch is None else batch[0]
    return replace(
        window,
        observations=flat(window.observations),
        next_observations=flat(window.next_observations),
        final_observations=flat(window.final_observations),
        final_obs=final,
    )


def _check_finite(window: EpisodeData, actions: Array | None) -> None:
    """A stored NaN would spoil every update that draws it. What follows a terminated row is not looked at."""
    seen = (window.observations, window.next_observations, window.final_obs, window.final_observations)
    if not _is_finite(window.rewards):
        raise NonFiniteError("reward")
    if actions is not None and not _is_finite(actions):
        raise NonFiniteError("action")
    if all(_is_finite(leaf) for tree in seen if tree is not None for leaf in tree_leaves(tree)):
        return
    rows = rows_of_window(window)
    next_index = rows.next_index[~rows.terminated]
    others = [np.asarray(leaf)[~next_index[next_index < 0]] for leaf in tree_leaves(rows.others)]
    if not all(_is_finite(leaf) for leaf in (*tree_leaves(window.observations), *others)):
        raise NonFiniteError("observation")


def _is_finite(numbers: Array) -> bool:
    """As float32, which they are stored as."""
    array = np.asarray(numbers)
    if array.dtype == np.float32:
        return bool(np.isfinite(array).all())
    with np.errstate(over="ignore"):
        return array.dtype.kind != "f" or bool(np.isfinite(array.astype(np.float32)).all())
