"""The storage of one window: [T, N, …] columns that a pipeline and an agent fill row by row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, overload

import numpy as np
from gymnasium import spaces

from optix_fast.types import Array, EpisodeData, Tree, tree_map


def storage_dtype(space: spaces.Space[Any]) -> np.dtype[Any]:
    """dtype that observations of a leaf space are stored in: float32 for every float Box, int64 for discrete
    spaces, the space's own otherwise (uint8 images stay uint8)."""
    if isinstance(space, spaces.Box):
        floating = np.issubdtype(space.dtype, np.floating)
        return np.dtype(np.float32) if floating else np.dtype(space.dtype)
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        return np.dtype(np.int64)
    if isinstance(space, spaces.MultiBinary):
        return np.dtype(np.int8)
    raise TypeError(
        "space must be built from Box, Discrete, MultiDiscrete, MultiBinary, Dict and Tuple, "
        f"got {type(space).__name__}"
    )


def allocate(space: spaces.Space[Any], lead: tuple[int, ...]) -> Tree:
    """Zeroed arrays of shape lead + the space's own, one for each leaf space."""
    if isinstance(space, spaces.Dict):
        return {key: allocate(sub, lead) for key, sub in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(allocate(sub, lead) for sub in space.spaces)
    return np.zeros((*lead, *(space.shape or ())), storage_dtype(space))


def idle_actions(space: spaces.Space[Any], lead: tuple[int, ...]) -> Tree:
    """Storage for actions, filled with a valid one: the first of a discrete space, the nearest to zero of a
    Box. A float64 Box keeps its dtype, so that an action on its bound is not rounded over it; what counts is
    int64."""
    if isinstance(space, spaces.Dict):
        return {key: idle_actions(sub, lead) for key, sub in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(idle_actions(sub, lead) for sub in space.spaces)
    storage_dtype(space)  # raises where the space cannot be stored
    dtype = np.dtype(space.dtype) if isinstance(space, spaces.Box) else np.dtype(np.int64)
    out = np.zeros((*lead, *(space.shape or ())), dtype)
    if isinstance(space, spaces.Box):
        out[...] = np.clip(0, space.low, space.high)
    elif isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        out[...] = space.start
    return out


def own_dtypes(space: spaces.Space[Any]) -> Tree:
    """The dtypes that an environment with this action space expects, leaf by leaf."""
    if isinstance(space, spaces.Dict):
        return {key: own_dtypes(sub) for key, sub in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(own_dtypes(sub) for sub in space.spaces)
    return np.dtype(space.dtype)


def fitted(action: Any, space: spaces.Space[Any]) -> Tree:
    """`action` as arrays of the space's structure and shapes. A Box's bounds are the environment's business.

    Raises:
        ValueError: structure, shape, kind of number, or the range of a discrete space do not fit.
    """
    if isinstance(space, spaces.Dict):
        if not isinstance(action, Mapping) or set(action) != set(space.spaces):
            raise ValueError(f"it is not a dict with the keys {', '.join(space.spaces)}")
        return {key: fitted(action[key], sub) for key, sub in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        if not isinstance(action, tuple | list) or len(action) != len(space.spaces):
            raise ValueError(f"it is not a tuple of {len(space.spaces)}")
        return tuple(fitted(part, sub) for part, sub in zip(action, space.spaces, strict=True))
    array = np.asarray(action)
    if array.shape != space.shape:
        raise ValueError(f"its shape is {list(array.shape)}, not {list(space.shape or ())}")
    dtype = np.dtype(space.dtype)
    if array.dtype.kind not in ("biuf" if dtype.kind == "f" else "biu"):
        raise ValueError(f"its dtype is {array.dtype}, not {dtype}")
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        end = space.start + (space.n if isinstance(space, spaces.Discrete) else space.nvec)
        if not np.all((space.start <= array) & (array < end)):
            raise ValueError("it is out of range")
    elif isinstance(space, spaces.MultiBinary) and not np.isin(array, (0, 1)).all():
        raise ValueError("it is not of zeros and ones")
    return array


def write(target: Tree, index: Any, value: Tree) -> None:
    """target[index] = value, leaf by leaf."""
    if isinstance(target, np.ndarray):
        target[index] = value
    elif isinstance(target, Mapping):
        for key, leaf in target.items():
            write(leaf, index, value[key])
    else:
        for leaf, part in zip(target, value, strict=True):
            write(leaf, index, part)


def read(tree: Tree, index: Any) -> Tree:
    """tree[index], leaf by leaf."""
    return tree[index] if isinstance(tree, np.ndarray) else tree_map(lambda leaf: leaf[index], tree)


class RowInfos(Sequence[Mapping[str, Any]]):
    """The infos of the valid rows of a window, taken apart only where someone looks.

    The info of a row is what its step returned; a reset's info is not among them.

    Args:
        steps: what the environment returned, step by step: the info dict of one environment, or a
            vector environment's dict of arrays with `_key` masks.
        rows: grid positions t·N + n of the valid rows.
        n_envs: N.
        batched: whether the dicts are a vector environment's.
    """

    def __init__(self, steps: list[Mapping[str, Any]], rows: Array, n_envs: int, batched: bool) -> None:
        self._steps, self._rows, self._n_envs, self._batched = steps, rows, n_envs, batched

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Mapping[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Mapping[str, Any]]: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        step, env = divmod(int(self._rows[index]), self._n_envs)
        info = self._steps[step]
        if not self._batched:
            return info
        # A same-step reset has put the reset's info in the place of the step's.
        if "final_info" in info and info["_final_info"][env]:
            info = info["final_info"]
        return _info_of(info, env)


def _info_of(info: Mapping[str, Any], env: int) -> dict[str, Any]:
    """One environment's part of a vector environment's info. A key without a mask is everyone's."""
    out: dict[str, Any] = {}
    for key, value in info.items():
        mask = info.get(f"_{key}")
        if (key.startswith("_") and key[1:] in info) or (mask is not None and not mask[env]):
            continue
        if isinstance(value, Mapping):
            out[key] = _info_of(value, env)
        else:
            out[key] = value[env] if isinstance(value, np.ndarray) and value.ndim else value
    return out


class WindowRows:
    """The columns of a window while it is collected.

    The pipeline allocates one object for each window and never writes to it after the window was
    yielded. `observations`, `rewards`, `terminated`, `truncated`, `valid` are filled by the
    pipeline; `actions` and the columns that the agent asks for with `column()` by the agent's
    `act_rows(observations, rows, t)`.

    Args:
        n_steps, n_envs: T and N.
        observation_space, action_space: of a single environment.
    """

    def __init__(
        self,
        n_steps: int,
        n_envs: int,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
    ) -> None:
        self.n_steps, self.n_envs = n_steps, n_envs
        lead = (n_steps, n_envs)
        self.observations: Tree = allocate(observation_space, lead)
        self.actions: Tree = idle_actions(action_space, lead)
        self.rewards = np.zeros(lead, np.float32)
        self.terminated = np.zeros(lead, np.bool_)
        self.truncated = np.zeros(lead, np.bool_)
        self.valid = np.ones(lead, np.bool_)
        self.action_masks: Array | None = None
        self.columns: dict[str, Array] = {}
        self.final_rows: list[int] = []
        self.final_observations: list[Tree] = []
        self.final_masks: list[Array | None] = []
        self.infos: list[Mapping[str, Any]] = []
        self._observation_space = observation_space

    def column(self, name: str, shape: tuple[int, ...] = (), dtype: Any = np.float32) -> Array:
        """The agent's column `name`, [T, N, *shape]; allocated when first asked for.

        Known names: log_probs, values, pre_tanh. They become fields of the yielded EpisodeData.
        """
        found = self.columns.get(name)
        if found is None:
            found = self.columns[name] = np.zeros((self.n_steps, self.n_envs, *shape), dtype)
        return found

    def add_final(self, t: int, env: int, observation: Tree, mask: Any = None) -> None:
        """Note the true last observation of an episode that ended in row t of environment `env`, and the
        action mask that came with it."""
        self.final_rows.append(t * self.n_envs + env)
        self.final_observations.append(tree_map(np.array, observation))
        self.final_masks.append(None if mask is None else np.array(mask, np.bool_))

    def to_episode_data(
        self,
        episode_id: int,
        next_observations: Tree,
        metadata: dict[str, Any],
        batched_infos: bool,
        next_masks: Array | None = None,
    ) -> EpisodeData:
        """The window; its flat fields are views of the columns when every row is valid. `next_masks` [N, K]
        are those of `next_observations`."""
        all_valid = bool(self.valid.all())
        n_rows = self.n_steps * self.n_envs

        def flat(tree: Tree) -> Tree:
            return tree_map(
                lambda leaf: leaf.reshape(n_rows, *leaf.shape[2:]) if all_valid else leaf[self.valid], tree
            )

        finals = allocate(self._observation_space, (len(self.final_rows),))
        for i, observation in enumerate(self.final_observations):
            write(finals, i, observation)
        fields = {name: flat(column) for name, column in self.columns.items()}
        if self.action_masks is not None:
            fields["action_masks"] = flat(self.action_masks)
        known = [mask for mask in self.final_masks if mask is not None]
        if known:
            allowed = np.ones_like(known[0])
            fields["final_action_masks"] = np.stack([allowed if m is None else m for m in self.final_masks])
        if next_masks is not None:
            fields["next_action_masks"] = np.array(next_masks, np.bool_)
        return EpisodeData(
            observations=flat(self.observations),
            actions=flat(self.actions),
            rewards=flat(self.rewards),
            terminated=flat(self.terminated),
            truncated=flat(self.truncated),
            infos=RowInfos(self.infos, np.flatnonzero(self.valid), self.n_envs, batched_infos),
            episode_id=episode_id,
            metadata=metadata,
            n_envs=self.n_envs,
            valid=self.valid,
            final_rows=np.asarray(self.final_rows, np.int64),
            final_observations=finals,
            next_observations=next_observations,
            **fields,
        )
