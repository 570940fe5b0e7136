"""optix-fast: train, eval, doctor."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

if TYPE_CHECKING:
    from optix_fast.cli.train import TrainResult

app = typer.Typer(
    name="optix-fast",
    help="Train, evaluate and inspect reinforcement-learning agents.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@contextmanager
def _one_line_errors() -> Iterator[None]:
    """What the user can mend is one line on standard error and exit status 2; Ctrl-C is 130.

    OPTIX_FAST_DEBUG=1 shows the traceback instead.
    """
    import gymnasium as gym

    try:
        yield
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    except (ValueError, TypeError, OSError, RuntimeError, ImportError, gym.error.Error) as error:
        if os.environ.get("OPTIX_FAST_DEBUG") == "1":
            raise
        message = " ".join(str(error).split()) or type(error).__name__
        print(f"optix-fast: error: {message}", file=sys.stderr)
        raise typer.Exit(2) from None


@app.command()
def train(
    env_id: Annotated[Optional[str], typer.Argument(help="A Gymnasium id.")] = None,  # noqa: UP045
    config: Annotated[Optional[Path], typer.Option(help="YAML with settings.")] = None,  # noqa: UP045
    algo: Annotated[Optional[str], typer.Option(help="ppo, dqn, sac, or auto.")] = None,  # noqa: UP045
    steps: Annotated[Optional[int], typer.Option(help="Environment steps at most.")] = None,  # noqa: UP045
    n_envs: Annotated[Optional[int], typer.Option(help="Environments together.")] = None,  # noqa: UP045
    vectorization: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="sync, async or vector_entry_point."),
    ] = None,
    seed: Annotated[Optional[int], typer.Option(help="Of everything.")] = None,  # noqa: UP045
    run_dir: Annotated[Optional[Path], typer.Option(help="New directory to write.")] = None,  # noqa: UP045
    device: Annotated[Optional[str], typer.Option(help="auto, cpu, cuda.")] = None,  # noqa: UP045
    backend: Annotated[Optional[str], typer.Option(help="auto, native, torch.")] = None,  # noqa: UP045
    target_score: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="Stop at this mean return."),
    ] = None,
    tuner: Annotated[Optional[str], typer.Option(help="none, spsa or backoff.")] = None,  # noqa: UP045
    resume: Annotated[Optional[Path], typer.Option(help="Go on with a run that was cut off.")] = None,  # noqa: UP045
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Train an agent until the environment is solved, the score converges or the steps run out."""
    with _one_line_errors():
        from optix_fast.cli.train import complete_config
        from optix_fast.cli.train import resume as resume_training
        from optix_fast.cli.train import train as run_training
        from optix_fast.config import read_yaml

        given = {
            "algo": algo, "steps": steps, "n_envs": n_envs, "vectorization": vectorization,
            "seed": seed, "device": device, "backend": backend, "target_score": target_score,
            "tuner": tuner,
        }  # fmt: skip
        chosen = {key: value for key, value in given.items() if value is not None}
        if resume is not None:
            others = {"ENV_ID": env_id, "--config": config, "--run-dir": run_dir}
            surplus = [name for name, value in others.items() if value is not None]
            surplus += [f"--{key.replace('_', '-')}" for key in chosen]
            if surplus:
                raise ValueError(f"--resume takes the run's own settings, not {', '.join(surplus)}")
            _report(resume_training(resume, show_progress=not quiet))
            return
        settings: dict[str, Any] = {} if config is None else read_yaml(config)
        named = settings.pop("env_id", env_id)
        if env_id is not None and named != env_id:
            raise ValueError(f"ENV_ID is {env_id!r}, but {config} says env_id: {named!r}")
        if named is None:
            raise ValueError("name an environment: ENV_ID, or env_id in the --config file")
        complete = complete_config(named, settings | chosen)
        where = run_dir or _default_run_dir(complete.env_id, complete.seed)
        _report(run_training(complete, where, show_progress=not quiet))


def _report(result: TrainResult) -> None:
    speed = result.env_steps / max(result.seconds, 1e-9)
    print(
        f"{result.stop_reason}: {result.env_id}, {result.env_steps:,} steps in "
        f"{result.seconds:.1f} s ({speed:,.0f} steps/s), best score {result.best_score:.1f}, "
        f"tuner {result.tuner}\n"
        f"run directory: {result.run_dir}\n"
        f"next: optix-fast eval {result.run_dir}"
    )


@app.command(name="eval")
def evaluate(
    run_dir: Annotated[Path, typer.Argument(help="Written by train.")],
    episodes: Annotated[int, typer.Option(help="Episodes to play.")] = 100,
    seed: Annotated[int, typer.Option(help="Of the environments.")] = 10_000,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Replay the best policy of a run deterministically."""
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
        run.load_best(agent)
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
def doctor() -> None:
    """Say what is installed, which core runs, and why."""
    with _one_line_errors():
        from optix_fast.cli.doctor import report

        print(report())


def _default_run_dir(env_id: str, seed: int) -> Path:
    name = env_id.replace("/", "-").replace(":", "-")
    return Path("runs") / f"{name}-seed{seed}-{time.strftime('%Y%m%d-%H%M%S')}"


def main() -> None:
    """Entry point of the optix-fast command."""
    app()


if __name__ == "__main__":
    main()
