"""What the builders of agents share: networks from an environment's spaces, and the row of the registry."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from gymnasium import spaces
from torch import nn

from optix_fast.agents.base import Agent
from optix_fast.networks.encoders import EncodedCritic, ObservationEncoder, needs_encoder
from optix_fast.networks.heads import component_sizes
from optix_fast.networks.mlp import mlp
from optix_fast.types import HyperparamSet

MakeLayers = Callable[[Sequence[int]], nn.Sequential]


class Options(NamedTuple):
    """make_agent's options that belong to one algorithm."""

    normalize_observations: bool
    normalize_rewards: bool
    squash: bool
    log_std: str
    dueling: bool


class Parts(NamedTuple):
    """What agents of every algorithm are made of."""

    observation_space: spaces.Space[Any]
    action_space: Any
    hidden_sizes: tuple[int, ...]
    activation: str
    norm: str | None
    residual: bool
    dropout: float
    generator: torch.Generator
    params: dict[str, Any]
    device: str
    seed: int
    backend: str

    def network(
        self, outputs: int, output_gain: float | None = None, make_layers: MakeLayers | None = None
    ) -> nn.Sequential:
        """Of an observation; make_layers makes them from their widths in place of mlp."""
        encoder = ObservationEncoder(self.observation_space)
        sizes = [encoder.features, *self.hidden_sizes, outputs]
        layers = make_layers(sizes) if make_layers else self._layers(sizes, output_gain)
        return nn.Sequential(encoder, *layers) if needs_encoder(self.observation_space) else layers

    def critic(self, action_dim: int, outputs: int = 1, make_layers: MakeLayers | None = None) -> nn.Module:
        """Of an observation and an action; make_layers: see network."""
        encoder = ObservationEncoder(self.observation_space)
        sizes = [encoder.features + action_dim, *self.hidden_sizes, outputs]
        layers = make_layers(sizes) if make_layers else self._layers(sizes, None)
        return EncodedCritic(encoder, layers, action_dim) if needs_encoder(self.observation_space) else layers

    def _layers(self, sizes: Sequence[int], output_gain: float | None) -> nn.Sequential:
        return mlp(
            sizes, self.activation, output_gain, self.generator, norm=self.norm, residual=self.residual,
            dropout=self.dropout,
        )  # fmt: skip

    def common(self, config: Any) -> dict[str, Any]:
        """Arguments that every agent's constructor has."""
        return {
            "hyperparams": HyperparamSet({"learning_rate": config.learning_rate, **self.params}),
            "device": self.device,
            "action_space": self.action_space,
            "seed": self.seed,
            "backend": self.backend,
        }


def adam(config: Any, *networks: nn.Module, beta1: float = 0.9) -> torch.optim.Optimizer:
    """Adam over the networks' parameters."""
    parameters = [p for net in networks for p in net.parameters()]
    return torch.optim.Adam(parameters, lr=config.learning_rate, betas=(beta1, 0.999))


class Algorithm(NamedTuple):
    """What is known of an algorithm: `ALGORITHM` of its module.

    config: its hyperparameters.
    build: makes an agent.
    serves: whether it acts in an action space; `needs` says in words in which.
    activation: of its networks, unless another one is asked for.
    presets: settings for environments, see presets.preset_for.
    """

    config: type[Any]
    build: Callable[[Parts, Options], Agent]
    needs: str
    serves: Callable[[Any], bool]
    activation: str = "relu"
    presets: Mapping[str, dict[str, Any]] | None = None


def is_bounded_box(space: Any) -> bool:
    """Whether it is a Box with finite bounds."""
    return isinstance(space, spaces.Box) and space.is_bounded()


def outputs_of(action_space: Any, log_std: str = "free") -> int:
    """How many outputs a policy's network has; log_std = "state" doubles those of a Box."""
    if isinstance(action_space, spaces.Discrete):
        return int(action_space.n)
    if isinstance(action_space, spaces.MultiDiscrete | spaces.MultiBinary):
        return sum(component_sizes(action_space))
    width = 1
    for size in action_space.shape:
        width *= int(size)
    return width * (2 if log_std == "state" else 1)
