"""The files of a policy: one for each network, with the agent's card in it, and one for what else is the
policy's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optix_fast.agents.files import cards
from optix_fast.agents.files.agent_card import card_of, check_algorithm, check_card
from optix_fast.agents.files.weight_files import mean_of, module_writer
from optix_fast.learners.tensors import check_matches
from optix_fast.serialization import load_state, state_writer, write_together

if TYPE_CHECKING:
    from optix_fast.agents.base import Agent

# Beside the weights: the training state.
STATE_FILE = "state.safetensors"
_EXTRAS_FILE = "policy.safetensors"


def save_policy(agent: Agent, path: str, state: Mapping[str, Any] | None = None) -> None:
    """Write an agent's policy into the directory, all of its files or none.

    Args:
        state: its training state, to be written with the policy.
    """
    directory = Path(path)
    directory.mkdir(parents=True, exist_ok=True)
    marks = cards.mark_of_a_save()
    metadata = {**cards.write(card_of(agent, state is not None)), **marks}
    states = {STATE_FILE: state, _EXTRAS_FILE: agent._policy.extras()}
    files = {f"{name}.safetensors": module_writer(net, metadata) for name, net in agent._networks().items()}
    files |= {name: state_writer(content, marks) for name, content in states.items() if content}
    write_together([(directory / name, write) for name, write in files.items()])
    if _EXTRAS_FILE not in files:
        (directory / _EXTRAS_FILE).unlink(missing_ok=True)


def check_one_save(directory: str, files: Iterable[str]) -> None:
    """Raise ValueError where files of a directory come from several saves. Those of older versions have no
    mark and belong together; a damaged file is named by whoever reads it."""
    by_save: dict[str, list[str]] = {}
    for name in files:
        mark = cards.mark_in(Path(directory) / name)
        if mark is not None:
            by_save.setdefault(mark, []).append(name)
    if len(by_save) > 1:
        parts = " | ".join(", ".join(names) for names in by_save.values())
        raise ValueError(f"{directory} mixes the files of {len(by_save)} saves: {parts}")


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
    for path in paths:
        check_one_save(path, _policy_files(path, networks))
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


def _policy_files(directory: str, networks: Iterable[str]) -> list[str]:
    extras = [_EXTRAS_FILE] if (Path(directory) / _EXTRAS_FILE).exists() else []
    return [*(f"{name}.safetensors" for name in networks), *extras]


def _read_extras(agent: Agent, path: str) -> Any:
    file = Path(path) / _EXTRAS_FILE
    extras = load_state(file) if agent._policy.extras() or file.exists() else {}
    agent._policy.check_extras(extras)
    return extras
