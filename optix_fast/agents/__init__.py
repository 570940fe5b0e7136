"""Agents: each fulfils the six-method contract of `optix_fast.types.BaseAgent`."""

from optix_fast.agents.base import Agent
from optix_fast.agents.dqn import TorchDQNAgent
from optix_fast.agents.factory import choose_algo, make_agent
from optix_fast.agents.ppo import PPOAgent, TorchGaussianPPOAgent, TorchPPOAgent
from optix_fast.agents.sac import TorchSACAgent
from optix_fast.agents.td3 import TorchTD3Agent
from optix_fast.agents.torch_agent import TorchAgent
from optix_fast.learners.dqn.config import DQNConfig
from optix_fast.learners.policy_gradient import TorchAgentConfig
from optix_fast.learners.ppo.config import PPOConfig
from optix_fast.learners.sac.config import SACConfig
from optix_fast.learners.td3.config import TD3Config

__all__ = [
    "Agent",
    "DQNConfig",
    "PPOAgent",
    "PPOConfig",
    "SACConfig",
    "TD3Config",
    "TorchAgent",
    "TorchAgentConfig",
    "TorchDQNAgent",
    "TorchGaussianPPOAgent",
    "TorchPPOAgent",
    "TorchSACAgent",
    "TorchTD3Agent",
    "choose_algo",
    "make_agent",
]
