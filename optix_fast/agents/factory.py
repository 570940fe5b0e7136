"""An agent from an environment's spaces, in one line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, Literal, overload

import gymnasium as gym
import torch
from gymnasium import spaces

from optix_fast.agents.arguments import check_seed, require_count
from optix_fast.agents.base import Agent
from optix_fast.agents.building import Algorithm, Options, Parts
from optix_fast.agents.dqn import TorchDQNAgent
from optix_fast.agents.hyperparams import unknown_keys
from optix_fast.agents.ppo import PPOAgent
from optix_fast.agents.sac import TorchSACAgent
from optix_fast.agents.td3 import TorchTD3Agent
from optix_fast.algorithms import NAMES
from optix_fast.random import RandomStream
from optix_fast.types import HyperparamSet

Params = Mapping[str, Any] | HyperparamSet | None
# A 64-64 network is updated faster on the CPU than a GPU can be asked to; see docs/performance.md.
_GPU_PAYS_FROM_WIDTH = 512
ALGORITHMS: dict[str, Algorithm] = {
    name: import_module(f"optix_fast.agents.{name}").ALGORITHM for name in NAMES
}


@overload
def make_agent(
    algo: Literal["ppo", "auto"], env: Any, hidden_sizes: Sequence[int] = ..., hyperparams: Params = ...,
    seed: int | None = ..., device: str = ..., backend: str = ..., *, activation: str | None = ...,
    normalize_observations: bool = ..., normalize_rewards: bool = ..., squash: bool = ..., log_std: str = ...,
    dueling: bool = ..., norm: str | None = ..., residual: bool = ..., dropout: float = ...,
) -> PPOAgent: ...  # fmt: skip


@overload
def make_agent(
    algo: Literal["dqn"], env: Any, hidden_sizes: Sequence[int] = ..., hyperparams: Params = ...,
    seed: int | None = ..., device: str = ..., backend: str = ..., *, activation: str | None = ...,
    normalize_observations: bool = ..., normalize_rewards: bool = ..., squash: bool = ..., log_std: str = ...,
    dueling: bool = ..., norm: str | None = ..., residual: bool = ..., dropout: float = ...,
) -> TorchDQNAgent: ...  # fmt: skip


@overload
def make_agent(
    algo: Literal["sac"], env: Any, hidden_sizes: Sequence[int] = ..., hyperparams: Params = ...,
    seed: int | None = ..., device: str = ..., backend: str = ..., *, activation: str | None = ...,
    normalize_observations: bool = ..., normalize_rewards: bool = ..., squash: bool = ..., log_std: str = ...,
    dueling: bool = ..., norm: str | None = ..., residual: bool = ..., dropout: float = ...,
) -> TorchSACAgent: ...  # fmt: skip


@overload
def make_agent(
    algo: Literal["td3"], env: Any, hidden_sizes: Sequence[int] = ..., hyperparams: Params = ...,
    seed: int | None = ..., device: str = ..., backend: str = ..., *, activation: str | None = ...,
    normalize_observations: bool = ..., normalize_rewards: bool = ..., squash: bool = ..., log_std: str = ...,
    dueling: bool = ..., norm: str | None = ..., residual: bool = ..., dropout: float = ...,
) -> TorchTD3Agent: ...  # fmt: skip


@overload
def make_agent(
    algo: str, env: Any, hidden_sizes: Sequence[int] = ..., hyperparams: Params = ...,
    seed: int | None = ..., device: str = ..., backend: str = ..., *, activation: str | None = ...,
    normalize_observations: bool = ..., normalize_rewards: bool = ..., squash: bool = ..., log_std: str = ...,
    dueling: bool = ..., norm: str | None = ..., residual: bool = ..., dropout: float = ...,
) -> Agent: ...  # fmt: skip


def make_agent(
    algo: str,
    env: Any,
    hidden_sizes: Sequence[int] = (64, 64),
    hyperparams: Params = None,
    seed: int | None = None,
    device: str = "auto",
    backend: str = "auto",
    *,
    activation: str | None = None,
    normalize_observations: bool = False,
    normalize_rewards: bool = False,
    squash: bool = True,
    log_std: str = "state",
    dueling: bool = False,
    norm: str | None = None,
    residual: bool = False,
    dropout: float = 0.0,
) -> Agent:
    """Networks, optimizer and agent for an environment.

    PPO: actor and critic are separate MLPs with orthogonal weights (gain √2, of the actor's output 0.01, of
    the critic's 1), the optimizer is Adam(eps=1e-5). DQN: one such MLP (gain of the output 1), Adam. SAC,
    TD3, TQC and CrossQ: actor and critics are MLPs with torch's own initialisation, each optimizer Adam
    (CrossQ's, but for the temperature's, with β₁ = 0.5). CrossQ's networks normalize what each of their
    Linear layers reads: BatchRenorm → (Linear → activation → BatchRenorm → Dropout)* → Linear.
    Observations other than one-dimensional Boxes pass an ObservationEncoder first.

    Args:
        algo: a name of optix_fast.algorithms ("ppo", "dqn", …), or "auto", see choose_algo.
        env: a gymnasium.Env or VectorEnv (only its spaces are read), or a pipeline.
        hidden_sizes: widths of the hidden layers.
        hyperparams: of the algorithm, a dict or a HyperparamSet; see PPOConfig, DQNConfig, SACConfig,
            TD3Config, TQCConfig and CrossQConfig.
        seed: of the weights and of the agent's random streams.
        device: "auto" is the CPU for layers narrower than 512, else CUDA where there is one.
        backend: "auto", "native" or "torch".
        activation: tanh, relu, leaky_relu, elu, celu, selu, silu, gelu, gelu_tanh, mish, softplus, sigmoid,
            log_sigmoid, softsign, relu6, hardtanh, hardsigmoid or hardswish; None is tanh for ppo, else relu.
        normalize_observations: give a PPO agent an ObsNormalizer (float Box observations only).
        normalize_rewards: give it a RewardNormalizer with the agent's gamma.
        squash, log_std: of a Gaussian policy; see TorchGaussianPPOAgent. Only for Box actions.
        dueling: give a DQN agent a DuelingQNetwork.
        norm: in each hidden layer, before its activation: "layer", "rms", "batch" or "batch_renorm"; None: no
            norm. crossq's networks always have "batch_renorm", before each Linear.
        residual: add what a hidden layer reads to what it returns, where both are equally wide; not for
            crossq.
        dropout: share of each hidden layer's activations that updates set to zero; below 1.

    Raises:
        ValueError: unknown algorithm, an unknown hyperparameter (the one that is meant is named), a
            value out of range, an option that the algorithm does not have, or spaces that it cannot serve.
    """
    observation_space, action_space = _spaces(env)
    algo = choose_algo(algo, action_space)
    _check_hidden_sizes(hidden_sizes)
    check_seed(seed)
    params = dict(hyperparams.params if isinstance(hyperparams, HyperparamSet) else hyperparams or {})
    wrong = unknown_keys(params, ALGORITHMS[algo].config)
    if wrong:
        raise ValueError("; ".join(wrong.values()))
    stream = RandomStream(seed)
    parts = Parts(
        observation_space, action_space, tuple(hidden_sizes),
        activation or ALGORITHMS[algo].activation, norm, residual, dropout,
        torch.Generator().manual_seed(int(stream.spawn("weights").integers(0, 2**62, (1,))[0])),
        params, choose_device(device, hidden_sizes),
        int(stream.spawn("agent").integers(0, 2**62, (1,))[0]), backend,
    )  # fmt: skip
    if algo != "ppo" and (normalize_observations or normalize_rewards):
        raise ValueError(f"{algo} learns from stored experience as it is: it has no normalizers")
    if dueling and algo != "dqn":
        raise ValueError("dueling is an option of dqn")
    options = Options(normalize_observations, normalize_rewards, squash, log_std, dueling)
    agent = ALGORITHMS[algo].build(parts, options)
    agent.bind_spaces(observation_space, action_space)
    return agent


def choose_algo(algo: str, action_space: Any) -> str:
    """The algorithm that `algo` means for an action space.

    "auto" is ppo for every space that it serves: it is the one that reaches our targets on all of them with
    one setting (docs/results.md). Where steps of the environment are dear, ask for DQN, which serves Discrete
    spaces, or SAC, TD3, TQC or CrossQ, which serve bounded Boxes (SAC Discrete ones too).

    Raises:
        ValueError: an unknown algorithm, or one that does not serve the space.
    """
    if algo not in (*ALGORITHMS, "auto"):
        raise ValueError(f"algo must be one of {', '.join(ALGORITHMS)}, auto; got {algo!r}")
    chosen = "ppo" if algo == "auto" else algo
    if not ALGORITHMS[chosen].serves(action_space):
        raise ValueError(f"{chosen} needs {ALGORITHMS[chosen].needs}, got {action_space}")
    return chosen


def choose_device(device: str, hidden_sizes: Sequence[int]) -> str:
    """The device that "auto" means for networks of these widths."""
    if device != "auto":
        return device
    wide = max(hidden_sizes, default=0) >= _GPU_PAYS_FROM_WIDTH
    return "cuda" if wide and torch.cuda.is_available() else "cpu"


def _check_hidden_sizes(sizes: Any) -> None:
    if not isinstance(sizes, Sequence) or isinstance(sizes, str):
        raise TypeError(f"hidden_sizes must be a sequence of widths such as (64, 64), got {sizes!r}")
    for width in sizes:
        require_count("hidden_sizes", width)


def _spaces(env: Any) -> tuple[spaces.Space[Any], spaces.Space[Any]]:
    if isinstance(env, gym.vector.VectorEnv):
        return env.single_observation_space, env.single_action_space
    try:
        return env.observation_space, env.action_space
    except AttributeError:
        raise TypeError(
            f"env must have observation_space and action_space, got {type(env).__name__}"
        ) from None
