"""The CrossQ agent: its networks, its delayed updates, its files. What it shares is in test_sac.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from ppo_cases import assert_same
from torch import nn

from optix_fast.agents import Agent, TorchCrossQAgent, make_agent
from optix_fast.learners.crossq.networks import normalized_mlp
from optix_fast.networks import BatchRenorm
from optix_fast.pipelines import VectorBatchPipeline


def pipeline_of(agent: Agent) -> VectorBatchPipeline:
    return VectorBatchPipeline([lambda: gym.make("Pendulum-v1")] * 2, agent, window_size=32, seed=5)


def made(params: dict[str, Any] | None = None, **kwargs: Any) -> Any:
    return make_agent(
        "crossq", gym.make("Pendulum-v1"), (16,), {"batch_size": 16, **(params or {})}, seed=0, **kwargs
    )


def learn(agent: Agent, windows: int) -> list[dict[str, Any]]:
    return [agent.learn(w) for _, w in zip(range(windows), pipeline_of(agent).episodes(), strict=False)]


def norms_of(agent: Any) -> list[BatchRenorm]:
    return [m for net in (agent.actor, *agent.critics) for m in net.modules() if isinstance(m, BatchRenorm)]


def test_make_agent_gives_actor_and_critics_batch_renorm_and_momentum_of_a_half() -> None:
    agent = made()
    assert isinstance(agent, TorchCrossQAgent) and len(agent.critics) == 2
    betas = {name: each.param_groups[0]["betas"] for name, each in agent._model.optimizers().items()}
    assert betas == {"actor": (0.5, 0.999), "critic": (0.5, 0.999), "alpha": (0.9, 0.999)}
    assert agent._model.TARGETS == {} and agent.get_hyperparams().params["learning_rate"] == 1e-3


@pytest.mark.parametrize(
    ("dropout", "hidden"),
    [(0.0, [nn.Linear, nn.ReLU, BatchRenorm]), (0.2, [nn.Linear, nn.ReLU, BatchRenorm, nn.Dropout])],
)
def test_networks_have_the_order_of_sb3_contrib(dropout: float, hidden: list[type]) -> None:
    """create_mlp of Stable-Baselines3 with BatchRenorm as its pre_linear_modules."""
    agent = make_agent("crossq", gym.make("Pendulum-v1"), (16, 8), seed=0, dropout=dropout)
    assert isinstance(agent, TorchCrossQAgent)
    for net, outputs in ((agent.actor, 2), *((critic, 1) for critic in agent.critics)):
        assert [type(layer) for layer in net] == [BatchRenorm, *hidden, *hidden, nn.Linear]  # type: ignore[attr-defined]
        inputs = 3 if net is agent.actor else 4
        widths = [len(layer.running_mean) for layer in net if isinstance(layer, BatchRenorm)]  # type: ignore[attr-defined]
        assert widths == [inputs, 16, 8] and net[-1].out_features == outputs  # type: ignore[index, union-attr]


@pytest.mark.parametrize("options", [{"norm": "layer"}, {"norm": "batch"}, {"residual": True}], ids=str)
def test_networks_of_another_order_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="crossq's networks have batch renormalization before each Linear"):
        made(**options)


def test_batch_renorm_is_the_norm_that_crossq_has() -> None:
    named, default = made(norm="batch_renorm"), made()
    assert [type(layer) for layer in named.actor] == [type(layer) for layer in default.actor]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sizes": [3]}, "sizes must be at least two"), ({"sizes": [3, 0, 1]}, "sizes must be at least two"),
        ({"activation": "sine"}, "activation must be one of"), ({"dropout": 1.0}, "dropout must be at least"),
    ],
)  # fmt: skip
def test_layers_that_cannot_be_built_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        normalized_mlp(**{"sizes": [3, 4, 1], **arguments})


def test_the_actor_learns_in_every_third_update_counted_over_all_windows() -> None:
    agent = made()
    told = learn(agent, 3)
    assert sum(each["n_updates"] for each in told) == agent.updates
    tracked = [int(norm.num_batches_tracked) for norm in norms_of(agent)]
    assert tracked == [agent.updates // 3] * 2 + [agent.updates] * 4


def test_means_of_the_actor_are_over_its_own_updates() -> None:
    agent = made({"policy_delay": 10**6})
    told = learn(agent, 1)[-1]
    assert told["n_updates"] > 0 and told["critic_loss"] > 0
    assert (told["actor_loss"], told["alpha_loss"], told["entropy"], told["alpha"]) == (0.0, 0.0, 0.0, 1.0)


def test_acting_leaves_the_statistics_alone() -> None:
    agent = made({"learning_starts": 0})
    learn(agent, 1)
    before = [norm.running_mean.clone() for norm in norms_of(agent)]
    agent.act(np.ones(3, np.float32))
    agent.act_batch(np.ones((5, 3), np.float32))
    after = [norm.running_mean for norm in norms_of(agent)]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.native
def test_backends_learn_the_same() -> None:
    ours, theirs = (made({"n_step": 2}, backend=backend) for backend in ("native", "torch"))
    assert ours.backend == "native"
    told = [learn(agent, 3)[-1] for agent in (ours, theirs)]
    assert told[0] == pytest.approx(told[1], rel=1e-3, abs=1e-4)
    for mine, other in zip(ours._model.parameters(), theirs._model.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=5e-3, atol=5e-4)


def test_training_goes_on_from_its_files(tmp_path: Path) -> None:
    agent = made()
    windows = iter(pipeline_of(agent).episodes())
    agent.learn(next(windows))
    agent.save(str(tmp_path), replay=True)
    resumed = Agent.load(str(tmp_path), device="cpu")
    assert isinstance(resumed, TorchCrossQAgent)
    assert_same(resumed.state_dict(), agent.state_dict())
    window = next(windows)
    assert resumed.learn(window) == agent.learn(window)
