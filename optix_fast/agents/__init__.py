"""Agents: each fulfils the six-method contract of `optix_fast.types.BaseAgent`."""

from optix_fast.agents.base import Agent
from optix_fast.agents.dqn_config import DQNConfig
from optix_fast.agents.factory import choose_algo, make_agent
from optix_fast.agents.policy_gradient import TorchAgentConfig
from optix_fast.agents.ppo import PPOAgent
from optix_fast.agents.ppo_config import PPOConfig
from optix_fast.agents.sac_config import SACConfig
from optix_fast.agents.torch_agent import TorchAgent
from optix_fast.agents.torch_dqn import TorchDQNAgent
from optix_fast.agents.torch_ppo import TorchGaussianPPOAgent, TorchPPOAgent
from optix_fast.agents.torch_sac import TorchSACAgent

__all__ = [
    "Agent",
    "DQNConfig",
    "PPOAgent",
    "PPOConfig",
    "SACConfig",
    "TorchAgent",
    "TorchAgentConfig",
    "TorchDQNAgent",
    "TorchGaussianPPOAgent",
    "TorchPPOAgent",
    "TorchSACAgent",
    "choose_algo",
    "make_agent",
]
