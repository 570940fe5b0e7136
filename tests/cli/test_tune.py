"""optix-fast tune, as it is typed."""

from __future__ import annotations

import contextlib
import signal
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from command_line import Command, cli

QUICK = ("--trials", "2", "--steps", "512", "--seed", "3")


def test_a_search_ends_with_settings_that_train_takes_and_pictures(tmp_path: Path) -> None:
    done = cli("tune", "CartPole-v1", *QUICK, "--run-dir", "search", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "of 2 trials (2 complete)" in done.stdout
    assert "next: optix-fast train --config search/best.yaml" in done.stdout
    for name in ("search.png", "choices.png"):
        assert (tmp_path / "search" / name).read_bytes().startswith(b"\x89PNG")
    study = optuna.load_study(study_name=None, storage=f"sqlite:///{tmp_path}/search/study.db")
    before, best = (
        yaml.safe_load((tmp_path / "search" / n).read_text()) for n in ("config.yaml", "best.yaml")
    )
    # The run's own hyperparameters come first, and all of a run's other settings stay.
    assert study.trials[0].params == {name: before["hyperparams"][name] for name in study.best_params}
    assert best["hyperparams"] == {**before["hyperparams"], **study.best_params}
    assert {**best, "hyperparams": None} == {**before, "hyperparams": None}
    # The same command has nothing left to do; a larger number goes on.
    assert cli("tune", "CartPole-v1", *QUICK, "--run-dir", "search", cwd=tmp_path).returncode == 0
    assert len(study.trials) == 2
    more = ("--trials", "3", "--steps", "512", "--seed", "3", "--run-dir", "search")
    assert cli("tune", "CartPole-v1", *more, cwd=tmp_path).returncode == 0
    assert len(study.trials) == 3
    short = ("--config", "search/best.yaml", "-p", "steps=512", "--quiet", "--run-dir", "run")
    done = cli("train", *short, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (
        yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["hyperparams"] == best["hyperparams"]
    )


def test_searches_what_it_is_told(tmp_path: Path) -> None:
    done = cli(
        "tune", "CartPole-v1", *QUICK, "--run-dir", "s", "--search", "gamma=float,0.9,0.95",
        "--search", "n_epochs=categorical,2,3", "-p", "gae_lambda=0.7", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    study = optuna.load_study(study_name=None, storage=f"sqlite:///{tmp_path}/s/study.db")
    for trial in study.trials:
        assert trial.params.keys() == {"gamma", "n_epochs"}
        assert 0.9 <= trial.params["gamma"] <= 0.95 and trial.params["n_epochs"] in (2, 3)
    assert yaml.safe_load((tmp_path / "s" / "best.yaml").read_text())["hyperparams"]["gae_lambda"] == 0.7


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--search", "gamma=flat,0,1"), "param_space['gamma'] must begin with one of"),
        (("--search", "gamma=float,0.99,0.9"), "in order"),
        (("--search", "lr=float,0,1"), "learning_rate"),
        (("--search", "gamma=float,0.9,1.5"), "gamma must be"),
        (("--search", "n_epochs=float,1,4"), "n_epochs: it is a whole number"),
        (("--search", "learning_rate=categorical,abc,1e-3"), "learning_rate must be"),
        (("--run-dir", "full/thesis.txt"), "is a file"),
        (("--search", "gamma"), "NAME=KIND,LOWEST,HIGHEST"),
        (("--search", "gamma=float,0.9,1", "--search", "gamma=float,0.9,1"), "--search gamma is given twice"),
        (("--trials", "0"), "n_trials must be at least 1"),
        (("--steps", "3"), "--steps must allow a step of each of the 8 environments"),
        (("--jobs", "0"), "n_jobs must be at least 1"),
        (("--storage", "postgresql://nobody@localhost:1/none"), "storage"),
        (("--run-dir", "full"), "full is not empty and holds no search"),
    ],
)
def test_what_is_wrong_is_one_line(arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").touch()
    done = cli("tune", "CartPole-v1", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("optix-fast: error: ") and done.stderr.count("\n") == 1
    assert message in done.stderr
    assert not list(tmp_path.glob("runs/*"))


@pytest.mark.slow
def test_another_search_in_the_same_place_is_refused(tmp_path: Path) -> None:
    here = ("--storage", f"sqlite:///{tmp_path}/shared.db")
    assert cli("tune", "CartPole-v1", *QUICK, *here, "--run-dir", "s", cwd=tmp_path).returncode == 0
    done = cli("tune", "CartPole-v1", *QUICK, "--algo", "dqn", "--run-dir", "s", cwd=tmp_path)
    assert done.returncode == 2 and "search with other settings" in done.stderr
    longer = ("--trials", "3", "--steps", "1024", "--seed", "3")
    done = cli("tune", "CartPole-v1", *longer, *here, "--run-dir", "s", cwd=tmp_path)
    assert done.returncode == 2 and "with another trial_steps" in done.stderr
    other = (*QUICK, "-p", "hidden_sizes=8", *here, "--run-dir", "t")
    done = cli("tune", "CartPole-v1", *other, cwd=tmp_path)
    assert done.returncode == 2 and "with another config" in done.stderr
    assert not (tmp_path / "t").exists()
    assert cli("tune", "CartPole-v1", *other, "--study-name", "small", cwd=tmp_path).returncode == 0


def test_an_error_takes_away_nothing_that_was_there(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    done = cli("tune", "CartPole-v1", "--trials", "0", "--run-dir", "mine", cwd=tmp_path)
    assert done.returncode == 2 and "n_trials" in done.stderr
    assert not list((tmp_path / "mine").iterdir())


@pytest.mark.slow
def test_two_workers_share_the_trials(tmp_path: Path) -> None:
    for jobs in ("1", "2"):
        done = cli(
            "tune", "CartPole-v1", "--trials", "4", "--steps", "4096", "--jobs", jobs, "--run-dir", jobs,
            cwd=tmp_path,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        study = optuna.load_study(study_name=None, storage=f"sqlite:///{tmp_path}/{jobs}/study.db")
        workers = {trial.user_attrs["worker"] for trial in study.trials}
        assert len(study.trials) == 4 and len(workers) == int(jobs)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("jobs", ["1", "2"])
def test_an_interrupted_search_goes_on(number: signal.Signals, jobs: str, tmp_path: Path) -> None:
    def trials() -> list[Any]:
        with contextlib.suppress(Exception):  # the file may be half made
            return list(optuna.load_study(study_name=None, storage=f"sqlite:///{tmp_path}/s/study.db").trials)
        return []

    arguments = ("tune", "CartPole-v1", "--trials", "2", "--steps", "60000", "--jobs", jobs, "--run-dir", "s")
    process = Command(*arguments, cwd=tmp_path, output=tmp_path / "output")
    for _ in range(600):
        if any(trial.params for trial in trials()):
            break
        time.sleep(0.05)
    if number is signal.SIGINT:
        process.send_signal_to_its_group(number)  # as a terminal does
    else:
        process.send_signal(number)
    assert process.wait() == 128 + number
    assert (tmp_path / "output").read_text() == "interrupted; the same command with --run-dir s goes on\n"
    assert cli(*arguments, cwd=tmp_path).returncode == 0
    states = [trial.state.name for trial in trials()]
    assert states.count("COMPLETE") + states.count("PRUNED") == 2 and "RUNNING" not in states
