"""Windows from one environment."""

from __future__ import annotations

from typing import Any

import gymnasium as gym

from optix_fast.pipelines.steppers import SingleStepper
from optix_fast.pipelines.window import WindowPipeline


class BatchPipeline(WindowPipeline):
    """Steps one environment and yields windows of exactly `window_size` steps (seed 003).

    Args:
        env: a `gymnasium.Env`. `teardown()` closes it.
        agent: who acts; `set_agent` sets or replaces it.
        window_size: steps per window.
        seed: of the first reset.
        max_steps: end after this many steps in all.

    Raises:
        TypeError: `env` is not a gymnasium.Env, or `agent` cannot act.
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        agent: Any = None,
        window_size: int = 200,
        *,
        seed: int | None = None,
        max_steps: int | None = None,
    ) -> None:
        given: Any = env
        if not isinstance(given, gym.Env):
            hint = (
                "; use VectorBatchPipeline(vector_env=…)" if isinstance(given, gym.vector.VectorEnv) else ""
            )
            raise TypeError(f"env must be a gymnasium.Env, got {type(given).__name__}{hint}")
        self.env = env
        super().__init__(lambda: SingleStepper(env), agent, window_size, seed, max_steps)
