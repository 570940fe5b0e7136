"""optix-fast: train, eval, tune, params, doctor."""

from __future__ import annotations

import json
import math
import os
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from optix_fast import __version__
from optix_fast.algorithms import NAMES

if TYPE_CHECKING:
    from optix_fast.cli.train import TrainResult
    from optix_fast.config import TrainConfig

_ALGORITHMS = ", ".join(NAMES)

app = typer.Typer(
    name="optix-fast",
    help="Train, evaluate and inspect reinforcement-learning agents.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    # Plain help keeps its columns on a narrow terminal, and rich takes longer to import than all else here.
    rich_markup_mode=None,
)


@contextmanager
def _one_line_errors() -> Iterator[None]:
    """What the user can mend is one line on standard error and exit status 2; Ctrl-C is 130, SIGTERM 143.

    OPTIX_FAST_DEBUG=1 shows the traceback instead.
    """
    try:
        yield
    except KeyboardInterrupt as error:
        raise typer.Exit(128 + getattr(error, "signal", signal.SIGINT)) from None
    except BrokenPipeError:
        raise
    except Exception as error:
        if os.environ.get("OPTIX_FAST_DEBUG") == "1" or not _is_mendable(error):
            raise
        message = " ".join(str(error).split()) or type(error).__name__
        print(f"optix-fast: error: {message}", file=sys.stderr)
        raise typer.Exit(2) from None


def _is_mendable(error: Exception) -> bool:
    if isinstance(error, ValueError | TypeError | OSError | RuntimeError | ImportError):
        return True
    gymnasium = sys.modules.get("gymnasium")  # what was never imported raised nothing
    return gymnasium is not None and isinstance(error, gymnasium.error.Error)


def _print_version(asked: bool) -> None:
    if asked:
        print(f"optix-fast {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Train, evaluate and inspect reinforcement-learning agents."""


@app.command()
def train(
    env_id: Annotated[Optional[str], typer.Argument(help="Gymnasium id, or module:id.")] = None,  # noqa: UP045
    config: Annotated[Optional[Path], typer.Option(help="YAML file with settings.")] = None,  # noqa: UP045
    algo: Annotated[Optional[str], typer.Option(help=f"{_ALGORITHMS} or auto.")] = None,  # noqa: UP045
    param: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            "--param",
            "-p",
            metavar="NAME=VALUE",
            help="A hyperparameter (see optix-fast params) or a setting of the config file; repeatable.",
        ),
    ] = None,
    steps: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="INTEGER", help="Environment steps at most, for example 1e6."),
    ] = None,
    n_envs: Annotated[Optional[int], typer.Option(help="Environments stepped together.")] = None,  # noqa: UP045
    vectorization: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="sync, async or vector_entry_point."),
    ] = None,
    seed: Annotated[Optional[int], typer.Option(help="Of weights, streams and environments.")] = None,  # noqa: UP045
    run_dir: Annotated[Optional[Path], typer.Option(help="New directory to write to.")] = None,  # noqa: UP045
    device: Annotated[Optional[str], typer.Option(help="auto, cpu or cuda.")] = None,  # noqa: UP045
    backend: Annotated[Optional[str], typer.Option(help="auto, native or torch.")] = None,  # noqa: UP045
    target_score: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="Stop at this mean return."),
    ] = None,
    tuner: Annotated[Optional[str], typer.Option(help="none, spsa, backoff, momentum or pbt.")] = None,  # noqa: UP045
    resume: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Continue an interrupted run; with --steps, the new total, a finished one too."),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
) -> None:
    """Train an agent.

    Until the environment is solved, the score converges or the steps run out. Settings come from the
    environment's preset, then the config file, then these options.
    """
    with _one_line_errors():
        from optix_fast.cli.train import resume as resume_training
        from optix_fast.cli.train import train as run_training

        total = _count("--steps", steps)
        given = {
            "algo": algo, "steps": total, "n_envs": n_envs, "vectorization": vectorization,
            "seed": seed, "device": device, "backend": backend, "target_score": target_score,
            "tuner": tuner,
        }  # fmt: skip
        chosen = {key: value for key, value in given.items() if value is not None}
        if resume is not None:
            others = {"ENV_ID": env_id, "--config": config, "--run-dir": run_dir}
            surplus = [name for name, value in others.items() if value is not None]
            surplus += [f"--{key.replace('_', '-')}" for key in chosen if key != "steps"] + [
                "--param"
            ] * bool(param)
            if surplus:
                raise ValueError(f"--resume takes the run's own settings, not {', '.join(surplus)}")
            with _reported():
                _report(resume_training(resume, show_progress=not quiet, steps=total))
            return
        complete = _complete(env_id, config, chosen, param or ())
        with _reported():
            _report(run_training(complete, run_dir, show_progress=not quiet))


