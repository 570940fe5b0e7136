"""Pendulum with episodes of 20 steps: a run plays its final episodes in no time. The preset is Pendulum's."""

from __future__ import annotations

import gymnasium as gym

gym.register("Brief/Pendulum-v1", "gymnasium.envs.classic_control.pendulum:PendulumEnv", max_episode_steps=20)
