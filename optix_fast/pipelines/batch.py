"""Windows from one environment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym

from optix_fast.pipelines.steppers import SingleStepper
from optix_fast.pipelines.window import WindowPipeline


class BatchPipeline(WindowPipeline):
    """Steps one environment and yields windows of exactly `window_size` steps (seed 003).

        BatchPipeline(env=env, agent=agent, window_size=2048)
        BatchPipeline(env_id="LunarLander-v3", n_steps=2048)

    Args:
        env: a `gymnasium.Env`. `teardown()` closes it.
        agent: who acts; `set_agent` sets or replaces it.
        window_size: steps per window; default 200.
        env_id: instead of env: what `gymnasium.make` makes when it is first needed, and again after a
            teardown.
        n_steps: another name of window_size.
        seed: of the first reset.
        max_steps: end after this many steps in all.

    Raises:
        TypeError: `env` is not a gymnasium.Env, `env_id` not a string, or `agent` cannot act.
        ValueError: both or neither of env and env_id, or both of window_size and n_steps.
        gymnasium.error.Error: env_id is unknown (when the environment is made).
    """

    def __init__(
        self,
        env: gym.Env[Any, Any] | None = None,
        agent: Any = None,
        window_size: int | None = None,
        *,
        env_id: str | None = None,
        n_steps: int | None = None,
        seed: int | None = None,
        max_steps: int | None = None,
    ) -> None:
        if (env is None) == (env_id is None):
            raise ValueError("give exactly one of env and env_id")
        if window_size is not None and n_steps is not None:
            raise ValueError("window_size and n_steps are the same; give one of them")
        if window_size is None:
            window_size = 200 if n_steps is None else n_steps
        make = _factory(env, env_id)
        super().__init__(lambda: SingleStepper(make()), agent, window_size, seed, max_steps)

    @property
    def env(self) -> gym.Env[Any, Any]:
        """The environment, made when first needed."""
        stepper = self.stepper
        assert isinstance(stepper, SingleStepper)
        return stepper.env


def _factory(env: Any, env_id: Any) -> Callable[[], gym.Env[Any, Any]]:
    if env is None:
        if not isinstance(env_id, str):
            raise TypeError(f"env_id must be a string, got {type(env_id).__name__}")
        return lambda: gym.make(env_id)
    if not isinstance(env, gym.Env):
        hint = "; use VectorBatchPipeline(vector_env=…)" if isinstance(env, gym.vector.VectorEnv) else ""
        raise TypeError(f"env must be a gymnasium.Env, got {type(env).__name__}{hint}")
    return lambda: env
