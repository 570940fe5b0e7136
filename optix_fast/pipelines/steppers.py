"""One way to step a single environment or a vector of them.

A stepper hides who resets an episode that ended, and when. Each `step` fills one row of a window
and leaves the observations for the next one in `observations`. The three ways in which Gymnasium's
vector environments reset give the same valid rows:

* NEXT_STEP: the observation that comes with the end *is* the final one; the step after it ignores
  the action and returns the reset observation. That row is stored with valid=False.
* SAME_STEP: the returned observation is already the new episode's; the final one is in the info.
* DISABLED: the returned observation is the final one; we reset at once, by mask.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from optix_fast.envs.state import get_env_state, set_env_state
from optix_fast.pipelines.masks import mask_of, masks_of
from optix_fast.pipelines.rows import WindowRows, allocate, own_dtypes, read, write
from optix_fast.types import Array, Tree, tree_map


class SingleStepper:
    """Steps one `gymnasium.Env` as a batch of one."""

    batched_infos = False
    n_envs = 1
    pending, any_pending = np.zeros(1, np.bool_), False  # never: it resets at once

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        self.env = env
        self.observation_space = env.observation_space
        self.action_space = env.action_space
        self.has_time_limit = env.has_wrapper_attr("_max_episode_steps")
        self.reward_threshold = None if env.spec is None else env.spec.reward_threshold
        self.observations: Tree = allocate(self.observation_space, (1,))
        self.action_masks: Array | None = None
        self._action_dtypes = own_dtypes(self.action_space)
        self._scalar_action = isinstance(self.action_space, spaces.Discrete)

    @property
    def name(self) -> str:
        """The environment's id, or its class name."""
        return self.env.spec.id if self.env.spec is not None else type(self.env.unwrapped).__name__

    def reset(self, seed: int | None = None) -> None:
        """Begin a new episode."""
        observation, info = self.env.reset(seed=seed)
        self._show(observation, info)

    def step(self, actions: Tree, rows: WindowRows, t: int) -> None:
        """Take actions[0]; fill row t; reset when the episode ended."""
        observation, reward, terminated, truncated, info = self.env.step(self._action(actions))
        rows.rewards[t, 0] = reward
        rows.infos.append(dict(info))
        if terminated or truncated:
            rows.terminated[t, 0] = terminated
            rows.truncated[t, 0] = truncated
            rows.add_final(t, 0, observation, mask_of(observation, info))
            observation, info = self.env.reset()
        self._show(observation, info)

    def _action(self, actions: Tree) -> Any:
        # A copy: what an environment does to its action must not reach the window.
        if self._scalar_action:
            return int(actions[0])
        return tree_map(np.array, read(actions, 0), self._action_dtypes)

    def _show(self, observation: Any, info: Mapping[str, Any]) -> None:
        if type(self.observations) is np.ndarray and "action_mask" not in info:
            self.observations[0] = observation
            self.action_masks = None
            return
        write(self.observations, 0, observation)
        mask = mask_of(observation, info)
        self.action_masks = None if mask is None else np.array(mask, np.bool_)[None]

    def close(self) -> None:
        """Close the environment."""
        self.env.close()

    def get_state(self) -> dict[str, Any] | None:
        """The environment's state, or None when it cannot give one."""
        return get_env_state(self.env)

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Restore what `get_state` gave."""
        set_env_state(self.env, state)


class VectorStepper:
    """Steps a `gymnasium.vector.VectorEnv` in any of its autoreset modes.

    Args:
        env: the vector environment.
        autoreset_mode: needed when the environment does not say it.

    Raises:
        ValueError: the environment does not say its mode and none is given, or says another one; or two of
            its environments are one object.
    """

    batched_infos = True

    def __init__(
        self, env: VectorEnv[Any, Any, Any], autoreset_mode: AutoresetMode | str | None = None
    ) -> None:
        if isinstance(env.unwrapped, SyncVectorEnv):
            check_distinct(env.unwrapped.envs)
        self.env = env
        self.name, self.has_time_limit = _describe(env)
        self.reward_threshold = _threshold(env)
        self.mode = _resolve_mode(env, self.name, autoreset_mode)
        self.n_envs = int(env.num_envs)
        self.observation_space = env.single_observation_space
        self.action_space = env.single_action_space
        self._action_dtypes = own_dtypes(self.action_space)
        self.observations: Tree = allocate(self.observation_space, (self.n_envs,))
        self.action_masks: Array | None = None
        self._await_reset(np.zeros(self.n_envs, np.bool_))

    def reset(self, seed: int | None = None) -> None:
        """Begin new episodes everywhere; environment i gets seed + i."""
        observations, info = self.env.reset(seed=seed)
        self._await_reset(np.zeros(self.n_envs, np.bool_))
        self._show(observations, info)

    def _await_reset(self, pending: Array) -> None:
        """NEXT_STEP only: environments whose next step is the reset row, and whether there are any. They show
        the end of an episode, for which no action is taken."""
        self.pending = pending
        self.any_pending = bool(pending.any())

    def step(self, actions: Tree, rows: WindowRows, t: int) -> None:
        """Take one action in each environment and fill row t."""
        # A copy: what an environment does to its action must not reach the window.
        observations, rewards, terminated, truncated, info = self.env.step(
            tree_map(np.array, actions, self._action_dtypes)
        )
        rows.rewards[t] = rewards
        rows.terminated[t] = terminated
        rows.truncated[t] = truncated
        rows.infos.append(dict(info))
        if self.any_pending:
            rows.valid[t] = ~self.pending
            rows.rewards[t, self.pending] = 0.0
            rows.terminated[t, self.pending] = False
            rows.truncated[t, self.pending] = False
        done = np.logical_or(rows.terminated[t], rows.truncated[t])
        for i in np.flatnonzero(done):
            final = self._final_observation(observations, info, int(i))
            rows.add_final(t, int(i), final, self._final_mask(final, info, int(i)))
        self._show(observations, info)
        if self.mode is AutoresetMode.NEXT_STEP:
            self._await_reset(done)
            if self.action_masks is not None:
                self.action_masks[done] = True  # the next action is ignored
        elif self.mode is AutoresetMode.DISABLED and done.any():
            before = self.action_masks
            self._show(*self.env.reset(options={"reset_mask": done.copy()}))
            if before is not None:
                # The info of a masked reset speaks only of the environments that it has reset.
                after = np.True_ if self.action_masks is None else self.action_masks
                self.action_masks = np.where(done[:, None], after, before)

    def _final_observation(self, observations: Tree, info: Mapping[str, Any], i: int) -> Tree:
        if self.mode is not AutoresetMode.SAME_STEP:
            return _index(observations, i, self.observation_space)
        if "final_obs" not in info or not info["_final_obs"][i]:
            raise RuntimeError(
                f"autoreset mode SameStep promises info['final_obs'] for environment {i}, whose episode "
                "ended, but it is missing"
            )
        return _index(info["final_obs"], i, self.observation_space)

    def _final_mask(self, final: Tree, info: Mapping[str, Any], i: int) -> Any:
        # A same-step reset has put the reset's info in the place of the step's.
        told = info.get("final_info", {}) if self.mode is AutoresetMode.SAME_STEP else info
        if told.get("action_mask") is None:
            return mask_of(final, {})
        known = told.get("_action_mask")
        return told["action_mask"][i] if known is None or known[i] else None

    def _show(self, observations: Tree, info: Mapping[str, Any]) -> None:
        write(self.observations, slice(None), observations)
        self.action_masks = masks_of(observations, info, self.n_envs)

    def close(self) -> None:
        """Close the environments."""
        self.env.close()

    def get_state(self) -> dict[str, Any] | None:
        """State of all environments, or None when one of them cannot give its own."""
        state = get_env_state(self.env)
        return None if state is None else {"env": state, "pending": self.pending.copy()}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Restore what `get_state` gave."""
        set_env_state(self.env, state["env"])
        self._await_reset(np.array(state["pending"], np.bool_))


