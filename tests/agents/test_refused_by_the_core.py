"""What the core does not serve runs in torch: other dtypes, autocast, no gradients, replaced layers."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from backends import both_backends
from torch import nn

from optix_fast.agents import (
    TorchAgent,
    TorchDQNAgent,
    TorchGaussianPPOAgent,
    TorchPPOAgent,
    TorchSACAgent,
    TorchTD3Agent,
)
from optix_fast.networks import mlp
from optix_fast.pipelines import VectorBatchPipeline
from optix_fast.types import EpisodeData, HyperparamSet

CARTPOLE, PENDULUM = ("CartPole-v1", 4), ("Pendulum-v1", 3)
ENVS = {
    "ppo": CARTPOLE, "gaussian ppo": PENDULUM, "gaussian ppo free log_std": PENDULUM, "dqn": CARTPOLE,
    "sac": PENDULUM, "discrete sac": CARTPOLE, "td3": PENDULUM, "policy gradient": CARTPOLE,
}  # fmt: skip
LEARNING = HyperparamSet(
    {"learning_starts": 0, "batch_size": 8, "updates_per_step": 0.25, "replay_capacity": 512}
)
every_agent = pytest.mark.parametrize("kind", ENVS)


def agent_of(kind: str, backend: str = "auto", dtype: torch.dtype = torch.float32) -> Any:
    env, features = ENVS[kind]
    generator = torch.Generator().manual_seed(0)

    def net(inputs: int, outputs: int) -> nn.Module:
        return mlp([inputs, 16, outputs], "tanh", 1.0, generator).to(dtype)

    def adam(*nets: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam([p for one in nets for p in one.parameters()], lr=1e-3)

    if kind == "policy gradient":
        model = net(features, 2)
        return TorchAgent(model, adam(model), HyperparamSet({}), device="cpu", seed=0)
    common: dict[str, Any] = {
        "device": "cpu", "seed": 0, "backend": backend, "action_space": gym.make(env).action_space
    }  # fmt: skip
    if kind == "dqn":
        network = net(features, 2)
        return TorchDQNAgent(network, 2, adam(network), LEARNING, **common)
    if kind == "td3":
        actor, critics = net(features, 1), [net(features + 1, 1) for _ in range(2)]
        return TorchTD3Agent(actor, *critics, 1, adam(actor), adam(*critics), LEARNING, **common)  # type: ignore[misc]
    if "sac" in kind:
        width = 1 if kind == "sac" else 2
        actor = net(features, 2)
        critics = [net(features + 1, 1) if kind == "sac" else net(features, 2) for _ in range(2)]
        optimizers = adam(actor), adam(*critics), adam(actor)
        return TorchSACAgent(actor, *critics, width, *optimizers, LEARNING, **common)  # type: ignore[misc]
    ppo = HyperparamSet({"n_epochs": 2})
    if kind == "ppo":
        actor, critic = net(features, 2), net(features, 1)
        return TorchPPOAgent(actor, critic, adam(actor, critic), ppo, **common)
    free = kind.endswith("log_std")
    actor, critic = net(features, 1 if free else 2), net(features, 1)
    log_std: Any = "free" if free else "state"
    return TorchGaussianPPOAgent(actor, critic, adam(actor, critic), 1, ppo, log_std=log_std, **common)


def pipeline_of(kind: str, agent: Any) -> VectorBatchPipeline:
    env = ENVS[kind][0]
    return VectorBatchPipeline([lambda: gym.make(env)] * 2, agent, window_size=16, seed=4)


def windows_of(kind: str, agent: Any, n: int = 2) -> list[EpisodeData]:
    return [data for data, _ in zip(pipeline_of(kind, agent).episodes(), range(n), strict=False)]


def parameters_of(agent: Any) -> list[torch.Tensor]:
    return [p for net in agent._networks().values() for p in net.parameters()]


def act_learn_and_save(kind: str, agent: Any) -> None:
    before = [p.detach().clone() for p in parameters_of(agent)]
    for data in windows_of(kind, agent):
        observations = np.asarray(data.observations)
        assert np.isfinite(agent.act(observations[0])).all()
        assert np.isfinite(agent.act(observations[0], True)).all()
        assert np.isfinite(agent.act_batch(observations, True)).all()
        for value in agent.learn(data).values():
            assert isinstance(value, str) or np.isfinite(value) or np.isnan(value)
    assert not all(torch.equal(p, q) for p, q in zip(parameters_of(agent), before, strict=True))
    agent.load_state_dict(agent.state_dict())


@every_agent
@both_backends
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_networks_of_other_dtypes_act_and_learn(kind: str, backend: str, dtype: torch.dtype) -> None:
    agent = agent_of(kind, backend, dtype)
    act_learn_and_save(kind, agent)
    assert agent.backend == "torch"
    assert all(p.dtype == dtype for p in parameters_of(agent))


SURROUNDINGS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
}


@every_agent
@both_backends
@pytest.mark.parametrize("surroundings", SURROUNDINGS)
def test_agents_act_and_learn_where_torch_is_told_to_do_otherwise(
    kind: str, backend: str, surroundings: str
) -> None:
    agent = agent_of(kind, backend)
    with SURROUNDINGS[surroundings]():
        act_learn_and_save(kind, agent)
    # And without, afterwards.
    act_learn_and_save(kind, agent)


@every_agent
@pytest.mark.parametrize("surroundings", ["no_grad", "inference_mode"])
def test_what_is_learned_without_gradients_around_is_the_same(kind: str, surroundings: str) -> None:
    learned = []
    for around in (nullcontext, SURROUNDINGS[surroundings]):
        agent = agent_of(kind, "torch")
        windows = windows_of(kind, agent_of(kind, "torch"))
        with around():
            for data in windows:
                agent.learn(data)
        learned.append([p.detach() for p in parameters_of(agent)])
    assert all(torch.equal(a, b) for a, b in zip(*learned, strict=True))


@every_agent
def test_a_double_network_chooses_as_its_float_twin(kind: str) -> None:
    single, double = agent_of(kind, "torch"), agent_of(kind, "torch", torch.float64)
    observations = np.random.default_rng(0).normal(size=(20, ENVS[kind][1])).astype(np.float32)
    for deterministic in (True, False):
        ours, theirs = (it.act_batch(observations, deterministic) for it in (double, single))
        assert ours.dtype == theirs.dtype
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@both_backends
@pytest.mark.parametrize("held", [True, False], ids=["in the optimizer", "not in the optimizer"])
def test_a_replaced_layer_is_learned_with_and_saved(backend: str, held: bool) -> None:
    agent = agent_of("dqn", backend)
    for data in windows_of("dqn", agent):
        agent.learn(data)
    network, group = agent._model.q_network, agent._model.optimizer.param_groups[0]
    old = list(network[2].parameters())
    torch.manual_seed(0)
    network[2] = nn.Linear(16, 2)
    group["params"] = [p for p in group["params"] if all(p is not q for q in old)]
    if held:
        group["params"] += list(network[2].parameters())
    before = [p.detach().clone() for p in network.parameters()]
    state = agent.state_dict()
    held_state = state["model"]["optimizers"]["optimizer"]["state"]
    assert len(held_state) == 2  # of the first layer; the new one has none yet
    for data in windows_of("dqn", agent):
        assert agent.learn(data)["n_updates"] > 0
    moved = [not torch.equal(p, q) for p, q in zip(network.parameters(), before, strict=True)]
    assert moved == [True, True, held, held]
    agent.load_state_dict(state)
    assert all(torch.equal(p, q) for p, q in zip(network.parameters(), before, strict=True))
    # What the optimizer knows of the old layer is still there for whoever puts it back.
    assert agent.state_dict()["model"]["optimizers"]["optimizer"]["state"].keys() == held_state.keys()
