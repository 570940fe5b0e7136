"""Hyperparameter search across independent runs, by Optuna."""

from __future__ import annotations

import contextlib
import copy
import inspect
import logging
import math
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.trial import TrialState

from optix_fast.leftovers import owner_mark, temporary_folder
from optix_fast.loop import RLOptimizer
from optix_fast.names import unknown_name
from optix_fast.trials.param_space import ParamSpace, SearchedParams
from optix_fast.trials.storage import (
    INTERRUPTED,
    WORKER,
    begun,
    first_line,
    open_storage,
    repeat_lost,
    without_password,
)
from optix_fast.trials.workers import run_workers
from optix_fast.tuners import FixedHyperparams
from optix_fast.types import EvalMetrics, LoopCallback

logger = logging.getLogger(__name__)

_DIRECTIONS = ("maximize", "minimize")
_SEARCH = "search"  # the study's user attribute: what all its trials have in common
_OWN_ARGUMENTS = {"agent", "pipeline", "val_pipeline", "checkpoint_score_fn"}  # of RLOptimizer
_LONGEST_HOLD = 30.0  # seconds


class TrialOrchestrator:
    """Runs many short trials, each with hyperparameters of its own, and finds the best (seed 003).

        space = {"learning_rate": ("log_float", 1e-4, 3e-3)}
        best_params, best_score = TrialOrchestrator(make_agent, make_pipeline, space).run()

    Every trial is an RLOptimizer with an agent, a pipeline and a checkpoint folder of its own; its
    hyperparameters stay what they are while it runs. Optuna's TPE (Bergstra et al. 2011) chooses them, after
    `n_startup_trials` random ones. A trial whose score lies below the median of the others' at the same
    window is ended (MedianPruner) and recorded as pruned. A trial is worth the score of its best policy.

    A trial that raises is recorded as failed, with the message in its user attribute "error", and the search
    goes on. With a storage, `run` continues what is there: trials that ended count, those whose process was
    killed are tried again. So several processes and machines may search together; several that begin in the
    same moment may run a trial more than `n_trials`.

    Args:
        agent_factory: (params) → agent, untrained; params are the trial's choices by name.
        pipeline_factory: () → pipeline.
        param_space: {name: spec}, see SearchedParams; None: what `agent_factory({})` declares by
            default_param_bounds and default_log_params.
        n_trials: of the whole search.
        trial_steps: environment steps of a trial at most.
        direction: "maximize" or "minimize".
        n_startup_trials: trials before TPE and pruning begin.
        pruner_warmup_steps: windows of a trial before it may be pruned.
        pruner_interval: windows between two looks at it.
        optuna_verbosity: Optuna's own log level while `run` works; None: errors only. (Failed trials are
            logged here.)
        rloptimizer_kwargs: further arguments of RLOptimizer, copied for each trial, callbacks aside. In a
            checkpoint_dir among them every trial has a folder of its own, which stays.
        val_pipeline_factory: () → held-out pipeline of a trial, or None.
        checkpoint_score_fn: (agent) → score; ranks a trial's policies in place of the window's, which still
            decides about pruning.
        study_name: of the search in its storage.
        storage: where trials are kept, a URL or a storage of Optuna's, see storage.open_storage; None for
            memory.
        seed: of the choices, at least 0; with several workers they depend on who is quicker, too.
        n_jobs: worker processes. The factories are pickled for them, by cloudpickle.
        settings: what else all trials of the search have in common, as JSON has it: a search that goes on
            must have the same.

    Raises:
        TypeError, ValueError: an argument is wrong, it is named; or the storage holds another search under
            this name.
        RuntimeError: the storage cannot be opened; it is named.
    """

    def __init__(
        self,
        agent_factory: Callable[[dict[str, Any]], Any],
        pipeline_factory: Callable[[], Any],
        param_space: ParamSpace | None = None,
        n_trials: int = 20,
        trial_steps: int = 50_000,
        direction: str = "maximize",
        n_startup_trials: int = 10,
        pruner_warmup_steps: int = 5,
        pruner_interval: int = 1,
        optuna_verbosity: int | None = None,
        rloptimizer_kwargs: Mapping[str, Any] | None = None,
        val_pipeline_factory: Callable[[], Any] | None = None,
        checkpoint_score_fn: Callable[[Any], float] | None = None,
        study_name: str | None = None,
        storage: Any = None,
        *,
        seed: int | None = None,
        n_jobs: int = 1,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        _check_callable(agent_factory=agent_factory, pipeline_factory=pipeline_factory)
        optional = {"val_pipeline_factory": val_pipeline_factory, "checkpoint_score_fn": checkpoint_score_fn}
        _check_callable(**{name: given for name, given in optional.items() if given is not None})
        if seed is not None:
            _check_count("seed", seed, 0)
        for name, least in (("n_trials", 1), ("trial_steps", 1), ("n_jobs", 1), ("pruner_interval", 1)):
            _check_count(name, locals()[name], least)
        for name in ("n_startup_trials", "pruner_warmup_steps"):
            _check_count(name, locals()[name], 0)
        if direction not in _DIRECTIONS:
            raise ValueError(f"direction must be 'maximize' or 'minimize', got {direction!r}")
        self.agent_factory, self.pipeline_factory = agent_factory, pipeline_factory
        self.val_pipeline_factory, self.checkpoint_score_fn = val_pipeline_factory, checkpoint_score_fn
        self.n_trials, self.trial_steps, self.direction, self.n_jobs = (
            n_trials,
            trial_steps,
            direction,
            n_jobs,
        )
        self.rloptimizer_kwargs = _check_loop_arguments(rloptimizer_kwargs or {})
        self._settings = dict(settings or {})
        self.space = self._declared() if param_space is None else SearchedParams(param_space)
        self.study_name = study_name or "optix_fast"
        self._seed, self._n_startup_trials = seed, n_startup_trials
        self._pruning = (n_startup_trials, pruner_warmup_steps, pruner_interval)
        self._verbosity = optuna.logging.ERROR if optuna_verbosity is None else optuna_verbosity
        if storage is None and n_jobs > 1:  # what several processes can reach
            folder = temporary_folder(None)
            self._folder_of_its_own = weakref.finalize(self, folder.cleanup)
            storage = f"sqlite:///{folder.name}/study.db"
        self.storage = storage
        self.study = self._open()

    # --- searching --------------------------------------------------------------------------------

    def try_first(self, params: Mapping[str, Any]) -> None:
        """Let the next trial have these hyperparameters, unless one had them already.

        Raises:
            ValueError: they are not a choice that is searched.
        """
        if not self.space.allows(params):
            raise ValueError(f"params must be a choice of {self.space.specs}, got {dict(params)}")
        with self._verbose():
            self.study.enqueue_trial(dict(params), skip_if_exists=True)

    def run(self) -> tuple[dict[str, Any], float]:
        """Run the trials that are missing; the best choice so far, and its score.

        Raises:
            RuntimeError: no trial gave a score; with the reason of the first. Or worker processes died again
                and again.
            KeyboardInterrupt: passed on; the trials under way are tried again by the next `run`.
        """
        repeat_lost(self.study)
        if self.n_jobs == 1:
            self.work(threading.Lock())
        else:
            run_workers(self)
        if not self._scored():
            raise RuntimeError(self._why_nothing())
        return self.best_params or {}, float(self.study.best_value)

    def work(self, lock: Any) -> None:
        """One worker's part: trials, one after the other, until none is missing.

        Args:
            lock: of all workers, held while one decides whether it begins another trial.
        """
        with self._verbose():
            while self._one_trial(lock):
                pass

    # --- what was found ---------------------------------------------------------------------------

    @property
    def best_params(self) -> dict[str, Any] | None:
        """The best choice so far; None before a trial has ended."""
        return dict(self.study.best_params) if self._scored() else None

    @property
    def best_score(self) -> float | None:
        """Its score; None before a trial has ended."""
        return float(self.study.best_value) if self._scored() else None

    def trials_dataframe(self) -> Any:
        """Optuna's table of all trials, a pandas DataFrame.

        Raises:
            ImportError: pandas is not installed.
        """
        return self.study.trials_dataframe()

    def _scored(self) -> bool:
        return bool(self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))

    def _why_nothing(self) -> str:
        trials = self.study.get_trials(deepcopy=False)
        errors = [(t.number, t.user_attrs["error"]) for t in trials if "error" in t.user_attrs]
        if not errors:
            return f"no trial of {len(trials)} ended with a score"
        number, message = errors[0]
        return f"all {len(trials)} trials failed; trial {number}: {message}"

    # --- one trial --------------------------------------------------------------------------------

    def _one_trial(self, lock: Any) -> bool:
        """Run a trial if one is missing, and say so."""
        # A worker that is killed while it holds the lock never gives it back.
        is_held = lock.acquire(timeout=_LONGEST_HOLD)

        def release() -> None:
            nonlocal is_held
            if is_held:
                lock.release()
            is_held = False

        def objective(trial: optuna.Trial) -> float:
            release()
            return self._objective(trial)

        try:
            if begun(self.study) >= self.n_trials:
                return False
            self.study.sampler = self._sampler(len(self.study.get_trials(deepcopy=False)))
            self.study.optimize(objective, n_trials=1, catch=(Exception,))
            return True
        finally:
            release()

    def _sampler(self, trial: int) -> optuna.samplers.BaseSampler:
        # A seed for each trial: those of a search that goes on, or of another worker, are others.
        seed = (
            None
            if self._seed is None
            else int(np.random.SeedSequence([self._seed, trial]).generate_state(1)[0])
        )
        return optuna.samplers.TPESampler(n_startup_trials=self._n_startup_trials, seed=seed)

    def _objective(self, trial: optuna.Trial) -> float:
        trial.set_user_attr(WORKER, owner_mark())
        params = self.space.suggest(trial)
        try:
            return self._score_of(trial, params)
        except optuna.TrialPruned:
            raise
        except KeyboardInterrupt:
            trial.set_user_attr(INTERRUPTED, True)
            raise
        except Exception as error:
            message = f"{type(error).__name__}: {first_line(error)}"
            trial.set_user_attr("error", message)
            logger.warning("trial %d with %s failed: %s", trial.number, params, message)
            raise

    def _score_of(self, trial: optuna.Trial, params: dict[str, Any]) -> float:
        report = _Report(trial)
        with contextlib.ExitStack() as undone:
            agent = self._agent(params, undone)
            folder = undone.enter_context(self._folder_of(trial))
            given = dict(self.rloptimizer_kwargs)
            callbacks = given.pop("callbacks", None) or ()
            options = {
                "max_steps": self.trial_steps,
                "optimizer": FixedHyperparams(),
                "state_interval": None,
                "checkpoint_score_fn": self.checkpoint_score_fn,
                **copy.deepcopy(given),  # a tuner, for example, learns within its trial
                "checkpoint_dir": folder,
                "callbacks": [*(callbacks if isinstance(callbacks, list | tuple) else [callbacks]), report],
            }
            with contextlib.ExitStack() as made:  # what the loop tears down once it runs
                if self.val_pipeline_factory is not None:
                    options["val_pipeline"] = val = self.val_pipeline_factory()
                    made.callback(_teardown, val)
                pipeline = self.pipeline_factory()
                made.callback(_teardown, pipeline)
                optimizer = RLOptimizer(agent, pipeline, **options)
                made.pop_all()
            summary = optimizer.run()
        for name in ("windows", "env_steps", "seconds", "stop_reason"):
            trial.set_user_attr(name, getattr(summary, name))
        score = summary.best_score if self.direction == "maximize" else report.lowest
        if not math.isfinite(score):
            raise ValueError(f"no window of {summary.windows} gave a score: let trials take more steps")
        return float(score)

    def _agent(self, params: Mapping[str, Any], undone: contextlib.ExitStack) -> Any:
        agent = self.agent_factory(dict(params))
        if agent is None:
            raise TypeError("agent_factory returned None")
        undone.callback(_teardown, agent)
        return agent

    @contextlib.contextmanager
    def _folder_of(self, trial: optuna.Trial) -> Iterator[str]:
        kept = self.rloptimizer_kwargs.get("checkpoint_dir")
        if kept is not None:
            yield str(Path(kept) / f"trial_{trial.number}")
            return
        with temporary_folder(None) as folder:
            yield folder

    # --- the study --------------------------------------------------------------------------------

    def _declared(self) -> SearchedParams:
        with contextlib.ExitStack() as undone:
            try:
                agent = self._agent({}, undone)
            except Exception as error:
                raise ValueError(
                    f"without param_space, agent_factory({{}}) must make an agent that says what to search; "
                    f"it raised {type(error).__name__}: {error}"
                ) from error
            return SearchedParams.of_agent(agent)

    def _open(self) -> optuna.Study:
        storage = open_storage(self.storage)
        startup, warmup, interval = self._pruning
        with self._verbose():
            try:
                study = optuna.create_study(
                    storage=storage,
                    sampler=self._sampler(0),
                    pruner=optuna.pruners.MedianPruner(startup, warmup, interval),
                    study_name=self.study_name,
                    direction=optuna.study.StudyDirection[self.direction.upper()],
                    load_if_exists=True,
                )
            except Exception as error:
                if isinstance(error, ValueError | TypeError):
                    raise
                name = without_password(str(self.storage))
                raise RuntimeError(f"storage {name!r} cannot be used: {first_line(error)}") from error
        self._check_same(study)
        return study

    def _check_same(self, study: optuna.Study) -> None:
        """The study is of this search; one without trials becomes so."""
        own = {
            "param_space": {name: list(spec) for name, spec in self.space.specs.items()},
            "trial_steps": self.trial_steps,
            "direction": self.direction,
            **self._settings,
        }
        known = study.user_attrs.get(_SEARCH)
        if known is None and not study.get_trials(deepcopy=False):
            study.set_user_attr(_SEARCH, own)
        elif known != own:
            names = [name for name in own if known is None or known.get(name) != own[name]]
            raise ValueError(
                f"the storage holds a search named {self.study_name!r} with another {', '.join(names)}: "
                "repeat that one's, or take another study name"
            )

    @contextlib.contextmanager
    def _verbose(self) -> Iterator[None]:
        before = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(self._verbosity)
        try:
            yield
        finally:
            optuna.logging.set_verbosity(before)

    # --- for worker processes ---------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        # What belongs to this process stays here.
        return {
            key: value for key, value in self.__dict__.items() if key not in ("study", "_folder_of_its_own")
        }

    def open_in_worker(self) -> None:
        """Reach the study from another process."""
        self.study = self._open()


