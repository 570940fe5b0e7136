"""The PyTorch quick start of tensor-optix's README, as it stands and with its imports changed, side by side.

    python benchmarks/bench_quick_start.py                    # 12 windows of 2 048 steps, 3 runs of each
    python benchmarks/bench_quick_start.py --windows 20 --repeats 5 --write

Each run is a process of its own, in an empty directory; the two alternate. The clock runs from `opt.run()` to
its return, tuner and checkpoints included. `--write` adds the result to benchmarks/results/quick_start.json.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

RESULT = Path(__file__).parent / "results" / "quick_start.json"
PACKAGES = {"optix_fast": "optix-fast", "tensor_optix": "tensor-optix"}
SCRIPT = """
import sys, time
import torch, torch.nn as nn, gymnasium as gym
package, windows = sys.argv[1], int(sys.argv[2])
torch.set_num_threads(1)
if package == "tensor_optix":
    from tensor_optix import RLOptimizer, BatchPipeline, HyperparamSet
    from tensor_optix.algorithms.torch_ppo import TorchPPOAgent
else:
    from optix_fast import RLOptimizer, BatchPipeline, HyperparamSet, TorchPPOAgent

actor = nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 2))
critic = nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 1))
agent = TorchPPOAgent(
    actor=actor, critic=critic,
    optimizer=torch.optim.Adam(list(actor.parameters()) + list(critic.parameters()), lr=3e-4),
    hyperparams=HyperparamSet(params={
        "learning_rate": 3e-4, "clip_ratio": 0.2, "entropy_coef": 0.01,
        "gamma": 0.99, "gae_lambda": 0.95, "n_epochs": 10, "minibatch_size": 64,
    }, episode_id=0),
)
pipeline = BatchPipeline(env=gym.make("CartPole-v1"), agent=agent, window_size=2048)
opt = RLOptimizer(agent=agent, pipeline=pipeline, max_episodes=windows)
start = time.perf_counter()
opt.run()
print("seconds", time.perf_counter() - start)
"""


def steps_per_second(package: str, windows: int) -> float:
    """Of one run."""
    environment = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    with tempfile.TemporaryDirectory() as directory:
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, package, str(windows)],
            cwd=directory, env=environment, check=True, capture_output=True, text=True,
        )  # fmt: skip
    return windows * 2048 / float(done.stdout.split("seconds")[-1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--windows", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        parser.exit(1, f"not installed: {', '.join(PACKAGES[name] for name in missing)}\n")
    runs: dict[str, list[float]] = {name: [] for name in PACKAGES}
    for _ in range(arguments.repeats):
        for name, speeds in runs.items():
            speeds.append(round(steps_per_second(name, arguments.windows), 1))
            print(name, speeds[-1], "steps/s", flush=True)
    medians = {name: statistics.median(speeds) for name, speeds in runs.items()}
    ratio = medians["optix_fast"] / medians["tensor_optix"]
    print(f"medians {medians}, ratio {ratio:.1f}")
    if arguments.write:
        record = {
            "command": f"python benchmarks/bench_quick_start.py --windows {arguments.windows} "
            f"--repeats {arguments.repeats}",
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "versions": {
                n: importlib.metadata.version(n) for n in (*PACKAGES.values(), "torch", "gymnasium")
            },
            "steps_per_second": runs,
            "ratio": round(ratio, 2),
        }
        RESULT.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
