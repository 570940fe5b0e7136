"""Processes that run trials side by side."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any

import cloudpickle  # type: ignore[import-untyped]
import torch
from optuna.trial import TrialState

from optix_fast.trials.storage import repeat_lost

if TYPE_CHECKING:
    from optix_fast.trials.orchestrator import TrialOrchestrator

logger = logging.getLogger(__name__)

_MOST_DEATHS = 3  # of workers without a trial that ends in between, before it is the trials' fault
_PATIENCE = 10.0  # seconds for an interrupted worker to end by itself
_ENDED = (TrialState.COMPLETE, TrialState.PRUNED)


def run_workers(orchestrator: TrialOrchestrator) -> None:
    """Let n_jobs processes work until no trial is missing. Another takes the place of one that dies.

    Raises:
        RuntimeError: they died again and again.
    """
    n = orchestrator.n_jobs
    context = multiprocessing.get_context("spawn")  # a fork would copy locks that other threads hold
    lock, payload, threads = context.Lock(), cloudpickle.dumps(orchestrator), max(1, _cores() // n)

    def start(index: int) -> BaseProcess:
        worker = context.Process(target=_work, args=(payload, lock, index, threads))
        with _nameless_main():
            worker.start()
        return worker

    workers: dict[int, BaseProcess] = {}
    deaths, ended = 0, 0
    try:
        for index in range(n):
            workers[index] = start(index)
        while workers:
            connection.wait([worker.sentinel for worker in workers.values()])
            for index in [i for i, worker in workers.items() if worker.exitcode is not None]:
                status = workers.pop(index).exitcode
                if status == 0:
                    continue
                repeat_lost(orchestrator.study)
                until_now = len(orchestrator.study.get_trials(deepcopy=False, states=_ENDED))
                deaths, ended = (deaths + 1 if until_now == ended else 1), until_now
                if deaths == _MOST_DEATHS:
                    raise RuntimeError(
                        f"{deaths} worker processes ended without finishing a trial, the last one with "
                        f"status {status}"
                    )
                logger.warning("a worker process ended with status %s; another takes its place", status)
                workers[index] = start(index)
    except BaseException:
        _end(workers.values())
        raise


def _end(workers: Iterable[BaseProcess]) -> None:
    """Let workers note that they were interrupted, and go."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN) if _is_main_thread() else None
    try:
        for worker in workers:
            if worker.pid is not None and worker.exitcode is None:
                os.kill(worker.pid, signal.SIGINT)
        for worker in workers:
            worker.join(_PATIENCE)
            worker.kill()
            worker.join()
    finally:
        if before is not None:
            signal.signal(signal.SIGINT, before)


def _work(payload: bytes, lock: Any, index: int, threads: int) -> None:
    signal.signal(signal.SIGINT, _interrupt_once)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    try:
        orchestrator: TrialOrchestrator = cloudpickle.loads(payload)
        orchestrator.open_in_worker()
        orchestrator.work(lock)
    except KeyboardInterrupt:  # the terminal's, which all processes get; the first one says so
        sys.exit(128 + signal.SIGINT)


def _interrupt_once(number: int, frame: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


@contextlib.contextmanager
def _nameless_main() -> Iterator[None]:
    """Keep a new process from running the user's script once more: what it needs of that comes pickled."""
    main: dict[str, Any] = sys.modules["__main__"].__dict__
    names: tuple[str, ...] = ("__file__", "__spec__")
    hidden = {name: main.pop(name) for name in names if name in main}
    main["__spec__"] = None
    try:
        yield
    finally:
        del main["__spec__"]
        main.update(hidden)


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
