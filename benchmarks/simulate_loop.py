"""How the loop judges scores: synthetic score processes through the real controller and scheduler.

    python benchmarks/simulate_loop.py                    # the held-out seeds, every process
    python benchmarks/simulate_loop.py --tuning           # the seeds that the rules were chosen on
    python benchmarks/simulate_loop.py flat "slow ramp"   # some processes
    python benchmarks/simulate_loop.py --write            # put the table into docs/loop.md

For each process and 200 seeds it counts how often and when the loop stops, how often it stops before it
should, how often it calls a healthy policy degraded, and how soon it rolls a collapsed one back.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from optix_fast.loop import BackoffScheduler, LoopController, TorchEvaluator
from optix_fast.types import (
    BaseAgent,
    BasePipeline,
    EpisodeData,
    EvalMetrics,
    HyperparamSet,
    LoopCallback,
    PolicySnapshot,
)

SEEDS = 200
TUNING, HELD_OUT = range(SEEDS), range(40_000, 40_000 + SEEDS)
PAGE = Path(__file__).parent.parent / "docs" / "loop.md"
MARK = "<!-- written by: python benchmarks/simulate_loop.py --write -->"
END = "<!-- end -->"

Noise = Callable[[random.Random], float]


def gaussian(rng: random.Random) -> float:
    """Standard normal."""
    return rng.gauss(0.0, 1.0)


def heavy_tails(rng: random.Random) -> float:
    """Student's t with 2.5 degrees of freedom: one score in fifty lies more than five units off."""
    return rng.gauss(0.0, 1.0) / math.sqrt(rng.gammavariate(1.25, 2.0) / 2.5)


@dataclass(frozen=True)
class Process:
    """A score process and what the loop should make of it.

    Args:
        name: in the table.
        mean: (windows that the policy has been trained for) → its true score.
        sigma: unit of the noise.
        windows: length of the run.
        finished: the window from which on stopping is right; None where it is never right.
        noise: draws one unit.
        collapse_at: the window whose update breaks the policy.
        damage: (windows since then) → what that costs. Rolling back undoes it.
        rollback: the loop's rollback_on_degradation.
    """

    name: str
    mean: Callable[[int], float]
    sigma: float
    windows: int = 400
    finished: int | None = 0
    noise: Noise = gaussian
    collapse_at: int | None = None
    damage: Callable[[int], float] = lambda since: 0.0
    rollback: bool = False


def learning_curve(trained: int) -> float:
    """To 100, most of it in the first forty windows."""
    return 100.0 * (1.0 - math.exp(-trained / 15.0))


def _collapse(name: str, drop: float, sigma: float, level: float = 0.0, at: int = 60) -> Process:
    return Process(
        f"collapse, {name}",
        lambda t: level + learning_curve(t),
        sigma,
        windows=at + 200,
        finished=None,
        collapse_at=at,
        damage=lambda since: drop,
        rollback=True,
    )


PROCESSES = (
    # (Without the first step it would have no learning signal, and the loop would not call it converged.)
    Process("constant", lambda t: 100.0 if t else 0.0, 0.0, finished=1),
    Process("flat", lambda t: 100.0, 10.0),
    Process("flat around zero", lambda t: 0.0, 10.0),
    Process("flat below zero", lambda t: -100.0, 10.0),
    Process("flat, heavy tails", lambda t: 100.0, 10.0, noise=heavy_tails),
    Process("ramp", lambda t: float(t), 5.0, windows=500, finished=None),
    Process("ramp from below zero", lambda t: t - 250.0, 5.0, windows=500, finished=None),
    Process("slow ramp", lambda t: t / 30.0, 1.0, finished=None),
    Process("slow ramp, high", lambda t: 100.0 + t / 30.0, 1.0, finished=None),
    Process("slow ramp, long", lambda t: t / 30.0, 1.0, windows=1000, finished=None),
    Process("slow ramp, heavy tails", lambda t: t / 30.0, 1.0, finished=None, noise=heavy_tails),
    Process("step after 60", lambda t: 100.0 if t < 60 else 200.0, 10.0, finished=60),
    Process("noisy plateau", learning_curve, 10.0, finished=45),
    Process("quiet plateau", learning_curve, 0.5, finished=45),
    Process(
        "collapse and recovery",
        learning_curve,
        5.0,
        finished=75,
        collapse_at=40,
        damage=lambda since: max(0.0, 70.0 - 2.0 * since),
    ),
    _collapse("to a fifth, σ 5 %", 80.0, 5.0),
    _collapse("to a half, σ 2 %", 50.0, 2.0),
    _collapse("to a half, σ 10 %", 50.0, 10.0),
    _collapse("by 15 %, σ 2 %", 15.0, 2.0),
    _collapse("to a fifth, σ 15 %", 80.0, 15.0),
    _collapse("below zero, σ 10", 100.0, 10.0, level=-200.0),
    _collapse("early, to a fifth", 60.0, 5.0, at=15),
    _collapse("late, to a half", 50.0, 5.0, at=90),
)


