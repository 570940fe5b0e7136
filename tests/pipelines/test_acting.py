"""A subclass that replaces act() is asked, by pipelines and evaluation, whatever else its base can do."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import nn

from optix_fast import BatchPipeline, HyperparamSet, TorchPPOAgent, VectorBatchPipeline
from optix_fast.loop import evaluate_policy
from optix_fast.pipelines.acting import batched


class Base:
    def act(self, observation: Any) -> int:
        return 0

    def act_rows(self, observations: Any, rows: Any, t: int) -> Any:
        return rows.actions[t]


class OwnAct(Base):
    def act(self, observation: Any) -> int:
        return 1


class OwnBoth(OwnAct):
    def act_rows(self, observations: Any, rows: Any, t: int) -> Any:
        return rows.actions[t]


def test_the_latest_of_act_and_act_rows_counts() -> None:
    base, both = Base(), OwnBoth()
    assert batched(base, "act_rows") == base.act_rows
    assert batched(OwnAct(), "act_rows") is None
    assert batched(both, "act_rows") == both.act_rows
    assert batched(base, "act_batch") is None
    changed = Base()
    changed.act = lambda observation: 1  # type: ignore[method-assign]
    assert batched(changed, "act_rows") is None
    made_up = SimpleNamespace(act=lambda observation: 0, act_rows=lambda *given: given)
    assert batched(made_up, "act_rows") is made_up.act_rows


class AlwaysRight(TorchPPOAgent):
    """Notes what it is shown, and pushes right."""

    shown = 0

    def act(self, observation: Any, deterministic: bool = False) -> int:
        self.shown += 1
        super().act(observation, deterministic)
        return 1


def agent() -> AlwaysRight:
    actor, critic = nn.Linear(4, 2), nn.Linear(4, 1)
    optimizer = torch.optim.Adam([*actor.parameters(), *critic.parameters()])
    return AlwaysRight(actor, critic, optimizer, HyperparamSet({}), device="cpu", seed=0)


def test_a_ppo_agent_with_its_own_act_is_not_acted_past() -> None:
    one = agent()
    pipeline = BatchPipeline(gym.make("CartPole-v1"), agent=one, window_size=32, seed=0)
    window = next(pipeline.episodes())
    assert one.shown == 32 and (np.asarray(window.actions) == 1).all()
    with pytest.raises(RuntimeError, match=r"^Cache underflow: row \d+ of 32 holds action 1"):
        one.learn(window)  # super().act() has recorded the probability of another action

    several = agent()
    vector = VectorBatchPipeline([lambda: gym.make("CartPole-v1")] * 3, agent=several, window_size=8, seed=0)
    assert (next(vector.episodes()).actions == 1).all() and several.shown == 24

    judged = agent()
    result = evaluate_policy(judged, lambda: gym.make("CartPole-v1"), 4, seed=0)
    assert judged.shown > 0 and result.return_mean < 12  # always right falls over within 8 to 11 steps
