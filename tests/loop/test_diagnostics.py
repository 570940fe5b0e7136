"""The diagnostic rules: when they fire, what they change, and how it returns."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from optix_fast.loop import DiagnosticController
from optix_fast.types import HyperparamSet


class Agent(SimpleNamespace):
    def get_hyperparams(self) -> HyperparamSet:
        return HyperparamSet(dict(self.params))

    def set_hyperparams(self, hyperparams: HyperparamSet) -> None:
        self.params = dict(hyperparams.params)


def agent(**params: Any) -> Agent:
    return Agent(params=params)


def steps(
    controller: DiagnosticController, agent: Agent, count: int, score: Any = None, **diagnostics: Any
) -> list[str]:
    fired = []
    for _ in range(count):
        fired += [rule for rule, _ in controller.step(len(fired), agent, diagnostics, score)]
    return fired


def test_nothing_fires_before_its_time() -> None:
    a = agent(learning_rate=1e-3, entropy_coef=0.01)
    assert steps(DiagnosticController(min_episodes=5), a, 5, approx_kl=9.0, entropy=0.0) == []
    assert a.params == {"learning_rate": 1e-3, "entropy_coef": 0.01}


def test_high_kl_halves_the_rate_down_to_a_tenth_and_the_rate_returns() -> None:
    a, controller = agent(learning_rate=1e-3), DiagnosticController(min_episodes=0)
    assert steps(controller, a, 1, approx_kl=0.05) == ["KL_TOO_HIGH"]
    assert a.params["learning_rate"] == 5e-4
    steps(controller, a, 10, approx_kl=0.05)
    assert a.params["learning_rate"] == pytest.approx(1e-4)
    steps(controller, a, 10, approx_kl=0.01)
    assert a.params["learning_rate"] == pytest.approx(math.sqrt(1e-4 * 1e-3))
    steps(controller, a, 60, approx_kl=0.01)
    assert a.params["learning_rate"] == 1e-3


def test_agent_that_keeps_its_rate_in_float32_gets_it_back_too() -> None:
    class Rounding(Agent):
        def set_hyperparams(self, hyperparams: HyperparamSet) -> None:
            self.params = {key: np.float32(value) for key, value in hyperparams.params.items()}

    a, controller = Rounding(params={"learning_rate": np.float32(1e-3)}), DiagnosticController(min_episodes=0)
    steps(controller, a, 11, approx_kl=0.05)
    assert a.params["learning_rate"] == pytest.approx(1e-4, rel=1e-6)
    steps(controller, a, 70, approx_kl=0.01)
    assert a.params["learning_rate"] == np.float32(1e-3)


def test_loss_spike_is_told_from_a_usual_loss() -> None:
    a, controller = agent(learning_rate=1e-3), DiagnosticController(min_episodes=0)
    assert steps(controller, a, 5, loss=1.0) == []
    assert steps(controller, a, 1, loss=4.9) == []
    assert steps(controller, a, 1, loss=50.0) == ["LOSS_SPIKE"]
    assert a.params["learning_rate"] == 5e-4
    assert controller.firings[0][1] == "LOSS_SPIKE"


def test_two_losses_are_too_few_to_know_what_is_usual() -> None:
    a = agent(learning_rate=1e-3)
    for usual, expected in ((2, []), (3, ["LOSS_SPIKE"])):
        controller = DiagnosticController(min_episodes=0)
        steps(controller, a, usual, loss=1.0)
        assert steps(controller, a, 1, loss=50.0) == expected


def test_loss_at_the_factor_is_no_spike_and_one_above_it_is_said_with_both_numbers() -> None:
    for loss, expected in ((5.0, []), (5.5, ["loss 5.5 after a mean of 1; learning_rate 0.001 → 0.0005"])):
        a, controller = agent(learning_rate=1e-3), DiagnosticController(min_episodes=0)
        steps(controller, a, 3, loss=1.0)
        assert [text for _, text in controller.step(3, a, {"loss": loss})] == expected


def test_loss_that_stays_high_is_a_spike_once() -> None:
    a, controller = agent(learning_rate=1e-3), DiagnosticController(min_episodes=0)
    steps(controller, a, 3, loss=1.0)
    # The second is compared with the mean of 1, 1, 1 and 50.
    assert steps(controller, a, 2, loss=50.0) == ["LOSS_SPIKE"]


@pytest.mark.parametrize(
    ("losses", "loss", "expected"),
    [
        ((9.0, 1.0, 1.0, 1.0), 14.0, []),  # below 5 times the mean of four, 3
        ((100.0, 1.0, 1.0, 1.0, 1.0), 6.0, ["LOSS_SPIKE"]),  # the fifth last is forgotten
    ],
)
def test_loss_is_compared_with_the_last_losses_of_the_window(
    losses: Any, loss: float, expected: list[str]
) -> None:
    a, controller = agent(learning_rate=1e-3), DiagnosticController(loss_window=4, min_episodes=0)
    for earlier in losses:
        steps(controller, a, 1, loss=earlier)
    assert steps(controller, a, 1, loss=loss) == expected


def test_entropy_collapse_doubles_the_bonus_up_to_its_cap_and_back() -> None:
    a, controller = agent(entropy_coef=0.01), DiagnosticController(min_episodes=0)
    assert steps(controller, a, 2, entropy=0.01) == ["ENTROPY_COLLAPSE"] * 2
    assert a.params["entropy_coef"] == 0.04
    steps(controller, a, 20, entropy=0.01)
    assert a.params["entropy_coef"] == 0.5
    steps(controller, a, 100, entropy=0.6)
    assert a.params["entropy_coef"] == 0.01
    zero = agent(entropy_coef=0.0)
    assert steps(DiagnosticController(min_episodes=0), zero, 3, entropy=0.01) == []


@pytest.mark.parametrize(("sigma", "fires"), [(0.25, False), (0.06, False), (0.04, True)])
def test_differential_entropy_is_judged_by_sigma(sigma: float, fires: bool) -> None:
    a = agent(entropy_coef=0.01)
    a.continuous_dimensions = 3
    entropy = 3 * (0.5 * math.log(2 * math.pi * math.e) + math.log(sigma))
    assert bool(steps(DiagnosticController(min_episodes=0), a, 1, entropy=entropy)) is fires


def test_epsilon_is_reset_when_nothing_improves_and_not_for_ever() -> None:
    a, controller = agent(epsilon=0.05, epsilon_min=0.05), DiagnosticController(min_episodes=0)
    assert steps(controller, a, 19, score=-100.0, epsilon=0.05) == []
    assert steps(controller, a, 1, score=-100.0, epsilon=0.05) == ["EPSILON_STUCK"]
    assert a.params["epsilon"] == 0.3
    assert len(steps(controller, a, 1000, score=-100.0, epsilon=0.05)) == 2


def test_epsilon_is_left_alone_while_the_score_improves() -> None:
    a, controller = agent(epsilon=0.05), DiagnosticController(min_episodes=0)
    for score in range(200):
        assert controller.step(score, a, {"epsilon": 0.05}, float(score)) == []


def test_value_that_somebody_else_has_set_is_the_new_usual_one() -> None:
    a, controller = agent(learning_rate=1e-3), DiagnosticController(min_episodes=0)
    steps(controller, a, 1, approx_kl=1.0)
    a.params["learning_rate"] = 2e-3
    steps(controller, a, 100, approx_kl=0.0)
    assert a.params["learning_rate"] == 2e-3


def test_restored_state_goes_on_identically() -> None:
    a, b = agent(learning_rate=1e-3), agent(learning_rate=1e-3)
    first, second = DiagnosticController(min_episodes=0), DiagnosticController(min_episodes=0)
    steps(first, a, 3, approx_kl=1.0)
    second.load_state_dict(first.state_dict())
    b.params = dict(a.params)
    for controller, target in ((first, a), (second, b)):
        steps(controller, target, 25, approx_kl=0.0)
    assert a.params == b.params
    assert first.state_dict() == second.state_dict()


@pytest.mark.parametrize(
    "options",
    [{"loss_spike_factor": 0.5}, {"target_kl": -1.0}, {"epsilon_patience": -1}, {"min_episodes": "5"}],
)
def test_wrong_argument_is_named(options: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=next(iter(options))):
        DiagnosticController(**options)


def test_loop_steps_the_diagnostics_and_tells_of_changes(script: Any) -> None:
    run = script(
        [float(i) for i in range(12)],
        max_episodes=12,
        diagnostic_controller=DiagnosticController(min_episodes=3),
    )
    run.agent.params = {"learning_rate": 1e-3}
    learn = run.agent.learn
    run.agent.learn = lambda data: learn(data) | {"approx_kl": 1.0 if data.episode_id == 6 else 0.0}
    run.run()
    assert run.named("on_hyperparam_update") == [({"learning_rate": 1e-3}, {"learning_rate": 5e-4})]


def test_loop_without_diagnostics_changes_nothing(script: Any) -> None:
    run = script([1.0], max_episodes=8)
    run.agent.params = {"learning_rate": 1e-3}
    learn = run.agent.learn
    run.agent.learn = lambda data: learn(data) | {"approx_kl": 1.0}
    run.run()
    assert run.agent.params == {"learning_rate": 1e-3}