# --- fakes --------------------------------------------------------------------------------------


class Policy(NamedTuple):
    """How long it was trained, and in which window it was broken."""

    trained: int = 0
    broken_at: int | None = None


class SimulatedAgent(BaseAgent):
    """Learns by counting; its process says what that is worth."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.policy = Policy()
        self._hyperparams = HyperparamSet({})

    def act(self, observation: Any) -> int:
        return 0

    def learn(self, episode_data: EpisodeData) -> dict[str, Any]:
        trained, broken_at = self.policy
        if episode_data.episode_id + 1 == self.process.collapse_at:
            broken_at = self.process.collapse_at
        self.policy = Policy(trained + 1, broken_at)
        return {}

    def score(self, window: int, rng: random.Random) -> float:
        """What the policy scores in this window."""
        process, (trained, broken_at) = self.process, self.policy
        damage = 0.0 if broken_at is None else process.damage(window - broken_at)
        return process.mean(trained) - damage + process.sigma * process.noise(rng)

    def get_hyperparams(self) -> HyperparamSet:
        return self._hyperparams

    def set_hyperparams(self, hyperparams: HyperparamSet) -> None:
        self._hyperparams = hyperparams

    def save_weights(self, path: str) -> None:
        raise NotImplementedError

    def load_weights(self, path: str) -> None:
        raise NotImplementedError


class SimulatedPipeline(BasePipeline):
    """Windows of one episode whose return is the policy's score."""

    is_live = False

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)

    def set_agent(self, agent: SimulatedAgent) -> None:
        self._agent = agent

    def setup(self) -> None:
        """Nothing to prepare."""

    def teardown(self) -> None:
        """Nothing to release."""

    def episodes(self) -> Iterator[EpisodeData]:
        window = 0
        while True:
            score = self._agent.score(window, self._rng)
            yield EpisodeData([0], [0], [score], [True], [False], [{}], window)
            window += 1


class MemoryRegistry:
    """What the loop needs of a CheckpointRegistry, without a disk."""

    run_id = checkpoint_dir = ""
    disk_seconds = 0.0

    def __init__(self) -> None:
        self.best: PolicySnapshot | None = None

    def save(
        self, agent: SimulatedAgent, metrics: EvalMetrics, hyperparams: HyperparamSet, diagnostics: Any
    ) -> PolicySnapshot:
        self._policy = agent.policy
        self.best = PolicySnapshot("", metrics, hyperparams, "", metrics.episode_id)
        return self.best

    def load_best(self, agent: SimulatedAgent) -> PolicySnapshot | None:
        if self.best is not None:
            agent.policy = self._policy
        return self.best

    def flush(self) -> None:
        """Nothing waits."""

    flush_if_due = release = restrict = begin_run = flush


