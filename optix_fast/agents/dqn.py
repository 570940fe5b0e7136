"""Deep Q-learning (Mnih et al. 2015) for Discrete action spaces."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import nn

from optix_fast.agents.arguments import require, require_count, resolve_device
from optix_fast.agents.base import Agent
from optix_fast.agents.building import Algorithm, Options, Parts, adam, outputs_of
from optix_fast.agents.guards import as_in_training
from optix_fast.agents.hyperparams import read_config
from optix_fast.learners.acting import Acting
from optix_fast.learners.actions import raw_actions
from optix_fast.learners.dqn import native
from optix_fast.learners.dqn.config import PRESETS, DQNConfig
from optix_fast.learners.dqn.update import DQNModel, Updated, dqn_update
from optix_fast.learners.experience import Experience, Means
from optix_fast.learners.learner import Learner
from optix_fast.learners.model import target_of
from optix_fast.learners.policy import Policy
from optix_fast.locks import exclusive
from optix_fast.networks.dueling import DuelingQNetwork
from optix_fast.networks.encoders import ObservationEncoder, needs_encoder
from optix_fast.networks.heads import GreedyHead
from optix_fast.types import EpisodeData, HyperparamSet


class TorchDQNAgent(Agent):
    """DQN over any Q-network, ε-greedy, with replay (seed 003).

    Double Q-learning, Huber or squared loss, copied or following target network, n-step targets and
    prioritized replay are hyperparameters, see DQNConfig; a dueling network is a matter of `q_network`
    (networks.DuelingQNetwork). Windows are stored whole, and each transition earns `updates_per_step`
    updates. Truncated episodes are bootstrapped from their true final observation.

    Args:
        q_network: returns the value of each action, [B, n_actions].
        n_actions: K.
        optimizer: over the network's parameters.
        hyperparams: see DQNConfig; unknown keys are warned about once.
        device: "auto" (CUDA where there is one), "cpu", "cuda", "cuda:N".
        action_space: binds the environment's space at once; otherwise the pipeline's set_agent does.
        seed: of the agent's random streams; None draws one from the operating system.
        backend: "auto" acts and updates in the compiled core where it serves this network, this optimizer
            and these observations, else in torch; "native" raises with the reason instead of falling back;
            "torch" uses the reference. See `backend`.

    Raises:
        TypeError, ValueError: an argument of another kind or outside its range.
        RuntimeError: backend="native", and the core does not serve this agent.
    """

    default_param_bounds = {"learning_rate": (1e-4, 1e-3), "gamma": (0.95, 0.999)}  # noqa: RUF012
    default_log_params = ["learning_rate"]  # noqa: RUF012
    streams_replay = True
    default_min_episodes_before_dormant = 60
    algorithm = "dqn"
    config_type = DQNConfig
    _model: DQNModel
    _experience: Experience
    _learner: Learner[DQNModel, ..., Updated]
    _own_state = ("epsilon", "episodes")

    def __init__(
        self,
        q_network: nn.Module,
        n_actions: int,
        optimizer: torch.optim.Optimizer,
        hyperparams: HyperparamSet,
        device: str | torch.device = "auto",
        *,
        action_space: Any = None,
        seed: int | None = None,
        backend: str = "auto",
    ) -> None:
        require(nn.Module, q_network=q_network)
        require_count("n_actions", n_actions)
        require(torch.optim.Optimizer, optimizer=optimizer)
        super().__init__(hyperparams, seed, backend)
        config: DQNConfig = self._hyperparams.config()
        self._head = GreedyHead(config.epsilon, int(n_actions))
        if action_space is not None:
            self._head.bind(action_space)
        self._policy = Policy(q_network, self._head, resolve_device(device))
        self._model = DQNModel(q_network, target_of(q_network), optimizer)
        self._experience = Experience(config, self._root)
        self._episodes = 0  # finished ones
        self._acting = Acting(self._policy, self._streams, backend)
        self._learner = Learner(self._acting, self._model, native.recognise, native.dqn_update, dqn_update)
        self._apply(config, self._hyperparams.params)

    def _arguments(self) -> dict[str, Any]:
        return {"n_actions": self._head.n_actions}

    @property
    def q_network(self) -> nn.Module:
        """The network of the action values."""
        return self._policy.actor

    @property
    def _q_network(self) -> nn.Module:
        """The network, under the name that subclasses of the documented agents read."""
        return self._policy.actor

    @property
    def epsilon(self) -> float:
        """Probability of a random action now."""
        return self._head.epsilon

    # --- learning -------------------------------------------------------------------------------

    @as_in_training
    def learn(self, episode_data: EpisodeData) -> dict[str, Any]:
        """Store a window and do the updates that its transitions have earned; lower epsilon for each episode
        that it finished, or once for the window where episodes never end.

        Returns:
            Means over the updates of loss, td_error_mean (of |TD error|) and q_value_mean, zero where no
            update was due; n_updates, target_updated (1 where the target network was copied), epsilon,
            buffer_size, episode_reward (the sum of the window's rewards), learning_rate.

        Raises:
            NonFiniteError: a reward or observation is NaN or infinite (nothing is stored), or a target, loss
                or gradient (networks, optimizer and priorities are as before the updates, which are lost).
            ValueError: the window is empty, does not fit what was stored before, or has other actions than
                the network.
        """
        config: DQNConfig = self._hyperparams.config()
        due = self._experience.add(episode_data, config, raw_actions(self._head, episode_data))
        self.env_steps += episode_data.length
        finished = self._finished(episode_data)
        self._head.epsilon = config.epsilon_after(self.epsilon, finished, self.env_steps)
        self._renew_targets()
        means, copies = Means(("loss", "td_error_mean", "q_value_mean")), 0
        for draws in self._experience.draws(due, config):
            done = self._learner.update(self._experience, draws, config, self.updates)
            self.updates += done.n_updates
            copies += done.copies
            means.add(done.n_updates, loss=done.loss, td_error_mean=done.td_error, q_value_mean=done.q_value)
        return {
            **means.all(),
            "n_updates": due,
            "target_updated": int(copies > 0),
            "epsilon": self.epsilon,
            "buffer_size": len(self._experience),
            "episode_reward": episode_data.total_reward,
            "learning_rate": float(self._model.optimizer.param_groups[0]["lr"]),
        }

    def _finished(self, window: EpisodeData) -> int:
        """How many episodes the window finished. While none has ever ended and none will at a time limit (the
        pipeline tells; without word of it, after the first window), a window counts as one."""
        finished = int(np.count_nonzero(window.dones))
        self._episodes += finished
        if self._episodes:
            return finished
        return int(not window.metadata.get("episodic", self.env_steps == window.length))

    # --- hyperparameters ------------------------------------------------------------------------

    @exclusive
    def get_hyperparams(self) -> HyperparamSet:
        """All hyperparameters in force; epsilon as it is now, unless epsilon_decay_steps counts it from its
        start. See Agent."""
        hyperparams = super().get_hyperparams()
        if hyperparams.params["epsilon_decay_steps"] is None:
            hyperparams.params["epsilon"] = self.epsilon
        return hyperparams

    def _apply(self, config: DQNConfig, params: Mapping[str, Any]) -> None:
        super()._apply(config, params)
        if "epsilon" in params and config.epsilon_decay_steps is None:
            self._head.epsilon = config.epsilon

    # --- state ----------------------------------------------------------------------------------

    def _get_state(self) -> dict[str, Any]:
        return {"epsilon": self.epsilon, "episodes": self._episodes}

    def _set_state(self, state: Mapping[str, Any]) -> None:
        self._head.epsilon = float(state["epsilon"])
        self._episodes = int(state["episodes"])


def _build(parts: Parts, options: Options) -> TorchDQNAgent:
    config, n_actions = read_config(DQNConfig, parts.params), outputs_of(parts.action_space)
    if options.dueling:
        encoder = ObservationEncoder(parts.observation_space)
        network: nn.Module = DuelingQNetwork(
            encoder.features, n_actions, parts.hidden_sizes, parts.activation, parts.generator,
            norm=parts.norm, residual=parts.residual, dropout=parts.dropout,
        )  # fmt: skip
        if needs_encoder(parts.observation_space):
            network = nn.Sequential(encoder, network)
    else:
        network = parts.network(n_actions, 1.0)
    return TorchDQNAgent(network, n_actions, adam(config, network), **parts.common(config))


ALGORITHM = Algorithm(
    DQNConfig, _build, "a Discrete action space", lambda space: isinstance(space, spaces.Discrete),
    presets=PRESETS,
)  # fmt: skip
