"""What the agents reach: trains with the command line's defaults and evaluates, several seeds each.

    python benchmarks/learning.py                      # every environment of the table, seeds 0 1 2
    python benchmarks/learning.py Acrobot-v1 --seeds 0 1 2 3 4
    python benchmarks/learning.py Acrobot-v1 --algo dqn
    python benchmarks/learning.py --table              # only write docs/results.md again

Results go to benchmarks/results/learning.json, one record per algorithm, environment and seed, and from there
into the table of docs/results.md. A record is replaced when its run is repeated.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

import optix_fast

HERE = Path(__file__).parent
RECORDS = HERE / "results" / "learning.json"
TABLE = HERE.parent / "docs" / "results.md"
MARK = "<!-- written by: python benchmarks/learning.py -->"

# Mean return published by rl-baselines3-zoo (its benchmark page), for comparison; LunarLander's are of -v2.
PUBLISHED = {
    "ppo": {
        "CartPole-v1": "500 ± 0",
        "Acrobot-v1": "-73.5 ± 18.2",
        "Pendulum-v1": "-172.2 ± 104.2",
        "MountainCar-v0": "-110.4 ± 19.5",
        "MountainCarContinuous-v0": "88.3 ± 2.6",
        "LunarLander-v3": "242.1 ± 31.8",
    },
    "dqn": {
        "CartPole-v1": "500 ± 0",
        "Acrobot-v1": "-76.6 ± 11.8",
        "MountainCar-v0": "-100.8 ± 9.9",
        "LunarLander-v3": "154.4 ± 79.2",
    },
    "sac": {
        "Pendulum-v1": "-157.0 ± 88.7",
        "MountainCarContinuous-v0": "94.7 ± 1.1",
        "LunarLanderContinuous-v3": "260.4 ± 65.5",
        "BipedalWalker-v3": "297.7 ± 33.1",
    },
    "td3": {
        "Pendulum-v1": "-151.9 ± 90.2",
        "LunarLanderContinuous-v3": "207.5 ± 67.6",
        "BipedalWalker-v3": "306.0 ± 56.9",
    },
    # Of 500 000 steps each. Pendulum is not among the zoo's.
    "tqc": {
        "Pendulum-v1": "",
        "LunarLanderContinuous-v3": "278.0 ± 25.5",
        "BipedalWalker-v3": "329.8 ± 45.1",
    },
    # The zoo has none of these.
    "crossq": {"Pendulum-v1": "", "LunarLanderContinuous-v3": "", "BipedalWalker-v3": ""},
}


def run(algo: str, env_id: str, seed: int) -> dict[str, Any]:
    """Train and evaluate once, through the command line."""
    with tempfile.TemporaryDirectory() as directory:
        where = Path(directory) / "run"
        cli = [sys.executable, "-m", "optix_fast.cli.main"]
        train = [*cli, "train", env_id, "--algo", algo, "--seed", str(seed), "--run-dir", str(where)]
        subprocess.run(train, check=True, cwd=directory)
        evaluate = [*cli, "eval", str(where), "--episodes", "100", "--json"]
        done = subprocess.run(evaluate, check=True, cwd=directory, capture_output=True, text=True)
        summary = json.loads((where / "summary.json").read_text())
    return {
        "algo": algo,
        "env_id": env_id,
        "seed": seed,
        **{key: summary[key] for key in ("stop_reason", "env_steps", "seconds", "backend", "tuner")},
        **json.loads(done.stdout),
        "optix_fast": optix_fast.__version__,
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, {platform.system()}",
    }


def load() -> list[dict[str, Any]]:
    """The stored records."""
    return json.loads(RECORDS.read_text()) if RECORDS.exists() else []


def key_of(record: dict[str, Any]) -> tuple[int, str, int]:
    """What a record is of, in the order of the table."""
    return list(PUBLISHED).index(record["algo"]), record["env_id"], record["seed"]


def store(record: dict[str, Any]) -> None:
    """Add a record, replacing the one of the same algorithm, environment and seed."""
    kept = [r for r in load() if key_of(r) != key_of(record)]
    RECORDS.parent.mkdir(exist_ok=True)
    RECORDS.write_text(json.dumps(sorted([*kept, record], key=key_of), indent=1) + "\n")


def table(records: list[dict[str, Any]]) -> str:
    """The records as a Markdown table, one line per algorithm and environment."""
    lines = [
        "| algorithm | environment | seeds | return over 100 episodes, by seed | steps used, by seed "
        "| the loop stopped because | published |",
        "|---|---|---|---|---|---|---|",
    ]
    for algo, env_id in dict.fromkeys((r["algo"], r["env_id"]) for r in records):
        rows = [r for r in records if (r["algo"], r["env_id"]) == (algo, env_id)]
        returns = ", ".join(f"{r['return_mean']:.1f} ± {r['return_std']:.1f}" for r in rows)
        steps = ", ".join(f"{r['env_steps'] / 1000:.0f} k" for r in rows)
        reasons = ", ".join(dict.fromkeys(r["stop_reason"] for r in rows))
        seeds = " ".join(str(r["seed"]) for r in rows)
        published = PUBLISHED[algo].get(env_id, "")
        lines.append(f"| {algo} | {env_id} | {seeds} | {returns} | {steps} | {reasons} | {published} |")
    return "\n".join(lines)


def write_table() -> None:
    """Replace what follows the mark in docs/results.md."""
    text = TABLE.read_text()
    TABLE.write_text(text[: text.index(MARK)] + MARK + "\n\n" + table(load()) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("env_ids", nargs="*")
    parser.add_argument("--algo", choices=list(PUBLISHED), help="only this one")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--table", action="store_true", help="only write the table")
    arguments = parser.parse_args()
    if not arguments.table:
        for algo in [arguments.algo] if arguments.algo else PUBLISHED:
            for env_id in arguments.env_ids or PUBLISHED[algo]:
                for seed in arguments.seeds:
                    record = run(algo, env_id, seed)
                    store(record)
                    print(record)
    write_table()


if __name__ == "__main__":
    main()
