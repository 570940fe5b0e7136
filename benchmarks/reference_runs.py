"""Learning against published results: fixed hyperparameters and steps, no early stop, several seeds.

    python benchmarks/reference_runs.py                        # every setting on both backends, seeds 0 1 2
    python benchmarks/reference_runs.py HalfCheetah-v5 --backends native --seeds 0
    python benchmarks/reference_runs.py HalfCheetah-v5 --backends stable-baselines3    # a peer
    python benchmarks/reference_runs.py --table                # only write docs/results.md again

The hyperparameters are those of the published runs (rl-baselines3-zoo; CleanRL for MuJoCo). Reported are the
last policy, over 100 episodes of deterministic actions, and the last 100 episodes of training, which is what
CleanRL publishes. Results go to benchmarks/results/reference_runs.json, and from there to docs/results.md.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch

HERE = Path(__file__).parent
RECORDS = HERE / "results" / "reference_runs.json"
PAGE = HERE.parent / "docs" / "results.md"
BEGIN, END = "<!-- reference runs -->", "<!-- end of reference runs -->"


@dataclass(frozen=True)
class Setting:
    """A published run: its environment, steps, hyperparameters in our names, and what it reached."""

    steps: int
    n_envs: int
    n_steps: int
    hyperparams: dict[str, Any]
    published: str
    options: dict[str, Any] = field(default_factory=dict)
    anneal: bool = False


_MUJOCO = {
    "n_envs": 1,
    "n_steps": 2048,
    "anneal": True,
    # CleanRL's value loss carries a factor ½ that ours does not.
    "hyperparams": {"entropy_coef": 0.0, "value_clip": 0.2, "vf_coef": 0.25},
    "options": {
        "normalize_observations": True,
        "normalize_rewards": True,
        "squash": False,
        "log_std": "free",
    },
}
SETTINGS = {
    "CartPole-v1": Setting(
        100_000, 8, 32,
        {"learning_rate": 1e-3, "minibatch_size": 256, "n_epochs": 20, "gamma": 0.98, "gae_lambda": 0.8,
         "entropy_coef": 0.0},
        "500 ± 0 (zoo)", anneal=True,
    ),
    "Acrobot-v1": Setting(
        500_000, 16, 256, {"n_epochs": 4, "gae_lambda": 0.94, "entropy_coef": 0.0},
        "-73.5 ± 18.2 (zoo, 1 M)", {"normalize_observations": True, "normalize_rewards": True},
    ),
    "Pendulum-v1": Setting(
        100_000, 4, 1024, {"learning_rate": 1e-3, "gamma": 0.9, "entropy_coef": 0.0},
        "-172.2 ± 104.2 (zoo, with gSDE)", {"squash": False, "log_std": "free"},
    ),
    "LunarLander-v3": Setting(
        1_000_000, 16, 1024, {"n_epochs": 4, "gamma": 0.999, "gae_lambda": 0.98, "entropy_coef": 0.01},
        "242 ± 32 (zoo, v2)",
    ),
    "HalfCheetah-v5": Setting(1_000_000, published="1443 ± 46 (CleanRL, v4)", **_MUJOCO),
    "Hopper-v5": Setting(1_000_000, published="2383 ± 272 (CleanRL, v4)", **_MUJOCO),
}  # fmt: skip


def ours(env_id: str, setting: Setting, seed: int, backend: str) -> dict[str, Any]:
    """Train and evaluate our agent."""
    from optix_fast import BatchPipeline, VectorBatchPipeline, make_agent
    from optix_fast.loop.evaluation import evaluate_policy

    def make_env() -> gym.Env[Any, Any]:
        return gym.make(env_id)

    options: dict[str, Any] = {"window_size": setting.n_steps, "seed": seed, "max_steps": setting.steps}
    pipeline: Any
    if setting.n_envs == 1:
        pipeline = BatchPipeline(make_env(), **options)
    else:
        pipeline = VectorBatchPipeline([make_env] * setting.n_envs, **options)
    hyperparams = dict(setting.hyperparams)
    if setting.anneal:
        hyperparams["anneal_steps"] = setting.steps
    agent = make_agent(
        "ppo", pipeline, hyperparams=hyperparams, seed=seed, backend=backend, **setting.options
    )
    pipeline.set_agent(agent)
    recent: deque[float] = deque(maxlen=100)
    for window in pipeline.episodes():
        agent.learn(window)
        recent.extend(window.metadata["episode_returns"])
    ran_on = str(agent.backend)
    pipeline.teardown()
    evaluation = evaluate_policy(agent, make_env, 100, seed=seed + 10_000)
    return _record(recent, list(evaluation.returns), ran_on)


def stable_baselines3(env_id: str, setting: Setting, seed: int, _: str) -> dict[str, Any]:
    """Stable-Baselines3 with the same hyperparameters (for the MuJoCo settings)."""
    from stable_baselines3 import PPO
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.evaluation import evaluate_policy
    from stable_baselines3.common.vec_env import VecNormalize

    gamma = setting.hyperparams.get("gamma", 0.99)
    env = VecNormalize(make_vec_env(env_id, setting.n_envs, seed=seed), gamma=gamma)
    model = PPO(
        "MlpPolicy", env, n_steps=setting.n_steps, batch_size=64, n_epochs=10, gamma=gamma,
        learning_rate=lambda left: 3e-4 * left, clip_range=lambda left: 0.2 * left, clip_range_vf=0.2,
        ent_coef=0.0, vf_coef=setting.hyperparams["vf_coef"], device="cpu", seed=seed,
    )  # fmt: skip
    model.learn(setting.steps)
    recent = [episode["r"] for episode in model.ep_info_buffer or ()]
    env.training, env.norm_reward = False, False
    env.seed(seed + 10_000)
    returns, _lengths = evaluate_policy(model, env, 100, return_episode_rewards=True)
    return _record(recent, returns, "")


IMPLEMENTATIONS: dict[str, Callable[[str, Setting, int, str], dict[str, Any]]] = {
    "native": ours,
    "torch": ours,
    "stable-baselines3": stable_baselines3,
}


def _record(recent: Any, returns: list[float], ran_on: str) -> dict[str, Any]:
    return {
        "ran_on": ran_on,
        "return_mean": float(np.mean(returns)),
        "return_std": float(np.std(returns)),
        "training_mean": float(np.mean(recent)),
        "training_std": float(np.std(recent)),
    }


def run(env_id: str, backend: str, seed: int) -> dict[str, Any]:
    """Train and evaluate once."""
    setting = SETTINGS[env_id]
    torch.set_num_threads(1)
    began = time.perf_counter()
    reached = IMPLEMENTATIONS[backend](env_id, setting, seed, backend)
    seconds = round(time.perf_counter() - began, 1)
    return {
        "env_id": env_id, "backend": backend, "seed": seed, "steps": setting.steps, "seconds": seconds,
        **reached, "torch": torch.__version__, "gymnasium": gym.__version__,
    }  # fmt: skip


def load() -> list[dict[str, Any]]:
    """The stored records."""
    return json.loads(RECORDS.read_text()) if RECORDS.exists() else []


def store(record: dict[str, Any]) -> None:
    """Add a record, replacing the one of the same environment, backend and seed."""

    def key(r: dict[str, Any]) -> tuple[str, str, int]:
        return r["env_id"], r["backend"], r["seed"]

    records = sorted([r for r in load() if key(r) != key(record)] + [record], key=key)
    RECORDS.write_text(json.dumps(records, indent=1) + "\n")


def table(records: list[dict[str, Any]]) -> str:
    """The records as a Markdown table, one line per environment and backend."""
    lines = [
        "| environment | steps | backend | seeds | last policy, 100 episodes, by seed "
        "| last 100 episodes of training, by seed | published |",
        "|---|---|---|---|---|---|---|",
    ]
    for env_id, setting in SETTINGS.items():
        for backend in IMPLEMENTATIONS:
            rows = [r for r in records if (r["env_id"], r["backend"]) == (env_id, backend)]
            if not rows:
                continue
            seeds = " ".join(str(r["seed"]) for r in rows)
            last, training = (
                ", ".join(f"{r[f'{kind}_mean']:.0f} ± {r[f'{kind}_std']:.0f}" for r in rows)
                for kind in ("return", "training")
            )
            lines.append(
                f"| {env_id} | {setting.steps // 1000} k | {backend} | {seeds} | {last} | {training} "
                f"| {setting.published} |"
            )
    return "\n".join(lines)


def write_table() -> None:
    """Replace what stands between the marks in docs/results.md."""
    before, rest = PAGE.read_text().split(BEGIN)
    after = rest.split(END)[1]
    PAGE.write_text(f"{before}{BEGIN}\n\n{table(load())}\n\n{END}{after}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("env_ids", nargs="*", metavar="ENV", help=", ".join(SETTINGS))
    parser.add_argument("--backends", nargs="+", default=["native", "torch"], choices=list(IMPLEMENTATIONS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--table", action="store_true", help="only write the table")
    arguments = parser.parse_args()
    if unknown := set(arguments.env_ids) - set(SETTINGS):
        parser.error(f"no setting for {', '.join(sorted(unknown))}; there are {', '.join(SETTINGS)}")
    if not arguments.table:
        for env_id in arguments.env_ids or SETTINGS:
            for backend in arguments.backends:
                for seed in arguments.seeds:
                    record = run(env_id, backend, seed)
                    store(record)
                    print(record, flush=True)
    write_table()


if __name__ == "__main__":
    main()
