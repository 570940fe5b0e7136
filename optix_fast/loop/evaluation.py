"""Playing whole episodes with a policy, without disturbing its training."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.vector.utils import concatenate, create_empty_array

from optix_fast.pipelines.acting import batched
from optix_fast.pipelines.masks import check_masks, masks_of
from optix_fast.pipelines.steppers import check_distinct
from optix_fast.pipelines.window import positive
from optix_fast.types import NonFiniteError, Tree, no_recording, tree_map

# Steps after which an episode is cut that would not end by itself.
_LONGEST_EPISODE = 100_000


@dataclass(frozen=True, eq=False)
class EvaluationResult:
    """The episodes that were played: undiscounted returns and lengths, environment by environment."""

    returns: npt.NDArray[np.float64]
    lengths: npt.NDArray[np.int64]

    @property
    def episodes(self) -> int:
        """How many there are."""
        return len(self.returns)

    @property
    def return_mean(self) -> float:
        """Mean return."""
        return float(self.returns.mean())

    @property
    def return_std(self) -> float:
        """Population standard deviation of the returns."""
        return float(self.returns.std())


def evaluate_policy(
    agent: Any,
    make_env: Callable[[], gym.Env[Any, Any]],
    episodes: int = 100,
    seed: int | None = 0,
    deterministic: bool = True,
    n_envs: int | None = None,
    max_episode_steps: int | None = None,
) -> EvaluationResult:
    """Play `episodes` whole episodes.

    The environments are copies stepped together. Each plays a share fixed beforehand: taking
    whichever episodes end first would count short ones too often. The agent acts inside
    `no_recording()`, through `act_batch(observations, deterministic=, action_masks=)` where it has
    it, else `act(observation)` one by one (with `deterministic=` if it takes that).

    Args:
        agent: who acts; actions are in the environment's units.
        make_env: makes one environment; called n_envs times, and they are closed at the end.
        episodes: at least 1.
        seed: environment i is seeded with seed + i; None draws from the operating system.
        deterministic: take each policy's mode instead of sampling, where the agent offers it.
        n_envs: copies; default min(episodes, 10).
        max_episode_steps: an episode is cut after so many steps and counts with its return until then;
            default 100 000 where the environment has no limit of its own (a policy may never end one).

    Raises:
        ValueError: episodes, n_envs or max_episode_steps is no integer of at least 1; make_env made one
            environment twice; or an action mask does not fit the action space.
        TypeError: the agent cannot act or make_env cannot be called.
        NonFiniteError: "reward": an environment returned NaN or infinity.
    """
    positive("episodes", episodes)
    for name, number in (("n_envs", n_envs), ("max_episode_steps", max_episode_steps)):
        if number is not None:
            positive(name, number)
    if not callable(make_env):
        raise TypeError(f"make_env must be a function that makes an environment, got {make_env!r}")
    count = min(episodes, 10 if n_envs is None else n_envs)
    quota = np.full(count, episodes // count) + (np.arange(count) < episodes % count)
    env = _vector(make_env, count, max_episode_steps)
    try:
        with no_recording():
            return _play(_actor(agent, env, deterministic), env, quota, seed)
    finally:
        env.close()


Actor = Callable[[Tree, "npt.NDArray[np.bool_] | None"], Any]


def _vector(make_env: Callable[[], gym.Env[Any, Any]], count: int, cap: int | None) -> SyncVectorEnv:
    made: list[gym.Env[Any, Any]] = []

    def make() -> gym.Env[Any, Any]:
        made.append(make_env())
        env = made[-1]
        has_limit = env.spec is not None and env.spec.max_episode_steps is not None
        if cap is None and has_limit:
            return env
        return gym.wrappers.TimeLimit(env, cap or _LONGEST_EPISODE)

    try:
        vector = SyncVectorEnv([make] * count, autoreset_mode=AutoresetMode.SAME_STEP)
        check_distinct(made)
        return vector
    except BaseException:
        for env in made:
            env.close()
        raise


def _play(act: Actor, env: SyncVectorEnv, quota: npt.NDArray[np.int64], seed: int | None) -> EvaluationResult:
    count = env.num_envs
    returns: list[list[float]] = [[] for _ in range(count)]
    lengths: list[list[int]] = [[] for _ in range(count)]
    running = np.zeros(count)
    steps = np.zeros(count, np.int64)
    left = quota.copy()
    observations, info = env.reset(seed=seed)
    while left.any():
        masks = masks_of(observations, info, count)
        if masks is not None:
            check_masks(masks, env.single_action_space, str(env.envs[0]))
        actions = act(observations, masks)
        observations, rewards, terminated, truncated, info = env.step(actions)
        if not np.isfinite(rewards).all():
            raise NonFiniteError("reward")
        running += rewards
        steps += 1
        done = terminated | truncated
        if not done.any():
            continue
        for n in np.flatnonzero(done & (left > 0)):
            returns[n].append(float(running[n]))
            lengths[n].append(int(steps[n]))
            left[n] -= 1
        running[done], steps[done] = 0.0, 0
    return EvaluationResult(np.concatenate(returns), np.concatenate(lengths).astype(np.int64))


def _actor(agent: Any, env: SyncVectorEnv, deterministic: bool) -> Actor:
    act_batch = batched(agent, "act_batch")
    if act_batch is not None:
        return lambda observations, masks: act_batch(
            observations, deterministic=deterministic, action_masks=masks
        )
    act = getattr(agent, "act", None)
    if not callable(act):
        raise TypeError(f"agent must have act(observation) or act_batch, got {type(agent).__name__}")
    options = {"deterministic": deterministic} if _takes(act, "deterministic") else {}
    space = env.single_action_space

    def act_each(observations: Tree, masks: npt.NDArray[np.bool_] | None) -> Any:
        actions = [
            act(tree_map(lambda leaf, n=n: leaf[n], observations), **options) for n in range(env.num_envs)
        ]
        batch: Any = create_empty_array(space, env.num_envs)
        return concatenate(space, actions, batch)

    return act_each


def _takes(function: Callable[..., Any], name: str) -> bool:
    try:
        return name in inspect.signature(function).parameters
    except (TypeError, ValueError):  # some builtins have no signature
        return False
