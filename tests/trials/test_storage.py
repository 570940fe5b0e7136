"""Searches that are stopped, killed, shared."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from trial_cases import DiesOnce, Sleeps, search

from optix_fast.trials.storage import RETRY_OF, WORKER, begun, without_password

HELPERS = Path(__file__).parent.parent / "helpers"


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[str]:
    """A server of Optuna's that gives its clients an SQLite storage."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    code = (
        "import optuna, warnings; warnings.simplefilter('ignore');"
        f"storage = optuna.storages.RDBStorage('sqlite:///{tmp_path}/proxied.db');"
        f"optuna.storages.run_grpc_proxy_server(storage, host='localhost', port={port})"
    )
    server = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    try:
        for _ in range(200):
            with socket.socket() as client:
                if client.connect_ex(("localhost", port)) == 0:
                    break
            time.sleep(0.1)
        yield f"grpc://localhost:{port}"
    finally:
        server.kill()
        server.wait()


@pytest.fixture(
    params=["sqlite", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("journal", "grpc"))]
)
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "grpc":
        return str(request.getfixturevalue("proxy"))
    return f"{request.param}:///{tmp_path}/study"  # four slashes: an absolute path


def test_a_search_goes_on_in_its_storage(storage: str) -> None:
    first = search(storage=storage, n_trials=3)
    first.run()
    second = search(storage=storage, n_trials=5)
    assert second.best_params == first.best_params
    second.run()
    assert len(second.study.trials) == 5
    assert [t.params for t in second.study.trials[:3]] == [t.params for t in first.study.trials[:3]]
    search(storage=storage, n_trials=5).run()
    assert len(second.study.trials) == 5
    # What was chosen is what one search without a break chooses.
    whole = search(n_trials=5)
    whole.run()
    assert [t.params for t in second.study.trials] == [t.params for t in whole.study.trials]
    assert len({t.params["x"] for t in whole.study.trials}) == 5


@pytest.mark.parametrize(
    "other",
    [{"param_space": {"x": ("float", 0.0, 2.0)}}, {"direction": "minimize"}],
    ids=["space", "direction"],
)
def test_another_search_under_the_same_name_is_refused(tmp_path: Path, other: dict[str, Any]) -> None:
    url = f"sqlite:///{tmp_path}/study.db"
    search(storage=url, n_trials=1).run()
    with pytest.raises(ValueError, match="search named 'optix_fast' with another (param_space|direction)"):
        search(storage=url, **other)
    search(storage=url, study_name="other", n_trials=1, **other).run()
    assert sorted(s.study_name for s in optuna.get_all_study_summaries(url)) == ["optix_fast", "other"]


def script(storage: str, mark: Path, **kwargs: Any) -> subprocess.Popen[bytes]:
    """A process that searches, with agents that take their time."""
    code = (
        f"import sys; sys.path.insert(0, {str(HELPERS)!r});"
        "from pathlib import Path; from trial_cases import Sleeps, search;"
        f"search(storage={storage!r}, agent_factory=Sleeps(Path({str(mark)!r}), 20.0), **{kwargs!r}).run()"
    )
    # Not in the source tree, which would be imported in place of what is installed.
    return subprocess.Popen([sys.executable, "-c", code], cwd=mark, stderr=subprocess.DEVNULL)


def wait_for(condition: Any) -> None:
    for _ in range(600):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("nothing happened")


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_the_trial_of_a_process_that_was_killed_or_interrupted_is_tried_again(
    storage: str, tmp_path: Path, number: signal.Signals
) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    process = script(storage, marks, n_trials=2)
    wait_for(lambda: list(marks.iterdir()))
    process.send_signal(number)
    process.wait()
    orchestrator = search(storage=storage, n_trials=2)
    lost = orchestrator.study.trials
    assert [t.state for t in lost] == [TrialState.RUNNING if number == signal.SIGKILL else TrialState.FAIL]
    orchestrator.run()
    found = orchestrator.study.trials
    assert [t.state for t in found] == [TrialState.FAIL, TrialState.COMPLETE, TrialState.COMPLETE]
    assert found[1].user_attrs[RETRY_OF] == 0 and found[1].params == lost[0].params
    assert begun(orchestrator.study) == 2


@pytest.mark.slow
def test_a_trial_that_another_process_runs_is_left_alone(tmp_path: Path) -> None:
    url, marks = f"sqlite:///{tmp_path}/study.db", tmp_path / "marks"
    marks.mkdir()
    process = script(url, marks, n_trials=2)
    try:
        wait_for(lambda: list(marks.iterdir()))
        orchestrator = search(storage=url, n_trials=2)
        orchestrator.run()
        assert [t.state for t in orchestrator.study.trials] == [TrialState.RUNNING, TrialState.COMPLETE]
        assert (
            orchestrator.study.trials[0].user_attrs[WORKER] != orchestrator.study.trials[1].user_attrs[WORKER]
        )
    finally:
        process.kill()
        process.wait()


def test_a_relative_journal_lies_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    search(storage="journal:///study.log", n_trials=1).run()
    assert (tmp_path / "study.log").exists()


def test_a_password_is_not_shown() -> None:
    assert without_password("postgresql://me:secret@host/db") == "postgresql://me:…@host/db"
    assert without_password("sqlite:///here@home/study.db") == "sqlite:///here@home/study.db"


# --- worker processes ---------------------------------------------------------------------------


@pytest.mark.slow
def test_two_workers_share_the_trials(tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    make = Sleeps(marks, 0.3)
    # A function of this place, which no other process could import.
    orchestrator = search(agent_factory=lambda params: make(params), n_trials=6, n_jobs=2)
    best, score = orchestrator.run()
    assert orchestrator.best_params == best and orchestrator.best_score == score
    assert [t.state for t in orchestrator.study.trials] == [TrialState.COMPLETE] * 6
    makers = {path.name.split("-")[0] for path in marks.iterdir()}
    assert len(makers) == 2 and str(os.getpid()) not in makers


@pytest.mark.slow
def test_another_worker_takes_the_place_of_one_that_died(tmp_path: Path) -> None:
    orchestrator = search(agent_factory=DiesOnce(tmp_path / "died"), n_trials=4, n_jobs=2)
    orchestrator.run()
    found = [t.state for t in orchestrator.study.trials]
    assert found.count(TrialState.COMPLETE) == 4 and found.count(TrialState.FAIL) == 1


@pytest.mark.slow
def test_workers_that_always_die_end_the_search(tmp_path: Path) -> None:
    def dies(params: dict[str, Any]) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(RuntimeError, match="3 worker processes ended without finishing a trial.*status -9"):
        search(agent_factory=dies, n_trials=4, n_jobs=2).run()
