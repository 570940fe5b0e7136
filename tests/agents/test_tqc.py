"""The TQC agent: its networks, its files, its errors. What it shares with SAC is in test_sac.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from ppo_cases import assert_same
from torch import nn

from optix_fast.agents import Agent, TorchTQCAgent, make_agent
from optix_fast.networks import mlp
from optix_fast.pipelines import VectorBatchPipeline
from optix_fast.types import HyperparamSet


def pipeline_of(agent: Agent) -> VectorBatchPipeline:
    return VectorBatchPipeline([lambda: gym.make("Pendulum-v1")] * 2, agent, window_size=32, seed=5)


def made(params: dict[str, Any] | None = None, **kwargs: Any) -> Any:
    params = {"batch_size": 16, "n_critics": 3, "n_quantiles": 7, **(params or {})}
    return make_agent("tqc", gym.make("Pendulum-v1"), (16,), params, seed=0, **kwargs)


def learn(agent: Agent, windows: int) -> list[dict[str, Any]]:
    return [agent.learn(w) for _, w in zip(range(windows), pipeline_of(agent).episodes(), strict=False)]


def test_make_agent_builds_as_many_critics_and_quantiles_as_asked() -> None:
    agent = made()
    assert isinstance(agent, TorchTQCAgent)
    assert [net[-1].out_features for net in agent.critics] == [7, 7, 7]
    assert [net[0].in_features for net in agent.critics] == [4, 4, 4]
    told = learn(agent, 2)[-1]
    assert told["n_updates"] > 0 and told["critic_loss"] > 0 and told["alpha"] == agent.alpha < 1.0


@pytest.mark.native
@pytest.mark.parametrize("params", [{}, {"per_alpha": 0.6, "n_step": 3}])
def test_backends_learn_the_same(params: dict[str, Any]) -> None:
    ours, theirs = (made(params, backend=backend) for backend in ("native", "torch"))
    assert ours.backend == "native"
    told = [learn(agent, 3)[-1] for agent in (ours, theirs)]
    assert told[0] == pytest.approx(told[1], rel=1e-3, abs=1e-4)
    for mine, other in zip(ours._model.parameters(), theirs._model.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=5e-3, atol=5e-4)


def test_files_hold_all_critics_and_training_goes_on_from_them(tmp_path: Path) -> None:
    agent = made()
    windows = iter(pipeline_of(agent).episodes())
    agent.learn(next(windows))
    agent.save(str(tmp_path), replay=True)
    files = {path.name for path in tmp_path.iterdir()}
    assert {f"{n}.safetensors" for n in ("actor", "critics", "log_alpha")} <= files
    resumed = Agent.load(str(tmp_path), device="cpu")
    assert isinstance(resumed, TorchTQCAgent)
    assert_same(resumed.state_dict(), agent.state_dict())
    window = next(windows)
    assert resumed.learn(window) == agent.learn(window)
    loaded = made({"n_quantiles": 7})
    loaded.load_weights(str(tmp_path))
    networks = loaded.state_dict()["model"]["networks"]
    assert_same(networks["targets"], networks["critics"])
    with pytest.raises(RuntimeError, match="another"):
        made({"n_critics": 2}).load_weights(str(tmp_path))


def test_a_replaced_layer_of_a_critic_renews_its_target() -> None:
    agent = made()
    learn(agent, 1)
    agent.critics[1][0] = nn.Linear(4, 16)
    agent._model.critic_optimizer = torch.optim.Adam(agent._model.critics.parameters())
    agent.critics[1].append(nn.Tanh())
    learn(agent, 2)
    assert isinstance(agent._model.targets[1][-1], nn.Tanh)


def own_networks(outputs: tuple[int, ...], **params: Any) -> TorchTQCAgent:
    actor, critics = mlp([3, 8, 2]), [mlp([4, 8, m]) for m in outputs]
    return TorchTQCAgent(
        actor, critics, 1, torch.optim.Adam(actor.parameters()),
        torch.optim.Adam([p for net in critics for p in net.parameters()]),
        torch.optim.Adam([torch.zeros(1)]), HyperparamSet({"batch_size": 16, **params}), "cpu", seed=0,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ((5, 6), r"all critics must have as many outputs, got \[5, 6\]"),
        ((2, 2), "must be below the critics' 2 quantiles, got 2"),
    ],
)
def test_networks_that_do_not_fit_are_named_by_learn(outputs: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        learn(own_networks(outputs), 1)


def test_a_critic_that_is_no_module_is_named() -> None:
    actor = mlp([3, 8, 2])
    adam = torch.optim.Adam(actor.parameters())
    with pytest.raises(TypeError, match="critic2 must be a Module, got str"):
        TorchTQCAgent(actor, [mlp([4, 8, 5]), "Q"], 1, adam, adam, adam, HyperparamSet({}))  # type: ignore[list-item]


def test_five_critics_of_a_dict_space_learn() -> None:
    env = gym.wrappers.TransformObservation(
        gym.make("Pendulum-v1"), lambda o: {"all": o},
        gym.spaces.Dict({"all": gym.spaces.Box(-np.inf, np.inf, (3,))}),
    )  # fmt: skip
    agent = make_agent("tqc", env, (16,), {"batch_size": 16, "n_critics": 5}, seed=0)
    pipeline = VectorBatchPipeline([lambda: env], agent, window_size=32, seed=5)
    assert agent.learn(next(iter(pipeline.episodes())))["n_updates"] == 16


def of_own_critics(quantiles: int, params: dict[str, Any], backend: str = "auto") -> TorchTQCAgent:
    actor, critics = nn.Linear(3, 2), [nn.Linear(4, quantiles) for _ in range(2)]
    optimizers = [
        torch.optim.Adam(net.parameters()) for net in (actor, nn.ModuleList(critics), nn.Linear(1, 1))
    ]
    hyperparams = HyperparamSet({"batch_size": 16, **params})
    return TorchTQCAgent(actor, critics, 1, *optimizers, hyperparams, device="cpu", seed=0, backend=backend)


@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_how_many_quantiles_may_be_dropped_is_up_to_the_critics(backend: str) -> None:
    agent = of_own_critics(50, {"top_quantiles_to_drop_per_net": 30}, backend)
    assert learn(agent, 1)[-1]["n_updates"] > 0
    agent.set_hyperparams(HyperparamSet({"top_quantiles_to_drop_per_net": 49}))
    with pytest.raises(ValueError, match="must be below the critics' 50 quantiles, got 50"):
        agent.set_hyperparams(HyperparamSet({"top_quantiles_to_drop_per_net": 50, "n_quantiles": 60}))
    assert agent.get_hyperparams().params["top_quantiles_to_drop_per_net"] == 49
    with pytest.raises(ValueError, match="must be below the critics' 5 quantiles, got 10"):
        of_own_critics(5, {"top_quantiles_to_drop_per_net": 10}, backend)


def test_make_agent_builds_no_critics_of_which_all_quantiles_are_dropped() -> None:
    with pytest.raises(ValueError, match="must be below the critics' 3 quantiles, got 3"):
        made({"n_quantiles": 3, "top_quantiles_to_drop_per_net": 3})
