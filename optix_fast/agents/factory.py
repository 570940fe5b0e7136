"""An agent from an environment's spaces, in one line."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, overload

import gymnasium as gym
import torch
from gymnasium import spaces
from torch import nn

from optix_fast.agents.arguments import check_seed, require_count
from optix_fast.agents.base import Agent
from optix_fast.agents.dqn import TorchDQNAgent
from optix_fast.agents.hyperparams import read_config, unknown_keys
from optix_fast.agents.ppo import PPOAgent, TorchGaussianPPOAgent, TorchPPOAgent
from optix_fast.agents.sac import TorchSACAgent
from optix_fast.agents.td3 import TorchTD3Agent
from optix_fast.envs.normalizers import ObsNormalizer, RewardNormalizer
from optix_fast.learners.dqn.config import DQNConfig
from optix_fast.learners.ppo.config import PPOConfig
from optix_fast.learners.sac.config import SACConfig
from optix_fast.learners.td3.config import TD3Config
from optix_fast.networks.dueling import DuelingQNetwork
from optix_fast.networks.encoders import EncodedCritic, ObservationEncoder, needs_encoder
from optix_fast.networks.heads import component_sizes
from optix_fast.networks.mlp import mlp
from optix_fast.random import RandomStream
from optix_fast.types import HyperparamSet

Params = Mapping[str, Any] | HyperparamSet | None
# A 64-64 network is updated faster on the CPU than a GPU can be asked to; see docs/performance.md.
_GPU_PAYS_FROM_WIDTH = 512


@overload
def make_agent(
    algo: Literal["ppo", "auto"], env: Any, hidden_sizes: Sequence[int] = ..., hyperparams: Params = ...,
    seed: int | None = ..., device: str = ..., backend: str = ..., *, activation: str | None = ...,
    normalize_observations: bool = ..., normalize_rewards: bool = ..., squash: bool = ..., log_std: str = ...,
    dueling: bool = ..., norm: str | None = ..., residual: bool = ...,
) -> PPOAgent: ...  # fmt: skip


@overload
def make_agent(
    algo: Literal["dqn"], env: Any, hidden_sizes: Sequence[int] = ..., hyperparams: Params = ...,
    seed: int | None = ..., device: str = ..., backend: str = ..., *, activation: str | None = ...,
    normalize_observations: bool = ..., normalize_rewards: bool = ..., squash: bool = ..., log_std: str = ...,
    dueling: bool = ..., norm: str | None = ..., residual: bool = ...,
) -> TorchDQNAgent: ...  # fmt: skip


@overload
def make_agent(
    algo: Literal["sac"], env: Any, hidden_sizes: Sequence[int] = ..., hyperparams: Params = ...,
    seed: int | None = ..., device: str = ..., backend: str = ..., *, activation: str | None = ...,
    normalize_observations: bool = ..., normalize_rewards: bool = ..., squash: bool = ..., log_std: str = ...,
    dueling: bool = ..., norm: str | None = ..., residual: bool = ...,
) -> TorchSACAgent: ...  # fmt: skip


@overload
def make_agent(
    algo: Literal["td3"], env: Any, hidden_sizes: Sequence[int] = ..., hyperparams: Params = ...,
    seed: int | None = ..., device: str = ..., backend: str = ..., *, activation: str | None = ...,
    normalize_observations: bool = ..., normalize_rewards: bool = ..., squash: bool = ..., log_std: str = ...,
    dueling: bool = ..., norm: str | None = ..., residual: bool = ...,
) -> TorchTD3Agent: ...  # fmt: skip


@overload
def make_agent(
    algo: str, env: Any, hidden_sizes: Sequence[int] = ..., hyperparams: Params = ...,
    seed: int | None = ..., device: str = ..., backend: str = ..., *, activation: str | None = ...,
    normalize_observations: bool = ..., normalize_rewards: bool = ..., squash: bool = ..., log_std: str = ...,
    dueling: bool = ..., norm: str | None = ..., residual: bool = ...,
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
) -> Agent:
    """Networks, optimizer and agent for an environment.

    PPO: actor and critic are separate MLPs with orthogonal weights (gain √2, of the actor's output 0.01, of
    the critic's 1), the optimizer is Adam(eps=1e-5). DQN: one such MLP (gain of the output 1), Adam. SAC
    and TD3: actor and both critics are MLPs with torch's own initialisation, each optimizer Adam.
    Observations other than one-dimensional Boxes pass an ObservationEncoder first.

    Args:
        algo: "ppo", "dqn", "sac", "td3", or "auto", see choose_algo.
        env: a gymnasium.Env or VectorEnv (only its spaces are read), or a pipeline.
        hidden_sizes: widths of the hidden layers.
        hyperparams: of the algorithm, a dict or a HyperparamSet; see PPOConfig, DQNConfig, SACConfig and
            TD3Config.
        seed: of the weights and of the agent's random streams.
        device: "auto" is the CPU for layers narrower than 512, else CUDA where there is one.
        backend: "auto", "native" or "torch".
        activation: tanh, relu, leaky_relu, elu, celu, selu, silu, gelu, gelu_tanh, mish, softplus, sigmoid,
            log_sigmoid, softsign, relu6, hardtanh, hardsigmoid or hardswish; None is tanh for ppo, else relu.
        normalize_observations: give a PPO agent an ObsNormalizer (float Box observations only).
        normalize_rewards: give it a RewardNormalizer with the agent's gamma.
        squash, log_std: of a Gaussian policy; see TorchGaussianPPOAgent. Only for Box actions.
        dueling: give a DQN agent a DuelingQNetwork.
        norm: in each hidden layer, before its activation: "layer", "rms" or None.
        residual: add what a hidden layer reads to what it returns, where both are equally wide.

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
    parts = _Parts(
        observation_space, action_space, tuple(hidden_sizes),
        activation or ALGORITHMS[algo].activation, norm, residual,
        torch.Generator().manual_seed(int(stream.spawn("weights").integers(0, 2**62, (1,))[0])),
        params, choose_device(device, hidden_sizes),
        int(stream.spawn("agent").integers(0, 2**62, (1,))[0]), backend,
    )  # fmt: skip
    if algo != "ppo" and (normalize_observations or normalize_rewards):
        raise ValueError(f"{algo} learns from stored experience as it is: it has no normalizers")
    if dueling and algo != "dqn":
        raise ValueError("dueling is an option of dqn")
    options = _Options(normalize_observations, normalize_rewards, squash, log_std, dueling)
    agent = ALGORITHMS[algo].build(parts, options)
    agent.bind_spaces(observation_space, action_space)
    return agent


class _Options(NamedTuple):
    """make_agent's options that belong to one algorithm."""

    normalize_observations: bool
    normalize_rewards: bool
    squash: bool
    log_std: str
    dueling: bool


class _Parts(NamedTuple):
    """What agents of every algorithm are made of."""

    observation_space: spaces.Space[Any]
    action_space: Any
    hidden_sizes: tuple[int, ...]
    activation: str
    norm: str | None
    residual: bool
    generator: torch.Generator
    params: dict[str, Any]
    device: str
    seed: int
    backend: str

    def network(self, outputs: int, output_gain: float | None) -> nn.Sequential:
        encoder = ObservationEncoder(self.observation_space)
        sizes = [encoder.features, *self.hidden_sizes, outputs]
        layers = self._layers(sizes, output_gain)
        return nn.Sequential(encoder, *layers) if needs_encoder(self.observation_space) else layers

    def critic(self, action_dim: int) -> nn.Module:
        """Of an observation and an action."""
        encoder = ObservationEncoder(self.observation_space)
        sizes = [encoder.features + action_dim, *self.hidden_sizes, 1]
        layers = self._layers(sizes, None)
        return EncodedCritic(encoder, layers, action_dim) if needs_encoder(self.observation_space) else layers

    def _layers(self, sizes: Sequence[int], output_gain: float | None) -> nn.Sequential:
        return mlp(
            sizes, self.activation, output_gain, self.generator, norm=self.norm, residual=self.residual
        )

    def hyperparams(self, learning_rate: float) -> HyperparamSet:
        return HyperparamSet({"learning_rate": learning_rate, **self.params})


def _ppo(parts: _Parts, options: _Options) -> PPOAgent:
    log_std = options.log_std
    config = read_config(PPOConfig, parts.params)
    outputs = _outputs(parts.action_space, log_std)
    actor, critic = parts.network(outputs, 0.01), parts.network(1, 1.0)
    optimizer = torch.optim.Adam(
        [*actor.parameters(), *critic.parameters()], lr=config.learning_rate, eps=1e-5
    )
    obs_normalizer = _obs_normalizer(parts.observation_space) if options.normalize_observations else None
    reward_normalizer = RewardNormalizer(config.gamma) if options.normalize_rewards else None
    hyperparams = parts.hyperparams(config.learning_rate)
    if isinstance(parts.action_space, spaces.Box):
        return TorchGaussianPPOAgent(
            actor, critic, optimizer, outputs // (2 if log_std == "state" else 1), hyperparams,
            parts.device, reward_normalizer, obs_normalizer=obs_normalizer,
            action_space=parts.action_space, squash=options.squash, log_std=log_std, seed=parts.seed,
            backend=parts.backend,
        )  # fmt: skip
    return TorchPPOAgent(
        actor, critic, optimizer, hyperparams, parts.device, reward_normalizer,
        obs_normalizer=obs_normalizer, action_space=parts.action_space, seed=parts.seed,
        backend=parts.backend,
    )  # fmt: skip


def _dqn(parts: _Parts, options: _Options) -> TorchDQNAgent:
    config = read_config(DQNConfig, parts.params)
    n_actions = int(parts.action_space.n)
    network: nn.Module
    if options.dueling:
        encoder = ObservationEncoder(parts.observation_space)
        head = DuelingQNetwork(
            encoder.features, n_actions, parts.hidden_sizes, parts.activation, parts.generator,
            norm=parts.norm, residual=parts.residual,
        )  # fmt: skip
        network = nn.Sequential(encoder, head) if needs_encoder(parts.observation_space) else head
    else:
        network = parts.network(n_actions, 1.0)
    optimizer = torch.optim.Adam(network.parameters(), lr=config.learning_rate)
    return TorchDQNAgent(
        network, n_actions, optimizer, parts.hyperparams(config.learning_rate), parts.device,
        action_space=parts.action_space, seed=parts.seed, backend=parts.backend,
    )  # fmt: skip


def _sac(parts: _Parts, options: _Options) -> TorchSACAgent:
    config, space = read_config(SACConfig, parts.params), parts.action_space
    discrete = isinstance(space, spaces.Discrete)
    width = _outputs(space, "free")
    actor = parts.network(width if discrete else 2 * width, None)
    critics: list[nn.Module] = [
        parts.network(width, None) if discrete else parts.critic(width) for _ in range(2)
    ]

    def adam(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, lr=config.learning_rate)

    return TorchSACAgent(
        actor, critics[0], critics[1], width, adam(actor.parameters()),
        adam([p for net in critics for p in net.parameters()]), adam([nn.Parameter(torch.zeros(()))]),
        parts.hyperparams(config.learning_rate), parts.device, action_space=space, seed=parts.seed,
        backend=parts.backend,
    )  # fmt: skip


def _td3(parts: _Parts, options: _Options) -> TorchTD3Agent:
    config, width = read_config(TD3Config, parts.params), _outputs(parts.action_space, "free")
    actor, critics = parts.network(width, None), [parts.critic(width) for _ in range(2)]
    return TorchTD3Agent(
        actor, critics[0], critics[1], width, torch.optim.Adam(actor.parameters(), lr=config.learning_rate),
        torch.optim.Adam([p for net in critics for p in net.parameters()], lr=config.learning_rate),
        parts.hyperparams(config.learning_rate), parts.device, action_space=parts.action_space,
        seed=parts.seed, backend=parts.backend,
    )  # fmt: skip


class Algorithm(NamedTuple):
    """What is known of an algorithm.

    config: its hyperparameters.
    build: makes an agent.
    serves: whether it acts in an action space; `needs` says in words in which.
    activation: of its networks, unless another one is asked for.
    """

    config: type[Any]
    build: Callable[[_Parts, _Options], Agent]
    needs: str
    serves: Callable[[Any], bool]
    activation: str = "relu"


def _is_bounded_box(space: Any) -> bool:
    return isinstance(space, spaces.Box) and space.is_bounded()


_PPO_SPACES = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
ALGORITHMS: dict[str, Algorithm] = {
    "ppo": Algorithm(
        PPOConfig, _ppo, "a Discrete, MultiDiscrete, MultiBinary or Box action space",
        lambda space: isinstance(space, _PPO_SPACES), "tanh",
    ),
    "dqn": Algorithm(
        DQNConfig, _dqn, "a Discrete action space", lambda space: isinstance(space, spaces.Discrete)
    ),
    "sac": Algorithm(
        SACConfig, _sac, "a Box action space with finite bounds, or a Discrete one",
        lambda space: _is_bounded_box(space) or isinstance(space, spaces.Discrete),
    ),
    "td3": Algorithm(TD3Config, _td3, "a Box action space with finite bounds", _is_bounded_box),
}  # fmt: skip


def choose_algo(algo: str, action_space: Any) -> str:
    """The algorithm that `algo` means for an action space.

    "auto" is ppo for every space that it serves: it is the one that reaches our targets on all of them with
    one setting (docs/results.md). Where steps of the environment are dear, ask for DQN, which serves Discrete
    spaces, or SAC or TD3, which serve bounded Boxes (SAC Discrete ones too).

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


def _outputs(action_space: Any, log_std: str) -> int:
    if isinstance(action_space, spaces.Discrete):
        return int(action_space.n)
    if isinstance(action_space, spaces.MultiDiscrete | spaces.MultiBinary):
        return sum(component_sizes(action_space))
    width = 1
    for size in action_space.shape:
        width *= int(size)
    return width * (2 if log_std == "state" else 1)


def _obs_normalizer(space: spaces.Space[Any]) -> ObsNormalizer:
    if not isinstance(space, spaces.Box):
        raise ValueError(f"normalize_observations needs Box observations, got {space}")
    return ObsNormalizer(space.shape)
