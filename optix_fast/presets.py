"""Settings that suit an environment: what a run uses where the user says nothing.

Here those of ppo: single environments first, then families by the module that registers them, then the
action space. Other algorithms have theirs beside their hyperparameters, in learners/<name>/config.py.
The classic-control values follow the published tunings of rl-baselines3-zoo where those work within
our step budgets, and our own runs (docs/results.md) where they do not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
from gymnasium import spaces

Preset = dict[str, Any]

# Short windows reach the flag, the only place that ends an episode early. The zoo's 16 steps do too, but
# a window of 16 steps gets its score from one or two episodes.
_MOUNTAIN_CAR: Preset = {
    "n_envs": 16,
    "n_steps": 64,
    "normalize_observations": True,
    "normalize_rewards": True,
    "hyperparams": {
        "learning_rate": 1e-3,
        "minibatch_size": 64,
        "n_epochs": 4,
        "gae_lambda": 0.98,
        "entropy_coef": 0.0,
    },
}

_ENVIRONMENTS: dict[str, Preset] = {
    "CartPole": {
        "steps": 150_000,
        "n_steps": 128,
        "hyperparams": {
            "learning_rate": 1e-3,
            "minibatch_size": 256,
            "n_epochs": 10,
            "gamma": 0.98,
            "gae_lambda": 0.9,
            "entropy_coef": 0.0,
        },
    },
    "Acrobot": {
        "steps": 300_000,
        "n_envs": 16,
        "n_steps": 128,
        "normalize_observations": True,
        "hyperparams": {
            "learning_rate": 1e-3,
            "minibatch_size": 256,
            "gae_lambda": 0.94,
            "entropy_coef": 0.0,
        },
    },
    "MountainCar": {**_MOUNTAIN_CAR, "steps": 1_000_000},
    "MountainCarContinuous": {**_MOUNTAIN_CAR, "steps": 300_000},
    "Pendulum": {
        "steps": 300_000,
        "normalize_observations": True,
        "normalize_rewards": True,
        "hyperparams": {
            "learning_rate": 1e-3,
            "minibatch_size": 64,
            "gamma": 0.9,
            "entropy_coef": 0.0,
        },
    },
}

_FAMILIES: dict[str, Preset] = {
    "gymnasium.envs.classic_control": {
        "steps": 300_000,
        "normalize_observations": True,
        "hyperparams": {"learning_rate": 1e-3, "minibatch_size": 256, "entropy_coef": 0.0},
    },
    "gymnasium.envs.box2d": {
        "steps": 1_000_000,
        "n_envs": 16,
        "n_steps": 256,
        "hyperparams": {
            "learning_rate": 5e-4,
            "minibatch_size": 64,
            "n_epochs": 4,
            "gamma": 0.999,
            "gae_lambda": 0.98,
        },
    },
    "gymnasium.envs.mujoco": {
        "steps": 1_000_000,
        "n_envs": 1,
        "n_steps": 2048,
        "normalize_observations": True,
        "normalize_rewards": True,
        "squash": False,
        "log_std": "free",
        "anneal": True,
        "hyperparams": {"entropy_coef": 0.0, "value_clip": 0.2},
    },
}

_GENERAL: Preset = {
    "steps": 500_000,
    "hyperparams": {"learning_rate": 5e-4, "minibatch_size": 256},
}
_GENERAL_CONTINUOUS: Preset = {
    "steps": 1_000_000,
    "normalize_observations": True,
    "normalize_rewards": True,
    "hyperparams": {"learning_rate": 3e-4, "minibatch_size": 256, "entropy_coef": 0.0},
}


def preset_for(env_id: str, env: Any, own: Mapping[str, Preset] | None = None) -> Preset:
    """TrainConfig settings for an environment.

    Args:
        env_id: as registered.
        env: an instance, whose registration and spaces are read.
        own: the algorithm's presets by environment, "*" for all others; they hold for one environment. None:
            those of ppo.
    """
    name = env_id.rsplit(":", 1)[-1].rsplit("/", 1)[-1].rsplit("-v", 1)[0]
    if own is not None:
        return {"n_envs": 1, "n_steps": 512, **own.get(name, own["*"])}
    if name in _ENVIRONMENTS:
        return _ENVIRONMENTS[name]
    spec: Any = getattr(env, "spec", None)
    entry = spec.entry_point if spec is not None and isinstance(spec.entry_point, str) else ""
    for family, preset in _FAMILIES.items():
        if entry.startswith(family):
            return preset
    continuous = isinstance(env.action_space, spaces.Box)
    simple = isinstance(env.observation_space, spaces.Box)
    if continuous and simple:
        return _GENERAL_CONTINUOUS
    return _GENERAL


def reward_threshold(env: gym.Env[Any, Any]) -> float | None:
    """The return at which the environment's registration calls it solved, if it names one."""
    return None if env.spec is None else env.spec.reward_threshold
