"""Proximal policy optimisation (Schulman et al. 2017), for any policy head."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import optix_fast.ops as native_ops
import optix_fast.reference as reference_ops
from optix_fast._native import backend as process_backend
from optix_fast.agents import agent as shared
from optix_fast.agents.act_queue import ActQueue
from optix_fast.agents.actor_critic import ActorCriticPolicy
from optix_fast.agents.graph_ppo import GraphPPO
from optix_fast.agents.native_learner import Backend
from optix_fast.agents.native_ppo import STATISTICS, NativePPO, Updated
from optix_fast.agents.ppo_batch import Batch, make_batch
from optix_fast.agents.ppo_config import PPOConfig
from optix_fast.envs.normalizers import ObsNormalizer, RewardNormalizer
from optix_fast.networks.heads import NormalHead, PolicyHead
from optix_fast.random import RandomStream
from optix_fast.types import (
    Array,
    BaseAgent,
    EpisodeData,
    HyperparamSet,
    NonFiniteError,
    Tree,
    is_recording,
    tree_map,
)


class PPOAgent(BaseAgent):
    """PPO over any actor and critic, for any policy head.

    `TorchPPOAgent` and `TorchGaussianPPOAgent` are this with a head.

    Rollout, evaluation and updates draw from three random streams of their own, so that evaluating
    changes nothing in training. Single `act()` calls outside of `no_recording()` are remembered for
    windows that carry no log-probs.

    Args:
        actor, critic: modules; critic returns [B, 1] or [B].
        optimizer: over the parameters of both.
        hyperparams: see PPOConfig; unknown keys are warned about once.
        head: what the actor's outputs mean.
        device: "auto" (CUDA where there is one), "cpu", "cuda", "cuda:N".
        obs_normalizer: part of the policy; updated after each window, saved with the weights.
        reward_normalizer: scales rewards before GAE.
        seed: of the agent's random streams; None draws one from the operating system.
        backend: "auto" acts and updates in the compiled core where it serves these networks and this
            optimizer, else in torch with the compiled loss (on CUDA as one graph); "native" raises with the
            reason instead of falling back; "torch" uses the reference. See `backend`.
    """

    default_param_bounds = {  # noqa: RUF012 (the documented class attribute)
        "learning_rate": (1e-4, 3e-3),
        "gamma": (0.95, 0.999),
        "clip_ratio": (0.1, 0.3),
        "entropy_coef": (0.001, 0.05),
    }
    default_log_params = ["learning_rate"]  # noqa: RUF012
    kept_on_rollback = ("streams", "env_steps")

    def __init__(
        self,
        actor: nn.Module,
        critic: nn.Module,
        optimizer: torch.optim.Optimizer,
        hyperparams: HyperparamSet,
        head: PolicyHead,
        device: str | torch.device,
        obs_normalizer: ObsNormalizer | None,
        reward_normalizer: RewardNormalizer | None,
        seed: int | None,
        backend: str,
    ) -> None:
        _check_types(actor, critic, optimizer, obs_normalizer, reward_normalizer)
        self._hyperparams = shared.check_hyperparams(hyperparams, PPOConfig)
        shared.read_config(PPOConfig, hyperparams.params)
        self._ops = _choose_ops(backend)
        self._policy = ActorCriticPolicy(actor, critic, head, shared.resolve_device(device), obs_normalizer)
        self._optimizer = optimizer
        self.reward_normalizer = reward_normalizer
        root = RandomStream(seed)
        self._streams = {name: root.spawn(name) for name in ("rollout", "evaluation", "update")}
        self._queue = ActQueue()
        self.env_steps = 0
        self._native = NativePPO(self._policy, optimizer, backend)
        on_cuda = self._policy.device.type == "cuda" and backend != "torch"
        self._graph = GraphPPO(self._policy, optimizer, self._ops) if on_cuda else None
        if "learning_rate" in self._hyperparams.params:
            self._set_learning_rate(float(self._hyperparams.params["learning_rate"]))

    @property
    def _actor(self) -> nn.Module:
        """The actor, under the name that subclasses of the documented agents read."""
        return self._policy.actor

    @property
    def _critic(self) -> nn.Module:
        return self._policy.critic

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self._policy.device

    @property
    def continuous_dimensions(self) -> int:
        """Dimensions whose entropy, in the diagnostics, is a differential one."""
        head = self._policy.head
        return head.action_dim if isinstance(head, NormalHead) else 0

    @property
    def obs_normalizer(self) -> ObsNormalizer | None:
        """The policy's observation normalizer."""
        return self._policy.obs_normalizer

    @property
    def backend(self) -> Backend:
        """What the next window and update run on: "native" or "torch", with the `reason` for the latter.

        Recognised anew before every window and every update, so that it follows what is done to the
        modules and the optimizer.
        """
        return self._native.backend()

    # --- acting ---------------------------------------------------------------------------------

    def bind_spaces(self, observation_space: Any, action_space: Any) -> None:
        """Learn the spaces of the environment; pipelines call it.

        Raises:
            ValueError: the action space does not fit the policy, or it is bound to another one.
        """
        del observation_space
        self._policy.head.bind(action_space)

    def act(self, observation: Any, deterministic: bool = False) -> Any:
        """The action for one observation, in environment units: an int, or float32 [A].

        Args:
            observation: one observation of the environment, without a batch axis.
            deterministic: the most probable action instead of a sample.

        Raises:
            NonFiniteError: the policy's outputs are NaN or infinite.
        """
        observation = tree_map(shared.to_numpy, observation)
        acted = self._native.act(observation, deterministic, is_recording(), self._stream())
        if acted is not None:
            if is_recording():
                self._queue.push(observation, acted.action, acted.log_prob, acted.value, acted.raw)
            return acted.action
        batch = tree_map(lambda leaf: leaf[None], observation)
        mask = batch.get("action_mask") if isinstance(batch, Mapping) else None
        prepared = self._policy.prepare(batch)
        draw = self._policy.draw(prepared, self._stream(), deterministic, mask)
        if is_recording():
            value = float(self._policy.values(prepared)[0])
            row = tree_map(lambda leaf: leaf[0], batch)
            self._queue.push(row, draw.actions[0], float(draw.log_probs[0]), value, draw.raw[0].copy())
        action = draw.actions[0]
        return int(action) if draw.actions.ndim == 1 else action

    def act_batch(
        self, observations: Tree, deterministic: bool = False, action_masks: Array | None = None
    ) -> Array:
        """Actions [N, …] for N observations [N, …]; nothing is recorded."""
        actions = self._native.act_batch(observations, deterministic, action_masks, self._stream())
        if actions is not None:
            return actions
        prepared = self._policy.prepare(observations)
        return self._policy.draw(prepared, self._stream(), deterministic, action_masks).actions

    def act_rows(self, observations: Tree, rows: Any, t: int) -> Array:
        """Act for all environments of row t and write actions, log_probs, values and pre_tanh into
        the window (see pipelines.rows.WindowRows); returns the environments' actions."""
        actions: Array = rows.actions[t]
        if self._native.act_rows(observations, rows, t, self._stream()):
            return actions
        masks = None if rows.action_masks is None else rows.action_masks[t]
        prepared = self._policy.prepare(observations)
        draw = self._policy.draw(prepared, self._stream(), False, masks)
        actions[...] = draw.actions
        rows.column("log_probs")[t] = draw.log_probs
        rows.column("values")[t] = self._policy.values(prepared)
        raw_column = self._policy.head.raw_column
        if raw_column is not None:
            rows.column(raw_column, draw.raw.shape[1:])[t] = draw.raw
        return actions

    def _stream(self) -> RandomStream:
        return self._streams["rollout" if is_recording() else "evaluation"]

    # --- learning -------------------------------------------------------------------------------

    def learn(self, episode_data: EpisodeData) -> dict[str, Any]:
        """Update actor and critic from one window: GAE, then n_epochs of shuffled minibatches of
        clipped surrogate + vf_coef·value loss − entropy_coef·entropy.

        Returns:
            Means over the minibatches of policy_loss, value_loss, entropy, approx_kl, clip_fraction;
            explained_var of the values before the update (NaN when the returns do not vary);
            n_updates; learning_rate.

        Raises:
            NonFiniteError: a reward, loss or gradient is NaN or infinite. Parameters, optimizer,
                normalizers and random streams are as before the call.
            RuntimeError: "Cache underflow…" when a window without log_probs does not match the
                recorded act() calls.
        """
        config = shared.read_config(PPOConfig, self._hyperparams.params)
        with shared.restored_on_error(self):
            batch = make_batch(
                self._policy, episode_data, config, self._ops, self._queue, self.reward_normalizer
            )
            diagnostics = self._update(batch, self._annealed(config))
            self.env_steps += int(batch.returns.shape[0])
            if self.obs_normalizer is not None:
                self.obs_normalizer.update(episode_data.observations)
        return diagnostics

    def _update(self, batch: Batch, config: PPOConfig) -> dict[str, Any]:
        updated = self._native.update(batch, config, self._streams["update"])
        if updated is None and self._graph is not None:
            updated = self._graph.update(batch, config, self._streams["update"])
        if updated is None:
            updated = self._update_in_torch(batch, config)
        return {
            **updated.means,
            "explained_var": shared.explained_variance(batch.values, batch.returns),
            "n_updates": updated.n_updates,
            "learning_rate": float(self._optimizer.param_groups[0]["lr"]),
        }

    def _update_in_torch(self, batch: Batch, config: PPOConfig) -> Updated:
        parameters = self._policy.parameters()
        n_rows = int(batch.returns.shape[0])
        collected: list[list[float]] = []
        for index in self._minibatches(n_rows, config):
            stats = self._minibatch_step(batch.rows(index), config, parameters)
            collected.append(stats)
            if config.target_kl is not None and stats[3] > 1.5 * config.target_kl:
                break
        means = np.mean(np.asarray(collected)[:, : len(STATISTICS)], axis=0)
        named = {name: float(mean) for name, mean in zip(STATISTICS, means, strict=True)}
        return Updated(named, len(collected))

    def _minibatch_step(self, batch: Batch, config: PPOConfig, parameters: list[nn.Parameter]) -> list[float]:
        params, values = self._policy.evaluate(batch.observations)
        result = self._ops.ppo_loss(
            self._policy.head.dist,
            params,
            batch.actions,
            batch.log_probs,
            batch.advantages,
            values,
            batch.returns,
            batch.values if config.value_clip is not None else None,
            action_mask=batch.action_masks,
            **config.loss_options(),
        )
        stats: list[float] = result.stats.tolist()
        if not all(map(math.isfinite, stats)):
            raise NonFiniteError("loss")
        self._optimizer.zero_grad(set_to_none=True)
        result.loss.backward()
        norm = nn.utils.clip_grad_norm_(parameters, config.max_grad_norm or math.inf)
        if not math.isfinite(norm.item()):
            raise NonFiniteError("gradient")
        self._optimizer.step()
        return stats

    def _minibatches(self, n_rows: int, config: PPOConfig) -> Iterator[Tensor]:
        for _ in range(config.n_epochs):
            order = self._policy.put(self._streams["update"].permutation(n_rows))
            yield from torch.split(order, config.minibatch_size)

    def _annealed(self, config: PPOConfig) -> PPOConfig:
        """The config with learning_rate and clip_ratio as they are at this point of the run."""
        if config.anneal_steps is None:
            return config
        left = max(0.0, 1.0 - self.env_steps / config.anneal_steps)
        self._set_learning_rate(config.learning_rate * left)
        return replace(config, clip_ratio=config.clip_ratio * left)

    # --- hyperparameters ------------------------------------------------------------------------

    def get_hyperparams(self) -> HyperparamSet:
        """A copy; learning_rate as the optimizer has it, unless it is being annealed."""
        hyperparams = self._hyperparams.copy()
        if hyperparams.params.get("anneal_steps") is None:
            hyperparams.params["learning_rate"] = float(self._optimizer.param_groups[0]["lr"])
        return hyperparams

    def set_hyperparams(self, hyperparams: HyperparamSet) -> None:
        """Replace the whole set; a learning_rate in it is written to every parameter group.

        Raises:
            TypeError, ValueError: not a HyperparamSet, or a value out of its range; nothing changes.
        """
        if not isinstance(hyperparams, HyperparamSet):
            raise TypeError(f"hyperparams must be a HyperparamSet, got {type(hyperparams).__name__}")
        shared.read_config(PPOConfig, hyperparams.params)
        self._hyperparams = hyperparams.copy()
        if "learning_rate" in hyperparams.params:
            self._set_learning_rate(float(hyperparams.params["learning_rate"]))

    def _set_learning_rate(self, rate: float) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = rate

    def reset_cache(self) -> None:
        """Forget the recorded act() calls."""
        self._queue.clear()

    # --- weights and state ----------------------------------------------------------------------

    def save_weights(self, path: str) -> None:
        """Write the policy into the directory `path`: actor.safetensors, critic.safetensors, and
        policy.safetensors with the free log_std and the observation normalizer if there are any."""
        self._policy.save(path)

    def load_weights(self, path: str) -> None:
        """Read what save_weights wrote, or an older run's actor.pt and critic.pt.

        Raises:
            FileNotFoundError, ValueError: a file is missing or damaged.
            RuntimeError: the files are of another architecture (keys and shapes named). Nothing is
                loaded then.
        """
        self._policy.load(path)

    def average_weights(self, paths: Sequence[str]) -> None:
        """Load the element-wise mean of the networks saved in `paths`."""
        self._policy.load_mean(paths)

    def perturb_weights(self, noise_scale: float) -> None:
        """Multiply each parameter by 1 + noise_scale·N(0, 1)."""
        shared.perturb(self._policy.parameters(), noise_scale, self._streams["update"].normal)

    def teardown(self) -> None:
        """Move the networks to the CPU and empty the CUDA cache."""
        self._policy.to_cpu()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def state_dict(self) -> dict[str, Any]:
        """Everything that training goes on from: policy, optimizer, reward normalizer,
        hyperparameters, random streams. Not the recorded act() calls, which belong to a window in
        the making."""
        rewards = self.reward_normalizer
        return {
            "policy": self._policy.state_dict(),
            "optimizer": shared.optimizer_state(self._optimizer),
            "reward_normalizer": None if rewards is None else rewards.state_dict(),
            "hyperparams": dict(self._hyperparams.params),
            "streams": {name: stream.state_dict() for name, stream in self._streams.items()},
            "env_steps": self.env_steps,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what state_dict gave, for an agent of the same architecture."""
        self._policy.load_state_dict(state["policy"])
        shared.load_optimizer_state(self._optimizer, state["optimizer"])
        if self.reward_normalizer is not None:
            self.reward_normalizer.load_state_dict(state["reward_normalizer"])
        self._hyperparams = HyperparamSet(dict(state["hyperparams"]), self._hyperparams.episode_id)
        for name, stream in self._streams.items():
            stream.load_state_dict(state["streams"][name])
        self.env_steps = int(state["env_steps"])


def _check_types(
    actor: Any, critic: Any, optimizer: Any, obs_normalizer: Any, reward_normalizer: Any
) -> None:
    expected: tuple[tuple[str, Any, type, bool], ...] = (
        ("actor", actor, nn.Module, False),
        ("critic", critic, nn.Module, False),
        ("optimizer", optimizer, torch.optim.Optimizer, False),
        ("obs_normalizer", obs_normalizer, ObsNormalizer, True),
        ("reward_normalizer", reward_normalizer, RewardNormalizer, True),
    )
    for name, value, kind, optional in expected:
        if not isinstance(value, kind) and not (optional and value is None):
            raise TypeError(f"{name} must be a {kind.__name__}, got {type(value).__name__}")


def _choose_ops(backend: str) -> ModuleType:
    if backend not in ("auto", "native", "torch"):
        raise ValueError(f"backend must be 'auto', 'native' or 'torch', got {backend!r}")
    if backend == "native" and process_backend() != "native":
        raise RuntimeError("backend='native': the compiled core is not loaded (optix-fast doctor)")
    if backend == "torch":
        return reference_ops
    return native_ops
