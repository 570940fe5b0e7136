"""An agent from an environment's spaces, in one line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import torch
from gymnasium import spaces
from torch import nn

from optix_fast.agents import agent as shared
from optix_fast.agents.ppo import PPOAgent
from optix_fast.agents.ppo_config import PPOConfig
from optix_fast.agents.torch_ppo import TorchGaussianPPOAgent, TorchPPOAgent
from optix_fast.envs.normalizers import ObsNormalizer, RewardNormalizer
from optix_fast.networks.encoders import ObservationEncoder, needs_encoder
from optix_fast.networks.mlp import mlp
from optix_fast.random import RandomStream
from optix_fast.types import HyperparamSet

ALGORITHMS = ("ppo",)
# A 64-64 network is updated faster on the CPU than a GPU can be asked to; see docs/performance.md.
_GPU_PAYS_FROM_WIDTH = 512


def make_agent(
    algo: str,
    env: Any,
    hidden_sizes: Sequence[int] = (64, 64),
    hyperparams: Mapping[str, Any] | None = None,
    seed: int | None = None,
    device: str = "auto",
    backend: str = "auto",
    *,
    activation: str = "tanh",
    normalize_observations: bool = False,
    normalize_rewards: bool = False,
    squash: bool = True,
    log_std: str = "state",
) -> PPOAgent:
    """Networks, optimizer and agent for an environment.

    Actor and critic are separate MLPs with orthogonal weights (gain √2, actor output 0.01, critic
    output 1), the optimizer is Adam(eps=1e-5). Observations other than one-dimensional Boxes pass
    an ObservationEncoder first.

    Args:
        algo: "ppo", or "auto", which chooses from the action space.
        env: a gymnasium.Env or VectorEnv (only its spaces are read), or a pipeline.
        hidden_sizes: widths of the hidden layers.
        hyperparams: of the algorithm; see PPOConfig.
        seed: of the weights and of the agent's random streams.
        device: "auto" is the CPU for layers narrower than 512, else CUDA where there is one.
        backend: "auto", "native" or "torch".
        activation: tanh, relu, leaky_relu, elu, silu or gelu.
        normalize_observations: give the agent an ObsNormalizer (float Box observations only).
        normalize_rewards: give it a RewardNormalizer with the agent's gamma.
        squash, log_std: of a Gaussian policy; see TorchGaussianPPOAgent. Only for Box actions.

    Raises:
        ValueError: unknown algorithm, an unknown hyperparameter (the nearest known one is named), a
            value out of range, or spaces that the algorithm cannot serve.
    """
    observation_space, action_space = _spaces(env)
    choose_algo(algo, action_space)
    params = dict(hyperparams or {})
    wrong = shared.unknown_keys(params, PPOConfig)
    if wrong:
        raise ValueError("; ".join(wrong))
    config = shared.read_config(PPOConfig, params)
    continuous = isinstance(action_space, spaces.Box)
    outputs = _outputs(action_space, log_std)
    stream = RandomStream(seed)
    generator = torch.Generator().manual_seed(int(stream.spawn("weights").integers(0, 2**62, (1,))[0]))
    actor = _network(observation_space, hidden_sizes, outputs, activation, 0.01, generator)
    critic = _network(observation_space, hidden_sizes, 1, activation, 1.0, generator)
    optimizer = torch.optim.Adam(
        [*actor.parameters(), *critic.parameters()], lr=config.learning_rate, eps=1e-5
    )
    obs_normalizer = _obs_normalizer(observation_space) if normalize_observations else None
    reward_normalizer = RewardNormalizer(config.gamma) if normalize_rewards else None
    hyperparam_set = HyperparamSet({"learning_rate": config.learning_rate, **params})
    agent_seed = int(stream.spawn("agent").integers(0, 2**62, (1,))[0])
    where = choose_device(device, hidden_sizes)
    if continuous:
        return TorchGaussianPPOAgent(
            actor, critic, optimizer, outputs // (2 if log_std == "state" else 1), hyperparam_set,
            where, reward_normalizer, obs_normalizer=obs_normalizer, action_space=action_space,
            squash=squash, log_std=log_std, seed=agent_seed, backend=backend,
        )  # fmt: skip
    return TorchPPOAgent(
        actor, critic, optimizer, hyperparam_set, where, reward_normalizer,
        obs_normalizer=obs_normalizer, action_space=action_space, seed=agent_seed, backend=backend,
    )  # fmt: skip


def choose_algo(algo: str, action_space: Any) -> str:
    """The algorithm that `algo` means for an action space.

    Raises:
        ValueError: an unknown algorithm, or one that does not serve the space.
    """
    if algo not in (*ALGORITHMS, "auto"):
        raise ValueError(f"algo must be one of {', '.join(ALGORITHMS)}, auto; got {algo!r}")
    flat = isinstance(action_space, spaces.MultiDiscrete) and action_space.nvec.ndim == 1
    if not flat and not isinstance(action_space, spaces.Box | spaces.Discrete):
        raise ValueError(f"ppo needs a Discrete, MultiDiscrete or Box action space, got {action_space}")
    return "ppo"


def choose_device(device: str, hidden_sizes: Sequence[int]) -> str:
    """The device that "auto" means for networks of these widths."""
    if device != "auto":
        return device
    wide = max(hidden_sizes, default=0) >= _GPU_PAYS_FROM_WIDTH
    return "cuda" if wide and torch.cuda.is_available() else "cpu"


def _spaces(env: Any) -> tuple[spaces.Space[Any], spaces.Space[Any]]:
    if isinstance(env, gym.vector.VectorEnv):
        return env.single_observation_space, env.single_action_space
    try:
        return env.observation_space, env.action_space
    except AttributeError:
        raise TypeError(
            f"env must have observation_space and action_space, got {type(env).__name__}"
        ) from None


def _outputs(action_space: Any, log_std: str) -> int:
    if isinstance(action_space, spaces.Discrete):
        return int(action_space.n)
    if isinstance(action_space, spaces.MultiDiscrete):
        return int(action_space.nvec.sum())
    width = 1
    for size in action_space.shape:
        width *= int(size)
    return width * (2 if log_std == "state" else 1)


def _network(
    space: spaces.Space[Any],
    hidden_sizes: Sequence[int],
    outputs: int,
    activation: str,
    output_gain: float,
    generator: torch.Generator,
) -> nn.Sequential:
    encoder = ObservationEncoder(space)
    layers = mlp([encoder.features, *hidden_sizes, outputs], activation, output_gain, generator)
    return nn.Sequential(encoder, *layers) if needs_encoder(space) else layers


def _obs_normalizer(space: spaces.Space[Any]) -> ObsNormalizer:
    if not isinstance(space, spaces.Box):
        raise ValueError(f"normalize_observations needs Box observations, got {space}")
    return ObsNormalizer(space.shape)
