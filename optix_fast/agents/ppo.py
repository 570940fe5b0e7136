"""Proximal policy optimisation (Schulman et al. 2017), for any policy head."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import optix_fast.ops as native_ops
import optix_fast.reference as reference_ops
from optix_fast.agents import agent as shared
from optix_fast.agents.act_queue import ActQueue
from optix_fast.agents.actor_critic import ActorCriticPolicy
from optix_fast.agents.base import Agent
from optix_fast.agents.graph_ppo import GraphPPO
from optix_fast.agents.native_learner import Backend
from optix_fast.agents.native_ppo import STATISTICS, NativePPO, Updated
from optix_fast.agents.ppo_batch import Batch, make_batch
from optix_fast.agents.ppo_config import KL_STOP, PPOConfig
from optix_fast.buffers import ReplaySegments
from optix_fast.envs.normalizers import ObsNormalizer, RewardNormalizer
from optix_fast.locks import exclusive
from optix_fast.networks.heads import NormalHead, PolicyHead
from optix_fast.types import EpisodeData, HyperparamSet, NonFiniteError, Tree, is_recording


class PPOAgent(Agent):
    """PPO over any actor and critic, for any policy head.

    `TorchPPOAgent` and `TorchGaussianPPOAgent` are this with a head.

    Single `act()` calls outside of `no_recording()` are remembered for windows that carry no log-probs.

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
    algorithm = "ppo"
    config_type = PPOConfig
    _policy: ActorCriticPolicy
    _native: NativePPO
    _own_state = ("policy", "optimizer", "reward_normalizer")

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
        shared.require("actor", actor, nn.Module)
        shared.require("critic", critic, nn.Module)
        shared.require("optimizer", optimizer, torch.optim.Optimizer)
        shared.require("obs_normalizer", obs_normalizer, ObsNormalizer, optional=True)
        shared.require("reward_normalizer", reward_normalizer, RewardNormalizer, optional=True)
        super().__init__(hyperparams, seed)
        shared.check_backend(backend)
        self._policy = ActorCriticPolicy(actor, critic, head, shared.resolve_device(device), obs_normalizer)
        self._optimizer = optimizer
        self.reward_normalizer = reward_normalizer
        self._queue = ActQueue()
        self._connect(backend)
        self._apply(self._hyperparams.config(), self._hyperparams.params)

    def _connect(self, backend: str) -> None:
        self._native = NativePPO(self._policy, self._optimizer, backend)
        on_cuda = self._policy.device.type == "cuda" and backend != "torch"
        self._graph = GraphPPO(self._policy, self._optimizer, self._ops) if on_cuda else None

    @property
    def actor(self) -> nn.Module:
        """The network of the policy."""
        return self._policy.actor

    @property
    def critic(self) -> nn.Module:
        """The network of the values."""
        return self._policy.critic

    @property
    def _actor(self) -> nn.Module:
        """The actor, under the name that subclasses of the documented agents read."""
        return self._policy.actor

    @property
    def _critic(self) -> nn.Module:
        return self._policy.critic

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
        """See Agent. On CUDA the reason also says why the last update was not replayed as a CUDA graph."""
        chosen = super().backend
        if self._graph is None or not self._graph.reason:
            return chosen
        return Backend(chosen, f"{chosen.reason}; {self._graph.reason}")

    @property
    def _ops(self) -> ModuleType:
        """Where the loss and GAE are taken from."""
        return reference_ops if self._native.requested == "torch" else native_ops

    # --- acting ---------------------------------------------------------------------------------

    def _act(self, observation: Tree, deterministic: bool) -> Any:
        recording = is_recording()
        acted = self._native.act(observation, deterministic, recording, self._stream())
        if acted is not None:
            if recording:
                self._queue.push(observation, acted.action, acted.log_prob, acted.value, acted.raw)
            return acted.action
        batch, mask = self._batch_of_one(observation)
        prepared = self._prepare_to_act(batch)
        draw = self._policy.draw(prepared, self._stream(), deterministic, mask)
        if recording:
            value = float(self._policy.values(prepared)[0])
            call = (draw.actions[0], float(draw.log_probs[0]), value, draw.raw[0].copy())
            self._queue.push(observation, *call)
        return self._scalar(draw.actions[0])

    def _act_rows(self, observations: Tree, rows: Any, t: int) -> None:
        prepared = self._prepare_to_act(observations)
        draw = self._policy.draw(prepared, self._stream(), False, self._mask_of(rows, t))
        rows.actions[t][...] = draw.actions
        rows.column("log_probs")[t] = draw.log_probs
        rows.column("values")[t] = self._policy.values(prepared)
        raw_column = self._policy.head.raw_column
        if raw_column is not None:
            rows.column(raw_column, draw.raw.shape[1:])[t] = draw.raw

    @exclusive
    def reset_cache(self) -> None:
        """Forget the recorded act() calls."""
        self._queue.clear()

    # --- learning -------------------------------------------------------------------------------

    @shared.as_in_training
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
        config: PPOConfig = self._hyperparams.config()
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
        n_rows = int(batch.returns.shape[0])
        collected: list[list[float]] = []
        for index in self._minibatches(n_rows, config):
            stats = self._minibatch_step(batch.rows(index), config)
            collected.append(stats)
            if config.target_kl is not None and stats[3] > KL_STOP * config.target_kl:
                break
        means = np.mean(np.asarray(collected)[:, : len(STATISTICS)], axis=0)
        named = {name: float(mean) for name, mean in zip(STATISTICS, means, strict=True)}
        return Updated(named, len(collected))

    def _minibatch_step(self, batch: Batch, config: PPOConfig) -> list[float]:
        params, values = self._policy.evaluate(batch.observations, batch.returns.dtype)
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
        shared.descend(result.loss, self._optimizer, config.max_grad_norm)
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
        self._rates.anneal(self._groups(), left)
        return replace(config, clip_ratio=config.clip_ratio * left)

    def _apply(self, config: PPOConfig, params: Mapping[str, Any]) -> None:
        if config.anneal_steps is None:
            self._rates.end_annealing(self._groups())
        super()._apply(config, params)

    # --- weights and state ----------------------------------------------------------------------

    def _networks(self) -> dict[str, nn.Module]:
        return {"actor": self._policy.actor, "critic": self._policy.critic}

    def _optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {"optimizer": self._optimizer}

    def _unnamed(self) -> list[nn.Parameter]:
        return [] if self._policy.log_std is None else [self._policy.log_std]

    def _perturbed(self) -> list[nn.Parameter]:
        return self._policy.parameters()

    def _get_extras(self) -> dict[str, Any]:
        return self._policy.extras()

    def _check_extras(self, extras: Mapping[str, Any]) -> None:
        self._policy.check_extras(extras)

    def _set_extras(self, extras: Mapping[str, Any]) -> None:
        self._policy.load_extras(extras)

    @exclusive
    def teardown(self) -> None:
        super().teardown()
        if self._policy.log_std is not None:
            self._policy.log_std.data = self._policy.log_std.data.cpu()

    def _get_state(self, replay: bool | ReplaySegments) -> dict[str, Any]:
        rewards = self.reward_normalizer
        return {
            "policy": self._policy.state_dict(),
            "optimizer": shared.optimizer_state(self._optimizer),
            "reward_normalizer": None if rewards is None else rewards.state_dict(),
        }

    def _check_state(self, state: Mapping[str, Any]) -> None:
        self._policy.check_state(state["policy"])
        shared.check_optimizer_state(self._optimizer, state["optimizer"], "optimizer")
        if self.reward_normalizer is not None and state["reward_normalizer"] is None:
            raise ValueError("the state has no reward_normalizer, this agent has one")

    def _set_state(self, state: Mapping[str, Any]) -> None:
        self._policy.load_state_dict(state["policy"])
        shared.load_optimizer_state(self._optimizer, state["optimizer"])
        if self.reward_normalizer is not None:
            self.reward_normalizer.load_state_dict(state["reward_normalizer"])