class _Report(LoopCallback):
    """Tells the study a trial's scores, and ends a trial that is worse than most."""

    def __init__(self, trial: optuna.Trial) -> None:
        self._trial = trial
        self.lowest = math.inf  # of the scores

    def on_episode_end(self, episode_id: int, eval_metrics: EvalMetrics | None) -> None:
        """Report the window's score; raise TrialPruned where the others' median is better."""
        if eval_metrics is None or not math.isfinite(eval_metrics.primary_score):
            return
        self.lowest = min(self.lowest, eval_metrics.primary_score)
        self._trial.report(eval_metrics.primary_score, episode_id)
        if self._trial.should_prune():
            raise optuna.TrialPruned(f"pruned at window {episode_id}")


def _teardown(part: Any) -> None:
    """Where it has one."""
    teardown = getattr(part, "teardown", None)
    if callable(teardown):
        teardown()


def _check_loop_arguments(given: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        raise TypeError(f"rloptimizer_kwargs must be a mapping, got {given!r}")
    known = inspect.signature(RLOptimizer).parameters.keys() - _OWN_ARGUMENTS
    for name in given:
        if name not in known:
            raise ValueError(f"rloptimizer_kwargs: {unknown_name('argument', name, sorted(known))}")
    return dict(given)


def _check_callable(**given: Any) -> None:
    for name, value in given.items():
        if not callable(value):
            raise TypeError(f"{name} must be callable, got {value!r}")


def _check_count(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
