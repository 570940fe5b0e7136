"""PPO on CartPole with networks of your own, until the mean return reaches 475 (about 20 seconds)."""

import gymnasium as gym
import torch
from torch import nn

from optix_fast import BatchPipeline, HyperparamSet, RLOptimizer, TorchPPOAgent

torch.set_num_threads(1)  # networks this small are slower when torch shares their products out

obs_dim, n_actions = 4, 2
actor = nn.Sequential(nn.Linear(obs_dim, 64), nn.Tanh(), nn.Linear(64, n_actions))
critic = nn.Sequential(nn.Linear(obs_dim, 64), nn.Tanh(), nn.Linear(64, 1))

agent = TorchPPOAgent(
    actor=actor,
    critic=critic,
    optimizer=torch.optim.Adam([*actor.parameters(), *critic.parameters()], lr=1e-3),
    hyperparams=HyperparamSet(
        {
            "learning_rate": 1e-3,
            "clip_ratio": 0.2,
            "entropy_coef": 0.01,
            "n_epochs": 10,
            "minibatch_size": 64,
        },
        episode_id=0,
    ),
    device="cpu",
)
pipeline = BatchPipeline(env=gym.make("CartPole-v1"), agent=agent, window_size=1024)

optimizer = RLOptimizer(
    agent=agent,
    pipeline=pipeline,
    checkpoint_dir="checkpoints/quick_start",
    target_score=475,
    max_episodes=60,
    verbose=True,
)
optimizer.run()
print(f"{optimizer.stop_reason}: best score {optimizer.best_snapshot.eval_metrics.primary_score:.1f}")
