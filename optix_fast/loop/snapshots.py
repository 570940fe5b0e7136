"""Snapshots: how they rank, how they wait in memory, how metadata describes them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, NamedTuple

from optix_fast.loop.snapshot_files import WEIGHTS, Entry, Files, folder_name, to_json
from optix_fast.types import EvalMetrics, HyperparamSet, PolicySnapshot

Rank = tuple[bool, float]


def rank_of(metrics: EvalMetrics) -> Rank:
    """(confirmed, score): how a policy ranks among checkpoints."""
    if "confirmed_score" in metrics.metrics:
        return True, float(metrics.metrics["confirmed_score"])
    return False, float(metrics.metrics.get("checkpoint_score", metrics.primary_score))


def entry_rank(entry: Entry) -> Rank:
    """The same, of a line of the manifest."""
    score = entry.get("checkpoint_score", entry.get("primary_score"))
    return bool(entry.get("confirmed", False)), -math.inf if score is None else float(score)


class Held(NamedTuple):
    """A snapshot in memory: itself, its weights, and the kind of agent that they are of."""

    snapshot: PolicySnapshot
    files: Files
    agent: str

    def entry(self, run_id: str) -> Entry:
        """Its line of the manifest, as a snapshot of this run."""
        snapshot = self.snapshot
        confirmed, score = rank_of(snapshot.eval_metrics)
        entry = {
            "snapshot_id": snapshot.snapshot_id,
            "snapshot_dir": folder_name(snapshot.snapshot_id),
            "primary_score": snapshot.eval_metrics.primary_score,
            "checkpoint_score": score,
            "confirmed": confirmed,
            "episode_id": snapshot.episode_id,
            "timestamp": snapshot.timestamp,
            "run_id": run_id,
        }
        return {key: to_json(value) for key, value in entry.items()}

    @property
    def metadata(self) -> dict[str, Any]:
        """What metadata.json holds beside that line; `snapshot_from` reads both."""
        return {
            "metrics": to_json(self.snapshot.eval_metrics.metrics),
            "hyperparams": to_json(self.snapshot.hyperparams.params),
            "diagnostics": to_json(self.snapshot.diagnostics),
            "agent": self.agent,
            "weights_path": f"{folder_name(self.snapshot.snapshot_id)}/{WEIGHTS}",
        }


class WaitingSnapshot(PolicySnapshot):
    """A snapshot that may not be on disk yet: reading its `weights_path` calls `write`. Its copies are plain
    snapshots."""

    write: Callable[[], None] | None = None

    @property
    def weights_path(self) -> str:
        if self.write is not None:
            self.write()
        return self._path

    @weights_path.setter
    def weights_path(self, path: str) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return PolicySnapshot, _values(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PolicySnapshot) and _values(self) == _values(other)

    __hash__ = None  # type: ignore[assignment]


def snapshot_from(entry: Entry, metadata: Mapping[str, Any], weights_path: str) -> PolicySnapshot:
    """The snapshot that a line of the manifest and the snapshot's own metadata describe."""
    number = int(entry.get("episode_id") or 0)
    metrics = {key: _metric(value) for key, value in (metadata.get("metrics") or {}).items()}
    diagnostics = (metadata.get("diagnostics") or {}).items()
    timestamp = float(entry.get("timestamp") or 0.0)
    return PolicySnapshot(
        snapshot_id=str(entry.get("snapshot_id")),
        eval_metrics=EvalMetrics(_number(entry.get("primary_score")), metrics, number, timestamp),
        hyperparams=HyperparamSet(dict(metadata.get("hyperparams") or {}), number),
        weights_path=weights_path,
        episode_id=number,
        timestamp=timestamp,
        diagnostics={key: math.nan if value is None else value for key, value in diagnostics},
    )


def _values(snapshot: PolicySnapshot) -> tuple[Any, ...]:
    return tuple(getattr(snapshot, field.name) for field in fields(PolicySnapshot))


def _number(value: Any) -> float:
    try:
        return math.nan if value is None else float(value)
    except OverflowError:
        return math.nan


def _metric(value: Any) -> Any:
    # An evaluator may put text among its metrics; numbers are floats, null was not finite.
    return _number(value) if value is None or isinstance(value, int | float) else value
