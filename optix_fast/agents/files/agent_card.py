"""The card of an agent: what its weights mean, and how it can be built again; see the module `cards`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from torch import nn

from optix_fast.agents.files import cards
from optix_fast.agents.files.cards import Card
from optix_fast.networks.modes import evaluating_modules

if TYPE_CHECKING:
    from optix_fast.agents.base import Agent


def card_of(agent: Agent, state: bool = False) -> Card:
    """Algorithm, spaces, head, networks, normalizers, optimizers and hyperparameters of an agent.

    Args:
        state: whether a file with the training state lies beside the weights.
    """
    networks = {n: m for n, m in agent._networks().items() if not isinstance(m, nn.ParameterDict)}
    named = [(f"{n}.{key}", p) for n, m in networks.items() for key, p in m.named_parameters()]
    names = {id(p): name for name, p in reversed(named)} | {
        id(p): "" for p in agent._model.other_parameters().values()
    }
    optimizers = {name: cards.of_optimizer(each, names) for name, each in agent._model.optimizers().items()}
    reasons = [
        "its optimizer" if name == "optimizer" else f"its {name} optimizer"
        for name, card in optimizers.items()
        if card is None
    ] + agent._not_described()
    if len({id(p) for _, p in named}) < len(named):
        reasons.append("networks that share parameters")
    said, plain = agent._hyperparams.params, asdict(agent.config_type())
    # With what has changed by itself, such as epsilon.
    live = {k: v for k, v in agent.get_hyperparams().params.items() if k in said or v != plain.get(k)}
    normalizer, rewards = agent._policy.obs_normalizer, agent.reward_normalizer
    return {
        "algorithm": agent.algorithm,
        "class": class_name(type(agent)),
        "head": {"policy": type(agent._policy.head).__name__.removesuffix("Head").lower()},
        "arguments": agent._arguments(),
        "networks": {name: cards.of_module(module) for name, module in networks.items()},
        "dtype": str(named[0][1].dtype).removeprefix("torch.") if named else "float32",
        "evaluating": {name: evaluating_modules(module) for name, module in networks.items()},
        "frozen": [name for name, p in named if not p.requires_grad],
        "observation_space": cards.of_space(agent._acting.observation_space),
        "action_space": cards.of_space(agent._policy.head.space),
        "obs_normalizer": normalizer
        and {"obs_shape": list(normalizer.mean.shape), "clip": float(normalizer.clip)},
        "reward_normalizer": rewards
        and {name: float(getattr(rewards, name)) for name in ("gamma", "clip", "epsilon")},
        "optimizers": optimizers,
        "hyperparams": cards.plain_values(live),
        "not_described": reasons,
        "state": state,
    }


def check_algorithm(saved: Card | None, agent: Agent) -> None:
    """Raise RuntimeError where the files are those of another algorithm."""
    if saved is not None and saved["algorithm"] != agent.algorithm:
        raise RuntimeError(
            f"the files are those of a {saved['algorithm']} agent, this is a {agent.algorithm} agent"
        )


def check_card(saved: Card, own: Card) -> None:
    """Raise RuntimeError where weights whose tensors fit would mean something else here.

    Networks, heads, normalizers and spaces are compared; of observation spaces the bounds do not matter, and
    spaces that one of the two does not know are not compared.
    """
    wrong = [
        d for n, net in own["networks"].items() for d in cards.differences_of(saved["networks"][n], net, n)
    ]
    for name in ("head", "arguments"):
        for key in {**saved[name], **own[name]}:
            theirs, ours = saved[name].get(key), own[name].get(key)
            if theirs != ours:
                wrong.append(f"{key} is {theirs!r} in the file, {ours!r} here")
    for name in ("action_space", "observation_space"):
        theirs, ours = saved[name], own[name]
        if name == "observation_space":
            theirs, ours = cards.without_bounds(theirs), cards.without_bounds(ours)
        if theirs is not None and ours is not None and theirs != ours:
            spaces = (cards.make_space(card[name]) for card in (saved, own))
            wrong.append("{} is {} in the file, {} here".format(name, *spaces))
    for has, lacks, text in (
        (saved, own, "the file has an obs_normalizer, this agent does not"),
        (own, saved, "this agent has an obs_normalizer, the file does not"),
    ):
        if has["obs_normalizer"] is not None and lacks["obs_normalizer"] is None:
            wrong.append(text)
    if wrong:
        raise RuntimeError(f"the weights belong to another policy: {'; '.join(wrong)}")


def class_name(kind: type[Any]) -> str:
    """The name of an agent's class; with its module where it is not one of this package."""
    own = kind.__module__.startswith("optix_fast.")
    return kind.__name__ if own else f"{kind.__module__}.{kind.__qualname__}"
