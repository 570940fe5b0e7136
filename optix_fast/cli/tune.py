"""optix-fast tune: a search for hyperparameters in a directory of its own."""

from __future__ import annotations

import contextlib
import shlex
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from optix_fast.cli.run_dir import new_directory
from optix_fast.cli.run_lock import FILE as LOCK
from optix_fast.cli.run_lock import RunLock
from optix_fast.cli.settings import complete_hyperparams
from optix_fast.cli.train import make_pipeline, make_run_agent
from optix_fast.config import TrainConfig, parse_yaml
from optix_fast.names import unknown_name
from optix_fast.pipelines import BatchPipeline, VectorBatchPipeline
from optix_fast.serialization import atomic_write_bytes
from optix_fast.trials import TrialOrchestrator
from optix_fast.trials.param_space import SearchedParams
from optix_fast.trials.plots import plot_choices, plot_search

CONFIG, BEST, HISTORY, CHOICES, STUDY = "config.yaml", "best.yaml", "search.png", "choices.png", "study.db"


class Terminated(KeyboardInterrupt):
    """SIGTERM ended the search."""

    signal = signal.SIGTERM


@dataclass(frozen=True)
class TuneResult:
    """How a search ended.

    Args:
        directory: of the search.
        best: the settings of a run with the best hyperparameters; `optix-fast train --config` takes it.
        params, score: the best choice, and what it scored.
        trials: how many trials ended in which way, by Optuna's names in small letters.
        seconds: of this part of the search.
    """

    directory: Path
    best: Path
    params: dict[str, Any]
    score: float
    trials: dict[str, int]
    seconds: float


def tune(
    config: TrainConfig,
    directory: str | Path | None = None,
    *,
    trials: int = 20,
    steps: int = 50_000,
    search: Sequence[str] = (),
    storage: str | None = None,
    jobs: int = 1,
    study_name: str | None = None,
) -> TuneResult:
    """Search hyperparameters for a run, or go on with a search that was stopped. The first trial has the
    run's own ones, where they are among those that are searched.

    Args:
        config: complete; of the run, whose other settings all trials have.
        directory: of the search, new or one that this search began in; None makes one in runs/.
        trials: of the whole search.
        steps: environment steps of a trial.
        search: NAME=KIND,LOWEST,HIGHEST or NAME=categorical,A,B,…, see SearchedParams; the agent's own bounds
            where nothing is given.
        storage: URL where trials are kept; None: a file in the directory.
        jobs: worker processes.
        study_name: of the search in its storage; None: environment and algorithm.

    Raises:
        ValueError: a setting is wrong; the directory is in use, or of another search.
        RuntimeError: all trials failed; the storage cannot be reached.
        KeyboardInterrupt: passed on; the same call goes on.
    """
    began = time.perf_counter()
    if steps < config.n_envs:
        raise ValueError(
            f"--steps must allow a step of each of the {config.n_envs} environments, got {steps}"
        )
    space = read_search(search, config)
    folder = new_directory(config, "tune-") if directory is None else Path(directory)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"search directory {folder} is a file")
    with _interrupted_by_sigterm(folder), contextlib.ExitStack() as undone:
        if directory is None or not folder.exists():
            folder.mkdir(parents=True, exist_ok=True)
            undone.callback(_remove, folder)
        lock = RunLock(folder)
        lock.acquire()
        undone.callback(lock.release)
        if _is_new(folder, config):
            for name in (CONFIG, STUDY):
                undone.callback((folder / name).unlink, missing_ok=True)
            text = yaml.safe_dump(config.to_dict(), sort_keys=False)
            atomic_write_bytes(folder / CONFIG, text.encode("utf-8"))
        orchestrator = TrialOrchestrator(
            partial(_agent_of, config, steps), partial(_pipeline_of, config, steps), space, trials, steps,
            rloptimizer_kwargs={"judge_every_window": True},
            study_name=study_name or f"{config.env_id}-{config.algo}",
            storage=storage or f"sqlite:///{(folder / STUDY).absolute()}", seed=config.seed, n_jobs=jobs,
            settings={"config": config.to_dict()},
        )  # fmt: skip
        undone.pop_all()
        try:
            own = {name: config.hyperparams[name] for name in space}
            if orchestrator.space.allows(own):
                orchestrator.try_first(own)
            params, score = orchestrator.run()
            best = replace(config, hyperparams={**config.hyperparams, **params})
            best.to_yaml(folder / BEST)
            title = f"{config.env_id}, {config.algo}, {steps:,} steps a trial"
            plot_search(orchestrator.study, folder / HISTORY, title)
            plot_choices(orchestrator.study, folder / CHOICES, title)
        finally:
            lock.release()
    states = [trial.state.name.lower() for trial in orchestrator.study.get_trials(deepcopy=False)]
    counts = {state: states.count(state) for state in dict.fromkeys(states)}
    return TuneResult(folder, folder / BEST, params, score, counts, time.perf_counter() - began)


