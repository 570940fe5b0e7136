"""The best policies of a run, in memory at once and on disk soon after."""

from __future__ import annotations

import logging
import math
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from optix_fast.loop import checks
from optix_fast.loop.snapshot_files import (
    WEIGHTS,
    DamagedSnapshotError,
    Entry,
    Manifest,
    check_weights,
    folder_name,
    folder_of,
    load_weights,
    read_metadata,
    read_snapshot,
    size_of,
    weights_of,
    write_snapshot,
)
from optix_fast.loop.snapshots import Held, WaitingSnapshot, entry_rank, rank_of, snapshot_from
from optix_fast.types import BaseAgent, EvalMetrics, HyperparamSet, PolicySnapshot

logger = logging.getLogger(__name__)

# Pause after a write, in multiples of what it took.
_WRITING_SHARE = 49.0


# Bytes of weights that may wait in memory for being written, the best one's aside.
_MOST_WAITING = 2**28


class CheckpointRegistry:
    """Keeps the best policies of a run (seed 003; any agent with save_weights and load_weights).

    `save` takes the agent's weights into memory; the best is safe from then on. The best of what waits
    goes to `checkpoint_dir` at most once every `write_interval` seconds (on a slow disk less often: no
    more than one fiftieth of the time is spent writing) and all of it in `flush()`, atomically and with
    checksums; what is no longer among the `max_snapshots` best is never written.
    A snapshot's `weights_path` writes what waits when it is read, so that the path always exists.

    **Rank.** Snapshots are ranked by metrics["confirmed_score"] where they have it (such a policy
    outranks all that do not), else by metrics["checkpoint_score"], else by the primary score. The
    `max_snapshots` highest of this run stay on disk, the best always.

    **Runs.** Every snapshot carries the id of the run that wrote it. A run restores, counts and deletes
    only its own, unless `resume=True`: then it restores the best of the directory. A registry
    without a `run_id` that no run has begun with (no loop was made with it, nothing was saved) reads
    the whole directory too: `CheckpointRegistry(dir).load_best(agent)` deploys the best that is there.
    Registries with one run id, in one process or several, see each other's snapshots.

    Args:
        checkpoint_dir: created when missing.
        max_snapshots: at least 1.
        run_id: the run that snapshots belong to; None makes a new one when a run begins (with
            `resume`, takes the one that wrote last).
        resume: restore snapshots of other runs too.
        write_interval: seconds between writes; 0 writes every snapshot at once.

    Raises:
        TypeError: checkpoint_dir is no path.
        ValueError: max_snapshots or write_interval out of range.
        OSError: the directory cannot be made.
    """

    def __init__(
        self,
        checkpoint_dir: str | os.PathLike[str],
        max_snapshots: int = 10,
        run_id: str | None = None,
        *,
        resume: bool = False,
        write_interval: float = 1.0,
    ) -> None:
        if isinstance(max_snapshots, bool) or not isinstance(max_snapshots, int) or max_snapshots < 1:
            raise ValueError(f"max_snapshots must be an integer of at least 1, got {max_snapshots!r}")
        if not write_interval >= 0:
            raise ValueError(f"write_interval must be at least 0 seconds, got {write_interval!r}")
        self.checkpoint_dir = checks.directory("checkpoint_dir", checkpoint_dir)
        self.max_snapshots = max_snapshots
        self.resume = resume
        self.write_interval = write_interval
        self.writes = 0
        self.disk_seconds = 0.0
        self._directory = Path(self.checkpoint_dir)
        self._directory.mkdir(parents=True, exist_ok=True)
        self._manifest = Manifest(self._directory)
        self.given_run_id = run_id
        self.run_id = run_id or (self._last_run_id() if resume else None) or uuid.uuid4().hex
        self._held: Held | None = None
        self._pending: list[Held] = []
        self._next_write = -math.inf
        self._held_back: frozenset[str] = frozenset()
        self._strangers_are_named = False
        self._reads_all = resume or run_id is None

    # --- saving ---------------------------------------------------------------------------------

    def save(
        self,
        agent: Any,
        eval_metrics: EvalMetrics,
        hyperparams: HyperparamSet,
        diagnostics: Mapping[str, Any] | None = None,
    ) -> PolicySnapshot:
        """Take a snapshot of the agent's policy.

        Args:
            agent: whose policy.
            eval_metrics, hyperparams: the policy's.
            diagnostics: of the learn() that made it.

        Raises:
            ValueError: the score is NaN or infinite: never a best policy.
            NonFiniteError: a weight is NaN; neither is that.
            OSError: the snapshot could not be written (it stays in memory, and what was on disk
                stays as it was).
        """
        self.begin_run()
        rank = rank_of(eval_metrics)
        if not math.isfinite(rank[1]):
            raise ValueError(f"a policy with score {rank[1]} is never a checkpoint")
        started = time.perf_counter()
        snapshot_id = uuid.uuid4().hex[:8]
        snapshot = WaitingSnapshot(
            snapshot_id=snapshot_id,
            eval_metrics=replace(eval_metrics, metrics=dict(eval_metrics.metrics)),
            hyperparams=hyperparams.copy(),
            weights_path=str(self._directory / folder_name(snapshot_id) / WEIGHTS),
            episode_id=eval_metrics.episode_id,
            diagnostics=dict(diagnostics or {}),
        )
        snapshot.write = self.flush
        expected = None if self._held is None else size_of(self._held.files)
        held = Held(snapshot, weights_of(agent, expected), type(agent).__name__)
        check_weights(held.files)
        if self._held is None or rank > rank_of(self._held.snapshot.eval_metrics):
            self._held = held
        self._pending.append(held)
        self._pending.sort(key=lambda waiting: rank_of(waiting.snapshot.eval_metrics), reverse=True)
        del self._pending[self.max_snapshots :]
        self.disk_seconds += time.perf_counter() - started
        self.flush_if_due()
        return snapshot

    def flush_if_due(self) -> None:
        """Write the best of what waits, if the last write is long enough ago; all if it takes much memory."""
        if not self._pending:
            return
        if len(self._pending) > 1 and sum(size_of(held.files) for held in self._pending) > _MOST_WAITING:
            self.flush()
        elif self.write_interval == 0 or time.monotonic() >= self._next_write:
            self._rewrite(self._pending[:1])

    def flush(self) -> None:
        """Write what waits.

        Raises:
            OSError: it could not be written. It keeps waiting; the directory is as it was.
        """
        if self._pending:
            self._rewrite(self._pending)

    def hold(self) -> None:
        """Delete none of this run's present snapshots until `hold` is called again or `release`: a run
        that is resumed from here needs them."""
        self._held_back = frozenset(str(e["snapshot_id"]) for e in self.entries())

    def release(self) -> None:
        """Write what waits, and delete what was only held back."""
        surplus = bool(self._held_back)
        self._held_back = frozenset()
        if surplus or self._pending:
            self._rewrite(self._pending)

    def go_back(self, run_id: str, window: int) -> None:
        """Go on with a run as it stood before `window`: its later snapshots are deleted.

        Raises:
            OSError: the directory could not be written.
        """
        self.run_id = run_id
        with self._manifest.locked():
            entries = self._manifest.entries()
            later = [e for e in entries if self._is_own(e) and int(e.get("episode_id") or 0) >= window]
            self._manifest.write([entry for entry in entries if entry not in later])
        for entry in later:
            shutil.rmtree(folder_of(self._directory, entry), ignore_errors=True)
        self._held, self._pending = None, []
        self.restrict()
        self.hold()

    def _rewrite(self, waiting: list[Held]) -> None:
        """Write the first of those that wait, and delete what is no longer among the best."""
        started = time.perf_counter()
        written: list[Entry] = []
        drop: list[Entry] = []
        failure: OSError | None = None
        try:
            with self._manifest.locked():
                keep, drop = self._sorted_out(self._manifest.entries(), waiting)
                for held, entry in keep:
                    if held is not None:
                        written.append(write_snapshot(self._directory, entry, held.metadata, held.files))
                self._manifest.write([entry for held, entry in keep if held is None] + written)
        except OSError as error:
            failure = error
        # The manifest is the truth, even if something failed before or after it was replaced.
        listed = {entry["snapshot_dir"] for entry in self._manifest.entries()}
        for entry in [*written, *drop]:
            if entry["snapshot_dir"] not in listed:
                shutil.rmtree(folder_of(self._directory, entry), ignore_errors=True)
        self.writes += len([entry for entry in written if entry["snapshot_dir"] in listed])
        spent = time.perf_counter() - started
        self._next_write = time.monotonic() + max(self.write_interval, _WRITING_SHARE * spent)
        self.disk_seconds += spent
        if failure is None:
            self._pending = self._pending[len(waiting) :]
            return
        self._pending = [p for p in self._pending if folder_name(p.snapshot.snapshot_id) not in listed]
        raise OSError(
            failure.errno, f"the checkpoint could not be written to {self.checkpoint_dir}: {failure}"
        ) from failure

    def _sorted_out(
        self, entries: list[Entry], waiting: list[Held]
    ) -> tuple[list[tuple[Held | None, Entry]], list[Entry]]:
        """What stays on disk or goes there, and what leaves it."""
        others = [(None, entry) for entry in entries if not self._is_own(entry)]
        own: list[tuple[Held | None, Entry]] = [(None, entry) for entry in entries if self._is_own(entry)]
        own += [(held, held.entry(self.run_id)) for held in waiting]
        own.sort(key=lambda pair: entry_rank(pair[1]), reverse=True)
        surplus = [pair for pair in own[self.max_snapshots :] if pair[0] is None]
        waits = [pair for pair in surplus if pair[1]["snapshot_id"] in self._held_back]
        drop = [entry for _, entry in surplus if entry["snapshot_id"] not in self._held_back]
        return [*others, *own[: self.max_snapshots], *waits], drop

    # --- reading --------------------------------------------------------------------------------

    def entries(self) -> list[Entry]:
        """The manifest's lines that this registry may restore, best first."""
        entries = [e for e in self._manifest.entries() if self._reads_all or self._is_own(e)]
        entries.sort(key=entry_rank, reverse=True)
        return entries if self._reads_all else entries[: self.max_snapshots]

    @property
    def best(self) -> PolicySnapshot | None:
        """The highest-ranked snapshot that is not damaged, or None."""
        for held, entry in self._candidates():
            if held is not None:
                return held.snapshot
            if self._is_intact(entry):
                return self._snapshot(entry)
        return None

    def load_best(self, agent: Any) -> PolicySnapshot | None:
        """Load the highest-ranked policy into the agent; None when nothing has been saved.

        A damaged snapshot is named in a warning, and the next best is loaded.

        Raises:
            RuntimeError: the snapshot is of another kind of agent, which is named.
            Exception: all else that the agent's load_weights raises on an intact snapshot, for example
                because it is of another architecture.
        """
        for held, entry in self._candidates():
            if held is not None:
                load_weights(agent, held.files)
                return held.snapshot
            try:
                snapshot = self._snapshot(entry)
                files = read_snapshot(self._directory, entry)
                maker = read_metadata(self._directory, entry).get("agent", type(agent).__name__)
            except DamagedSnapshotError as error:
                name = entry.get("snapshot_id")
                logger.warning("checkpoint %s is damaged, the next best is used: %s", name, error)
                continue
            try:
                load_weights(agent, files)
            except Exception as error:
                if maker == type(agent).__name__:
                    raise
                raise RuntimeError(
                    f"checkpoint {entry.get('snapshot_id')} in {self.checkpoint_dir} is of a {maker}, "
                    f"not of a {type(agent).__name__}: {error}"
                ) from error
            return snapshot
        return None

    def load_ensemble(self, agent: Any, top_k: int = 3, score_band: float = 0.1) -> PolicySnapshot | None:
        """Load the element-wise mean of the best policies, by the agent's `average_weights`.

        Averaged are the `top_k` highest with a score of at least best − |best|·score_band. With
        fewer than two, or an agent that cannot average, this is `load_best`.

        Raises:
            ValueError: top_k < 1 or score_band < 0.
        """
        if top_k < 1 or not score_band >= 0:
            raise ValueError(f"top_k must be ≥ 1 and score_band ≥ 0, got {top_k} and {score_band}")
        self.flush()
        intact = [entry for entry in self.entries() if self._is_intact(entry)]
        if not _can_average(agent):
            logger.warning("%s cannot average weights; loading the best alone", type(agent).__name__)
            return self.load_best(agent)
        if intact:
            confirmed, best = entry_rank(intact[0])
            floor = best - abs(best) * score_band
            intact = [e for e in intact if entry_rank(e) >= (confirmed, floor)][:top_k]
        if len(intact) < 2:
            return self.load_best(agent)
        agent.average_weights([str(folder_of(self._directory, e) / WEIGHTS) for e in intact])
        return self._snapshot(intact[0])

    def _candidates(self) -> Iterator[tuple[Held | None, Entry]]:
        """The snapshot in memory at its place among those on disk, best first."""
        held = self._held
        for entry in self.entries():
            if held is not None and rank_of(held.snapshot.eval_metrics) >= entry_rank(entry):
                yield held, entry
                held = None
            yield None, entry
        if held is not None:
            yield held, {}

    def _is_intact(self, entry: Entry) -> bool:
        try:
            read_metadata(self._directory, entry)
            read_snapshot(self._directory, entry)
        except DamagedSnapshotError as error:
            logger.warning("checkpoint %s is damaged and left out: %s", entry.get("snapshot_id"), error)
            return False
        return True

    def _snapshot(self, entry: Entry) -> PolicySnapshot:
        weights = folder_of(self._directory, entry) / WEIGHTS
        return snapshot_from(entry, read_metadata(self._directory, entry), str(weights))

    # --- runs -----------------------------------------------------------------------------------

    def _is_own(self, entry: Entry) -> bool:
        return entry.get("run_id") == self.run_id

    def _last_run_id(self) -> str | None:
        written = [e for e in self._manifest.entries() if e.get("run_id")]
        return str(max(written, key=lambda e: e.get("timestamp") or 0.0)["run_id"]) if written else None

    def restrict(self) -> None:
        """Restore only this run's snapshots from now on, unless `resume`. A loop that is made calls this."""
        self._reads_all = self.resume

    def begin_run(self) -> None:
        """`restrict`, and name the snapshots of other runs in a warning, once. A loop calls this when its run
        begins, and `save` for those who have no loop."""
        self.restrict()
        if self.resume or self._strangers_are_named:
            return
        self._strangers_are_named = True
        strangers = [e for e in self._manifest.entries() if not self._is_own(e)]
        if strangers:
            logger.warning(
                "%s holds %d snapshots of other runs (%s); this run neither restores nor deletes them",
                self.checkpoint_dir,
                len(strangers),
                ", ".join(str(e.get("snapshot_id")) for e in strangers[:10]),
            )


def _can_average(agent: Any) -> bool:
    method = getattr(type(agent), "average_weights", None)
    return method is not None and method is not BaseAgent.average_weights
