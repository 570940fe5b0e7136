"""The files of a policy: one for each network, with the agent's card in it, and one for what else is the
policy's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optix_fast.agents.files import cards
from optix_fast.agents.files.agent_card import card_of, check_algorithm, check_card
from optix_fast.agents.files.weight_files import mean_of, save_module
from optix_fast.learners.tensors import check_matches
from optix_fast.serialization import load_state, save_state

if TYPE_CHECKING:
    from optix_fast.agents.base import Agent

# Beside the weights: the training state.
STATE_FILE = "state.safetensors"
_EXTRAS_FILE = "policy.safetensors"


def save_policy(agent: Agent, path: str, state: bool = False) -> None:
    """Write an agent's policy into the directory.

    Args:
        state: whether its training state is there too.
    """
    metadata = cards.write(card_of(agent, state))
    for name, module in agent._networks().items():
        save_module(module, path, name, metadata)
    extras, file = agent._policy.extras(), Path(path) / _EXTRAS_FILE
    if extras:
        save_state(file, extras)
    else:
        file.unlink(missing_ok=True)


def load_policy(agent: Agent, paths: Sequence[str]) -> None:
    """Give an agent the mean of the networks in the directories, and what else is the policy's from the
    first; all or nothing. Raises: see Agent.load_weights."""
    networks = agent._networks()
    # The agent's own files first: an agent of another algorithm may have been saved beside it.
    found = [cards.read(path, networks) or cards.read(path) for path in paths]
    for card in found:
        check_algorithm(card, agent)
    own = card_of(agent)
    states = [{name: agent._read_network(path, name) for name in networks} for path in paths]
    for state, card in zip(states, found, strict=True):
        for name, module in networks.items():
            check_matches(module, state[name], name)
        if card is not None:
            check_card(card, own)
    extras = _read_extras(agent, paths[0])
    for name, module in networks.items():
        module.load_state_dict(mean_of([state[name] for state in states]))
    agent._policy.load_extras(extras)
    agent._model.copy_targets()
    agent._weights_were_loaded()


def _read_extras(agent: Agent, path: str) -> Any:
    file = Path(path) / _EXTRAS_FILE
    extras = load_state(file) if agent._policy.extras() or file.exists() else {}
    agent._policy.check_extras(extras)
    return extras
