"""Continuous actions: squashed Gaussian PPO on Pendulum, normalised, eight environments (20 seconds)."""

import gymnasium as gym
import torch

from optix_fast import RLOptimizer, VectorBatchPipeline, evaluate_policy, make_agent

torch.set_num_threads(1)  # networks this small are slower when torch shares their products out


def make_env() -> gym.Env:
    return gym.make("Pendulum-v1")


pipeline = VectorBatchPipeline([make_env] * 8, window_size=256, seed=0, max_steps=50_000)
agent = make_agent(
    "ppo",
    pipeline,
    hyperparams={"learning_rate": 1e-3, "gamma": 0.9, "minibatch_size": 256, "entropy_coef": 0.0},
    normalize_observations=True,
    normalize_rewards=True,
    seed=0,
)
RLOptimizer(agent=agent, pipeline=pipeline, checkpoint_dir="checkpoints/gaussian_ppo").run()

result = evaluate_policy(agent, make_env, episodes=20, seed=1)
print(
    f"deterministic return {result.return_mean:.0f} ± {result.return_std:.0f} (a random policy: about -1200)"
)
