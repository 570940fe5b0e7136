"""PPO in the core: all updates of a window in one call, and which backend an agent runs on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from optix_fast import _native
from optix_fast.agents.native_learner import NativeLearner
from optix_fast.agents.native_nets import (
    Networks,
    UnsupportedError,
    adam_parameters,
    learner_threads,
    networks_of,
    note_step,
    trained_parameters,
)
from optix_fast.agents.ppo_config import PPOConfig
from optix_fast.ops import Categorical, MultiDiscrete, Normal
from optix_fast.random import RandomStream
from optix_fast.types import NonFiniteError

if TYPE_CHECKING:
    from optix_fast.agents.actor_critic import ActorCriticPolicy
    from optix_fast.agents.ppo_batch import Batch

_core = _native.core

STATISTICS = ("policy_loss", "value_loss", "entropy", "approx_kl", "clip_fraction")


class NativePPO(NativeLearner):
    """The core's share in a PPO agent; see NativeLearner.

    Args:
        policy, optimizer: of the agent.
        requested: as the agent's `backend` argument.

    Raises:
        RuntimeError: requested is "native" and the core does not serve this agent.
    """

    def __init__(self, policy: ActorCriticPolicy, optimizer: torch.optim.Optimizer, requested: str) -> None:
        super().__init__(policy, requested)
        self._policy, self._optimizer = policy, optimizer
        self.require(self.unsupported_reason())

    def _unsupported_update(self) -> str:
        try:
            self._adam()
        except UnsupportedError as error:
            return str(error)
        return ""

    def _adam(self) -> tuple[Networks, nn.Parameter | None]:
        networks, log_std = networks_of(self._policy.actor, self._policy.critic), self._policy.log_std
        adam_parameters(self._optimizer, trained_parameters(networks, log_std), create=False)
        return networks, log_std

    def update(self, batch: Batch, config: PPOConfig, stream: RandomStream) -> Updated | None:
        """All epochs and minibatches; the stream moves as far as the epochs that were begun.

        Raises:
            NonFiniteError, ValueError: see ppo_update.
            RuntimeError: backend="native", and the core does not serve the agent.
        """
        try:
            if self.requested == "torch":
                return None
            networks, log_std = self._check(batch)
        except UnsupportedError as error:
            self.require(str(error))
            return None
        rows = Rows(*(None if part is None else part.contiguous() for part in batch))  # type: ignore[arg-type]
        n_rows = len(rows.returns)
        order = np.empty((config.n_epochs, n_rows), np.int64)
        states = []
        for epoch in range(config.n_epochs):
            order[epoch] = stream.permutation(n_rows)
            states.append(stream.state_dict())
        updated = ppo_update(
            networks, self._optimizer, rows, torch.from_numpy(order), config,
            dist=self._policy.head.dist, log_std=log_std,
        )  # fmt: skip
        begun = -(-updated.n_updates // -(-n_rows // config.minibatch_size))
        stream.load_state_dict(states[begun - 1])
        return updated

    def _check(self, batch: Batch) -> tuple[Networks, nn.Parameter | None]:
        reason = self.unsupported_reason()
        if reason:
            raise UnsupportedError(reason)
        observations = batch.observations
        if type(observations) is not Tensor or observations.dtype != torch.float32 or observations.ndim != 2:
            raise UnsupportedError("the observations are not one float array [R, D]")
        return self._adam()


class Rows(NamedTuple):
    """What is learned from, R rows: contiguous tensors on the CPU, floats of the networks' dtype.

    observations [R, D], normalised; actions [R] or [R, C] int64, or the samples before squashing [R, A];
    log_probs, values, advantages, returns [R]; action_masks [R, K] bool, or None.
    """

    observations: Tensor
    actions: Tensor
    log_probs: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor
    action_masks: Tensor | None = None


class Updated(NamedTuple):
    """means: of the minibatches' statistics; n_updates: minibatches used, fewer after a KL stop."""

    means: dict[str, float]
    n_updates: int


def ppo_update(
    networks: Networks,
    optimizer: torch.optim.Optimizer,
    rows: Rows,
    permutations: Tensor,
    config: PPOConfig,
    *,
    dist: Categorical | MultiDiscrete | Normal,
    log_std: nn.Parameter | None = None,
) -> Updated:
    """Every epoch and minibatch, in place on the networks' parameters and the optimizer's state.

    Args:
        networks: from networks_of, a moment ago.
        optimizer: Adam or AdamW over all their parameters (and log_std).
        rows: of the window.
        permutations: int64 [E, R], the order of the rows in each epoch.
        config: its n_epochs is not read: E is.
        dist: what the actor's outputs are.
        log_std: a Gaussian's free log_std [A]; None where the actor returns mean ‖ log_std.

    Raises:
        UnsupportedError: the core does not serve this optimizer, or not in this state; with the reason.
        NonFiniteError: a loss or gradient norm is NaN or infinite; parameters and optimizer are as before.
        ValueError: rows that do not fit the networks, or actions that were impossible.
    """
    adam = adam_parameters(optimizer, trained_parameters(networks, log_std), create=True)
    result = _core.ppo_update(
        networks.described(), adam, _core.PPORows(*rows), permutations, _options(config, dist), log_std
    )
    # Written behind autograd's back, also when all was put back.
    torch.autograd.graph.increment_version([tensor for entry in adam for tensor in entry[:4]])
    if result.failed is not None:
        raise NonFiniteError(result.failed)
    note_step(optimizer)
    return Updated(_means(result.sums, result.updates), result.updates)


def _means(sums: Sequence[float], n: int) -> dict[str, float]:
    return {name: total / n for name, total in zip(STATISTICS, sums, strict=True)}


def _options(config: PPOConfig, dist: Categorical | MultiDiscrete | Normal) -> _core.PPOOptions:
    return _core.PPOOptions(
        kind=dist.kind,
        nvec=dist.nvec,
        minibatch_size=config.minibatch_size,
        clip_ratio=config.clip_ratio,
        value_clip=config.value_clip,
        value_clip_mode=config.value_clip_mode,
        vf_coef=config.vf_coef,
        entropy_coef=config.entropy_coef,
        normalize_advantages=config.normalize_advantages == "minibatch",
        max_grad_norm=config.max_grad_norm,
        target_kl=config.target_kl,
        threads=learner_threads(),
    )
