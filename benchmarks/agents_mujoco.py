"""What bench_agents.py compares on HalfCheetah-v5: training, and the simulator alone.

The bound of any trainer in one process is the simulator's own time, so there is one more
"implementation": the same environment stepped with actions drawn beforehand, from the distribution that
an untrained policy acts by. Ours learns with CleanRL's settings: normalised observations and rewards, an
unsquashed Gaussian with a free log-std.
"""

from __future__ import annotations

from collections.abc import Callable

ROWS = 2048
Train = Callable[[int], None]


def ours(env_id: str, backend: str) -> Train:
    """Our agent and pipeline; the loop's checkpoints apart."""
    import gymnasium as gym

    from optix_fast import BatchPipeline, make_agent

    pipeline = BatchPipeline(gym.make(env_id), window_size=ROWS, seed=0)
    agent = make_agent(
        "ppo", pipeline, hyperparams={"entropy_coef": 0.0, "value_clip": 0.2, "vf_coef": 0.25}, seed=0,
        backend=backend, normalize_observations=True, normalize_rewards=True, squash=False, log_std="free",
    )  # fmt: skip
    pipeline.set_agent(agent)
    windows = pipeline.episodes()

    def train(steps: int) -> None:
        for _ in range(steps // ROWS):
            agent.learn(next(windows))

    return train


def simulator_alone(env_id: str) -> Train:
    """No agent."""
    import gymnasium as gym
    import numpy as np

    env = gym.make(env_id)
    env.reset(seed=0)
    low, high = env.action_space.low, env.action_space.high
    drawn = np.random.default_rng(0).normal(size=(4096, *env.action_space.shape))
    actions = np.clip(drawn, low, high).astype(np.float32)

    def step(steps: int) -> None:
        for t in range(steps):
            _, _, terminated, truncated, _ = env.step(actions[t % 4096])
            if terminated or truncated:
                env.reset()

    return step


IMPLEMENTATIONS: dict[str, tuple[str, Callable[..., Train], int, bool]] = {
    "optix_fast": ("optix-fast", lambda env_id, *_: ours(env_id, "auto"), 20 * ROWS, True),
    "simulator-alone": ("optix-fast", lambda env_id, *_: simulator_alone(env_id), 20 * ROWS, True),
}
