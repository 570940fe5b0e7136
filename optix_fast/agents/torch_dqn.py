"""Deep Q-learning (Mnih et al. 2015) for Discrete action spaces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from optix_fast._native import backend as process_backend
from optix_fast.agents import agent as shared
from optix_fast.agents.dqn import DQNModel, Updated, dqn_update, target_of
from optix_fast.agents.dqn_config import DQNConfig
from optix_fast.agents.native_dqn import NativeDQN
from optix_fast.agents.native_learner import Backend
from optix_fast.agents.off_policy import Experience
from optix_fast.agents.q_policy import QPolicy
from optix_fast.networks.heads import GreedyHead
from optix_fast.random import RandomStream
from optix_fast.types import Array, BaseAgent, EpisodeData, HyperparamSet, Tree, is_recording, tree_map


class TorchDQNAgent(BaseAgent):
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
    default_min_episodes_before_dormant = 60

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
        _check_types(q_network, n_actions, optimizer, backend)
        self._hyperparams = shared.check_hyperparams(hyperparams, DQNConfig)
        config = shared.read_config(DQNConfig, hyperparams.params)
        self._n_actions = int(n_actions)
        head = GreedyHead(config.epsilon, self._n_actions)
        if action_space is not None:
            head.bind(action_space)
        self._policy = QPolicy(q_network, head, shared.resolve_device(device))
        self._model = DQNModel(q_network, target_of(q_network), optimizer)
        root = RandomStream(seed)
        self._streams = {name: root.spawn(name) for name in ("rollout", "evaluation", "update")}
        self._experience = Experience(config, root)
        self.env_steps, self.updates = 0, 0
        self._native = NativeDQN(self._policy, self._model, backend)
        if "learning_rate" in self._hyperparams.params:
            self._set_learning_rate(config.learning_rate)

    @property
    def _q_network(self) -> nn.Module:
        """The network, under the name that subclasses of the documented agents read."""
        return self._policy.actor

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self._policy.device

    @property
    def is_on_policy(self) -> bool:
        """False: it learns from what older policies did."""
        return False

    @property
    def epsilon(self) -> float:
        """Probability of a random action now."""
        return self._policy.head.epsilon

    @property
    def backend(self) -> Backend:
        """What the next window and update run on: "native" or "torch", with the `reason` for the latter.

        Recognised anew before every window and every update. Whether the core reads the observations shows
        with the first of them."""
        return self._native.backend()

    # --- acting ---------------------------------------------------------------------------------

    def bind_spaces(self, observation_space: Any, action_space: Any) -> None:
        """Learn the spaces of the environment; pipelines call it.

        Raises:
            ValueError: the action space does not fit the network, or the agent is bound to another one.
        """
        del observation_space
        self._policy.head.bind(action_space)

    def act(self, observation: Any, deterministic: bool = False) -> int:
        """The action for one observation: random with probability epsilon, else the one of the greatest
        value.

        Args:
            observation: one observation of the environment, without a batch axis.
            deterministic: never random.

        Raises:
            NonFiniteError: the network's outputs are NaN or infinite.
        """
        observation = tree_map(shared.to_numpy, observation)
        acted = self._native.act(observation, deterministic, False, self._stream())
        if acted is not None:
            return int(acted.action)
        batch = tree_map(lambda leaf: leaf[None], observation)
        mask = batch.get("action_mask") if isinstance(batch, Mapping) else None
        return int(
            self._policy.draw(self._policy.prepare(batch), self._stream(), deterministic, mask).actions[0]
        )

    def act_batch(
        self, observations: Tree, deterministic: bool = False, action_masks: Array | None = None
    ) -> Array:
        """Actions [N] for N observations [N, …]."""
        actions = self._native.act_batch(observations, deterministic, action_masks, self._stream())
        if actions is not None:
            return actions
        prepared = self._policy.prepare(observations)
        return self._policy.draw(prepared, self._stream(), deterministic, action_masks).actions

    def act_rows(self, observations: Tree, rows: Any, t: int) -> Array:
        """Act for all environments of row t of a window (see pipelines.rows.WindowRows)."""
        actions: Array = rows.actions[t]
        if not self._native.act_rows(observations, rows, t, self._stream()):
            masks = None if rows.action_masks is None else rows.action_masks[t]
            prepared = self._policy.prepare(observations)
            actions[...] = self._policy.draw(prepared, self._stream(), False, masks).actions
        return actions

    def action_probs(self, observation: Any) -> Array:
        """Probabilities of the actions under ε-greedy, [K], for one observation."""
        batch = tree_map(lambda leaf: shared.to_numpy(leaf)[None], observation)
        return self._policy.action_probs(self._policy.prepare(batch))

    def _stream(self) -> RandomStream:
        return self._streams["rollout" if is_recording() else "evaluation"]

    # --- learning -------------------------------------------------------------------------------

    def learn(self, episode_data: EpisodeData) -> dict[str, Any]:
        """Store a window and do the updates that its transitions have earned; lower epsilon for each episode
        that it finished.

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
        if episode_data.length == 0:
            raise ValueError("episode_data must hold at least one row")
        config = shared.read_config(DQNConfig, self._hyperparams.params)
        actions = shared.action_indices(
            self._policy.head, episode_data.actions, episode_data.length, self._n_actions
        )
        due = self._experience.add(episode_data, config, actions)
        self.env_steps += episode_data.length
        finished = int(np.count_nonzero(episode_data.dones))
        self._policy.head.epsilon = config.epsilon_after(self.epsilon, finished, self.env_steps)
        updated = self._update(due, config)
        return {
            "loss": updated.loss,
            "td_error_mean": updated.td_error,
            "q_value_mean": updated.q_value,
            "n_updates": updated.n_updates,
            "target_updated": int(updated.copies > 0),
            "epsilon": self.epsilon,
            "buffer_size": len(self._experience),
            "episode_reward": episode_data.total_reward,
            "learning_rate": float(self._model.optimizer.param_groups[0]["lr"]),
        }

    def _update(self, due: int, config: DQNConfig) -> Updated:
        self._renew_target()
        parts: list[Updated] = []
        for draws in self._experience.draws(due, config):
            arguments = (self._experience, draws, config, self.updates)
            part = self._native.update(*arguments)
            if part is None:
                part = dqn_update(self._model, *arguments)
            self.updates += part.n_updates
            parts.append(part)
        n = sum(part.n_updates for part in parts)
        means = (sum(p[i] * p.n_updates for p in parts) / max(n, 1) for i in range(2, 5))
        return Updated(n, sum(part.copies for part in parts), *means)

    def _renew_target(self) -> None:
        """A new target network where the user has given the network other layers."""
        if _layers(self._model.q_network) != _layers(self._model.target):
            self._model.target = target_of(self._model.q_network)

    # --- hyperparameters ------------------------------------------------------------------------

    def get_hyperparams(self) -> HyperparamSet:
        """A copy; learning_rate as the optimizer has it, epsilon as it is now (unless epsilon_decay_steps
        counts it from its start), and what the replay is set to."""
        hyperparams = self._hyperparams.copy()
        params, config = hyperparams.params, shared.read_config(DQNConfig, self._hyperparams.params)
        params["learning_rate"] = float(self._model.optimizer.param_groups[0]["lr"])
        if config.epsilon_decay_steps is None:
            params["epsilon"] = self.epsilon
        return HyperparamSet(
            {**{key: getattr(config, key) for key in ("per_alpha", "per_beta", "n_step")}, **params},
            hyperparams.episode_id,
            hyperparams.timestamp,
        )

    def set_hyperparams(self, hyperparams: HyperparamSet) -> None:
        """Replace the whole set; a learning_rate in it is written to every parameter group, an epsilon is
        the one to go on from.

        Raises:
            TypeError, ValueError: not a HyperparamSet, or a value out of its range; nothing changes.
        """
        if not isinstance(hyperparams, HyperparamSet):
            raise TypeError(f"hyperparams must be a HyperparamSet, got {type(hyperparams).__name__}")
        config = shared.read_config(DQNConfig, hyperparams.params)
        self._experience.check_batch(config)
        self._hyperparams = hyperparams.copy()
        if "learning_rate" in hyperparams.params:
            self._set_learning_rate(config.learning_rate)
        if "epsilon" in hyperparams.params and config.epsilon_decay_steps is None:
            self._policy.head.epsilon = config.epsilon

    def _set_learning_rate(self, rate: float) -> None:
        for group in self._model.optimizer.param_groups:
            group["lr"] = float(rate)

    # --- weights and state ----------------------------------------------------------------------

    def save_weights(self, path: str) -> None:
        """Write the network into the directory `path`: q_network.safetensors."""
        self._policy.save(path)

    def load_weights(self, path: str) -> None:
        """Read what save_weights wrote, or an older run's q_network.pt; the target network becomes a copy.

        Raises:
            FileNotFoundError, ValueError: the file is missing or damaged.
            RuntimeError: it is of another architecture (keys and shapes named). Nothing is loaded then.
        """
        self._policy.load(path)
        self._copy_target()

    def average_weights(self, paths: Sequence[str]) -> None:
        """Load the element-wise mean of the networks saved in `paths`."""
        self._policy.load_mean(paths)
        self._copy_target()

    def perturb_weights(self, noise_scale: float) -> None:
        """Multiply each parameter by 1 + noise_scale·N(0, 1); the target network becomes a copy."""
        shared.perturb(self._model.parameters(), noise_scale, self._streams["update"].normal)
        self._copy_target()

    def _copy_target(self) -> None:
        self._renew_target()
        self._model.target.load_state_dict(self._model.q_network.state_dict())

    def teardown(self) -> None:
        """Move the networks to the CPU and empty the CUDA cache."""
        self._policy.actor.cpu()
        self._model.target.cpu()
        self._policy.device = torch.device("cpu")
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def state_dict(self, replay: bool = True) -> dict[str, Any]:
        """Everything that training goes on from: networks, optimizer, hyperparameters, epsilon, counters,
        random streams, and, unless `replay` is False, the stored transitions."""
        return {
            "q_network": shared.module_state(self._model.q_network),
            "target": shared.module_state(self._model.target),
            "optimizer": shared.optimizer_state(self._model.optimizer),
            "hyperparams": dict(self._hyperparams.params),
            "epsilon": self.epsilon,
            "streams": {name: stream.state_dict() for name, stream in self._streams.items()},
            "experience": self._experience.state_dict(replay),
            "env_steps": self.env_steps,
            "updates": self.updates,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what state_dict gave, for an agent of the same architecture; the stored transitions stay
        where the state has none.

        Raises:
            RuntimeError, ValueError: the state is of another architecture, or its transitions are of another
                capacity or shape. Nothing is loaded then.
        """
        self._renew_target()
        for name, net in (("target", self._model.target), ("q_network", self._model.q_network)):
            shared.check_matches(net, state[name], name)
        self._experience.load_state_dict(state["experience"])
        self._policy.load_state_dict(state["q_network"])
        self._model.target.load_state_dict(state["target"])
        shared.load_optimizer_state(self._model.optimizer, state["optimizer"])
        self._hyperparams = HyperparamSet(dict(state["hyperparams"]), self._hyperparams.episode_id)
        self._policy.head.epsilon = float(state["epsilon"])
        for name, stream in self._streams.items():
            stream.load_state_dict(state["streams"][name])
        self.env_steps, self.updates = int(state["env_steps"]), int(state["updates"])


def _layers(network: nn.Module) -> list[tuple[Any, ...]]:
    """What kind of modules a network is made of, with the shapes of their parameters."""
    return [
        (type(module), *(None if p is None else p.shape for p in module._parameters.values()))
        for module in network.modules()
    ]


def _check_types(q_network: Any, n_actions: Any, optimizer: Any, backend: Any) -> None:
    if not isinstance(q_network, nn.Module):
        raise TypeError(f"q_network must be a Module, got {type(q_network).__name__}")
    if isinstance(n_actions, bool) or not isinstance(n_actions, int | np.integer) or n_actions < 1:
        raise ValueError(f"n_actions must be an integer of at least 1, got {n_actions!r}")
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(f"optimizer must be a Optimizer, got {type(optimizer).__name__}")
    if backend not in ("auto", "native", "torch"):
        raise ValueError(f"backend must be 'auto', 'native' or 'torch', got {backend!r}")
    if backend == "native" and process_backend() != "native":
        raise RuntimeError("backend='native': the compiled core is not loaded (optix-fast doctor)")
