"""Where trials are kept, and what becomes of those whose process has gone."""

from __future__ import annotations

import random
import re
import time
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
_ATTEMPTS = 5
_LONGEST = 300  # characters of a message


def open_storage(storage: Any) -> Any:
    """What Optuna keeps trials in.

    Args:
        storage: None for memory; a storage of Optuna's; or a URL: sqlite:///path, postgresql:// and what else
            SQLAlchemy knows; journal:///path of a file, which several machines may share; grpc://host:port
            of Optuna's storage proxy. An absolute path makes four slashes.

    Raises:
        ValueError: the URL is none of these.
        RuntimeError: the storage cannot be reached; it is named.
    """
    if storage is None:
        return optuna.storages.InMemoryStorage()
    if isinstance(storage, optuna.storages.BaseStorage):
        return storage
    if not isinstance(storage, str):
        raise TypeError(f"storage must be a URL or a storage of Optuna's, got {storage!r}")
    for attempt in range(_ATTEMPTS):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                return _opened(storage)
        except ValueError:
            raise
        except Exception as error:
            # Several processes that make the tables of a new database at once disturb each other.
            if attempt + 1 == _ATTEMPTS or isinstance(error, ImportError):
                name = without_password(storage)
                raise RuntimeError(f"storage {name!r} cannot be opened: {first_line(error)}") from error
            time.sleep(0.1 * 2**attempt * (1.0 + random.random()))
    raise AssertionError("unreachable")


def _opened(url: str) -> Any:
    if url.startswith(_JOURNAL):
        return optuna.storages.JournalStorage(JournalFileBackend(url[len(_JOURNAL) :]))
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
            try:
                study.tell(trial.number, state=TrialState.FAIL)
            except (ValueError, optuna.exceptions.UpdateFinishedTrialError):
                continue  # another process was quicker
            repeat(study, trial)
        elif trial.state is TrialState.FAIL and trial.user_attrs.get(INTERRUPTED):
            repeat(study, trial)


def begun(study: optuna.Study) -> int:
    """How many trials have been begun, those that are repeated not counted."""
    trials = study.get_trials(deepcopy=False)
    repeated = _repeated(trials)
    return sum(t.state is not TrialState.WAITING and t.number not in repeated for t in trials)


def _repeated(trials: list[FrozenTrial]) -> set[int]:
    return {trial.user_attrs[RETRY_OF] for trial in trials if RETRY_OF in trial.user_attrs}


def first_line(error: Exception) -> str:
    """What an error says, in one line of a few hundred characters."""
    text = str(error).strip()
    line = text.splitlines()[0] if text else type(error).__name__
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…"


def without_password(url: str) -> str:
    """A URL for messages."""
    return re.sub(r"(://[^/@:]*):[^@]*@", r"\1:…@", url)
