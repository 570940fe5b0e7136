"""The algorithms by name, and what the package exports of them.

Nothing is imported here but for type checkers, so that the command line and `import optix_fast` stay quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

# The classes of optix_fast.agents that users import.
__all__ = [
    "CrossQConfig",
    "DQNConfig",
    "PPOConfig",
    "SACConfig",
    "TD3Config",
    "TQCConfig",
    "TorchCrossQAgent",
    "TorchDQNAgent",
    "TorchGaussianPPOAgent",
    "TorchPPOAgent",
    "TorchSACAgent",
    "TorchTD3Agent",
    "TorchTQCAgent",
]

if TYPE_CHECKING:
    from optix_fast.agents.crossq import TorchCrossQAgent
    from optix_fast.agents.dqn import TorchDQNAgent
    from optix_fast.agents.ppo import TorchGaussianPPOAgent, TorchPPOAgent
    from optix_fast.agents.sac import TorchSACAgent
    from optix_fast.agents.td3 import TorchTD3Agent
    from optix_fast.agents.tqc import TorchTQCAgent
    from optix_fast.learners.crossq.config import CrossQConfig
    from optix_fast.learners.dqn.config import DQNConfig
    from optix_fast.learners.ppo.config import PPOConfig
    from optix_fast.learners.sac.config import SACConfig
    from optix_fast.learners.td3.config import TD3Config
    from optix_fast.learners.tqc.config import TQCConfig

# Each is a module of optix_fast.agents, which holds its row of the registry, and a folder of learners.
Algorithm = Literal["ppo", "dqn", "sac", "td3", "tqc", "crossq"]
NAMES: tuple[str, ...] = get_args(Algorithm)
