"""Searches in one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from trial_cases import SPACE, agent_of, search
from tuning import NoisyParabola, QuadraticAgent

import optix_fast
from optix_fast.tuners import SPSAOptimizer
from optix_fast.types import EpisodeData, LoopCallback


def states(study: optuna.Study) -> list[TrialState]:
    return [trial.state for trial in study.trials]


def test_finds_the_top_and_what_it_is_worth() -> None:
    orchestrator = search(n_trials=20)
    assert (orchestrator.best_params, orchestrator.best_score) == (None, None)
    best, score = orchestrator.run()
    assert abs(best["x"] - 0.6) < 0.1
    assert score == pytest.approx(1000.0 - 400.0 * (best["x"] - 0.6) ** 2)
    assert (orchestrator.best_params, orchestrator.best_score) == (best, score)
    assert len(orchestrator.study.trials) == 20


def test_the_same_seed_makes_the_same_choices() -> None:
    found = []
    for seed in (0, 0, 1):
        orchestrator = search(seed=seed)
        orchestrator.run()
        found.append([trial.params["x"] for trial in orchestrator.study.trials])
    assert found[0] == found[1] != found[2]


def test_a_trial_takes_its_steps_and_no_more() -> None:
    orchestrator = search(n_trials=2, trial_steps=5)
    orchestrator.run()
    assert [t.user_attrs["env_steps"] for t in orchestrator.study.trials] == [5, 5]


def test_hyperparameters_stay_what_they_are_within_a_trial() -> None:
    agents: list[QuadraticAgent] = []

    def remembered(params: dict[str, Any]) -> QuadraticAgent:
        agents.append(agent_of(params))
        return agents[-1]

    search(agent_factory=remembered, n_trials=3, trial_steps=20).run()
    assert [len(set(agent.path)) for agent in agents] == [1, 1, 1]


class Falls(NoisyParabola):
    """The score of x is x in every window."""

    def episodes(self) -> Any:
        while True:
            yield EpisodeData([0], [0], [self._agent.used], [True], [False], [{}], 0)


def test_what_is_worse_than_the_median_is_pruned_and_recorded_as_that() -> None:
    orchestrator = search(
        pipeline_factory=lambda: Falls(0, 0.0), n_trials=5, trial_steps=20, n_startup_trials=3,
        pruner_warmup_steps=4,
    )  # fmt: skip
    for x in (0.5, 0.6, 0.7, 0.1, 0.9):
        orchestrator.try_first({"x": x})
    best, score = orchestrator.run()
    assert best == {"x": 0.9} and score == 0.9
    assert states(orchestrator.study) == [TrialState.COMPLETE] * 3 + [TrialState.PRUNED, TrialState.COMPLETE]
    pruned = orchestrator.study.trials[3]
    assert pruned.last_step == 4  # the first window after the warm-up of windows 0 to 3
    assert [t.user_attrs.get("windows") for t in orchestrator.study.trials] == [20, 20, 20, None, 20]


def test_a_smaller_score_is_better_where_that_is_asked_for() -> None:
    class Sinks(NoisyParabola):
        """10, 9, 8, … and x in the end."""

        def episodes(self) -> Any:
            for score in (10.0, 9.0, 8.0):
                yield EpisodeData([0], [0], [score], [True], [False], [{}], 0)
            while True:
                yield EpisodeData([0], [0], [self._agent.used], [True], [False], [{}], 0)

    orchestrator = search(
        pipeline_factory=lambda: Sinks(0, 0.0), n_trials=3, trial_steps=5, direction="minimize"
    )
    for x in (0.5, 0.2, 0.9):
        orchestrator.try_first({"x": x})
    assert orchestrator.run() == ({"x": 0.2}, 0.2)


def test_what_is_not_searched_cannot_be_tried_first() -> None:
    orchestrator = search()
    for params in ({"x": 3.0}, {"y": 0.5}, {}, {"x": True}):
        with pytest.raises(ValueError, match="params must be a choice of"):
            orchestrator.try_first(params)


def test_a_tuner_begins_anew_in_every_trial() -> None:
    starts: list[bool] = []

    class Watched(SPSAOptimizer):
        is_new = True

        def suggest(self, current: Any, metrics: Any) -> Any:
            if self.is_new:
                starts.append(self.is_probing)
            self.is_new = False
            return super().suggest(current, metrics)

    tuner = Watched({"x": (0.0, 1.0)}, seed=0)
    search(n_trials=3, trial_steps=5, rloptimizer_kwargs={"optimizer": tuner}).run()
    assert starts == [False, False, False]
    assert tuner.is_new


def test_pipelines_are_torn_down_where_no_loop_could_be_made() -> None:
    torn: list[str] = []

    class Torn(NoisyParabola):
        def teardown(self) -> None:
            torn.append("down")

    orchestrator = search(
        pipeline_factory=lambda: Torn(0, 0.0), val_pipeline_factory=lambda: Torn(0, 0.0), n_trials=1,
        rloptimizer_kwargs={"max_snapshots": 0},
    )  # fmt: skip
    with pytest.raises(RuntimeError, match="max_snapshots"):
        orchestrator.run()
    assert torn == ["down", "down"]


def test_a_factory_that_returns_nothing_is_named() -> None:
    with pytest.raises(RuntimeError, match="agent_factory returned None"):
        search(agent_factory=lambda params: None, n_trials=1).run()


def test_a_factory_that_raises_costs_its_trial_only(caplog: pytest.LogCaptureFixture) -> None:
    def picky(params: dict[str, Any]) -> QuadraticAgent:
        if params["x"] < 0.5:
            raise ValueError("x is too small")
        return agent_of(params)

    orchestrator = search(agent_factory=picky, n_trials=3)
    for x in (0.1, 0.7, 0.2):
        orchestrator.try_first({"x": x})
    assert orchestrator.run()[0] == {"x": 0.7}
    assert states(orchestrator.study) == [TrialState.FAIL, TrialState.COMPLETE, TrialState.FAIL]
    assert orchestrator.study.trials[0].user_attrs["error"] == "ValueError: x is too small"
    assert "trial 2 with {'x': 0.2} failed: ValueError: x is too small" in caplog.text


def test_all_trials_failing_is_one_error_that_says_why() -> None:
    def broken(params: dict[str, Any]) -> QuadraticAgent:
        raise RuntimeError("no GPU")

    orchestrator = search(agent_factory=broken, n_trials=2)
    with pytest.raises(RuntimeError, match="all 2 trials failed; trial 0: RuntimeError: no GPU"):
        orchestrator.run()


def test_trials_without_a_score_fail_with_a_hint() -> None:
    class Endless(NoisyParabola):
        def episodes(self) -> Any:
            while True:
                yield EpisodeData(
                    [0],
                    [0],
                    [1.0],
                    [False],
                    [False],
                    [{}],
                    0,
                    metadata={"episodic": True, "episode_returns": []},
                )

    with pytest.raises(RuntimeError, match="no window of 3 gave a score: let trials take more steps"):
        search(pipeline_factory=lambda: Endless(0, 0.0), n_trials=1).run()


def test_every_trial_has_checkpoints_of_its_own(tmp_path: Path) -> None:
    orchestrator = search(n_trials=2, rloptimizer_kwargs={"checkpoint_dir": tmp_path})
    orchestrator.run()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["trial_0", "trial_1"]
    assert all((path / "manifest.json").exists() for path in tmp_path.iterdir())


def test_arguments_of_the_loop_reach_it() -> None:
    seen: list[int] = []

    class Counts(LoopCallback):
        def on_episode_end(self, episode_id: int, eval_metrics: Any) -> None:
            seen.append(episode_id)

    def worth(agent: Any) -> float:
        return -abs(agent.used - 0.25)

    orchestrator = search(
        n_trials=2, rloptimizer_kwargs={"callbacks": [Counts()], "max_episodes": 2}, checkpoint_score_fn=worth
    )
    for x in (0.25, 0.6):
        orchestrator.try_first({"x": x})
    assert orchestrator.run()[0] == {"x": 0.25}  # by checkpoint_score_fn, not by the window's score
    assert seen == [0, 1, 0, 1]


def test_held_out_windows_decide_where_they_are_given() -> None:
    orchestrator = search(val_pipeline_factory=lambda: Falls(0, 0.0), n_trials=1)
    orchestrator.try_first({"x": 0.3})
    assert orchestrator.run() == ({"x": 0.3}, 0.3)


def test_agents_are_torn_down_whatever_happens() -> None:
    torn: list[float] = []

    class Torn(QuadraticAgent):
        def teardown(self) -> None:
            torn.append(self.used)

        def learn(self, episode_data: EpisodeData) -> dict[str, Any]:
            if self.params["x"] > 0.5:
                raise ValueError("too large")
            return super().learn(episode_data)

    orchestrator = search(agent_factory=lambda params: Torn(params["x"]), n_trials=2)
    for x in (0.4, 0.8):
        orchestrator.try_first({"x": x})
    orchestrator.run()
    assert torn == [0.4, 0.8]


def test_searches_what_the_agent_declares_by_default() -> None:
    assert search(param_space=None).space.specs == SPACE

    def needs(params: dict[str, Any]) -> QuadraticAgent:
        return QuadraticAgent(params["x"])

    with pytest.raises(ValueError, match=r"agent_factory\(\{\}\).*KeyError: 'x'"):
        search(agent_factory=needs, param_space=None)


def test_optunas_log_level_is_as_before() -> None:
    before = optuna.logging.get_verbosity()
    search(n_trials=1, optuna_verbosity=optuna.logging.CRITICAL).run()
    assert optuna.logging.get_verbosity() == before


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("agent_factory", None), ("storage", "study.db"), ("storage", "grpc://nowhere"), ("n_jobs", 0),
        ("pipeline_factory", 3), ("n_trials", 0), ("n_trials", 2.5), ("n_trials", True), ("trial_steps", 0),
        ("rloptimizer_kwargs", {"max_episode": 2}), ("rloptimizer_kwargs", {"pipeline": 3}), ("seed", "a"),
        ("rloptimizer_kwargs", "abc"), ("val_pipeline_factory", 3), ("checkpoint_score_fn", 3), ("seed", -1),
        ("direction", "up"), ("n_startup_trials", -1), ("pruner_warmup_steps", "5"), ("pruner_interval", 0),
    ],
)  # fmt: skip
def test_wrong_arguments_are_named(name: str, value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=name):
        search(**{name: value})


def test_a_storage_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="nowhere/study.db"):
        search(storage=f"sqlite:///{tmp_path}/nowhere/study.db")


def test_finds_a_learning_rate_for_a_real_agent() -> None:
    import gymnasium as gym

    def agent(params: dict[str, Any]) -> Any:
        return optix_fast.make_agent("ppo", gym.make("CartPole-v1"), hyperparams=params, seed=0)

    orchestrator = optix_fast.TrialOrchestrator(
        agent, lambda: optix_fast.BatchPipeline(env_id="CartPole-v1", n_steps=256),
        {"learning_rate": ("log_float", 1e-6, 1e-2)}, n_trials=2, trial_steps=4096,
    )  # fmt: skip
    for rate in (1e-6, 3e-3):
        orchestrator.try_first({"learning_rate": rate})
    best, score = orchestrator.run()
    assert best == {"learning_rate": 3e-3} and score > 40.0
