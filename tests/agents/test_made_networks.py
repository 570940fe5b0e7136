"""The networks that make_agent builds with batch norms learn the same in the core and in torch."""

from __future__ import annotations

import itertools
from typing import Any

import gymnasium as gym
import pytest
import torch
from torch import nn

from optix_fast import make_agent
from optix_fast.networks.modes import is_batch_norm
from optix_fast.pipelines import VectorBatchPipeline

# Each with the environment and options.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "ppo": ("CartPole-v1", {}),
    "dqn": ("CartPole-v1", {}),
    "dueling dqn": ("CartPole-v1", {"dueling": True}),
    "sac": ("Pendulum-v1", {}),
    "td3": ("Pendulum-v1", {}),
    "tqc": ("Pendulum-v1", {}),
    "crossq": ("Pendulum-v1", {}),
}
# CrossQ's networks have norms of their own.
CHOICES = [(case, norm) for case in CASES if case != "crossq" for norm in ("batch", "batch_renorm")]
OFF_POLICY = {"batch_size": 32, "learning_starts": 100, "replay_capacity": 1000}


def made(case: str, norm: str | None, backend: str) -> Any:
    env, options = CASES[case]
    params = {"minibatch_size": 32, "n_epochs": 5} if case == "ppo" else OFF_POLICY
    return make_agent(
        case.split()[-1], gym.make(env), (32, 32, 32), params, 3, "cpu", backend, norm=norm,
        residual=norm is not None, **options,
    )  # fmt: skip


def learned(case: str, norm: str | None, backend: str) -> Any:
    """After 20 updates (DQN: 5), before which off-policy agents act at random: rounding leads to no other
    trajectory."""
    agent, name = made(case, norm, backend), CASES[case][0]
    pipeline = VectorBatchPipeline([lambda: gym.make(name)] * 2, agent, window_size=60, seed=5)
    assert agent.learn(next(pipeline.episodes()))["n_updates"] == (5 if "dqn" in case else 20)
    assert agent.backend == backend
    return agent


@pytest.mark.native
@pytest.mark.parametrize(("case", "norm"), [*CHOICES, ("crossq", None)])
def test_backends_learn_the_same(case: str, norm: str | None) -> None:
    ours, theirs = (learned(case, norm, backend) for backend in ("native", "torch"))
    for mine, other in zip(ours._model.parameters(), theirs._model.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("case", "norm"), [*CHOICES, *((case, "layer") for case in CASES if case != "crossq")]
)
def test_a_layer_before_a_batch_norm_has_no_bias(case: str, norm: str) -> None:
    agent = made(case, norm, "torch")
    layers = [m for net in agent._model.networks().values() for m in net.modules()]
    before = [
        a.bias
        for a, b in itertools.pairwise(layers)
        if isinstance(a, nn.Linear) and (is_batch_norm(b) or isinstance(b, nn.LayerNorm))
    ]
    assert before and all((bias is None) == (norm != "layer") for bias in before)
    for net in agent._model.networks().values():
        *_, last = (m for m in net.modules() if isinstance(m, nn.Linear))
        assert last.bias is not None
