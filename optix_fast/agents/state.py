"""Everything that an agent's training goes on from, as one dict, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from optix_fast.agents.hyperparams import read_config
from optix_fast.buffers import ReplaySegments

if TYPE_CHECKING:
    from optix_fast.agents.base import Agent

_COMMON = (
    "model", "obs_normalizer", "updates", "hyperparams", "learning_rates", "streams", "env_steps",
)  # fmt: skip


def state_of(agent: Agent, replay: bool | ReplaySegments) -> dict[str, Any]:
    """See Agent.state_dict."""
    normalizer = agent._policy.obs_normalizer
    state = {
        "model": agent._model.state_dict(),
        "obs_normalizer": None if normalizer is None else normalizer.state_dict(),
        **agent._get_state(),
        "updates": agent.updates,
        "hyperparams": dict(agent._hyperparams.params),
        "learning_rates": agent._rates.state_dict(),
        "streams": {name: stream.state_dict() for name, stream in agent._streams.items()},
        "env_steps": agent.env_steps,
    }
    if agent._uniform is not None:
        state["uniform_start"] = agent._uniform.state_dict()
    if agent._experience is not None:
        state["experience"] = agent._experience.state_dict(replay)
    return state


def load_state(agent: Agent, state: Mapping[str, Any]) -> None:
    """See Agent.load_state_dict."""
    parts = {"uniform_start": agent._uniform, "experience": agent._experience}
    own = [name for name, part in parts.items() if part is not None]
    missing = [repr(key) for key in (*agent._own_state, *own, *_COMMON) if key not in state]
    if missing:
        raise ValueError(f"the state of a {type(agent).__name__} must hold {', '.join(missing)}")
    try:
        agent._renew_targets()
        agent._model.check_state(state["model"])
        _check_normalizer(agent, state["obs_normalizer"])
        agent._check_state(state)
        if agent._uniform is not None:
            agent._uniform.check_state(state["uniform_start"])
        read_config(agent.config_type, state["hyperparams"])
        before = state_of(agent, replay=False)
        try:
            _restore(agent, state)
        except BaseException:
            _restore(agent, before)
            raise
    except KeyError as error:
        raise ValueError(f"the state of a {type(agent).__name__} must hold {error}") from error


def _restore(agent: Agent, state: Mapping[str, Any]) -> None:
    for name, stream in agent._streams.items():
        stream.load_state_dict(state["streams"][name])
    agent._rates.load_state_dict(state["learning_rates"])
    agent._hyperparams.restore(state["hyperparams"])
    agent.env_steps, agent.updates = int(state["env_steps"]), int(state["updates"])
    agent._model.load_state_dict(state["model"])
    if agent._policy.obs_normalizer is not None:
        agent._policy.obs_normalizer.load_state_dict(state["obs_normalizer"])
    agent._set_state(state)
    if agent._uniform is not None:
        agent._uniform.load_state_dict(state["uniform_start"])
    if agent._experience is not None:
        # Last: the stored transitions are not kept aside while the state is being loaded.
        agent._experience.load_state_dict(state["experience"])


def _check_normalizer(agent: Agent, saved: Any) -> None:
    own = agent._policy.obs_normalizer
    if (own is None) != (saved is None):
        if saved is None:
            raise RuntimeError("the agent has an obs_normalizer, the state has none")
        raise RuntimeError("the state has an obs_normalizer, the agent has none")
    if own is not None and np.shape(saved["statistics"]["mean"]) != own.mean.shape:
        shape = list(np.shape(saved["statistics"]["mean"]))
        raise RuntimeError(f"obs_normalizer has shape {shape}, not {list(own.mean.shape)}")
