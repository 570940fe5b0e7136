"""Hooks that end a run, hooks that fail, hooks that are misspelt; and who may start and stop a run when."""

from __future__ import annotations

import sys
import threading
from types import SimpleNamespace
from typing import Any

import pytest

import optix_fast
from optix_fast.loop.callbacks import HOOKS, CallbackList
from optix_fast.types import LoopCallback, StopTraining


class Raising(LoopCallback):
    """Raises `error` in `hook`, from its n-th call on."""

    def __init__(self, hook: str, error: Exception, call: int = 1) -> None:
        self.error, self.left = error, call
        setattr(self, hook, self.fail)

    def fail(self, *arguments: Any) -> None:
        self.left -= 1
        if self.left <= 0:
            raise self.error


class Pruned(Exception):  # noqa: N818
    """Stands for optuna.TrialPruned."""


class PrunedOfMine(Pruned):
    """Somebody's own kind of it."""


@pytest.fixture
def optuna(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", SimpleNamespace(TrialPruned=Pruned))  # type: ignore[arg-type]


def rising(version: int, window: int) -> float:
    return float(version)


# --- exceptions that end a run ------------------------------------------------------------------


def test_stop_training_is_exported_at_the_top() -> None:
    assert optix_fast.StopTraining is StopTraining


@pytest.mark.parametrize("hook", ["on_episode_end", "on_improvement"])
def test_stop_training_ends_the_run_after_the_window_under_way(script: Any, hook: str) -> None:
    run = script(rising, callbacks=[Raising(hook, StopTraining(), call=3)])
    summary = run.run()
    assert summary.stop_reason == "stopped"
    assert summary.windows == run.pipeline.collected == run.learned
    assert summary.windows == (3 if hook == "on_episode_end" else 4)
    assert run.agent.version == run.best_version
    assert run.events[-2:] == [("collect", "teardown"), ("on_loop_stop",)]


def test_stop_training_before_the_first_window_collects_nothing(script: Any) -> None:
    run = script([1.0], callbacks=[Raising("on_loop_start", StopTraining())])
    assert (run.run().stop_reason, run.pipeline.collected) == ("stopped", 0)


def test_later_callbacks_still_hear_of_the_window_that_ends_the_run(script: Any) -> None:
    run = script(rising, callbacks=[Raising("on_episode_end", StopTraining()), heard := Count()])
    run.run()
    assert heard.windows == 1


class Count(LoopCallback):
    def __init__(self) -> None:
        self.windows = 0

    def on_episode_end(self, episode_id: int, eval_metrics: Any) -> None:
        self.windows += 1


@pytest.mark.parametrize("error", [Pruned("trial 3"), PrunedOfMine("trial 3")])
@pytest.mark.parametrize("hook", ["on_loop_start", "on_episode_end", "on_loop_stop"])
def test_pruned_trial_is_passed_on_when_everything_is_wound_up(
    script: Any, optuna: None, hook: str, error: Exception
) -> None:
    run = script(rising, max_episodes=4, callbacks=[Raising(hook, error, call=2 if "episode" in hook else 1)])
    with pytest.raises(Pruned, match="trial 3"):
        run.run()
    windows = {"on_loop_start": 0, "on_episode_end": 2, "on_loop_stop": 4}[hook]
    assert run.controller.windows == run.pipeline.collected == windows
    assert run.controller.stop_reason == ("budget" if hook == "on_loop_stop" else "stopped")
    assert run.events[-2:] == [("collect", "teardown"), ("on_loop_stop",)]
    if windows:
        assert run.agent.version == run.best_version


@pytest.mark.parametrize("order", [1, -1])
def test_pruned_trial_is_passed_on_beside_stop_training(script: Any, optuna: None, order: int) -> None:
    both = [Raising("on_episode_end", StopTraining()), Raising("on_episode_end", Pruned())][::order]
    with pytest.raises(Pruned):
        script(rising, callbacks=both).run()


def test_exception_of_that_name_ends_nothing_where_optuna_is_not_imported(
    script: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delitem(sys.modules, "optuna", raising=False)
    run = script(rising, max_episodes=3, callbacks=[Raising("on_episode_end", Pruned())])
    assert run.run().stop_reason == "budget"
    assert caplog.text.count("on_episode_end raised") == 3
    assert "optuna" not in sys.modules


def test_run_after_one_that_a_callback_ended_is_whole(script: Any, optuna: None) -> None:
    run = script(rising, max_episodes=3, callbacks=[once := Raising("on_episode_end", Pruned())])
    with pytest.raises(Pruned):
        run.run()
    once.left = 1000
    assert (run.run().stop_reason, run.controller.windows) == ("budget", 3)


# --- stop() and run() ---------------------------------------------------------------------------


def test_stop_before_a_run_ends_it_before_its_first_window_and_only_that_one(script: Any) -> None:
    run = script([1.0], max_episodes=2)
    run.controller.stop()
    summary = run.run()
    assert (summary.stop_reason, summary.windows, run.pipeline.collected) == ("stopped", 0, 0)
    assert run.run().stop_reason == "budget"
    assert run.pipeline.collected == 2


def test_stop_during_a_run_does_not_touch_the_next(script: Any) -> None:
    class Stop(LoopCallback):
        def on_loop_stop(self) -> None:
            run.controller.stop()

    run = script([1.0], max_episodes=2, callbacks=[Stop()])
    assert [run.run().stop_reason, run.run().stop_reason] == ["budget", "budget"]


def test_second_run_at_once_is_a_runtime_error_and_leaves_the_first_alone(script: Any) -> None:
    inside, go_on = threading.Event(), threading.Event()

    class Wait(LoopCallback):
        def on_loop_start(self) -> None:
            inside.set()
            assert go_on.wait(30)

    run = script([1.0], max_episodes=3, callbacks=[Wait()])
    first = threading.Thread(target=run.run)
    first.start()
    assert inside.wait(30)
    try:
        with pytest.raises(RuntimeError, match="already under way"):
            run.run()
        with pytest.raises(RuntimeError, match="resume.. comes before run"):
            run.controller.resume()
    finally:
        go_on.set()
        first.join()
    assert (run.controller.stop_reason, run.controller.windows) == ("budget", 3)


def test_run_within_a_hook_is_logged_as_an_error_of_the_hook(
    script: Any, caplog: pytest.LogCaptureFixture
) -> None:
    class Again(LoopCallback):
        def on_loop_start(self) -> None:
            run.run()

    run = script([1.0], max_episodes=2, callbacks=[Again()])
    assert run.run().windows == 2
    assert "already under way" in caplog.text


def test_run_that_failed_can_be_run_again(script: Any) -> None:
    run = script([1.0], max_episodes=2)

    def fail(data: Any) -> None:
        raise ValueError("once")

    run.agent.learn_hook = fail
    with pytest.raises(ValueError, match="once"):
        run.run()
    run.agent.learn_hook = lambda data: None
    assert run.run().windows == 2


# --- typos --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typo", "hint"),
    [
        ("on_improvment", "did you mean on_improvement?"),
        ("on_episodes_end", "did you mean on_episode_end?"),
        ("on_step", "the hooks are on_loop_start"),
    ],
)
def test_hook_that_is_never_called_is_named_with_the_nearest_one(
    typo: str, hint: str, caplog: pytest.LogCaptureFixture
) -> None:
    kind = type("Mine", (LoopCallback,), {typo: lambda self, *arguments: None})
    CallbackList([kind()])
    assert f"Mine.{typo} is not a hook of LoopCallback and is never called; {hint}" in caplog.text


def test_hooks_and_other_names_are_no_typos(caplog: pytest.LogCaptureFixture) -> None:
    names = dict.fromkeys((*HOOKS, "improvement", "once", "set_on_stop"), lambda self, *arguments: None)
    CallbackList([type("Mine", (LoopCallback,), {**names, "on_policy": True})()])
    assert caplog.text == ""


def test_object_with_hooks_that_is_no_callback_is_refused() -> None:
    with pytest.raises(TypeError, match="must be instances of LoopCallback, got SimpleNamespace"):
        CallbackList([SimpleNamespace(on_improvment=print)])
