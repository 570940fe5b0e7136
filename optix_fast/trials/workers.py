"""Processes that run trials side by side."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

import cloudpickle  # type: ignore[import-untyped]
import torch

from optix_fast.trials.storage import repeat_lost, used

if TYPE_CHECKING:
    from optix_fast.trials.orchestrator import TrialOrchestrator

logger = logging.getLogger(__name__)

_MOST_DEATHS = 3  # of workers, one after the other, before it is the trials' fault


def run_workers(orchestrator: TrialOrchestrator) -> None:
    """Let n_jobs processes work until no trial is missing. Another takes the place of one that dies.

    Raises:
        RuntimeError: they died again and again.
    """
    n = orchestrator.n_jobs
    context = multiprocessing.get_context("spawn")  # a fork would copy locks that other threads hold
    payload = cloudpickle.dumps(orchestrator)
    threads = max(1, _cores() // n)
    for _ in range(_MOST_DEATHS):
        turn = context.Lock()
        workers = [
            context.Process(target=_work, args=(payload, turn, i, threads), daemon=False) for i in range(n)
        ]
        try:
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
        except BaseException:
            for worker in workers:
                if worker.pid is not None:
                    worker.terminate()
                    worker.join()
            raise
        died = [worker.exitcode for worker in workers if worker.exitcode != 0]
        if died:
            logger.warning("worker processes ended with status %s", died)
            repeat_lost(orchestrator.study)
        if used(orchestrator.study) >= orchestrator.n_trials:
            return
    raise RuntimeError(f"worker processes ended {_MOST_DEATHS} times before all trials had run")


def _work(payload: bytes, turn: Any, index: int, threads: int) -> None:
    torch.set_num_threads(threads)
    orchestrator: TrialOrchestrator = cloudpickle.loads(payload)
    orchestrator.open_in_worker(index)
    try:
        orchestrator.work(turn)
    except KeyboardInterrupt:  # the terminal's, which all processes get; the first one says so
        sys.exit(128 + signal.SIGINT)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
