"""What the tests of the PPO agents share: small agents, windows, comparisons."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import nn

from optix_fast.agents import TorchGaussianPPOAgent, TorchPPOAgent
from optix_fast.pipelines import VectorBatchPipeline
from optix_fast.types import EpisodeData, HyperparamSet

OBS = np.array([0.1, -0.2, 0.3, 0.05], np.float32)


def discrete_agent(seed: int = 0, params: dict[str, Any] | None = None, **kwargs: Any) -> TorchPPOAgent:
    generator = torch.Generator().manual_seed(seed)
    nets = []
    for outputs in (2, 1):
        net = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, outputs))
        for p in net.parameters():
            with torch.no_grad():
                p.copy_(0.5 * torch.randn(p.shape, generator=generator))
        nets.append(net)
    actor, critic = nets
    optimizer = torch.optim.Adam([*actor.parameters(), *critic.parameters()], lr=3e-4)
    hyperparams = HyperparamSet({"n_epochs": 2, "minibatch_size": 32, **(params or {})}, episode_id=0)
    return TorchPPOAgent(actor, critic, optimizer, hyperparams, device="cpu", seed=seed, **kwargs)


def gaussian_agent(action_dim: int = 1, **kwargs: Any) -> TorchGaussianPPOAgent:
    width = action_dim if kwargs.get("log_std") == "free" else 2 * action_dim
    torch.manual_seed(0)
    actor, critic = nn.Linear(3, width), nn.Linear(3, 1)
    optimizer = torch.optim.Adam([*actor.parameters(), *critic.parameters()], lr=1e-3)
    return TorchGaussianPPOAgent(
        actor, critic, optimizer, action_dim, HyperparamSet({}, episode_id=0), device="cpu", seed=0, **kwargs
    )


def cartpole_window(agent: Any, n_envs: int = 2, window_size: int = 32) -> EpisodeData:
    pipeline = VectorBatchPipeline(
        [lambda: gym.make("CartPole-v1")] * n_envs, agent, window_size=window_size, seed=5
    )
    return next(pipeline.episodes())


def flat_parameters(agent: Any) -> torch.Tensor:
    return torch.cat([p.detach().reshape(-1) for p in agent._model.parameters()])


def scripted(n: int = 3) -> dict[str, Any]:
    return {
        "observations": np.zeros((n, 4), np.float32),
        "actions": np.zeros(n, np.int64),
        "rewards": np.ones(n, np.float32),
        "terminated": np.zeros(n, np.bool_),
        "truncated": np.zeros(n, np.bool_),
        "infos": [{}] * n,
        "episode_id": 0,
        "values": np.zeros(n, np.float32),
        "log_probs": np.full(n, -0.7, np.float32),
    }


def assert_same(a: Any, b: Any, path: str = "") -> None:
    if isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a:
            assert_same(a[key], b[key], f"{path}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), path
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{path}[{i}]")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), path
    elif isinstance(a, np.ndarray):
        np.testing.assert_array_equal(a, b, err_msg=path)
    else:
        assert a == b, path