def _complete(
    env_id: str | None, file: Path | None, chosen: dict[str, Any], param: Sequence[str]
) -> TrainConfig:
    """The complete settings: the environment's preset, the file, the options, `-p`."""
    from optix_fast.cli.settings import complete_config, read_params
    from optix_fast.config import read_yaml

    settings: dict[str, Any] = {} if file is None else read_yaml(file)
    named = settings.pop("env_id", env_id)
    if env_id is not None and named != env_id:
        raise ValueError(f"ENV_ID is {env_id!r}, but {file} says env_id: {named!r}")
    if named is None:
        raise ValueError("name an environment: ENV_ID, or env_id in the --config file")
    params = read_params(param)
    for name in sorted(params.keys() & chosen.keys()):
        raise ValueError(f"--{name.replace('_', '-')} and -p {name} say the same: give one of them")
    return complete_config(named, settings | chosen, params)


@contextmanager
def _reported() -> Iterator[None]:
    """Report a run that was interrupted, too."""
    from optix_fast.cli.train import Interrupted

    try:
        yield
    except Interrupted as error:
        if error.result is None:
            print("interrupted", file=sys.stderr)
        else:
            _report(error.result)
        raise


def _report(result: TrainResult) -> None:
    speed = result.env_steps / max(result.seconds, 1e-9)
    reason = result.stop_reason
    if result.constant_return is not None:
        from optix_fast.loop.learning_signal import absence

        reason += f" ({absence(result.constant_return)})"
    best = f"best window's score {result.best_score:.1f}"
    if math.isnan(result.best_score):
        best = "no episode ended (the last policy is kept)"
    print(
        f"{reason}: {result.env_id}, {result.env_steps:,} steps in "
        f"{result.seconds:.1f} s ({speed:,.0f} steps/s), {best}, tuner {result.tuner}\n"
        f"run directory: {result.run_dir}"
    )
    if result.stop_reason == "interrupted":
        command = f"optix-fast train --resume {shlex.quote(str(result.run_dir))}"
        print(f"go on: {command}" if result.can_resume else "it cannot be resumed: no state was written yet")
    print(f"next: optix-fast eval {shlex.quote(str(result.run_dir))}")


