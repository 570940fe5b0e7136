"""DQN with the same hyperparameters in ours and in the peers, for bench_agents.py.

One environment, one gradient step for every four of its steps, batches of 64, 64-64 ReLU networks, Adam 5e-4,
a replay of 100 000 rows, learning from step 1 000, the target copied every 1 000 steps (250 gradient steps),
epsilon 0.05 throughout, Huber loss, gradient norm 10; no double Q-learning. Ours collects 128 steps and then
does their 32 gradient steps in one call ("window-4": 4 steps and 1).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

ROWS = 2048
RATE, BATCH, CAPACITY, STARTS, EVERY, TARGET, EPSILON = 5e-4, 64, 100_000, 1000, 4, 1000, 0.05


def ours(env_id: str, backend: str, window: int) -> Callable[[int], None]:
    """Our agent and pipeline; the loop's checkpoints apart."""
    import gymnasium as gym

    from optix_fast import BatchPipeline, make_agent

    pipeline = BatchPipeline(gym.make(env_id), window_size=window, seed=0)
    hyperparams = {
        "learning_rate": RATE, "batch_size": BATCH, "replay_capacity": CAPACITY, "learning_starts": STARTS,
        "updates_per_step": 1 / EVERY, "target_update_freq": TARGET // EVERY, "epsilon": EPSILON,
        "epsilon_min": EPSILON, "double_q": False,
    }  # fmt: skip
    agent = make_agent("dqn", pipeline, hyperparams=hyperparams, seed=0, backend=backend)
    pipeline.set_agent(agent)
    windows = pipeline.episodes()

    def train(steps: int) -> None:
        for _ in range(steps // window):
            agent.learn(next(windows))

    return train


def stable_baselines3(env_id: str, module: str = "stable_baselines3") -> Callable[[int], None]:
    """Stable-Baselines3, or SBX, which has the same interface."""
    from importlib import import_module

    import gymnasium as gym

    model = import_module(module).DQN(
        "MlpPolicy", gym.make(env_id), learning_rate=RATE, buffer_size=CAPACITY, learning_starts=STARTS,
        batch_size=BATCH, train_freq=EVERY, gradient_steps=1, target_update_interval=TARGET,
        exploration_initial_eps=EPSILON, exploration_final_eps=EPSILON, policy_kwargs={"net_arch": [64, 64]},
        device="cpu", seed=0,
    )  # fmt: skip
    return lambda steps: model.learn(steps, reset_num_timesteps=False) and None


def cleanrl_style(env_id: str) -> Callable[[int], None]:
    """The single-file way of writing DQN (eager_dqn.py) around one environment."""
    import gymnasium as gym
    import numpy as np
    import torch

    sys.path.insert(0, str(Path(__file__).parent))
    import eager_dqn

    env = gym.make(env_id)
    n_in, n_actions = env.observation_space.shape[0], int(env.action_space.n)
    network, target = eager_dqn.networks(n_in, 64, n_actions)
    optimizer = torch.optim.Adam(network.parameters(), lr=RATE, fused=True)
    replay = eager_dqn.Replay(CAPACITY, n_in)
    observation, _ = env.reset(seed=0)
    taken = 0

    def train(steps: int) -> None:
        nonlocal observation, taken
        for _ in range(steps):
            action = int(eager_dqn.act(network, observation[None], EPSILON, n_actions)[0])
            following, reward, terminated, truncated, _ = env.step(action)
            row = taken % CAPACITY
            replay.observations[row], replay.next_observations[row] = observation, following
            replay.actions[row], replay.rewards[row], replay.dones[row] = action, reward, terminated
            taken += 1
            replay.size = min(taken, CAPACITY)
            observation = env.reset()[0] if terminated or truncated else np.asarray(following)
            if taken > STARTS and taken % EVERY == 0:
                eager_dqn.update(network, target, optimizer, replay, 1, BATCH, 2)
            if taken % TARGET == 0:
                target.load_state_dict(network.state_dict())

    return train


# As bench_agents.IMPLEMENTATIONS.
IMPLEMENTATIONS: dict[str, tuple[str, Callable[..., Callable[[int], None]], int, bool]] = {
    "optix_fast": ("optix-fast", lambda e, *_: ours(e, "auto", 128), 40 * ROWS, True),
    "optix_fast-window-4": ("optix-fast", lambda e, *_: ours(e, "auto", 4), 20 * ROWS, True),
    "optix_fast-torch": ("optix-fast", lambda e, *_: ours(e, "torch", 128), 5 * ROWS, True),
    "stable-baselines3": ("stable-baselines3", lambda e, *_: stable_baselines3(e), 8 * ROWS, True),
    "sbx": ("sbx-rl", lambda e, *_: stable_baselines3(e, "sbx"), 8 * ROWS, True),
    "cleanrl-style": ("torch", lambda e, *_: cleanrl_style(e), 8 * ROWS, True),
}