class Watch(LoopCallback):
    """Notes when policies were called degraded, and whether they were."""

    def __init__(self, agent: SimulatedAgent) -> None:
        self.agent = agent
        self.false_alarms = 0
        self.broken = 0
        self.found_out = self._told = False

    def on_degradation(self, episode_id: int, eval_metrics: EvalMetrics) -> None:
        if self._is_broken(episode_id):
            self.found_out = True
        else:
            self.false_alarms += 1

    def on_episode_end(self, episode_id: int, eval_metrics: EvalMetrics | None) -> None:
        if eval_metrics is not None and self._is_broken(episode_id) and not self._told:
            self.broken += 1
        self._told = self.found_out

    def _is_broken(self, window: int) -> bool:
        at = self.agent.process.collapse_at
        return at is not None and window >= at


# --- simulation ---------------------------------------------------------------------------------


class Outcome(NamedTuple):
    """One run: its last window if the loop stopped by itself, false alarms, evaluations of a broken
    policy (until it was found out, if it was)."""

    stopped: int | None
    false_alarms: int
    broken: int
    found_out: bool


def simulate(process: Process, seed: int, **schedule: Any) -> Outcome:
    """One run."""
    agent = SimulatedAgent(process)
    watch = Watch(agent)
    registry: Any = MemoryRegistry()
    controller = LoopController(
        agent,
        TorchEvaluator(),
        None,
        SimulatedPipeline(seed),
        registry,
        BackoffScheduler(**schedule),
        rollback_on_degradation=process.rollback,
        max_episodes=process.windows,
        callbacks=[watch],
    )
    summary = controller.run()
    stopped = summary.windows - 1 if summary.stop_reason == "converged" else None
    return Outcome(stopped, watch.false_alarms, watch.broken, watch.found_out)


class Row(NamedTuple):
    """What 200 runs of a process gave."""

    process: Process
    stopped: int  # runs that stopped by themselves
    by_200: int  # ... at window 200 at the latest
    median: float  # window at which the half of them had
    too_early: int  # before it was right
    false_alarms: int  # runs in which a healthy policy was called degraded
    collapses: int  # runs in which a broken policy was evaluated
    within_3: int  # ... and found out in the first three evaluations


def summarise(process: Process, seeds: Sequence[int]) -> Row:
    """Run a process on every seed."""
    outcomes = [simulate(process, seed) for seed in seeds]
    stops = [o.stopped for o in outcomes if o.stopped is not None]
    finished = math.inf if process.finished is None else process.finished
    return Row(
        process,
        len(stops),
        sum(stop <= 200 for stop in stops),
        statistics.median(stops) if stops else math.nan,
        sum(stop < finished for stop in stops),
        sum(o.false_alarms > 0 for o in outcomes),
        sum(o.broken > 0 for o in outcomes),
        sum(o.found_out and o.broken <= 3 for o in outcomes),
    )


def table(rows: Sequence[Row]) -> str:
    """The rows in Markdown."""
    lines = [
        "| process | windows | stopped | by window 200 | median stop | too early | false alarms "
        "| collapse found within 3 evaluations |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        collapses = row.process.rollback
        median = "" if math.isnan(row.median) or collapses else f"{row.median:.0f}"
        stops = [" "] * 2 if collapses else [str(row.stopped), str(row.by_200)]
        early = "" if collapses else str(row.too_early)
        within = f"{row.within_3} of {row.collapses}" if collapses else ""
        cells = [row.process.name, str(row.process.windows), *stops, median, early, str(row.false_alarms)]
        lines.append("| " + " | ".join([*cells, within]) + " |")
    return "\n".join(lines)


def write(text: str) -> None:
    """Replace what lies between the marks in docs/loop.md."""
    page = PAGE.read_text()
    head, rest = page.split(MARK)
    PAGE.write_text(f"{head}{MARK}\n\n{text}\n\n{END}{rest.split(END)[1]}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("processes", nargs="*", help="names; default all")
    parser.add_argument("--tuning", action="store_true", help="the seeds that the rules were chosen on")
    parser.add_argument("--write", action="store_true", help="put the table into docs/loop.md")
    arguments = parser.parse_args()
    chosen = [p for p in PROCESSES if not arguments.processes or p.name in arguments.processes]
    text = table([summarise(p, TUNING if arguments.tuning else HELD_OUT) for p in chosen])
    print(text)
    if arguments.write:
        write(text)


if __name__ == "__main__":
    main()
