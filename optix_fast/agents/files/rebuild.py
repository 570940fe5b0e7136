"""Agents from their files alone."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import torch
from gymnasium import spaces
from torch import nn
from torch.nn.utils import skip_init

from optix_fast.agents.base import Agent
from optix_fast.agents.files import cards
from optix_fast.agents.files.agent_card import class_name
from optix_fast.agents.files.cards import Card
from optix_fast.agents.files.policy_files import STATE_FILE, check_one_save
from optix_fast.agents.hyperparams import read_config
from optix_fast.envs.normalizers import ObsNormalizer, RewardNormalizer
from optix_fast.networks.encoders import ObservationEncoder
from optix_fast.networks.modes import restore_modes
from optix_fast.serialization import load_state
from optix_fast.types import HyperparamSet

A = TypeVar("A", bound=Agent)


def load_agent(kind: type[A], path: str, device: str | torch.device, backend: str, seed: int | None) -> A:
    """See Agent.load."""
    if not Path(path).is_dir():
        raise FileNotFoundError(f"there is no directory {path}")
    card = cards.read(path)
    if card is None:
        raise ValueError(
            f"{path} does not say what its weights belong to; construct the agent and call load_weights"
        )
    name = card["class"]
    built_in = next((known for known in _built_in(Agent) if known.__name__ == name), None)  # type: ignore[type-abstract]
    if built_in is not None and issubclass(built_in, kind):
        kind = built_in
    elif class_name(kind) != name:
        raise RuntimeError(f"{path} holds a {name}; call {name.rpartition('.')[2]}.load for it")
    reasons = card["not_described"] + [
        found for name, net in card["networks"].items() if (found := cards.unknown_in(net, name))
    ]
    if reasons:
        raise RuntimeError(
            f"{path} does not say how to build {reasons[0]}; construct the {name} and call load_weights"
        )
    return _build(kind, path, card, {"device": device, "backend": backend, "seed": seed})


def _built_in(kind: type[Agent]) -> Iterator[type[Agent]]:
    """The agents of this package."""
    for below in kind.__subclasses__():
        if below.__module__.startswith("optix_fast."):
            yield below
            yield from _built_in(below)


def _build(kind: type[A], path: str, card: Card, options: dict[str, Any]) -> A:
    networks = {name: _module(net, card["dtype"]) for name, net in card["networks"].items()}
    named = {f"{name}.{key}": p for name, net in networks.items() for key, p in net.named_parameters()}
    for name, evaluate in card.get("evaluating", {}).items():
        restore_modes(networks[name], evaluate)
    for name in card["frozen"]:
        named[name].requires_grad_(False)
    config = read_config(kind.config_type, card["hyperparams"])
    # A fraction of a count that a tuner left behind is rounded; the rate is the optimizers' own.
    whole = {k: v for k, v in asdict(config).items() if k in card["hyperparams"] and k != "learning_rate"}
    normalizer, rewards = card["obs_normalizer"], card["reward_normalizer"]
    optimizers = {name: _optimizer(each, named) for name, each in card["optimizers"].items()}
    agent = _construct(
        kind,
        {
            **networks,
            **{name if name == "optimizer" else f"{name}_optimizer": o for name, o in optimizers.items()},
            "hyperparams": HyperparamSet(whole),
            "action_space": cards.make_space(card["action_space"]),
            "obs_normalizer": None if normalizer is None else ObsNormalizer(**normalizer),
            "reward_normalizer": None if rewards is None else RewardNormalizer(**rewards),
            **card["arguments"],
            **options,
        },
    )
    agent._hyperparams.restore(card["hyperparams"])
    agent._bind_observations(cards.make_space(card["observation_space"]))
    agent.load_weights(path)
    if card["state"]:
        state = load_state(f"{path}/{STATE_FILE}")
        check_one_save(path, [STATE_FILE, *(f"{name}.safetensors" for name in agent._networks())])
        agent.load_state_dict(state)
    return agent


def _construct(kind: type[A], arguments: dict[str, Any]) -> A:
    """An agent by the arguments that the constructor of its class in this package has."""
    known = next(each for each in kind.__mro__ if each.__module__.startswith("optix_fast."))
    if known is Agent:
        raise NotImplementedError(f"{kind.__name__} cannot be built from its files")
    parameters = inspect.signature(known).parameters
    required = [name for name, each in parameters.items() if each.default is each.empty]
    if any(name not in arguments for name in required):
        raise NotImplementedError(f"{kind.__name__} cannot be built from its files")
    optional = [name for name, each in parameters.items() if each.default is not each.empty]
    agent = kind(
        *(arguments[name] for name in required),
        **{name: arguments[name] for name in optional if name in arguments},
    )
    if "action_space" not in parameters and arguments["action_space"] is not None:
        agent.bind_spaces(None, arguments["action_space"])
    return agent


def _module(card: Card, dtype: str) -> nn.Module:
    module = _layer(card)
    return module.to(getattr(torch, dtype))


def _layer(card: Card) -> nn.Module:
    kind = card["type"]
    settings = {k: tuple(v) if isinstance(v, list) else v for k, v in card.items()}
    if kind == "ObservationEncoder":
        space = cards.make_space(card["space"])
        assert isinstance(space, spaces.Space)
        return ObservationEncoder(space)
    if kind in cards.LAYERS:
        layer, names = cards.LAYERS[kind]
        arguments: Any = {name: settings[name] for name in names}
        if "device" not in inspect.signature(layer).parameters:
            return layer(**arguments)
        # Without random numbers: torch's global random state is left alone.
        made: nn.Module = skip_init(layer, **arguments)  # type: ignore[no-untyped-call]
        return made
    container, names = cards.CONTAINERS[kind]
    module: nn.Module = container.__new__(container)
    nn.Module.__init__(module)
    for name in names:
        setattr(module, name, card[name])
    for name, child in card["children"].items():
        module.add_module(name, _layer(child))
    return module


def _optimizer(card: Card, named: Mapping[str, nn.Parameter]) -> torch.optim.Optimizer:
    groups = [
        {
            **{k: tuple(v) if isinstance(v, list) else v for k, v in group.items()},
            "params": [named[name] for name in group["params"] if name in named],
        }
        for group in card["groups"]
    ]
    kind = cards.optimizer_class(card["type"])
    assert kind is not None
    return kind(groups)  # type: ignore[call-arg]
