"""Soft actor-critic (Haarnoja et al. 2018) for Box action spaces, and for Discrete ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import nn

from optix_fast._native import backend as process_backend
from optix_fast.agents import agent as shared
from optix_fast.agents import sac_files
from optix_fast.agents.native_learner import Backend
from optix_fast.agents.native_sac import NativeSAC
from optix_fast.agents.off_policy import Experience
from optix_fast.agents.sac import STATISTICS, SACModel, Updated, optimizer_like, sac_update, target_of
from optix_fast.agents.sac_config import SACConfig
from optix_fast.agents.sac_policy import SACPolicy
from optix_fast.networks.heads import LOG_STD_MAX, LOG_STD_MIN, CategoricalHead, SquashedHead
from optix_fast.random import RandomStream
from optix_fast.types import Array, BaseAgent, EpisodeData, HyperparamSet, Tree, is_recording, tree_map


class TorchSACAgent(BaseAgent):
    """SAC with twin critics, a squashed Gaussian within the environment's bounds and a learned temperature
    (seed 003); for Discrete action spaces with a categorical policy.

    Windows are stored whole, and each transition earns `updates_per_step` updates. Truncated episodes are
    bootstrapped from their true final observation. Until `learning_starts` steps have been acted, actions are
    uniform in the action space, unless weights have been loaded.

    Args:
        actor: observations → [mean ‖ log_std], [B, 2A]; log_std is clamped to [−5, 2]. Discrete: logits,
            [B, K].
        critic1, critic2: observation ‖ action, [B, D + A] → [B, 1] or [B]; where observations are no flat
            Box, critic(observations, actions). Discrete: observations → [B, K].
        action_dim: A, values of an action; K of a Discrete space.
        actor_optimizer, critic_optimizer: over the parameters of the actor, and of both critics.
        alpha_optimizer: of the kind and with the settings wanted for the temperature; the agent makes
            another one like it around its own parameter, log_alpha.
        hyperparams: see SACConfig; unknown keys are warned about once. learning_rate is written to all three
            optimizers.
        device: "auto" (CUDA where there is one), "cpu", "cuda", "cuda:N".
        action_space: binds the environment's space at once; otherwise the pipeline's set_agent does.
        discrete: whether the policy is categorical; a Discrete action_space says so too.
        seed: of the agent's random streams; None draws one from the operating system.
        backend: "auto" acts and updates in the compiled core where it serves these networks, these optimizers
            and these observations, else in torch; "native" raises with the reason instead of falling back;
            "torch" uses the reference. See `backend`.

    Raises:
        TypeError, ValueError: an argument of another kind or outside its range.
        RuntimeError: backend="native", and the core does not serve this agent.
    """

    LOG_STD_MIN, LOG_STD_MAX = LOG_STD_MIN, LOG_STD_MAX
    default_param_bounds = {  # noqa: RUF012 (the documented class attribute)
        "learning_rate": (1e-4, 1e-3),
        "gamma": (0.97, 0.999),
        "tau": (1e-3, 1e-1),
    }
    default_log_params = ["learning_rate", "tau"]  # noqa: RUF012
    default_min_episodes_before_dormant = 30

    def __init__(
        self,
        actor: nn.Module,
        critic1: nn.Module,
        critic2: nn.Module,
        action_dim: int,
        actor_optimizer: torch.optim.Optimizer,
        critic_optimizer: torch.optim.Optimizer,
        alpha_optimizer: torch.optim.Optimizer,
        hyperparams: HyperparamSet,
        device: str | torch.device = "auto",
        *,
        action_space: Any = None,
        discrete: bool = False,
        seed: int | None = None,
        backend: str = "auto",
    ) -> None:
        modules = {"actor": actor, "critic1": critic1, "critic2": critic2}
        optimizers = {
            "actor_optimizer": actor_optimizer,
            "critic_optimizer": critic_optimizer,
            "alpha_optimizer": alpha_optimizer,
        }
        _check_types(modules, optimizers, action_dim, backend)
        self._hyperparams = shared.check_hyperparams(hyperparams, SACConfig)
        config = shared.read_config(SACConfig, hyperparams.params)
        where = shared.resolve_device(device)
        discrete = discrete or isinstance(action_space, spaces.Discrete)
        head = CategoricalHead() if discrete else SquashedHead(action_dim)
        self._policy = SACPolicy(actor, action_dim, head, where)
        if action_space is not None:
            self.bind_spaces(None, action_space)
        critics = critic1.to(where), critic2.to(where)
        first = next(actor.parameters(), None)
        log_alpha = nn.Parameter(
            torch.tensor(
                float(config.log_alpha_init), device=where, dtype=None if first is None else first.dtype
            )
        )
        self._model = SACModel(
            actor, critics, (target_of(critic1), target_of(critic2)), log_alpha,
            actor_optimizer, critic_optimizer, optimizer_like(alpha_optimizer, log_alpha), discrete,
        )  # fmt: skip
        root = RandomStream(seed)
        self._streams = {name: root.spawn(name) for name in ("rollout", "evaluation", "update")}
        self._experience = Experience(config, root)
        self.env_steps, self.updates = 0, 0
        self._layers: list[nn.Module] = []
        # Steps that are still to be acted uniformly.
        self._uniform_steps = config.first_update_at
        self._native = NativeSAC(self._policy, self._model, backend)
        if "learning_rate" in self._hyperparams.params:
            self._set_learning_rate(config.learning_rate)

    @property
    def _actor(self) -> nn.Module:
        """The actor, under the name that subclasses of the documented agents read."""
        return self._model.actor

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self._policy.device

    @property
    def is_on_policy(self) -> bool:
        """False: it learns from what older policies did."""
        return False

    @property
    def alpha(self) -> float:
        """The temperature now."""
        return float(self._model.log_alpha.detach().exp())

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
            ValueError: the action space does not fit the policy, or the agent is bound to another one.
        """
        del observation_space
        head, width = self._policy.head, self._policy.width
        discrete = isinstance(head, CategoricalHead) and isinstance(action_space, spaces.Discrete)
        if discrete and action_space.n != width:
            raise ValueError(f"action_dim={width} is not the number of actions of {action_space}")
        head.bind(action_space)

    def act(self, observation: Any, deterministic: bool = False) -> Any:
        """The action for one observation, in environment units: float32 [A], or an int.

        Args:
            observation: one observation of the environment, without a batch axis.
            deterministic: the most probable action instead of a sample.

        Raises:
            NonFiniteError: the actor's outputs are NaN or infinite.
        """
        if deterministic or not self._explores(1):
            acted = self._native.act(
                tree_map(shared.to_numpy, observation), deterministic, False, self._stream()
            )
            if acted is not None:
                return acted.action
        batch = tree_map(lambda leaf: shared.to_numpy(leaf)[None], observation)
        mask = batch.get("action_mask") if isinstance(batch, Mapping) else None
        action = self._draw(batch, 1, deterministic, mask)[0]
        return int(action) if self._model.discrete else action

    def act_batch(
        self, observations: Tree, deterministic: bool = False, action_masks: Array | None = None
    ) -> Array:
        """Actions [N, …] for N observations [N, …], by the policy."""
        actions = self._native.act_batch(observations, deterministic, action_masks, self._stream())
        if actions is not None:
            return actions
        prepared = self._policy.prepare(observations)
        return self._policy.draw(prepared, self._stream(), deterministic, action_masks).actions

    def act_rows(self, observations: Tree, rows: Any, t: int) -> Array:
        """Act for all environments of row t of a window (see pipelines.rows.WindowRows)."""
        actions: Array = rows.actions[t]
        if self._uniform_steps > 0 or not self._native.act_rows(observations, rows, t, self._stream()):
            masks = None if rows.action_masks is None else rows.action_masks[t]
            actions[...] = self._draw(observations, rows.n_envs, False, masks)
        return actions

    def action_probs(self, observation: Any) -> Array:
        """Probabilities of the actions, [K], of a categorical policy for one observation."""
        if not self._model.discrete:
            raise ValueError("a Gaussian policy has no action_probs")
        batch = tree_map(lambda leaf: shared.to_numpy(leaf)[None], observation)
        with torch.no_grad():
            logits = self._policy.head.params(self._actor(self._policy.prepare(batch)))
        probs: Array = torch.softmax(logits, dim=-1)[0].cpu().numpy()
        return probs

    def _draw(self, observations: Tree, n: int, deterministic: bool, masks: Array | None) -> Array:
        if not deterministic and self._explores(n):
            self._uniform_steps -= n
            return self._policy.uniform(n, self._stream(), masks)
        return self._policy.draw(
            self._policy.prepare(observations), self._stream(), deterministic, masks
        ).actions

    def _explores(self, n: int) -> bool:
        return self._uniform_steps > 0 and is_recording()

    def _stream(self) -> RandomStream:
        return self._streams["rollout" if is_recording() else "evaluation"]

    # --- learning -------------------------------------------------------------------------------

    def learn(self, episode_data: EpisodeData) -> dict[str, Any]:
        """Store a window and do the updates that its transitions have earned.

        Returns:
            Means over the updates of critic_loss, actor_loss, alpha_loss, q_value and entropy (of the
            policy, estimated from its samples), zero where no update was due; alpha, n_updates,
            buffer_size, episode_reward (the sum of the window's rewards), learning_rate.

        Raises:
            NonFiniteError: a reward, action or observation is NaN or infinite (nothing is stored), or a loss
                or gradient (networks, optimizers, temperature and priorities are as before the updates, which
                are lost).
            ValueError: the window is empty, does not fit what was stored before, or has other actions than
                the policy.
        """
        if episode_data.length == 0:
            raise ValueError("episode_data must hold at least one row")
        config = shared.read_config(SACConfig, self._hyperparams.params)
        due = self._experience.add(episode_data, config, self._raw(episode_data))
        self.env_steps += episode_data.length
        updated = self._update(due, config)
        return {
            **updated.means,
            "alpha": self.alpha,
            "n_updates": updated.n_updates,
            "buffer_size": len(self._experience),
            "episode_reward": episode_data.total_reward,
            "learning_rate": float(self._model.actor_optimizer.param_groups[0]["lr"]),
        }

    def _raw(self, data: EpisodeData) -> Array:
        head = self._policy.head
        if isinstance(head, CategoricalHead):
            return shared.action_indices(head, data.actions, data.length, self._policy.width)
        return head.raw_of(data.actions)

    def _update(self, due: int, config: SACConfig) -> Updated:
        self._renew_targets()
        width, discrete = self._policy.width, self._model.discrete
        entropy = config.wanted_entropy(width, discrete)
        per_row = 0 if discrete else 2 * width
        sums, n = dict.fromkeys(STATISTICS, 0.0), 0
        for draws in self._experience.draws(due, config, 4 * per_row):
            shape = (draws.updates, 2, config.batch_size, 0 if discrete else width)
            noise = torch.from_numpy(self._streams["update"].normal(shape))
            part = self._native.update(self._experience, draws, noise, config, entropy)
            if part is None:
                part = sac_update(self._model, self._experience, draws, noise, config, entropy)
            self.updates += part.n_updates
            n += part.n_updates
            for name, mean in part.means.items():
                sums[name] += mean * part.n_updates
        return Updated(n, {name: total / max(n, 1) for name, total in sums.items()})

    def _renew_targets(self) -> None:
        """New target critics where the user has given a critic other layers."""
        layers = [module for critic in self._model.critics for module in critic.modules()]
        if layers == self._layers:
            return
        self._layers = layers
        for critic, target in zip(self._model.critics, self._model.targets, strict=True):
            shapes = [[p.shape for p in net.state_dict().values()] for net in (critic, target)]
            if shapes[0] != shapes[1] or str(critic) != str(target):
                self._model.copy_targets()

    # --- hyperparameters ------------------------------------------------------------------------

    def get_hyperparams(self) -> HyperparamSet:
        """A copy; learning_rate as the actor's optimizer has it, and what the replay is set to."""
        hyperparams, config = (
            self._hyperparams.copy(),
            shared.read_config(SACConfig, self._hyperparams.params),
        )
        replay = {key: getattr(config, key) for key in ("per_alpha", "per_beta", "n_step")}
        hyperparams.params = {**replay, **hyperparams.params}
        hyperparams.params["learning_rate"] = float(self._model.actor_optimizer.param_groups[0]["lr"])
        return hyperparams

    def set_hyperparams(self, hyperparams: HyperparamSet) -> None:
        """Replace the whole set; a learning_rate in it is written to every group of all three optimizers.

        Raises:
            TypeError, ValueError: not a HyperparamSet, or a value out of its range; nothing changes.
        """
        if not isinstance(hyperparams, HyperparamSet):
            raise TypeError(f"hyperparams must be a HyperparamSet, got {type(hyperparams).__name__}")
        config = shared.read_config(SACConfig, hyperparams.params)
        self._experience.check_batch(config)
        self._hyperparams = hyperparams.copy()
        if "learning_rate" in hyperparams.params:
            self._set_learning_rate(config.learning_rate)

    def _set_learning_rate(self, rate: float) -> None:
        for optimizer in self._model.optimizers().values():
            for group in optimizer.param_groups:
                group["lr"] = float(rate)

    # --- weights and state ----------------------------------------------------------------------

    def save_weights(self, path: str) -> None:
        """Write into the directory `path`: actor, critic1, critic2 and log_alpha, each .safetensors."""
        sac_files.save(self._model, path)

    def load_weights(self, path: str) -> None:
        """Read what save_weights wrote, or an older run's .pt files and log_alpha.npy; the target critics
        become copies.

        Raises:
            FileNotFoundError, ValueError: a file is missing or damaged.
            RuntimeError: the files are of another architecture (keys and shapes named). Nothing is loaded
                then.
        """
        sac_files.load_mean(self._model, [path])
        self._loaded()

    def average_weights(self, paths: Sequence[str]) -> None:
        """Load the element-wise mean of the networks and log_alphas saved in `paths`."""
        sac_files.load_mean(self._model, paths)
        self._loaded()

    def _loaded(self) -> None:
        self._model.copy_targets()
        self._uniform_steps = 0

    def perturb_weights(self, noise_scale: float) -> None:
        """Multiply each parameter of actor and critics by 1 + noise_scale·N(0, 1); the target critics become
        copies."""
        parameters = shared.unique_parameters([self._model.actor, *self._model.critics])
        shared.perturb(parameters, noise_scale, self._streams["update"].normal)
        self._model.copy_targets()

    def teardown(self) -> None:
        """Move the networks to the CPU and empty the CUDA cache."""
        for net in self._model.modules().values():
            net.cpu()
        self._policy.device = torch.device("cpu")
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def state_dict(self, replay: bool = True) -> dict[str, Any]:
        """Everything that training goes on from: networks, optimizers, temperature, hyperparameters,
        counters, random streams, and, unless `replay` is False, the stored transitions."""
        return {
            "model": self._model.state_dict(),
            "hyperparams": dict(self._hyperparams.params),
            "streams": {name: stream.state_dict() for name, stream in self._streams.items()},
            "experience": self._experience.state_dict(replay),
            "env_steps": self.env_steps,
            "updates": self.updates,
            "uniform_steps": self._uniform_steps,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what state_dict gave, for an agent of the same architecture; the stored transitions stay
        where the state has none.

        Raises:
            RuntimeError, ValueError: the state is of another architecture, or its transitions are of another
                capacity or shape. Nothing is loaded then.
        """
        self._renew_targets()
        for name, net in self._model.modules().items():
            shared.check_matches(net, state["model"]["networks"][name], name)
        self._experience.load_state_dict(state["experience"])
        self._model.load_state_dict(state["model"])
        self._hyperparams = HyperparamSet(dict(state["hyperparams"]), self._hyperparams.episode_id)
        for name, stream in self._streams.items():
            stream.load_state_dict(state["streams"][name])
        self.env_steps, self.updates = int(state["env_steps"]), int(state["updates"])
        self._uniform_steps = int(state["uniform_steps"])


def _check_types(
    modules: Mapping[str, Any], optimizers: Mapping[str, Any], action_dim: Any, backend: Any
) -> None:
    for name, value in modules.items():
        if not isinstance(value, nn.Module):
            raise TypeError(f"{name} must be a Module, got {type(value).__name__}")
    for name, value in optimizers.items():
        if not isinstance(value, torch.optim.Optimizer):
            raise TypeError(f"{name} must be an Optimizer, got {type(value).__name__}")
    if isinstance(action_dim, bool) or not isinstance(action_dim, int | np.integer) or action_dim < 1:
        raise ValueError(f"action_dim must be an integer of at least 1, got {action_dim!r}")
    if backend not in ("auto", "native", "torch"):
        raise ValueError(f"backend must be 'auto', 'native' or 'torch', got {backend!r}")
    if backend == "native" and process_backend() != "native":
        raise RuntimeError("backend='native': the compiled core is not loaded (optix-fast doctor)")
