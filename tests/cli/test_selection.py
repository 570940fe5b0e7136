"""Which policy a run ends with."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import gymnasium as gym
import numpy as np
import pytest

from optix_fast.agents import make_agent
from optix_fast.cli import selection
from optix_fast.cli.selection import Confirmation, choose_policy, lower_bound
from optix_fast.loop import EvaluationResult, RLOptimizer
from optix_fast.pipelines import VectorBatchPipeline


def cartpole() -> gym.Env[Any, Any]:
    return gym.make("CartPole-v1")


def result(*returns: float) -> EvaluationResult:
    return EvaluationResult(np.array(returns), np.ones(len(returns), np.int64))


def scripted(
    monkeypatch: pytest.MonkeyPatch, *results: tuple[float, ...], seeds: list[int] | None = None
) -> list[int]:
    """evaluate_policy gives these returns, one tuple per call; the episodes and seeds asked for are noted."""
    asked: list[int] = []
    waiting = list(results)

    def evaluate(agent: Any, make_env: Any, episodes: int, seed: int) -> EvaluationResult:
        asked.append(episodes)
        if seeds is not None:
            seeds.append(seed)
        returns = waiting.pop(0)
        return result(*returns)

    monkeypatch.setattr(selection, "evaluate_policy", evaluate)
    return asked


def test_lower_bound_is_the_mean_less_two_standard_errors() -> None:
    # Mean 10, population deviation 2 over 4 episodes: 10 − 2·2/√4.
    assert lower_bound(result(8.0, 12.0, 8.0, 12.0)) == pytest.approx(8.0)


def test_first_look_below_the_target_saves_the_other_episodes(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = scripted(monkeypatch, (400.0,) * 20)
    assert Confirmation(cartpole, 100, 475.0)(None) == 400.0
    assert asked == [20]


def test_confirmation_plays_all_its_episodes(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = scripted(monkeypatch, (500.0,) * 20, (500.0,) * 90 + (300.0,) * 10)
    # Mean 480, deviation 60: 480 − 12 is not enough for 475.
    assert Confirmation(cartpole, 100, 475.0)(None) == pytest.approx(468.0)
    assert asked == [20, 100]


@pytest.mark.parametrize(("episodes", "expected"), [(20, [20]), (21, [20, 21])])
def test_first_look_is_left_out_where_it_would_save_nothing(
    monkeypatch: pytest.MonkeyPatch, episodes: int, expected: list[int]
) -> None:
    # A mean that equals the target is not below it.
    asked = scripted(monkeypatch, (475.0,) * 20, (475.0,) * 20)
    assert Confirmation(cartpole, episodes, 475.0)(None) == 475.0
    assert asked == expected


def test_every_confirmation_plays_fresh_episodes_apart_from_all_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seeds: list[int] = []
    scripted(monkeypatch, *[(500.0,)] * 4, seeds=seeds)
    confirmation = Confirmation(cartpole, 10, 475.0)
    confirmation(None)
    confirmation(None)
    resumed = Confirmation(cartpole, 10, 475.0)
    resumed.load_state_dict(confirmation.state_dict() | {"played": 9_999})
    resumed(None)
    resumed(None)
    # After ten thousand of them the first episodes come again; from 2 000 000 on lie those of the choice.
    assert seeds == [1_000_000, 1_000_100, 1_999_900, 1_000_000]


def test_the_policy_that_plays_best_is_chosen_over_the_one_with_the_luckiest_window(tmp_path: Path) -> None:
    pipeline = VectorBatchPipeline([cartpole] * 4, window_size=64, seed=0)
    hyperparams = {"learning_rate": 1e-3, "minibatch_size": 64}
    agent = make_agent("ppo", pipeline, hyperparams=hyperparams, seed=0)
    optimizer = RLOptimizer(agent=agent, pipeline=pipeline, checkpoint_dir=tmp_path, max_episodes=2)
    optimizer.run()
    untrained = agent.state_dict()
    good = make_agent("ppo", pipeline, hyperparams=hyperparams, seed=0)
    pipeline.set_agent(good)
    for _, window in zip(range(40), pipeline.episodes(), strict=False):
        good.learn(window)
    name, mean = choose_policy(agent, optimizer, good.state_dict(), cartpole)
    assert name == "last"
    assert mean > 100
    name, worse = choose_policy(agent, optimizer, untrained, cartpole)
    assert worse < mean
    pipeline.teardown()


def rounds(
    monkeypatch: pytest.MonkeyPatch, first: dict[str, list[float]], second: dict[str, list[float]]
) -> tuple[tuple[str, float], list[tuple[str, int, int]]]:
    """What choose_policy makes of candidates with these returns; who played how many episodes, which seed."""
    played: list[tuple[str, int, int]] = []

    class Holder:
        held = ""

        def load_weights(self, path: str) -> None:
            self.held = Path(path).parent.name

        def load_state_dict(self, state: dict[str, Any]) -> None:
            self.held = "last"

    agent = Holder()

    def evaluate(agent: Any, make_env: Any, episodes: int, seed: int) -> EvaluationResult:
        played.append((agent.held, episodes, seed))
        return result(*(second if any(name == agent.held for name, *_ in played[:-1]) else first)[agent.held])

    monkeypatch.setattr(selection, "evaluate_policy", evaluate)
    entries = [{"snapshot_dir": name} for name in first if name != "last"]
    registry = SimpleNamespace(entries=lambda: entries, checkpoint_dir="")
    chosen = choose_policy(cast(Any, agent), cast(Any, SimpleNamespace(registry=registry)), {}, cartpole)
    assert agent.held == chosen[0]
    return chosen, played


def test_who_is_clearly_worse_than_the_leader_plays_no_second_round(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Behind the leader, a by 3 and b by 4; the standard error of both is √(32/3/4) = 1.63.
    first = {"a": [7.0, 7.0, 11.0, 3.0], "b": [6.0, 6.0, 10.0, 2.0], "last": [10.0] * 4}
    second = {"a": [20.0] * 4, "last": [10.0] * 4}
    chosen, played = rounds(monkeypatch, first, second)
    assert chosen == ("a", 13.5)
    names = [(name, episodes) for name, episodes, _ in played]
    assert names == [("a", 10), ("b", 10), ("last", 10), ("a", 40), ("last", 40)]
    # All face the same episodes, and those of the second round follow the first round's.
    assert [seed for *_, seed in played] == [2_000_000] * 3 + [2_000_010] * 2


def test_last_policy_without_a_checkpoint_wins_without_playing(monkeypatch: pytest.MonkeyPatch) -> None:
    (name, mean), played = rounds(monkeypatch, {"last": [1.0]}, {})
    assert (name, played) == ("last", []) and np.isnan(mean)


def test_clear_leader_wins_after_the_first_round(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen, played = rounds(monkeypatch, {"a": [3.0, 4.0], "last": [1.0, 2.0]}, {})
    assert chosen == ("a", 3.5)
    assert len(played) == 2


def test_equal_candidates_stay_in_question(monkeypatch: pytest.MonkeyPatch) -> None:
    first = {"a": [500.0] * 10, "last": [500.0] * 10}
    chosen, played = rounds(monkeypatch, first, {"a": [500.0, 499.0], "last": [500.0, 500.0]})
    assert chosen[0] == "last" and len(played) == 4
