"""The documented quick starts, as their users write them, the import and the seeds aside."""

from __future__ import annotations

from pathlib import Path

import gymnasium as gym
import pytest
import torch
import torch.nn as nn

from optix_fast import (
    BatchPipeline,
    HyperparamSet,
    RLOptimizer,
    TorchGaussianPPOAgent,
    TorchPPOAgent,
    evaluate_policy,
)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_pytorch_quick_start_stops_by_itself_with_a_solved_cartpole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # checkpoints go to ./checkpoints
    torch.manual_seed(0)
    obs_dim, n_actions = 4, 2
    actor = nn.Sequential(nn.Linear(obs_dim, 64), nn.Tanh(), nn.Linear(64, n_actions))
    critic = nn.Sequential(nn.Linear(obs_dim, 64), nn.Tanh(), nn.Linear(64, 1))
    agent = TorchPPOAgent(
        actor=actor,
        critic=critic,
        optimizer=torch.optim.Adam(list(actor.parameters()) + list(critic.parameters()), lr=3e-4),
        hyperparams=HyperparamSet(
            params={
                "learning_rate": 3e-4,
                "clip_ratio": 0.2,
                "entropy_coef": 0.01,
                "gamma": 0.99,
                "gae_lambda": 0.95,
                "n_epochs": 10,
                "minibatch_size": 64,
            },
            episode_id=0,
        ),
        seed=0,
    )
    pipeline = BatchPipeline(env=gym.make("CartPole-v1"), agent=agent, window_size=2048, seed=0)
    opt = RLOptimizer(agent=agent, pipeline=pipeline)
    opt.run()

    assert opt.stop_reason == "converged"
    assert opt.windows < 200
    result = evaluate_policy(agent, lambda: gym.make("CartPole-v1"), episodes=50, seed=1)
    assert result.return_mean >= 475


def test_gaussian_block_trains_on_an_environment(tmp_path: Path) -> None:
    obs_dim, act_dim = 3, 1
    actor = nn.Sequential(nn.Linear(obs_dim, 64), nn.Tanh(), nn.Linear(64, act_dim * 2))
    critic = nn.Sequential(nn.Linear(obs_dim, 64), nn.Tanh(), nn.Linear(64, 1))
    agent = TorchGaussianPPOAgent(
        actor=actor,
        critic=critic,
        optimizer=torch.optim.Adam(list(actor.parameters()) + list(critic.parameters()), lr=3e-4),
        action_dim=act_dim,
        hyperparams=HyperparamSet(
            params={
                "learning_rate": 3e-4,
                "clip_ratio": 0.2,
                "entropy_coef": 0.01,
                "gamma": 0.99,
                "gae_lambda": 0.95,
                "n_epochs": 10,
                "minibatch_size": 64,
            },
            episode_id=0,
        ),
    )
    pipeline = BatchPipeline(env=gym.make("Pendulum-v1"), agent=agent, window_size=512)
    opt = RLOptimizer(agent=agent, pipeline=pipeline, max_episodes=3, checkpoint_dir=str(tmp_path))
    opt.run()

    assert opt.stop_reason == "budget"
    assert opt.windows == 3
    assert opt.env_steps == 3 * 512
    assert -2000 < opt.best_snapshot.eval_metrics.primary_score < 0
    assert agent.env_steps == 3 * 512  # all three windows were learned from
