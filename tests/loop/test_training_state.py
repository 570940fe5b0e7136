"""The state that a rollback restores beside the weights."""

from __future__ import annotations

from typing import Any

import pytest

from optix_fast.loop.training_state import TrainingState
from optix_fast.types import HyperparamSet


class Agent:
    """Its state: moments, a stream that goes on, and hyperparameters."""

    kept_on_rollback = ("stream",)
    is_on_policy = True

    def __init__(self) -> None:
        self.moments, self.stream, self.params = [0.0], 0, {"lr": 0.1}

    def state_dict(self) -> dict[str, Any]:
        return {"moments": self.moments, "stream": self.stream, "hyperparams": dict(self.params)}

    def load_state_dict(self, state: Any) -> None:
        self.moments, self.stream = state["moments"], state["stream"]
        self.params = dict(state["hyperparams"])

    def get_hyperparams(self) -> HyperparamSet:
        return HyperparamSet(dict(self.params))

    def set_hyperparams(self, hyperparams: HyperparamSet) -> None:
        self.params = dict(hyperparams.params)


@pytest.fixture
def agent() -> Agent:
    return Agent()


@pytest.fixture
def state(agent: Agent) -> TrainingState:
    """Taken of an agent that has trained on since."""
    found = TrainingState.of(agent, "best")
    assert found is not None
    agent.moments[0], agent.stream, agent.params["lr"] = 9.0, 5, 0.7
    return found


def test_moments_come_back_and_streams_and_hyperparameters_go_on(agent: Agent, state: TrainingState) -> None:
    state.restore(agent, "best")
    assert (agent.moments, agent.stream, agent.params) == ([0.0], 5, {"lr": 0.7})


def test_state_of_another_snapshot_is_left_alone(agent: Agent, state: TrainingState) -> None:
    state.restore(agent, "other")
    assert (agent.moments, agent.stream, agent.params) == ([9.0], 5, {"lr": 0.7})


def test_training_after_a_restore_does_not_change_the_state(agent: Agent, state: TrainingState) -> None:
    for _ in range(2):
        state.restore(agent, "best")
        assert agent.moments == [0.0]
        agent.moments[0] = 3.0


def test_agent_that_keeps_nothing_gets_all_of_it(agent: Agent, state: TrainingState) -> None:
    class Plain(Agent):
        kept_on_rollback = ()

    other = Plain()
    other.stream = 5
    state.restore(other, "best")
    assert other.stream == 0


def test_state_comes_back(agent: Agent, state: TrainingState) -> None:
    TrainingState(**state.state_dict()).restore(agent, "best")
    assert agent.moments == [0.0]
    assert state.state_dict()["snapshot_id"] == "best"


def test_agents_without_a_state_or_off_policy_have_none(agent: Agent) -> None:
    assert TrainingState.of(object(), "best") is None
    agent.is_on_policy = False
    assert TrainingState.of(agent, "best") is None
