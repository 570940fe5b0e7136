"""SAC on HalfCheetah-v5, 100 000 steps: ours beside Stable-Baselines3 with the same hyperparameters.

    python benchmarks/sac_halfcheetah.py                                          # ours, seeds 0 1 2
    PYTHON_OF_THE_PEERS benchmarks/sac_halfcheetah.py --peer --seeds 0
    python benchmarks/sac_halfcheetah.py --table          # the records as a table, for docs/results.md

64-64 ReLU networks, Adam 3e-4, batches of 256, learning from step 10 000, one gradient step for every step
(ours: 64 after every 64), target share 0.005, learned temperature, no gradient clipping. Reported is the last
policy over 20 episodes of deterministic actions. Records go to benchmarks/results/sac_halfcheetah.json.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch

RECORDS = Path(__file__).parent / "results" / "sac_halfcheetah.json"
ENV, STEPS, WIDTH, BATCH, STARTS, RATE, EPISODES = "HalfCheetah-v5", 100_000, 64, 256, 10_000, 3e-4, 20


def ours(seed: int) -> tuple[float, float]:
    """Mean and standard deviation of the return of our agent's last policy."""
    from optix_fast import BatchPipeline, evaluate_policy, make_agent

    pipeline = BatchPipeline(gym.make(ENV), window_size=64, seed=seed, max_steps=STEPS)
    hyperparams = {
        "learning_rate": RATE, "batch_size": BATCH, "learning_starts": STARTS, "max_grad_norm": None
    }  # fmt: skip
    agent = make_agent("sac", pipeline, (WIDTH, WIDTH), hyperparams, seed=seed, device="cpu")
    pipeline.set_agent(agent)
    for window in pipeline.episodes():
        agent.learn(window)
    result = evaluate_policy(agent, lambda: gym.make(ENV), EPISODES, seed=seed + 10_000)
    return result.return_mean, result.return_std


def stable_baselines3(seed: int) -> tuple[float, float]:
    """The same of Stable-Baselines3's."""
    from stable_baselines3 import SAC
    from stable_baselines3.common.evaluation import evaluate_policy
    from stable_baselines3.common.monitor import Monitor

    model = SAC(
        "MlpPolicy", Monitor(gym.make(ENV)), learning_rate=RATE, batch_size=BATCH, learning_starts=STARTS,
        policy_kwargs={"net_arch": [WIDTH, WIDTH]}, seed=seed, device="cpu",
    )  # fmt: skip
    model.learn(STEPS)
    mean, std = evaluate_policy(model, Monitor(gym.make(ENV)), EPISODES)
    return float(mean), float(std)


def load() -> list[dict[str, Any]]:
    """The stored records."""
    return json.loads(RECORDS.read_text()) if RECORDS.exists() else []


def store(record: dict[str, Any]) -> None:
    """Add a record, replacing the one of the same implementation and seed."""
    key = (record["implementation"], record["seed"])
    kept = [r for r in load() if (r["implementation"], r["seed"]) != key]
    records = sorted([*kept, record], key=lambda r: (r["implementation"], r["seed"]))
    RECORDS.write_text(json.dumps(records, indent=1) + "\n")


def table() -> str:
    """The records as a Markdown table."""
    lines = ["| implementation | seeds | last policy, 20 episodes, by seed |", "|---|---|---|"]
    for name in dict.fromkeys(r["implementation"] for r in load()):
        rows = [r for r in load() if r["implementation"] == name]
        seeds = " ".join(str(r["seed"]) for r in rows)
        returns = ", ".join(f"{r['return_mean']:.0f} ± {r['return_std']:.0f}" for r in rows)
        lines.append(f"| {name} | {seeds} | {returns} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peer", action="store_true", help="Stable-Baselines3")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--table", action="store_true", help="only print the table")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for seed in [] if arguments.table else arguments.seeds:
        began = time.perf_counter()
        mean, std = (stable_baselines3 if arguments.peer else ours)(seed)
        record = {
            "implementation": "stable-baselines3" if arguments.peer else "optix_fast", "seed": seed,
            "return_mean": mean, "return_std": std, "seconds": round(time.perf_counter() - began, 1),
            "torch": torch.__version__, "gymnasium": gym.__version__,
        }  # fmt: skip
        store(record)
        print(record, flush=True)
    print(table())


if __name__ == "__main__":
    main()
