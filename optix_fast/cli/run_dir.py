"""The directory of a training run: what lies where, and how it gets there whole.

config.yaml          the settings, complete
progress.csv         one line for every evaluation
tensorboard/         the same, and every other number of the evaluation, for TensorBoard
checkpoints/         the best policies, as they were found
best/                the best policy's weights
last/state.safetensors   agent, loop and pipeline as they stood at the end
learning_curve.png
summary.json         written last: how the run ended; a run without it was killed
"""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optix_fast.cli.event_log import TensorBoardLog
from optix_fast.config import TrainConfig
from optix_fast.loop import CheckpointRegistry
from optix_fast.serialization import atomic_write_json, save_state
from optix_fast.types import BaseAgent

# Ends that were not the run's own.
_UNFINISHED = ("interrupted", "failed")

COLUMNS = (
    "window",
    "env_steps",
    "seconds",
    "steps_per_second",
    "score",
    "episodes",
    "episode_length",
    "state",
    "interval",
    "policy_loss",
    "value_loss",
    "entropy",
    "approx_kl",
    "clip_fraction",
    "explained_var",
    "learning_rate",
    "loss",
    "td_error_mean",
    "q_value_mean",
    "n_updates",
    "epsilon",
    "buffer_size",
    "critic_loss",
    "actor_loss",
    "alpha_loss",
    "alpha",
    "q_value",
)