@contextlib.contextmanager
def _interrupted_by_sigterm(folder: Path) -> Iterator[None]:
    """SIGTERM does what Ctrl-C does: workers end too, and the user is told how to go on."""

    def interrupt(number: int, frame: Any) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    except KeyboardInterrupt:
        print(
            f"interrupted; the same command with --run-dir {shlex.quote(str(folder))} goes on",
            file=sys.stderr,
        )
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def report(result: TuneResult, config: TrainConfig) -> str:
    """What a search has found, for people."""
    counts = ", ".join(f"{n} {state}" for state, n in result.trials.items())
    chosen = "\n".join(
        f"  {name}: {_number(value)}  (was {_number(config.hyperparams[name])})"
        for name, value in result.params.items()
    )
    return (
        f"best score {result.score:.1f} of {sum(result.trials.values())} trials ({counts}) in "
        f"{result.seconds:.1f} s\n{chosen}\nsearch directory: {result.directory} ({HISTORY}, {CHOICES})\n"
        f"next: optix-fast train --config {shlex.quote(str(result.best))}"
    )


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def read_search(search: Sequence[str], config: TrainConfig) -> dict[str, tuple[Any, ...]]:
    """What --search says, or the agent's own bounds, wide enough for the run's own values.

    Raises:
        ValueError, TypeError: a text is no spec, or names no hyperparameter.
    """
    if not search:
        pipeline = make_pipeline(config)
        try:
            specs = SearchedParams.of_agent(make_run_agent(config, pipeline)).specs
        finally:
            pipeline.teardown()
        return {name: _widened(spec, config.hyperparams[name]) for name, spec in specs.items()}
    space: dict[str, tuple[Any, ...]] = {}
    for text in search:
        name, equals, spec = (part.strip() for part in text.partition("="))
        parts = [part.strip() for part in spec.split(",")]
        if not (name and equals and all(parts)):
            raise ValueError(
                f"--search takes NAME=KIND,LOWEST,HIGHEST, for example learning_rate=log_float,1e-5,1e-2; "
                f"got {text!r}"
            )
        if name not in config.hyperparams:
            raise ValueError(unknown_name(f"hyperparameter of {config.algo}", name, list(config.hyperparams)))
        if name in space:
            raise ValueError(f"--search {name} is given twice")
        space[name] = (parts[0], *(parse_yaml(part) for part in parts[1:]))
    specs = SearchedParams(space).specs
    for name, (kind, *values) in specs.items():
        current = config.hyperparams[name]
        if kind.endswith("float") and isinstance(current, int) and not isinstance(current, bool):
            raise ValueError(f"--search {name}: it is a whole number; use int or log_int, not {kind}")
        for value in values:
            complete_hyperparams(config.algo, {**config.hyperparams, name: value})
    return specs


def _remove(folder: Path) -> None:
    """A directory in which nothing was begun."""
    with contextlib.suppress(OSError):
        folder.rmdir()


def _widened(spec: tuple[Any, ...], value: Any) -> tuple[Any, ...]:
    kind, low, high = spec
    if value <= 0 and kind.startswith("log"):
        return spec
    return kind, min(low, value), max(high, value)


def _agent_of(config: TrainConfig, steps: int, params: dict[str, Any]) -> Any:
    config = replace(config, steps=steps, hyperparams={**config.hyperparams, **params})
    pipeline = make_pipeline(config)
    try:
        return make_run_agent(config, pipeline)
    finally:
        pipeline.teardown()


def _pipeline_of(config: TrainConfig, steps: int) -> BatchPipeline | VectorBatchPipeline:
    return make_pipeline(replace(config, steps=steps))


def _is_new(folder: Path, config: TrainConfig) -> bool:
    """Whether the directory is empty; else this search began in it.

    Raises:
        ValueError: something else is in it.
    """
    path = folder / CONFIG
    if path.exists():
        if TrainConfig.from_yaml(path) != config:
            raise ValueError(f"{folder} holds a search with other settings ({CONFIG} there says which)")
        return False
    if any(entry.name != LOCK for entry in folder.iterdir()):
        raise ValueError(f"{folder} is not empty and holds no search")
    return True
