"""Taking the state out of an environment, and putting it back.

One small protocol: an environment (or wrapper, which then answers for all that it wraps) that has
`get_state() -> dict of arrays` and `set_state(dict)` is asked directly. For Gymnasium's classic control and
MuJoCo environments, for the wrappers that `gymnasium.make` adds, and for a SyncVectorEnv of restorable
environments, the adapters below do it. Anything else gives None, and a resumed run begins it from a reset.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import wrappers
from gymnasium.vector import SyncVectorEnv

State = dict[str, Any]

# Wrappers whose behaviour does not depend on earlier steps of the episode. Exact types only: a subclass may
# keep anything. (TimeLimit, which counts steps, is the only other one known.)
_STATELESS_WRAPPERS = (
    wrappers.PassiveEnvChecker,
    wrappers.OrderEnforcing,
    wrappers.ClipAction,
    wrappers.RescaleAction,
    wrappers.ClipReward,
    wrappers.DtypeObservation,
    wrappers.FilterObservation,
    wrappers.FlattenObservation,
    wrappers.RescaleObservation,
    wrappers.ReshapeObservation,
)
_CLASSIC_ATTRIBUTES = ("state", "steps_beyond_terminated", "last_u", "steps", "prev_done")
# Beside MuJoCo's integration state: body positions, which a step leaves as they were before its last
# sub-step, and from which Ant and Humanoid compute the reward of the next step.
_MUJOCO_ARRAYS = ("xpos", "xipos")


def get_env_state(env: Any) -> State | None:
    """The state of `env` (a gym.Env with its wrappers, or a vector environment) as a nested dict of
    arrays, numbers and strings; None when it cannot be had."""
    if _has_protocol(env):
        own = env.get_state()
        return {"own": deepcopy(dict(own))} | _random_state(env) if isinstance(own, Mapping) else None
    if type(env) is SyncVectorEnv:
        parts = [get_env_state(sub) for sub in env.envs]
        if any(part is None for part in parts):
            return None
        return {
            "envs": {str(i): part for i, part in enumerate(parts)},
            "autoreset": env._autoreset_envs.copy(),
        }
    if isinstance(env, gym.Wrapper):
        inner = get_env_state(env.env)
        if inner is None:
            return None
        if type(env) is wrappers.TimeLimit:
            return {"elapsed_steps": env._elapsed_steps, "env": inner}
        return inner if type(env) in _STATELESS_WRAPPERS else None
    if _is_classic(env):
        values = {name: _copied(getattr(env, name, None)) for name in _CLASSIC_ATTRIBUTES}
        return {"base": {k: v for k, v in values.items() if v is not None}} | _random_state(env)
    if _is_mujoco(env):
        return {"base": _mujoco_get(env)} | _random_state(env)
    return None


def set_env_state(env: Any, state: Mapping[str, Any]) -> None:
    """Put back what `get_env_state` returned for an environment of the same kind.

    `env` must have been reset once.

    Raises:
        ValueError: `env` is not of the kind that the state was taken from.
    """
    try:
        _set(env, state)
    except KeyError as error:
        raise ValueError(f"the state does not fit {env}: it has no {error}") from error


def _set(env: Any, state: Mapping[str, Any]) -> None:
    if _has_protocol(env):
        env.set_state(deepcopy(dict(state["own"])))
        _set_random_state(env, state)
    elif type(env) is SyncVectorEnv:
        if len(state["envs"]) != env.num_envs:
            raise ValueError(f"the state is of {len(state['envs'])} environments, not of {env.num_envs}")
        for i, sub in enumerate(env.envs):
            _set(sub, state["envs"][str(i)])
        env._autoreset_envs = np.array(state["autoreset"], np.bool_)
    elif type(env) is wrappers.TimeLimit:
        limit: Any = env
        limit._elapsed_steps = int(state["elapsed_steps"])
        _set(limit.env, state["env"])
    elif type(env) in _STATELESS_WRAPPERS:
        _set(env.env, state)
    elif _is_classic(env):
        base = state["base"]
        for name in _CLASSIC_ATTRIBUTES:
            if hasattr(env, name):
                setattr(env, name, _copied(base.get(name)))
        _set_random_state(env, state)
    elif _is_mujoco(env):
        _mujoco_set(env, state["base"])
        _set_random_state(env, state)
    else:
        raise ValueError(f"environment {env} cannot be given a state")


def _has_protocol(env: Any) -> bool:
    # MuJoCo environments have a set_state(qpos, qvel) that is something else, but no get_state.
    return callable(getattr(env, "get_state", None)) and callable(getattr(env, "set_state", None))


def _random_state(env: Any) -> State:
    # The generator is created on first use; reading np_random would create (and seed) it.
    generator = getattr(env.unwrapped, "_np_random", None)
    return {} if generator is None else {"random": generator.bit_generator.state}


def _set_random_state(env: Any, state: Mapping[str, Any]) -> None:
    if "random" in state:
        env.unwrapped.np_random.bit_generator.state = dict(state["random"])


def _copied(value: Any) -> Any:
    # MountainCar keeps its state as an array after a reset and as a tuple after a step.
    return np.array(value) if isinstance(value, np.ndarray | tuple | list) else value


def _is_classic(env: Any) -> bool:
    return type(env).__module__.startswith("gymnasium.envs.classic_control.")


def _is_mujoco(env: Any) -> bool:
    return type(env).__module__.startswith("gymnasium.envs.mujoco.") and hasattr(env, "data")


def _mujoco_get(env: Any) -> State:
    mujoco = importlib.import_module("mujoco")
    kind = mujoco.mjtState.mjSTATE_INTEGRATION
    integration = np.empty(mujoco.mj_stateSize(env.model, kind), np.float64)
    mujoco.mj_getState(env.model, env.data, integration, kind)
    return {"integration": integration} | {k: np.array(getattr(env.data, k)) for k in _MUJOCO_ARRAYS}


def _mujoco_set(env: Any, state: Mapping[str, Any]) -> None:
    mujoco = importlib.import_module("mujoco")
    integration = np.array(state["integration"], np.float64)
    mujoco.mj_setState(env.model, env.data, integration, mujoco.mjtState.mjSTATE_INTEGRATION)
    for name in _MUJOCO_ARRAYS:
        getattr(env.data, name)[...] = state[name]