class RunDir:
    """A run directory, new or finished.

    Args:
        path: where it is.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.checkpoints = self.path / "checkpoints"
        self.best = self.path / "best"
        self._summary = self.path / "summary.json"
        self._csv: Any = None
        self._events: TensorBoardLog | None = None
        self._writer: Any = None

    @classmethod
    def create(cls, path: str | Path, config: TrainConfig) -> RunDir:
        """Make a new run directory with its config and an empty progress.csv.

        Raises:
            ValueError: the path is a file or a directory that is not empty.
        """
        run = cls(path)
        if run.path.exists() and (not run.path.is_dir() or any(run.path.iterdir())):
            raise ValueError(f"run directory {run.path} already exists and is not empty")
        run.path.mkdir(parents=True, exist_ok=True)
        config.to_yaml(run.path / "config.yaml")
        run._csv = (run.path / "progress.csv").open("w", newline="", encoding="utf-8")
        run._writer = csv.DictWriter(run._csv, COLUMNS, restval="", extrasaction="ignore")
        run._writer.writeheader()
        run._csv.flush()
        run._events = TensorBoardLog(run.path / "tensorboard")
        return run

    @classmethod
    def reopen(cls, path: str | Path) -> tuple[RunDir, TrainConfig]:
        """A run that was killed, interrupted or failed, and its config, to go on with.

        Raises:
            ValueError: the path is not a run directory, or the run has finished.
        """
        run, config = cls.open(path)
        if run._summary.exists():
            reason = json.loads(run._summary.read_bytes())["stop_reason"]
            if reason not in _UNFINISHED:
                raise ValueError(f"{run.path} has finished ({reason}); nothing is left to resume")
        return run, config

    def go_on(self, windows: int, steps: int) -> float:
        """Cut progress.csv and the events after the first `windows` windows, which were `steps` environment
        steps, and append from there on; the seconds that the run had taken until then."""
        self._summary.unlink(missing_ok=True)
        shutil.rmtree(self.best, ignore_errors=True)  # until there is a new one, the checkpoints count
        rows = [row for row in self.rows() if row["window"].isdigit() and int(row["window"]) < windows]
        self._csv = (self.path / "progress.csv").open("w", newline="", encoding="utf-8")
        self._writer = csv.DictWriter(self._csv, COLUMNS, restval="", extrasaction="ignore")
        self._writer.writeheader()
        self._writer.writerows(rows)
        self._csv.flush()
        self._events = TensorBoardLog(self.path / "tensorboard", begin=steps + 1)
        return float(rows[-1]["seconds"]) if rows else 0.0

    @classmethod
    def open(cls, path: str | Path) -> tuple[RunDir, TrainConfig]:
        """A finished (or killed) run and its config.

        Raises:
            ValueError: the path is not a run directory, or its config cannot be read.
        """
        run = cls(path)
        if not (run.path / "config.yaml").is_file():
            raise ValueError(f"{run.path} is not a run directory (no config.yaml in it)")
        return run, TrainConfig.from_yaml(run.path / "config.yaml")

    def add_row(self, row: Mapping[str, Any]) -> None:
        """Append a line to progress.csv, on disk when this returns, and an event for TensorBoard."""
        self._writer.writerow(
            {key: f"{value:.6g}" if isinstance(value, float) else value for key, value in row.items()}
        )
        self._csv.flush()
        if self._events is not None:
            self._events.add(int(row["env_steps"]), row)

    def rows(self) -> list[dict[str, str]]:
        """The lines of progress.csv."""
        with (self.path / "progress.csv").open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def save_best(self, agent: BaseAgent) -> None:
        """Write the agent's weights to best/, replacing what is there at once."""
        fresh = Path(tempfile.mkdtemp(prefix=".best-", dir=self.path))
        agent.save_weights(str(fresh))
        if self.best.exists():
            shutil.rmtree(self.best)
        os.replace(fresh, self.best)

    def save_last(self, state: dict[str, Any]) -> None:
        """Write last/state.safetensors."""
        (self.path / "last").mkdir(exist_ok=True)
        save_state(str(self.path / "last" / "state.safetensors"), state)

    def load_best(self, agent: BaseAgent) -> None:
        """Load the best policy: best/, or in a killed run the best checkpoint that is whole.

        Raises:
            ValueError: the run has saved no policy.
        """
        if self.best.is_dir():
            agent.load_weights(str(self.best))
            return
        if (self.checkpoints / "manifest.json").is_file():
            registry = CheckpointRegistry(str(self.checkpoints), resume=True)
            if registry.load_best(agent) is not None:
                return
        raise ValueError(f"{self.path} holds no saved policy")

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Close progress.csv, draw the curve, write summary.json."""
        self.close()
        plot_learning_curve(self)
        atomic_write_json(self._summary, dict(summary))

    def close(self) -> None:
        """Close progress.csv and the event file."""
        if self._csv is not None:
            self._csv.close()
            self._csv = None
        if self._events is not None:
            self._events.close()
            self._events = None

    def remove(self) -> None:
        """Delete the directory: the run failed before there was anything to keep."""
        self.close()
        shutil.rmtree(self.path, ignore_errors=True)


def plot_learning_curve(run: RunDir) -> None:
    """Draw the score of every evaluation over environment steps into learning_curve.png."""
    # pyplot would start a window system; the figure class does not.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    _, config = RunDir.open(run.path)
    points = [(float(r["env_steps"]), float(r["score"])) for r in run.rows() if r["score"]]
    points = [(x, y) for x, y in points if math.isfinite(y)]
    figure = Figure(figsize=(7.0, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    steps, scores = [x for x, _ in points], [y for _, y in points]
    axes.plot(steps, scores, color="#9db4d4", linewidth=1.0, label="one window")
    axes.plot(steps, _smoothed(scores), color="#1f4e9c", linewidth=2.0, label="mean of 5 evaluations")
    if config.target_score is not None:
        axes.axhline(config.target_score, color="#b0413e", linestyle="--", linewidth=1.0, label="target")
    axes.set_xlabel("environment steps")
    axes.set_ylabel("mean return of the window's episodes")
    axes.set_title(f"{config.env_id}, {config.algo}, seed {config.seed}")
    axes.xaxis.set_major_formatter(lambda x, _: f"{x / 1000:g} k" if x else "0")
    axes.grid(alpha=0.25)
    axes.legend(loc="best", frameon=False)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.savefig(run.path / "learning_curve.png", dpi=120)


def _smoothed(values: list[float], width: int = 5) -> list[float]:
    return [
        sum(values[max(0, i - width + 1) : i + 1]) / len(values[max(0, i - width + 1) : i + 1])
        for i in range(len(values))
    ]
