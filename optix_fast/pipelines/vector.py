"""Windows from many environments stepped together."""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import gymnasium as gym
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from optix_fast.pipelines.steppers import VectorStepper
from optix_fast.pipelines.window import WindowPipeline

EnvFn = Callable[[], gym.Env[Any, Any]]


class VectorBatchPipeline(WindowPipeline):
    """Steps N environments at once; windows hold `window_size` steps of each (seed 003).

    Either `env_fns`, from which a SyncVectorEnv (or AsyncVectorEnv) with same-step resets is built,
    or `vector_env`, any `gymnasium.vector.VectorEnv` in any autoreset mode. Rows are step-major.

    Args:
        env_fns: N functions that each make an environment.
        agent: who acts.
        window_size: T, steps per environment and window.
        async_envs: one process per environment. Functions that cannot be sent to a process are
            stepped in this one, with a RuntimeWarning.
        vector_env: a ready vector environment, instead of env_fns.
        autoreset_mode: needed when vector_env does not say its own.
        seed: of the first reset; environment i gets seed + i.
        max_steps: end before exceeding this many steps of all environments together.
        vector_kwargs: passed to SyncVectorEnv or AsyncVectorEnv, such as shared_memory or context.

    Raises:
        ValueError: both or neither of env_fns and vector_env, an empty env_fns, functions that return one
            environment twice (when they are called), or an autoreset mode that is unknown or contradicts
            vector_env's.
        TypeError: an element of env_fns is not callable or returns no environment, or vector_env is not a
            VectorEnv.
    """

    def __init__(
        self,
        env_fns: Sequence[EnvFn] | None = None,
        agent: Any = None,
        window_size: int = 256,
        async_envs: bool = False,
        *,
        vector_env: VectorEnv[Any, Any, Any] | None = None,
        autoreset_mode: AutoresetMode | str | None = None,
        seed: int | None = None,
        max_steps: int | None = None,
        vector_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        if (env_fns is None) == (vector_env is None):
            raise ValueError("give exactly one of env_fns and vector_env")
        if vector_env is not None:
            if not isinstance(vector_env, VectorEnv):
                raise TypeError(
                    f"vector_env must be a gymnasium.vector.VectorEnv, got {type(vector_env).__name__}"
                )
            if async_envs:
                raise ValueError("async_envs has no effect on a ready vector_env; leave it out")
            if vector_kwargs:
                raise ValueError("vector_kwargs has no effect on a ready vector_env; leave it out")
            stepper = VectorStepper(vector_env, autoreset_mode)
            super().__init__(lambda: stepper, agent, window_size, seed, max_steps)
            return
        if autoreset_mode is not None:
            raise ValueError("autoreset_mode belongs to vector_env; from env_fns it is SameStep")
        fns = _checked(env_fns)
        kwargs = {"autoreset_mode": AutoresetMode.SAME_STEP, **(vector_kwargs or {})}
        if kwargs["autoreset_mode"] is not AutoresetMode.SAME_STEP:
            raise ValueError("vector_kwargs must leave autoreset_mode as it is: from env_fns it is SameStep")
        super().__init__(
            lambda: VectorStepper(_build(fns, async_envs, kwargs)), agent, window_size, seed, max_steps
        )


def _checked(env_fns: Any) -> list[EnvFn]:
    if not isinstance(env_fns, Iterable) or isinstance(env_fns, str):
        hint = "; pass it as vector_env" if isinstance(env_fns, VectorEnv) else ""
        raise TypeError(f"env_fns must be a sequence of functions, got {type(env_fns).__name__}{hint}")
    fns = list(env_fns)
    if not fns:
        raise ValueError("env_fns must hold at least one function")
    for i, fn in enumerate(fns):
        if not callable(fn):
            raise TypeError(f"env_fns[{i}] must be a function, got {type(fn).__name__}")
    return fns


def _made(fn: EnvFn, i: int, owner: int) -> gym.Env[Any, Any]:
    if os.getpid() != owner:
        # A terminal sends Ctrl-C to workers too; who owns them ends them when it has ended.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    env = fn()
    if not isinstance(env, gym.Env):
        raise TypeError(f"env_fns[{i}] must return a gymnasium.Env, got {type(env).__name__}")
    return env


def _build(fns: list[EnvFn], async_envs: bool, kwargs: dict[str, Any]) -> VectorEnv[Any, Any, Any]:
    made = [partial(_made, fn, i, os.getpid()) for i, fn in enumerate(fns)]
    if not async_envs:
        return SyncVectorEnv(made, **kwargs)
    for i, fn in enumerate(fns):
        try:
            cloudpickle.dumps(fn)
        except Exception as error:  # the object's own pickling may raise anything
            warnings.warn(
                f"env_fns[{i}] cannot be sent to a process ({error}); stepping all environments in this one",
                RuntimeWarning,
                stacklevel=4,
            )
            return SyncVectorEnv(made, autoreset_mode=AutoresetMode.SAME_STEP)
    return AsyncVectorEnv(made, **kwargs)