Stepper = SingleStepper | VectorStepper


def check_distinct(envs: Sequence[gym.Env[Any, Any]]) -> None:
    """Raise ValueError where two environments are one object (or wrap one): each would play the other's
    episode."""
    first: dict[int, int] = {}
    for i, env in enumerate(envs):
        before = first.setdefault(id(env.unwrapped), i)
        if before != i:
            raise ValueError(
                f"environments {before} and {i} are the same {type(env.unwrapped).__name__} object; "
                "each function must make an environment of its own"
            )


def _describe(env: VectorEnv[Any, Any, Any]) -> tuple[str, bool]:
    """A name for error messages, and whether episodes are cut at a number of steps."""
    base = env.unwrapped
    if isinstance(base, SyncVectorEnv | AsyncVectorEnv):
        # Their own spec says nothing, those of the environments within may not travel between processes.
        name = f"{type(base).__name__} of {base.call('__str__')[0]}"
        return name, all(base.call("has_wrapper_attr", "_max_episode_steps"))
    name = base.spec.id if base.spec is not None else type(base).__name__
    return name, getattr(base.spec, "max_episode_steps", None) is not None


def _threshold(env: VectorEnv[Any, Any, Any]) -> float | None:
    """The mean return that the registration calls solved; None where it names none or is not at hand."""
    base = env.unwrapped
    spec = base.envs[0].spec if isinstance(base, SyncVectorEnv) else base.spec
    return getattr(spec, "reward_threshold", None)


def _resolve_mode(
    env: VectorEnv[Any, Any, Any], name: str, asked: AutoresetMode | str | None
) -> AutoresetMode:
    # Gymnasium 1.1 writes the metadata of Sync- and AsyncVectorEnv into that of the environment's class,
    # where the last one made has its way; their attribute is right.
    told = getattr(env.unwrapped, "autoreset_mode", None) or env.metadata.get("autoreset_mode")
    if told is None and asked is None:
        raise ValueError(
            f"autoreset_mode: {name} does not say in its metadata how it resets; pass "
            "autoreset_mode='NextStep', 'SameStep' or 'Disabled'"
        )
    try:
        modes = [AutoresetMode(mode) for mode in (asked, told) if mode is not None]
    except ValueError as error:
        known = ", ".join(repr(mode.value) for mode in AutoresetMode)
        raise ValueError(f"autoreset_mode must be one of {known}: {error}") from None
    if modes[0] is not modes[-1]:
        raise ValueError(f"autoreset_mode is {modes[0].value!r}, but {name} says {modes[-1].value!r}")
    return modes[0]


def _index(tree: Any, i: int, space: spaces.Space[Any]) -> Tree:
    """Environment i's part of a batch; info dicts may carry it as an object array instead."""
    if isinstance(space, spaces.Dict) and isinstance(tree, Mapping):
        return {key: _index(tree[key], i, sub) for key, sub in space.spaces.items()}
    if isinstance(space, spaces.Tuple) and isinstance(tree, tuple):
        return tuple(_index(part, i, sub) for part, sub in zip(tree, space.spaces, strict=True))
    return tree[i]
