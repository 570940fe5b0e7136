"""Agents: each fulfils the six-method contract of `optix_fast.types.BaseAgent`."""

from importlib import import_module
from typing import TYPE_CHECKING

from optix_fast import algorithms
from optix_fast.agents.base import Agent
from optix_fast.agents.factory import choose_algo, make_agent
from optix_fast.agents.ppo import PPOAgent
from optix_fast.agents.torch_agent import TorchAgent
from optix_fast.learners.policy_gradient import TorchAgentConfig

if TYPE_CHECKING:
    from optix_fast.algorithms import *  # noqa: F403

__all__ = ["Agent", "PPOAgent", "TorchAgent", "TorchAgentConfig", "choose_algo", "make_agent"]
__all__ += algorithms.__all__

for _name in algorithms.NAMES:
    _module = vars(import_module(f"optix_fast.agents.{_name}"))
    globals().update({name: _module[name] for name in algorithms.__all__ if name in _module})
