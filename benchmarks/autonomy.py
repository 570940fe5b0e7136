"""Whether the loop knows when to stop, and returns its best: no step budget, five seeds.

    python benchmarks/autonomy.py                                # CartPole-v1, Acrobot-v1, LunarLander-v3
    python benchmarks/autonomy.py CartPole-v1 --seeds 0 1
    python benchmarks/autonomy.py --table                        # only write docs/results.md again

Trains as `optix-fast train ENV` does, with a budget of a billion steps, until the loop stops by itself. The
policy that the run returns and every snapshot on disk then play the same 100 deterministic episodes, whose
seeds no training or selection has seen. Steps to solve: where a window's mean return first reaches the return
at which the environment's registration calls it solved.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from optix_fast.cli.run_dir import RunDir
from optix_fast.cli.settings import complete_config
from optix_fast.cli.train import make_env_fn, make_run_agent, train
from optix_fast.loop import evaluate_policy

HERE = Path(__file__).parent
RECORDS = HERE / "results" / "autonomy.json"
PAGE = HERE.parent / "docs" / "results.md"
BEGIN, END = "<!-- autonomy -->", "<!-- end of autonomy -->"
ENV_IDS = ("CartPole-v1", "Acrobot-v1", "LunarLander-v3")
_EVALUATION_SEED = 50_000_000


def run(env_id: str, seed: int) -> dict[str, Any]:
    """Train once and judge what came of it."""
    config = complete_config(env_id, {"seed": seed, "steps": 1_000_000_000})
    with tempfile.TemporaryDirectory() as directory:
        result = train(config, Path(directory) / "run", show_progress=False)
        folder, _ = RunDir.open(Path(directory) / "run")
        make_env = make_env_fn(config)
        env = make_env()
        agent = make_run_agent(config, env)
        env.close()

        def judged(weights: Path) -> float:
            agent.load_weights(str(weights))
            return evaluate_policy(agent, make_env, 100, seed=_EVALUATION_SEED).return_mean

        returned = judged(folder.best)
        snapshots = [judged(path) for path in sorted(folder.checkpoints.glob("*/weights"))]
        solved = [
            int(row["env_steps"]) for row in folder.rows() if float(row["score"]) >= config.target_score
        ]
    return {
        "env_id": env_id, "seed": seed, "stop_reason": result.stop_reason, "env_steps": result.env_steps,
        "seconds": round(result.seconds, 1), "steps_to_solve": solved[0] if solved else None,
        "returned": returned, "best_snapshot": max(snapshots), "snapshots": len(snapshots),
    }  # fmt: skip


def load() -> list[dict[str, Any]]:
    """The stored records."""
    return json.loads(RECORDS.read_text()) if RECORDS.exists() else []


def store(record: dict[str, Any]) -> None:
    """Add a record, replacing the one of the same environment and seed."""
    key = (record["env_id"], record["seed"])
    kept = [r for r in load() if (r["env_id"], r["seed"]) != key]
    RECORDS.write_text(
        json.dumps(sorted([*kept, record], key=lambda r: (r["env_id"], r["seed"])), indent=1) + "\n"
    )


def table(records: list[dict[str, Any]]) -> str:
    """The records as a Markdown table, one line per run."""
    lines = [
        "| environment | seed | the loop stopped because | steps used | steps to solve | ratio "
        "| returned policy | best snapshot | below it by |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for r in records:
        solve = r["steps_to_solve"]
        ratio = "" if solve is None else f"{r['env_steps'] / solve:.1f}"
        below = (r["best_snapshot"] - r["returned"]) / abs(r["best_snapshot"])
        lines.append(
            f"| {r['env_id']} | {r['seed']} | {r['stop_reason']} | {r['env_steps'] / 1000:.0f} k "
            f"| {'' if solve is None else f'{solve / 1000:.0f} k'} | {ratio} | {r['returned']:.1f} "
            f"| {r['best_snapshot']:.1f} | {max(below, 0.0):.1%} |"
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
    parser.add_argument("env_ids", nargs="*", default=list(ENV_IDS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--table", action="store_true", help="only write the table")
    arguments = parser.parse_args()
    if not arguments.table:
        for env_id in arguments.env_ids:
            for seed in arguments.seeds:
                record = run(env_id, seed)
                store(record)
                print(record, flush=True)
    write_table()


if __name__ == "__main__":
    main()
