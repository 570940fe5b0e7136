"""End to end: PPO, DQN and SAC with the same hyperparameters and steps in ours and in every installed peer.

    python benchmarks/bench_agents.py                         # PPO, CartPole-v1 in 1 and in 8 environments
    python benchmarks/bench_agents.py --setting cartpole-dqn  # agents_dqn.py says what is compared
    python benchmarks/bench_agents.py --setting pendulum-sac-64 --setting pendulum-sac-256    # agents_sac.py
    python benchmarks/bench_agents.py --peers PYTHON          # peers in another Python than ours
    python benchmarks/bench_agents.py --setting halfcheetah-1 # ours and the simulator alone
    python benchmarks/bench_agents.py --setting cartpole-64   # Gymnasium's vectorised CartPole, 64 of them
    python benchmarks/bench_agents.py --repeats 5 --write     # also write benchmarks/results/agents.json

Each run is a process of its own, so that no implementation lives with another's thread settings; the runs of
all implementations alternate, and medians and ratios of one call are what counts. A run trains for some steps
before the clock starts. Every implementation runs on one thread, the fastest for networks this small (torch,
BLAS and XLA are all told so). A peer that is not installed is skipped by name.

PPO's hyperparameters: 2048 rows per update, minibatches of 64, 10 epochs, 64-64 tanh networks, Adam 3e-4.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import agents_dqn
import agents_mujoco
import agents_sac

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "agents.json"

# name: (algorithm, environment, environments, vectorization)
SETTINGS = {
    "cartpole-1": ("ppo", "CartPole-v1", 1, "sync"),
    "cartpole-8": ("ppo", "CartPole-v1", 8, "sync"),
    "cartpole-64": ("ppo", "CartPole-v1", 64, "vector_entry_point"),
    "halfcheetah-1": ("ppo-mujoco", "HalfCheetah-v5", 1, "sync"),
    "cartpole-dqn": ("dqn", "CartPole-v1", 1, "sync"),
    "pendulum-sac-64": ("sac-64", "Pendulum-v1", 1, "sync"),
    "pendulum-sac-256": ("sac-256", "Pendulum-v1", 1, "sync"),
}
ROWS, MINIBATCH, EPOCHS, RATE = 2048, 64, 10, 3e-4
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1") | {
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
}


def ours(env_id: str, n_envs: int, vectorization: str, backend: str) -> Callable[[int], None]:
    """Our agent and pipeline; the loop's checkpoints apart."""
    import gymnasium as gym

    from optix_fast import BatchPipeline, VectorBatchPipeline, make_agent

    window = ROWS // n_envs
    pipeline: Any
    if vectorization == "vector_entry_point":
        vector_env = gym.make_vec(env_id, num_envs=n_envs, vectorization_mode=vectorization)
        pipeline = VectorBatchPipeline(vector_env=vector_env, window_size=window, seed=0)
    elif n_envs == 1:
        pipeline = BatchPipeline(gym.make(env_id), window_size=window, seed=0)
    else:
        pipeline = VectorBatchPipeline([lambda: gym.make(env_id)] * n_envs, window_size=window, seed=0)
    hyperparams = {"learning_rate": RATE, "minibatch_size": MINIBATCH, "n_epochs": EPOCHS}
    agent = make_agent("ppo", pipeline, hyperparams=hyperparams, seed=0, backend=backend)
    pipeline.set_agent(agent)
    windows = pipeline.episodes()

    def train(steps: int) -> None:
        for _ in range(steps // ROWS):
            agent.learn(next(windows))

    return train


def stable_baselines3(env_id: str, n_envs: int, module: str = "stable_baselines3") -> Callable[[int], None]:
    """Stable-Baselines3, or SBX, which has the same interface."""
    from importlib import import_module

    from stable_baselines3.common.env_util import make_vec_env

    env = make_vec_env(env_id, n_envs=n_envs, seed=0)
    model = import_module(module).PPO(
        "MlpPolicy", env, n_steps=ROWS // n_envs, batch_size=MINIBATCH, n_epochs=EPOCHS, learning_rate=RATE,
        device="cpu", seed=0,
    )  # fmt: skip
    return lambda steps: model.learn(steps, reset_num_timesteps=False) and None


def rlox(env_id: str, n_envs: int) -> Callable[[int], None]:
    """rlox's trainer; it is built anew by each call, as its interface wants."""
    from rlox import Trainer

    config = {
        "n_envs": n_envs, "n_steps": ROWS // n_envs, "batch_size": MINIBATCH, "n_epochs": EPOCHS,
        "learning_rate": RATE,
    }  # fmt: skip
    return lambda steps: Trainer("ppo", env=env_id, config=config, seed=0).train(steps) and None


def cleanrl_style(env_id: str, n_envs: int) -> Callable[[int], None]:
    """The single-file way of writing PPO (eager_ppo.py) around Gymnasium's SyncVectorEnv."""
    import gymnasium as gym
    import numpy as np
    import torch

    sys.path.insert(0, str(HERE))
    import eager_ppo

    envs = gym.vector.SyncVectorEnv([lambda: gym.make(env_id)] * n_envs)
    n_in, n_out = envs.single_observation_space.shape[0], int(envs.single_action_space.n)
    actor, critic = eager_ppo.networks(n_in, 64, n_out)
    optimizer = torch.optim.Adam([*actor.parameters(), *critic.parameters()], lr=RATE, eps=1e-5, fused=True)
    window = ROWS // n_envs
    observation, _ = envs.reset(seed=0)

    def one_window(observation: np.ndarray, done: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        obs = torch.zeros(window, n_envs, n_in)
        actions = torch.zeros(window, n_envs, dtype=torch.int64)
        log_probs, rewards, dones, values = (torch.zeros(window, n_envs) for _ in range(4))
        for t in range(window):
            obs[t], dones[t] = torch.Tensor(observation), torch.Tensor(done)
            action, log_prob, value = eager_ppo.act(actor, critic, observation)
            actions[t], log_probs[t], values[t] = torch.as_tensor(action), log_prob, value.flatten()
            observation, reward, terminated, truncated, _ = envs.step(action)
            rewards[t], done = torch.tensor(reward), np.logical_or(terminated, truncated)
        with torch.no_grad():
            following, next_done = critic(torch.Tensor(observation)).reshape(-1), torch.Tensor(done)
        advantages = torch.zeros_like(rewards)
        carry = torch.zeros(n_envs)
        for t in reversed(range(window)):
            alive = 1.0 - (next_done if t == window - 1 else dones[t + 1])
            successor = following if t == window - 1 else values[t + 1]
            delta = rewards[t] + 0.99 * successor * alive - values[t]
            advantages[t] = carry = delta + 0.99 * 0.95 * alive * carry
        data = eager_ppo.Data(
            obs.reshape(-1, n_in), actions.reshape(-1), log_probs.reshape(-1), values.reshape(-1),
            advantages.reshape(-1), (advantages + values).reshape(-1),
        )  # fmt: skip
        eager_ppo.update(actor, critic, optimizer, data, EPOCHS, MINIBATCH)
        return observation, done

    def train(steps: int) -> None:
        nonlocal observation
        done = np.zeros(n_envs, np.bool_)
        for _ in range(steps // ROWS):
            observation, done = one_window(observation, done)

    return train


# algorithm: name: (distribution that must be installed, maker, steps to time, whether it serves only Sync
# environments)
PPO: dict[str, tuple[str, Callable[..., Callable[[int], None]], int, bool]] = {
    "optix_fast": ("optix-fast", lambda *s: ours(*s, backend="auto"), 40 * ROWS, False),
    "optix_fast-torch": ("optix-fast", lambda *s: ours(*s, backend="torch"), 5 * ROWS, False),
    "stable-baselines3": ("stable-baselines3", lambda e, n, _: stable_baselines3(e, n), 5 * ROWS, True),
    "sbx": ("sbx-rl", lambda e, n, _: stable_baselines3(e, n, "sbx"), 5 * ROWS, True),
    "rlox": ("rlox", lambda e, n, _: rlox(e, n), 5 * ROWS, True),
    "cleanrl-style": ("torch", lambda e, n, _: cleanrl_style(e, n), 5 * ROWS, True),
}


IMPLEMENTATIONS = {
    "ppo": PPO,
    "ppo-mujoco": agents_mujoco.IMPLEMENTATIONS,
    "dqn": agents_dqn.IMPLEMENTATIONS,
    "sac-64": agents_sac.implementations(64, 100),
    "sac-256": agents_sac.implementations(256, 256),
}


def installed(distribution: str, python: str) -> bool:
    """Whether that Python has it."""
    ask = f"import importlib.metadata; importlib.metadata.version({distribution!r})"
    return subprocess.run([python, "-c", ask], capture_output=True).returncode == 0


def version(distribution: str, peers: str) -> str:
    """Of ours in this Python, of the others in the peers'."""
    if distribution == "optix-fast":
        return importlib.metadata.version(distribution)
    ask = f"import importlib.metadata; print(importlib.metadata.version({distribution!r}))"
    return subprocess.run([peers, "-c", ask], capture_output=True, text=True).stdout.strip()


def measure(name: str, setting: str) -> float:
    """Environment steps per second, updates included; in this process."""
    import torch

    torch.set_num_threads(1)
    algo, *described = SETTINGS[setting]
    _, make, steps, _ = IMPLEMENTATIONS[algo][name]
    train = make(*described)
    train(2 * ROWS)
    began = time.perf_counter()
    train(steps)
    return steps / (time.perf_counter() - began)


def compare(setting: str, repeats: int, peers: str) -> dict[str, Any]:
    """Alternating runs of everything that is installed."""
    algo, *_, vectorization = SETTINGS[setting]
    speeds: dict[str, list[float]] = {}
    pythons = {}
    for name, (distribution, _, _, only_sync) in IMPLEMENTATIONS[algo].items():
        python = sys.executable if distribution == "optix-fast" else peers
        if only_sync and vectorization != "sync":
            continue
        if installed(distribution, python):
            speeds[name], pythons[name] = [], python
        else:
            print(f"{setting}: {name} skipped, {distribution} is not installed")
    for _ in range(repeats):
        for name, python in pythons.items():
            command = [python, __file__, "--run", name, "--setting", setting]
            done = subprocess.run(command, env={**os.environ, **ONE_THREAD}, capture_output=True, text=True)
            if done.returncode != 0:
                raise RuntimeError(f"{name} failed:\n{done.stderr}")
            speeds[name].append(float(done.stdout.split()[-1]))
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    for name, speed in medians.items():
        print(f"{setting:16} {name:20} {speed:>10,.0f} steps/s  ours is {medians['optix_fast'] / speed:.1f}x")
    return {"setting": setting, "repeats": repeats, "steps_per_second": speeds, "median": medians}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--setting", action="append", choices=list(SETTINGS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--peers", default=sys.executable, help="the Python that the peers are installed in")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    settings = arguments.setting or ["cartpole-1", "cartpole-8"]
    if arguments.run:
        print(measure(arguments.run, settings[0]))
        return
    records = [compare(setting, arguments.repeats, arguments.peers) for setting in settings]
    if arguments.write:
        names = {spec[0] for specs in IMPLEMENTATIONS.values() for spec in specs.values()}
        versions = {name: version(name, arguments.peers) for name in sorted({*names, "torch", "gymnasium"})}
        RESULTS.parent.mkdir(exist_ok=True)
        content = {
            "command": "python benchmarks/bench_agents.py " + " ".join(sys.argv[1:]),
            "machine": {
                "cores": os.cpu_count(),
                "arch": platform.machine(),
                "python": platform.python_version(),
            },
            "versions": versions,
            "results": records,
        }
        RESULTS.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
