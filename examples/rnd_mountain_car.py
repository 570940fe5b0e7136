"""Sparse rewards: PPO finds MountainCar's goal by a bonus for what is new to it (15 seconds).

Every step costs 1 until the goal is reached, and random actions do not reach it within the 200 steps of an
episode: with eta=0 the return stays -200. The loop scores the environment's rewards only.
"""

import gymnasium as gym
import torch

from optix_fast import RLOptimizer, RNDPipeline, VectorBatchPipeline, evaluate_policy, make_agent

torch.set_num_threads(1)  # networks this small are slower when torch shares their products out


def make_env() -> gym.Env:
    return gym.make("MountainCar-v0")


environments = VectorBatchPipeline([make_env] * 16, window_size=128, seed=0)
pipeline = RNDPipeline(environments, obs_dim=2, eta=0.1, seed=0)
agent = make_agent(
    "ppo", pipeline, hyperparams={"learning_rate": 1e-3, "minibatch_size": 256, "n_epochs": 10}, seed=0
)
RLOptimizer(
    agent=agent,
    pipeline=pipeline,
    checkpoint_dir="checkpoints/rnd_mountain_car",
    max_episodes=110,
    dormant_threshold=110,  # a score that has not moved yet is no reason to stop here,
    max_interval_episodes=4,  # nor to look away for long
).run()

result = evaluate_policy(agent, make_env, episodes=50, seed=1, deterministic=False)
print(f"return {result.return_mean:.0f} ± {result.return_std:.0f} (without the bonus: -200)")
