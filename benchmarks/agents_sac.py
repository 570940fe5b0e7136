"""SAC with the same hyperparameters in ours and in the peers, for bench_agents.py.

One environment, one gradient step for every one of its steps, two hidden ReLU layers, Adam 1e-3, a replay of
100 000 rows, learning from step 1 000, target share 0.005, learned temperature, no gradient clipping. Ours
collects 64 steps and then does their 64 gradient steps in one call ("window-1": one and one). The peers are
taken both ways, as SBX compiles a loop over the gradient steps ("-64").
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

RATE, CAPACITY, STARTS, WINDOW = 1e-3, 100_000, 1000, 64
STEPS = 2048

Train = Callable[[int], None]


def ours(env_id: str, width: int, batch: int, backend: str, window: int) -> Train:
    """Our agent and pipeline; the loop's checkpoints apart."""
    import gymnasium as gym

    from optix_fast import BatchPipeline, make_agent

    pipeline = BatchPipeline(gym.make(env_id), window_size=window, seed=0)
    hyperparams = {
        "learning_rate": RATE, "batch_size": batch, "replay_capacity": CAPACITY, "learning_starts": STARTS,
        "max_grad_norm": None,
    }  # fmt: skip
    agent = make_agent("sac", pipeline, (width, width), hyperparams, seed=0, device="cpu", backend=backend)
    pipeline.set_agent(agent)
    windows = pipeline.episodes()

    def train(steps: int) -> None:
        for _ in range(steps // window):
            agent.learn(next(windows))

    return train


def stable_baselines3(env_id: str, width: int, batch: int, module: str, window: int) -> Train:
    """Stable-Baselines3, or SBX, which has the same interface."""
    from importlib import import_module

    import gymnasium as gym

    model = import_module(module).SAC(
        "MlpPolicy", gym.make(env_id), learning_rate=RATE, buffer_size=CAPACITY, learning_starts=STARTS,
        batch_size=batch, train_freq=window, gradient_steps=window, device="cpu", seed=0,
        policy_kwargs={"net_arch": [width, width]},
    )  # fmt: skip
    return lambda steps: model.learn(steps, reset_num_timesteps=False) and None


def cleanrl_style(env_id: str, width: int, batch: int) -> Train:
    """The single-file way of writing SAC (eager_sac.py) around one environment."""
    import gymnasium as gym
    import numpy as np
    import torch

    sys.path.insert(0, str(Path(__file__).parent))
    import eager_sac

    env = gym.make(env_id)
    n_in, n_actions = env.observation_space.shape[0], env.action_space.shape[0]
    low, high = torch.as_tensor(env.action_space.low), torch.as_tensor(env.action_space.high)
    nets = eager_sac.networks(n_in, width, n_actions, RATE)
    stored = eager_sac.random_data(CAPACITY, n_in, n_actions)
    observation, _ = env.reset(seed=0)
    taken = 0

    def train(steps: int) -> None:
        nonlocal observation, taken
        for _ in range(steps):
            seen = torch.as_tensor(np.asarray(observation))[None]
            if taken < STARTS:
                action = 2 * torch.rand(n_actions) - 1
            else:
                with torch.no_grad():
                    action = nets.actor.get_action(seen)[0][0]
            scaled = (low + (high - low) * 0.5 * (action + 1)).numpy()
            following, reward, terminated, truncated, _ = env.step(scaled)
            row = taken % CAPACITY
            columns = (
                seen[0],
                action,
                float(reward),
                torch.as_tensor(np.asarray(following)),
                float(terminated),
            )
            for column, value in zip(stored, columns, strict=True):
                column[row] = value
            taken += 1
            observation = env.reset()[0] if terminated or truncated else following
            if taken > STARTS:
                live = eager_sac.Data(*(column[: min(taken, CAPACITY)] for column in stored))
                eager_sac.update(nets, live, batch)

    return train


def implementations(width: int, batch: int) -> dict[str, tuple[str, Callable[..., Train], int, bool]]:
    """As bench_agents.PPO, for networks and batches of this size."""

    def mine(backend: str, window: int) -> Callable[..., Train]:
        return lambda env_id, *_: ours(env_id, width, batch, backend, window)

    def theirs(module: str, window: int) -> Callable[..., Train]:
        return lambda env_id, *_: stable_baselines3(env_id, width, batch, module, window)

    return {
        "optix_fast": ("optix-fast", mine("auto", WINDOW), 4 * STEPS, True),
        "optix_fast-window-1": ("optix-fast", mine("auto", 1), 4 * STEPS, True),
        "optix_fast-torch": ("optix-fast", mine("torch", WINDOW), STEPS, True),
        "stable-baselines3": ("stable-baselines3", theirs("stable_baselines3", 1), STEPS, True),
        "stable-baselines3-64": ("stable-baselines3", theirs("stable_baselines3", WINDOW), STEPS, True),
        "sbx": ("sbx-rl", theirs("sbx", 1), STEPS, True),
        "sbx-64": ("sbx-rl", theirs("sbx", WINDOW), STEPS, True),
        "cleanrl-style": (
            "torch", lambda env_id, *_: cleanrl_style(env_id, width, batch), STEPS, True,
        ),
    }  # fmt: skip
