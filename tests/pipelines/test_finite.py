"""Observations that are NaN or infinite: blamed on their environment, and ignored where an episode ends."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from backends import both_backends
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from optix_fast.agents import TorchAgent, make_agent
from optix_fast.exploration import RNDPipeline
from optix_fast.pipelines import BatchPipeline, LivePipeline, VectorBatchPipeline
from optix_fast.pipelines.finite import non_finite
from optix_fast.types import HyperparamSet, NonFiniteError
from tests.pipelines.conftest import MODES, windows

NAN, INF = float("nan"), float("inf")


class Counting(gym.Env[Any, Any]):
    """Shows the step, in episodes of `length`; `spoilt` steps of an episode show `value` instead."""

    observation_space = spaces.Box(-INF, INF, (2,), np.float32)

    def __init__(
        self,
        spoilt: tuple[int, ...] = (),
        value: float = NAN,
        *,
        length: int = 4,
        truncates: bool = False,
        action_space: Any = None,
    ) -> None:
        self.spoilt, self.value, self.length, self.truncates = spoilt, value, length, truncates
        self.action_space = spaces.Discrete(2) if action_space is None else action_space
        self.steps = 0

    def _shown(self) -> Any:
        return np.array([self.steps, self.value if self.steps in self.spoilt else 1], np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.steps = 0
        return self._shown(), {}

    def step(self, action: Any) -> Any:
        self.steps += 1
        over = self.steps == self.length
        return self._shown(), 1.0, over and not self.truncates, over and self.truncates, {}


class Actor:
    """Acts on anything, by rows or one by one."""

    def act(self, observation: Any) -> int:
        return 0


class Strict:
    """Refuses to act on what is not finite, like a torch distribution."""

    def act_rows(self, observations: Any, rows: Any, t: int) -> Any:
        if not np.isfinite(observations).all():
            raise ValueError("Expected parameter logits to satisfy the constraint IndependentConstraint")
        rows.column("values")[t] = observations[:, 0]
        return rows.actions[t]

    act = Actor.act


def vector(envs: list[Any], agent: Any, window_size: int, mode: str = "SameStep") -> VectorBatchPipeline:
    env = SyncVectorEnv([lambda env=env: env for env in envs], autoreset_mode=AutoresetMode(mode))
    return VectorBatchPipeline(agent=agent, window_size=window_size, vector_env=env)


# --- blame ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("agent", [Actor, Strict])
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_observation_that_is_not_finite_names_its_environment_step_and_window(agent, value):
    message = rf"observation \({value}\) from environment .*Counting.*, number 1, in step 2 of window 0"
    with pytest.raises(NonFiniteError, match=message):
        windows(vector([Counting(), Counting((3,), value)], agent(), 8), 1)
    with pytest.raises(NonFiniteError, match=r"environment Counting, number 0, in step 1 of window 0"):
        windows(BatchPipeline(Counting((2,), value), agent(), 8), 1)


@pytest.mark.parametrize("agent", [Actor, Strict])
def test_observation_after_the_last_row_belongs_to_the_window_that_asked_for_it(agent):
    pipeline = BatchPipeline(Counting((3,)), agent(), 3)
    with pytest.raises(NonFiniteError, match="in step 2 of window 0"):
        windows(pipeline, 1)


@pytest.mark.parametrize("agent", [Actor, Strict])
def test_first_observation_of_a_window_is_blamed_on_its_beginning(agent):
    pipeline = BatchPipeline(Counting((0,)), agent(), 3)
    with pytest.raises(NonFiniteError, match="number 0, at the beginning of window 0"):
        windows(pipeline, 1)


@pytest.mark.parametrize("mode", MODES)
def test_last_observation_of_a_truncated_episode_has_to_be_finite(mode):
    envs = [Counting(), Counting((4,), truncates=True)]
    with pytest.raises(NonFiniteError, match="number 1, in step 3 of window 0"):
        windows(vector(envs, Strict(), 8, mode), 1)


def test_part_of_a_dict_observation_is_named():
    assert non_finite({"a": np.zeros(2), "b": (np.arange(3), np.array([0.0, NAN]))})[:2] == (
        "observation['b'][1]", (1,),
    )  # fmt: skip
    assert non_finite({"a": np.full(3, 3e38, np.float32)}) is None  # their sum is infinite
    assert non_finite(np.zeros(0)) is None


def test_error_of_an_agent_that_saw_finite_observations_is_its_own():
    class Broken:
        def act(self, observation: Any) -> int:
            raise KeyError("no policy")

    with pytest.raises(KeyError, match="no policy"):
        windows(BatchPipeline(Counting(), Broken(), 3), 1)


@pytest.mark.parametrize("over", [None, "terminated", "truncated"])
def test_live_source_is_blamed_unless_the_episode_terminated(over):
    class Source:
        observation_space, action_space = Counting.observation_space, spaces.Discrete(2)

        def stream(self) -> Any:
            yield np.zeros(2, np.float32), 0.0, False, False, {}
            last = np.array([0, NAN], np.float32)
            yield last, 1.0, over == "terminated", over == "truncated", {}
            yield np.zeros(2, np.float32), 0.0, False, False, {}

    pipeline = LivePipeline(Source(), Actor(), reconnect_on_disconnect=False)
    if over == "terminated":
        assert windows(pipeline, 1)[0].rewards.tolist() == [1.0]
    else:
        with pytest.raises(NonFiniteError, match=r"observation \(nan\) from data source Source, step 0"):
            windows(pipeline, 1)
    pipeline.teardown()


# --- the end of an episode --------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("n_envs", [1, 3])
def test_nobody_acts_on_the_end_of_an_episode(mode, n_envs):
    pipeline = vector([Counting((4,)) for _ in range(n_envs)], Strict(), 7, mode)
    for data in windows(pipeline, 3):
        assert data.rewards.tolist() == [1.0] * data.length
        assert np.isfinite(data.observations).all()
        assert data.values.tolist() == data.observations[:, 0].tolist()
        assert np.isnan(data.final_observations[:, 1]).all()


def test_agents_are_told_which_rows_are_resets():
    told = []

    class Told(Strict):
        def act_rows(self, observations: Any, rows: Any, t: int) -> Any:
            told.append(rows.valid[t].tolist())
            return super().act_rows(observations, rows, t)

    envs = [Counting((4,)), Counting((2,), length=2)]
    (data,) = windows(vector(envs, Told(), 6, "NextStep"), 1)
    expected = [[True, True], [True, True], [True, False], [True, True], [False, True], [True, False]]
    assert told == expected == data.valid.tolist()


AGENTS = {
    "ppo": ("ppo", spaces.Discrete(2), {}),
    "gaussian": ("ppo", spaces.Box(-1, 1, (2,), np.float32), {"normalize_observations": True}),
    "dqn": ("dqn", spaces.Discrete(2), {"hyperparams": {"batch_size": 8, "learning_starts": 8}}),
    "sac": (
        "sac", spaces.Box(-1, 1, (2,), np.float32),
        {"hyperparams": {"batch_size": 8, "learning_starts": 8}},
    ),
    "td3": (
        "td3", spaces.Box(-1, 1, (2,), np.float32),
        {"hyperparams": {"batch_size": 8, "learning_starts": 8}},
    ),
    "tqc": (
        "tqc", spaces.Box(-1, 1, (2,), np.float32),
        {"hyperparams": {"batch_size": 8, "learning_starts": 8}},
    ),
    "crossq": (
        "crossq", spaces.Box(-1, 1, (2,), np.float32),
        {"hyperparams": {"batch_size": 8, "learning_starts": 8}},
    ),
    "discrete sac": ("sac", spaces.Discrete(2), {"hyperparams": {"batch_size": 8, "learning_starts": 8}}),
}  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
@both_backends
@pytest.mark.parametrize("kind", [*AGENTS, "reinforce"])
def test_every_agent_trains_where_terminal_observations_are_nan(kind, backend, mode):
    algo, action_space, options = AGENTS.get(kind, ("", spaces.Discrete(2), {}))
    envs = [Counting((4,), action_space=action_space), Counting((3,), action_space=action_space, length=3)]
    if kind == "reinforce":
        model = torch.nn.Linear(2, 2)
        agent: Any = TorchAgent(model, torch.optim.Adam(model.parameters()), HyperparamSet({}), device="cpu")
    else:
        agent = make_agent(algo, envs[0], (8,), seed=0, backend=backend, **options)
    pipeline = RNDPipeline(vector(envs, agent, 9, mode), 2)
    for data in windows(pipeline, 4):
        assert np.isfinite(data.rewards).all()
        for name, number in agent.learn(data).items():
            assert isinstance(number, str) or np.isfinite(number) or name.startswith("explained_var"), name
