"""Scripted agents and pipelines: policies are version numbers, scores are given by a function."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from optix_fast.loop import BackoffScheduler, CheckpointRegistry, LoopController, TorchEvaluator
from optix_fast.types import (
    BaseAgent,
    BaseOptimizer,
    BasePipeline,
    EpisodeData,
    EvalMetrics,
    HyperparamSet,
    LoopCallback,
    is_recording,
)

Event = tuple[Any, ...]


class FakeAgent(BaseAgent):
    """Policy version v; every learn() makes the next, numbers never being used twice."""

    def __init__(self, events: list[Event]) -> None:
        self.events = events
        self.version = 0
        self.made = 0
        self.params: dict[str, Any] = {"x": 0.5}
        self.on_policy = True
        self.learn_hook: Callable[[EpisodeData], None] = lambda data: None
        self.acts: list[bool] = []

    def act(self, observation: Any) -> int:
        self.acts.append(is_recording())
        return 0

    def learn(self, episode_data: EpisodeData) -> dict[str, Any]:
        self.events.append(("learn", self.version))
        self.learn_hook(episode_data)
        self.made += 1
        self.version = self.made
        return {"made": float(self.version)}

    def get_hyperparams(self) -> HyperparamSet:
        return HyperparamSet(dict(self.params))

    def set_hyperparams(self, hyperparams: HyperparamSet) -> None:
        self.params = dict(hyperparams.params)

    def save_weights(self, path: str) -> None:
        Path(path).mkdir(parents=True)
        (Path(path) / "version.txt").write_text(str(self.version))

    def load_weights(self, path: str) -> None:
        self.version = int((Path(path) / "version.txt").read_text())
        self.events.append(("load", self.version))

    @property
    def is_on_policy(self) -> bool:
        return self.on_policy


class FakePipeline(BasePipeline):
    """Windows of `rows` rows whose only episode returns score(policy version, window number)."""

    def __init__(
        self,
        score: Callable[[int, int], float],
        events: list[Event],
        name: str = "collect",
        rows: int = 4,
        length: int | None = None,
    ) -> None:
        self.score, self.events, self.name, self.rows, self.length = score, events, name, rows, length
        self.agent: Any = None
        self.collected = 0
        self.recorded: list[bool] = []

    def set_agent(self, agent: Any) -> None:
        self.agent = agent

    def setup(self) -> None:
        self.events.append((self.name, "setup"))

    def teardown(self) -> None:
        self.events.append((self.name, "teardown"))

    @property
    def is_live(self) -> bool:
        return False

    def episodes(self) -> Iterator[EpisodeData]:
        while self.length is None or self.collected < self.length:
            self.events.append((self.name, self.agent.version))
            self.recorded.append(is_recording())
            self.agent.act(0)
            value = self.score(self.agent.version, self.collected)
            self.collected += 1
            yield EpisodeData(
                observations=[0] * self.rows,
                actions=[0] * self.rows,
                rewards=[0.0] * self.rows,
                terminated=[False] * self.rows,
                truncated=[False] * self.rows,
                infos=[{}] * self.rows,
                episode_id=-1,
                metadata={"episode_returns": [value], "version": self.agent.version},
            )


class LoggingEvaluator(TorchEvaluator):
    def __init__(self, events: list[Event]) -> None:
        super().__init__()
        self.events = events

    def score(self, episode_data: EpisodeData, train_diagnostics: dict[str, Any] | None) -> EvalMetrics:
        version = episode_data.metadata["version"]
        self.events.append(("score", version, (train_diagnostics or {}).get("made", 0.0)))
        return super().score(episode_data, train_diagnostics)


class Recorder(LoopCallback):
    """Writes every hook down."""

    def __init__(self, events: list[Event]) -> None:
        self.events = events

    def on_loop_start(self) -> None:
        self.events.append(("on_loop_start",))

    def on_loop_stop(self) -> None:
        self.events.append(("on_loop_stop",))

    def on_episode_end(self, episode_id: int, eval_metrics: EvalMetrics | None) -> None:
        score = None if eval_metrics is None else eval_metrics.primary_score
        self.events.append(("on_episode_end", episode_id, score))

    def on_improvement(self, snapshot: Any) -> None:
        self.events.append(("on_improvement", snapshot.eval_metrics.primary_score))

    def on_plateau(self, episode_id: int, state: Any) -> None:
        self.events.append(("on_plateau", episode_id, state.name))

    def on_dormant(self, episode_id: int) -> None:
        self.events.append(("on_dormant", episode_id))

    def on_degradation(self, episode_id: int, eval_metrics: EvalMetrics) -> None:
        self.events.append(("on_degradation", episode_id))

    def on_hyperparam_update(self, old_params: dict[str, Any], new_params: dict[str, Any]) -> None:
        self.events.append(("on_hyperparam_update", old_params, new_params))


class ScriptedTuner(BaseOptimizer):
    """Suggests x = 1, 2, 3, … and notes which x the latest score belonged to."""

    def __init__(self, change: bool = True) -> None:
        self.change = change
        self.seen: list[tuple[Any, float]] = []
        self.probing = False
        self.improvements = 0
        self.plateaus = 0

    def suggest(
        self, current_hyperparams: HyperparamSet, metrics_history: Sequence[EvalMetrics]
    ) -> HyperparamSet:
        self.seen.append((current_hyperparams.params["x"], metrics_history[-1].primary_score))
        new = current_hyperparams.copy()
        if self.change:
            new.params["x"] = len(self.seen)
        return new

    def on_improvement(self, metrics: EvalMetrics) -> None:
        self.improvements += 1

    def on_plateau(self, metrics_history: Sequence[EvalMetrics]) -> None:
        self.plateaus += 1

    @property
    def is_probing(self) -> bool:
        return self.probing


class Script:
    """A controller on fakes, and what happened.

    `score` is a list of scores by window (the last one repeats), or a function of (policy version,
    window number).
    """

    def __init__(
        self,
        directory: Path,
        score: Any,
        val: Any = None,
        tuner: Any = None,
        schedule: dict[str, Any] | None = None,
        rows: int = 4,
        length: int | None = None,
        callbacks: Sequence[LoopCallback] = (),
        **options: Any,
    ) -> None:
        self.events: list[Event] = []
        self.agent = FakeAgent(self.events)
        self.pipeline = FakePipeline(_function(score), self.events, rows=rows, length=length)
        self.val = None if val is None else FakePipeline(_function(val), self.events, name="validate")
        self.registry = CheckpointRegistry(directory / "checkpoints", write_interval=0.0)
        self.scheduler = BackoffScheduler(**(schedule or {}))
        self.controller = LoopController(
            self.agent,
            LoggingEvaluator(self.events),
            tuner,
            self.pipeline,
            self.registry,
            self.scheduler,
            callbacks=[Recorder(self.events), *callbacks],
            val_pipeline=self.val,
            **options,
        )

    def run(self) -> Any:
        return self.controller.run()

    def named(self, name: str) -> list[Event]:
        return [event[1:] for event in self.events if event[0] == name]

    @property
    def learned(self) -> int:
        return len(self.named("learn"))

    @property
    def best_version(self) -> int:
        """The policy in the best snapshot, read from disk."""
        best = self.registry.best
        assert best is not None
        self.registry.flush()
        return int((Path(best.weights_path) / "version.txt").read_text())


def _function(score: Any) -> Callable[[int, int], float]:
    if callable(score):
        return score
    return lambda version, window: float(score[min(window, len(score) - 1)])


@pytest.fixture
def script(tmp_path: Path) -> Callable[..., Script]:
    return lambda score, **options: Script(tmp_path, score, **options)


@pytest.fixture
def scripted_tuner() -> type[ScriptedTuner]:
    return ScriptedTuner


@pytest.fixture
def fake_agent() -> FakeAgent:
    return FakeAgent([])


@pytest.fixture
def fake_pipeline() -> FakePipeline:
    return FakePipeline(lambda version, window: float(window), [])


@pytest.fixture(autouse=True)
def _warnings_are_seen(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
