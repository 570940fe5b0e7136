"""The directory of a training run: what lies where, and how it gets there whole.

config.yaml          the settings, complete
progress.csv         one line for every window
tensorboard/         the same, and every other number of the window, for TensorBoard
checkpoints/         the best policies, as they were found, and the state that --resume goes on from
best/                the best policy's weights
last/                the last policy's weights
learning_curve.png
summary.json         written last: how the run ended; a run without it was killed
lock                 while a process works here: which one
"""

from __future__ import annotations

import csv
import io
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from optix_fast.cli import run_lock
from optix_fast.cli.event_log import TensorBoardLog
from optix_fast.cli.learning_curve import plot_learning_curve
from optix_fast.cli.run_lock import RunLock
from optix_fast.config import TrainConfig
from optix_fast.loop import CheckpointRegistry
from optix_fast.loop.resume import find_state, read_part
from optix_fast.serialization import atomic_write_bytes, atomic_write_json
from optix_fast.types import BaseAgent, Stateful

# Stop reasons of runs that have not finished.
_UNFINISHED = ("interrupted", "failed")

COLUMNS = (
    "window",
    "env_steps",
    "seconds",
    "steps_per_second",
    "score",
    "episodes",
    "episode_length",
    "evaluated",
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
        self.last = self.path / "last"
        self._summary = self.path / "summary.json"
        self._lock = RunLock(self.path)
        self._csv: Any = None
        self._events: TensorBoardLog | None = None
        self._writer: Any = None

    @classmethod
    def create(cls, path: str | Path | None, config: TrainConfig) -> RunDir:
        """Make a new run directory with its config and an empty progress.csv, and lock it.

        Args:
            path: None makes one in runs/, named after environment, algorithm, seed and time.
            config: to write into it.

        Raises:
            ValueError: the path is a file, a directory that is not empty, or one that another process uses.
        """
        run = cls(new_directory(config) if path is None else path)
        if run.path.exists() and not run.path.is_dir():
            raise ValueError(f"run directory {run.path} is a file")
        if run.path.exists():
            run._lock.check()
        run._check_empty()
        run.path.mkdir(parents=True, exist_ok=True)
        run._lock.acquire()
        try:
            run._check_empty()  # another process may have begun here, and even ended, meanwhile
            run.write_config(config)
            run._begin_csv(())
            run._events = TensorBoardLog(run.path / "tensorboard")
        except BaseException:
            run._lock.release()
            raise
        return run

    @classmethod
    def reopen(cls, path: str | Path, extend: bool = False) -> tuple[RunDir, TrainConfig]:
        """Lock a run that was killed, interrupted or failed, to go on with it; the run and its config. What a
        killed process left half-written is deleted.

        Args:
            path: of the run directory.
            extend: take a run that has finished too.

        Raises:
            ValueError: the path is not a run directory, another process uses it, or the run has finished.
        """
        run, config = cls.open(path)
        run._lock.acquire()
        try:
            if run.stop_reason is not None and not extend:
                raise ValueError(
                    f"{run.path} has finished ({run.stop_reason}) after {run._ending()['env_steps']} "
                    "environment steps; to train on, give a larger total with --steps"
                )
            run._clean()
        except BaseException:
            run._lock.release()
            raise
        return run, config

    @property
    def stop_reason(self) -> str | None:
        """Why the run finished; None where it was killed, interrupted or failed."""
        reason = self._ending().get("stop_reason")
        return None if reason in _UNFINISHED else reason

    @property
    def can_resume(self) -> bool:
        """Whether there is a state to go on from."""
        try:
            find_state(self.checkpoints, None)
        except ValueError:
            return False
        return True

    def write_config(self, config: TrainConfig) -> None:
        """Write config.yaml."""
        text = yaml.safe_dump(config.to_dict(), sort_keys=False)
        atomic_write_bytes(self.path / "config.yaml", text.encode("utf-8"))

    def go_on(self, windows: int, steps: int) -> float:
        """Append to progress.csv and the events after the first `windows` windows (`steps` environment steps)
        and drop what came later. Returns the seconds that the run had taken until then."""
        self._summary.unlink(missing_ok=True)
        shutil.rmtree(self.best, ignore_errors=True)  # until there is a new one, the checkpoints count
        rows = [row for row in self.rows() if row["window"].isdigit() and int(row["window"]) < windows]
        self._begin_csv(rows)
        self._events = TensorBoardLog(self.path / "tensorboard", begin=steps + 1)
        return float(rows[-1]["seconds"]) if rows else 0.0

    def _begin_csv(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Replace progress.csv atomically by one with these rows, and append to it from now on."""
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, COLUMNS, restval="", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
        path = self.path / "progress.csv"
        atomic_write_bytes(path, text.getvalue().encode("utf-8"))
        self._csv = path.open("a", newline="", encoding="utf-8")
        self._writer = csv.DictWriter(self._csv, COLUMNS, restval="", extrasaction="ignore")

    def _check_empty(self) -> None:
        if self.path.exists() and any(entry.name != run_lock.FILE for entry in self.path.iterdir()):
            raise ValueError(f"run directory {self.path} already exists and is not empty")

    def _clean(self) -> None:
        for folder in (self.path, self.checkpoints):
            for pattern in (".*.tmp", ".tmp_*", ".policy-*"):
                for path in folder.glob(pattern):
                    shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)

    @classmethod
    def open(cls, path: str | Path) -> tuple[RunDir, TrainConfig]:
        """A finished (or killed) run and its config, to read.

        Raises:
            ValueError: the path is not a run directory, or its config cannot be read.
        """
        run = cls(path)
        if not (run.path / "config.yaml").is_file():
            raise ValueError(f"{run.path} is not a run directory (no config.yaml in it)")
        return run, TrainConfig.from_yaml(run.path / "config.yaml")

    def add_row(self, row: Mapping[str, Any], scalars: Mapping[str, Any]) -> None:
        """Append a line to progress.csv and an event with these scalars for TensorBoard; other processes see
        both when this returns."""
        self._writer.writerow(
            {key: f"{value:.6g}" if isinstance(value, float) else value for key, value in row.items()}
        )
        self._csv.flush()
        if self._events is not None:
            self._events.add(int(row["env_steps"]), scalars)

    def rows(self) -> list[dict[str, str]]:
        """The lines of progress.csv."""
        with (self.path / "progress.csv").open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def saw_episodes_end(self) -> bool:
        """Whether an episode has ended in any of the windows so far."""
        return any(row["episodes"] not in ("", "0") for row in self.rows())

    def save_policy(self, agent: BaseAgent, where: Path) -> None:
        """Write the agent's weights to `best` or `last` in place of what is there."""
        fresh = self.path / f".policy-{secrets.token_hex(4)}"
        fresh.mkdir()
        agent.save_weights(str(fresh))
        old = fresh.with_name(fresh.name + "-old")
        if where.exists():
            os.replace(where, old)
        os.replace(fresh, where)
        shutil.rmtree(old, ignore_errors=True)

    def load_policy(self, agent: BaseAgent) -> str | None:
        """Load the best policy: best/; in a killed run the best intact checkpoint; where no episode had
        ended, the last policy.

        Returns:
            A remark where the policy was not chosen as the best one; else None.

        Raises:
            ValueError: the run has saved no policy.
        """
        if self.best.is_dir():
            agent.load_weights(str(self.best))
            if self._ending().get("best_score", 0.0) is None:
                return "no episode ended in the run, so this is its last policy"
            return None
        if (self.checkpoints / "manifest.json").is_file():
            registry = CheckpointRegistry(str(self.checkpoints), resume=True)
            if registry.load_best(agent) is not None:
                return "the run has no summary, so this is the best of its checkpoints"
        if self.can_resume and isinstance(agent, Stateful):
            agent.load_state_dict(read_part(self.checkpoints, "agent"))
            return "no episode had ended in the run, so this is the policy of the state that it wrote last"
        raise ValueError(f"{self.path} holds no saved policy")

    def finish(self, summary: Mapping[str, Any], config: TrainConfig) -> None:
        """Close progress.csv, draw the curve of the run with this config, write summary.json."""
        self.close()
        plot_learning_curve(self.path / "learning_curve.png", self.rows(), config)
        atomic_write_json(self._summary, dict(summary))

    def _ending(self) -> dict[str, Any]:
        """What summary.json says; empty where there is none."""
        try:
            found: dict[str, Any] = json.loads(self._summary.read_bytes())
        except FileNotFoundError:
            return {}
        return found

    def release(self) -> None:
        """Close and unlock the directory, with nothing half-written in it."""
        self.close()
        if self.path.is_dir():
            self._clean()
            self._lock.release()

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


def new_directory(config: TrainConfig, what: str = "") -> Path:
    """A new directory in runs/, named after `what`, environment, algorithm, seed and time; a number is
    appended to a name that is taken."""
    env = config.env_id.replace("/", "-").replace(":", "-")
    name = f"{what}{env}-{config.algo}-seed{config.seed}-{time.strftime('%Y%m%d-%H%M%S')}"
    number = 1
    while True:
        path = Path("runs") / (name if number == 1 else f"{name}-{number}")
        try:
            path.mkdir(parents=True)
            return path
        except FileExistsError:
            number += 1