@app.command(name="eval")
def evaluate(
    run_dir: Annotated[Path, typer.Argument(help="Written by train.")],
    episodes: Annotated[int, typer.Option(help="Episodes to play.")] = 100,
    seed: Annotated[int, typer.Option(help="Of the environments.")] = 10_000,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Play the best policy of a run.

    Deterministically, in fresh episodes.
    """
    with _one_line_errors():
        from optix_fast.cli.run_dir import RunDir
        from optix_fast.cli.train import make_env_fn, make_run_agent
        from optix_fast.loop import evaluate_policy

        run, config = RunDir.open(run_dir)
        make_env = make_env_fn(config)
        env = make_env()
        try:
            agent = make_run_agent(config, env)
        finally:
            env.close()
        remark = run.load_policy(agent)
        if remark is not None:
            print(f"optix-fast: {run_dir}: {remark}", file=sys.stderr)
        result = evaluate_policy(agent, make_env, episodes, seed=seed)
        if as_json:
            print(
                json.dumps(
                    {
                        "return_mean": result.return_mean,
                        "return_std": result.return_std,
                        "episodes": result.episodes,
                    }
                )
            )
        else:
            print(
                f"{config.env_id}: return {result.return_mean:.2f} ± {result.return_std:.2f} over "
                f"{result.episodes} episodes"
            )


@app.command()
def tune(
    env_id: Annotated[Optional[str], typer.Argument(help="Gymnasium id, or module:id.")] = None,  # noqa: UP045
    config: Annotated[Optional[Path], typer.Option(help="YAML file with settings of the runs.")] = None,  # noqa: UP045
    algo: Annotated[Optional[str], typer.Option(help=f"{_ALGORITHMS} or auto.")] = None,  # noqa: UP045
    trials: Annotated[int, typer.Option(help="Trials of the whole search.")] = 20,
    steps: Annotated[
        str, typer.Option(metavar="INTEGER", help="Environment steps of a trial, for example 5e4.")
    ] = "50000",
    search: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            metavar="NAME=KIND,LOW,HIGH",
            help="What to search: float, log_float, int or log_int with bounds, or categorical with the "
            "choices; repeatable. Without it the algorithm's own bounds.",
        ),
    ] = None,
    param: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--param", "-p", metavar="NAME=VALUE", help="As in train; fixed in all trials."),
    ] = None,
    seed: Annotated[Optional[int], typer.Option(help="Of the choices, and of every trial.")] = None,  # noqa: UP045
    jobs: Annotated[int, typer.Option(help="Worker processes.")] = 1,
    storage: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="URL of a storage that several machines reach; else a file in the run directory."),
    ] = None,
    study_name: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Of the search in its storage; else environment and algorithm."),
    ] = None,
    run_dir: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Directory of the search; one that was stopped goes on."),
    ] = None,
) -> None:
    """Search hyperparameters.

    Many short trials, chosen by Optuna's TPE; bad ones are ended early. The best settings are written into a
    file for train --config.
    """
    with _one_line_errors():
        from optix_fast.cli.tune import report, tune

        given = {key: value for key, value in {"algo": algo, "seed": seed}.items() if value is not None}
        complete = _complete(env_id, config, given, param or ())
        count = _count("--steps", steps)
        assert count is not None
        result = tune(
            complete, run_dir, trials=trials, steps=count, search=search or (), storage=storage, jobs=jobs,
            study_name=study_name,
        )  # fmt: skip
        print(report(result, complete))


@app.command()
def params(
    algo: Annotated[Optional[str], typer.Argument(help=f"{_ALGORITHMS}; all without it.")] = None,  # noqa: UP045
    markdown: Annotated[
        bool, typer.Option("--markdown", help="As docs/hyperparameters.md holds it.")
    ] = False,
) -> None:
    """List hyperparameters and settings.

    Name, default and range of each, and what it means.
    """
    with _one_line_errors():
        from optix_fast.cli.params import report

        print(report(algo, markdown))


@app.command()
def doctor() -> None:
    """Say which core runs, and why.

    And which versions and devices there are.
    """
    with _one_line_errors():
        from optix_fast.cli.doctor import report

        print(report())


def _count(option: str, text: str | None) -> int | None:
    if text is None:
        return None
    try:
        number = float(text.replace("_", "").replace(",", ""))
        if number.is_integer():
            return int(number)
    except (ValueError, OverflowError):
        pass
    raise ValueError(f"{option} must be a whole number, got {text!r}")


def main() -> None:
    """Entry point of the optix-fast command."""
    here = os.getcwd()
    if here not in sys.path:
        # Last, so that my_env:My-v0 is found here, but no file here hides an installed module.
        sys.path.append(here)
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # The reader (head, less) has seen enough. Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


if __name__ == "__main__":
    main()
