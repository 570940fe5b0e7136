"""Whether tuning helps: runs that begin with a tenth of the preset's learning rate, tuned and untuned.

    python benchmarks/tuning.py                          # CartPole-v1 and Acrobot-v1, seeds 0 … 4
    python benchmarks/tuning.py Acrobot-v1 --seeds 0 1

Three arms of one step budget each: untuned; SPSA within the run; and 20 trials of a fifth of the budget,
whose best hyperparameters the run then has from its beginning. What counts is the returned policy's mean
return over 100 fresh episodes. Results go to benchmarks/results/tuning.json and into docs/results.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from optix_fast import RLOptimizer, TrialOrchestrator, evaluate_policy
from optix_fast.cli.settings import complete_config
from optix_fast.cli.train import make_env_fn, make_pipeline, make_run_agent
from optix_fast.config import TrainConfig
from optix_fast.tuners import make_tuner

HERE = Path(__file__).parent
RECORDS = HERE / "results" / "tuning.json"
TABLE = HERE.parent / "docs" / "results.md"
BEGIN, END = "<!-- tuning -->", "<!-- end of tuning -->"

BUDGETS = {"CartPole-v1": 30_000, "Acrobot-v1": 150_000}
ARMS = ("untuned", "spsa", "trials")
TRIALS = 20


def bad_start(env_id: str, seed: int) -> TrainConfig:
    """The preset with a tenth of its learning rate, for a fixed number of steps."""
    config = complete_config(env_id, {"algo": "ppo", "seed": seed, "steps": BUDGETS[env_id]})
    rate = config.hyperparams["learning_rate"] / 10.0
    return replace(config, target_score=None, hyperparams={**config.hyperparams, "learning_rate": rate})


def agent_of(config: TrainConfig, params: dict[str, Any]) -> Any:
    """An agent of the run, with some hyperparameters in place of its own."""
    pipeline = make_pipeline(config)
    try:
        return make_run_agent(replace(config, hyperparams={**config.hyperparams, **params}), pipeline)
    finally:
        pipeline.teardown()


def searched(config: TrainConfig) -> dict[str, Any]:
    """The best hyperparameters of 20 short trials."""
    steps = config.steps // 5
    space = {
        "learning_rate": ("log_float", 1e-5, 1e-2), "gamma": ("float", 0.95, 0.999),
        "entropy_coef": ("float", 0.0, 0.05),
    }  # fmt: skip
    short = replace(config, steps=steps)
    orchestrator = TrialOrchestrator(
        partial(agent_of, short), partial(make_pipeline, short), space, TRIALS, steps, seed=config.seed
    )
    return orchestrator.run()[0]


def run(env_id: str, seed: int, arm: str) -> dict[str, Any]:
    """One arm, one seed."""
    began = time.perf_counter()
    config = bad_start(env_id, seed)
    params = searched(config) if arm == "trials" else {}
    agent = agent_of(config, params)
    with tempfile.TemporaryDirectory() as folder:
        RLOptimizer(
            agent, make_pipeline(config),
            optimizer=make_tuner("spsa" if arm == "spsa" else "none", agent, seed),
            checkpoint_dir=folder, state_interval=None, max_steps=config.steps,
            min_episodes_before_dormant=10**9, max_interval_episodes=1,
        ).run()  # fmt: skip
    result = evaluate_policy(agent, make_env_fn(config), 100, seed=10_000)
    return {
        "env_id": env_id, "seed": seed, "arm": arm, "steps": config.steps, "params": params,
        "return_mean": result.return_mean, "return_std": result.return_std,
        "seconds": round(time.perf_counter() - began, 1),
    }  # fmt: skip


def table(records: list[dict[str, Any]]) -> str:
    """The records as a Markdown table, one line for each environment and arm."""
    lines = ["| environment | steps | arm | median return | returns, by seed |", "|---|---|---|---|---|"]
    for env_id, steps in BUDGETS.items():
        for arm in ARMS:
            rows = [r for r in records if (r["env_id"], r["arm"]) == (env_id, arm)]
            if rows:
                returns = [r["return_mean"] for r in sorted(rows, key=lambda r: r["seed"])]
                each = ", ".join(f"{value:.1f}" for value in returns)
                median = statistics.median(returns)
                lines.append(f"| {env_id} | {steps // 1000} k | {arm} | {median:.1f} | {each} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("env_ids", nargs="*", choices=[[], *BUDGETS])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    arguments = parser.parse_args()
    records = json.loads(RECORDS.read_text()) if RECORDS.exists() else []
    for env_id in arguments.env_ids or BUDGETS:
        for seed in arguments.seeds:
            for arm in ARMS:
                record = run(env_id, seed, arm)
                print(record, flush=True)
                key = (env_id, seed, arm)
                records = [r for r in records if (r["env_id"], r["seed"], r["arm"]) != key] + [record]
                RECORDS.write_text(json.dumps(records, indent=1) + "\n")
    text = TABLE.read_text()
    before, after = text[: text.index(BEGIN)], text[text.index(END) :]
    TABLE.write_text(f"{before}{BEGIN}\n\n{table(records)}\n\n{after}")


if __name__ == "__main__":
    main()
