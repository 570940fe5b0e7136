"""Where trials are kept, and what becomes of those whose process has gone."""

from __future__ import annotations

import warnings
from typing import Any

import optuna
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from optix_fast.leftovers import is_leftover

RETRY_OF = "retry_of"  # a trial's user attribute: the number of the one that it repeats
WORKER = "worker"  # the process that runs it (leftovers.owner_mark)
INTERRUPTED = "interrupted"
_JOURNAL, _GRPC = "journal:///", "grpc://"
# Seconds between the signs of life of a running trial, and after which one without them is given up.
_HEARTBEAT, _GRACE = 30, 120


def open_storage(storage: Any) -> Any:
    """What Optuna keeps trials in.

    Args:
        storage: None for memory; a storage of Optuna's; or a URL: sqlite:///, postgresql:// and what else
            SQLAlchemy knows; journal:///path of a file, which several machines may share; grpc://host:port
            of Optuna's storage proxy.

    Raises:
        ValueError: the URL is none of these.
        RuntimeError: the storage cannot be reached; it is named.
    """
    if storage is None:
        return optuna.storages.InMemoryStorage()
    if not isinstance(storage, str):
        return storage
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return _opened(storage)
    except (ValueError, ImportError):
        raise
    except Exception as error:
        raise RuntimeError(f"storage {storage!r} cannot be opened: {_short(error)}") from error


def _opened(url: str) -> Any:
    if url.startswith(_JOURNAL):
        return optuna.storages.JournalStorage(JournalFileBackend(url[len(_JOURNAL) - 1 :]))
    if url.startswith(_GRPC):
        host, _, port = url[len(_GRPC) :].rpartition(":")
        if not host or not port.isdigit():
            raise ValueError(f"storage must be grpc://host:port, got {url!r}")
        return optuna.storages.GrpcStorageProxy(host=host, port=int(port))
    if "://" not in url:
        raise ValueError(
            f"storage must be a URL (sqlite:///, postgresql://, journal:///, grpc://), got {url!r}"
        )
    waits = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else None
    return optuna.storages.RDBStorage(
        url, waits, heartbeat_interval=_HEARTBEAT, grace_period=_GRACE, heartbeat_stale_trial_callback=repeat
    )


def repeat(study: optuna.Study, trial: FrozenTrial) -> None:
    """Let somebody try the same hyperparameters again."""
    study.enqueue_trial(trial.params, user_attrs={RETRY_OF: trial.number})


def repeat_lost(study: optuna.Study) -> None:
    """Repeat the trials that processes of this machine have left unfinished, killed or interrupted. (Those of
    other machines are found by their missing signs of life, where the storage keeps such.)"""
    trials = study.get_trials(deepcopy=False)
    repeated = _repeated(trials)
    for trial in trials:
        if trial.number in repeated:
            continue
        if trial.state is TrialState.RUNNING and is_leftover(trial.user_attrs.get(WORKER, "")):
            study.tell(trial.number, state=TrialState.FAIL)
            repeat(study, trial)
        elif trial.state is TrialState.FAIL and trial.user_attrs.get(INTERRUPTED):
            repeat(study, trial)


def used(study: optuna.Study) -> int:
    """How many trials have been begun, those that are repeated not counted."""
    trials = study.get_trials(deepcopy=False)
    repeated = _repeated(trials)
    return sum(t.state is not TrialState.WAITING and t.number not in repeated for t in trials)


def _repeated(trials: list[FrozenTrial]) -> set[int]:
    return {trial.user_attrs[RETRY_OF] for trial in trials if RETRY_OF in trial.user_attrs}


def _short(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
