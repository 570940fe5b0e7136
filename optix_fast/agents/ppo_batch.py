"""From a window to the rows that PPO learns from: old log-probs, values, GAE."""

from __future__ import annotations

from types import ModuleType
from typing import NamedTuple

import numpy as np
from torch import Tensor

from optix_fast.agents.act_queue import ActQueue
from optix_fast.agents.actor_critic import ActorCriticPolicy
from optix_fast.agents.ppo_config import PPOConfig
from optix_fast.envs.normalizers import RewardNormalizer
from optix_fast.types import Array, EpisodeData, NonFiniteError, Tree, tree_map


class Batch(NamedTuple):
    """The valid rows of a window, R of them, as tensors on the policy's device."""

    observations: Tree
    actions: Tensor
    log_probs: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor
    action_masks: Tensor | None

    def rows(self, index: Tensor) -> Batch:
        """The rows at `index`."""
        return Batch(
            tree_map(lambda leaf: leaf[index], self.observations),
            *(None if part is None else part[index] for part in self[1:]),  # type: ignore[arg-type]
        )


def make_batch(
    policy: ActorCriticPolicy,
    data: EpisodeData,
    config: PPOConfig,
    ops: ModuleType,
    queue: ActQueue,
    reward_normalizer: RewardNormalizer | None,
) -> Batch:
    """Advantages over the window's grid [T, N], then its valid rows.

    Raises:
        ValueError: the window is empty or its fields do not fit together.
        NonFiniteError: a reward is NaN or infinite.
        RuntimeError: "Cache underflow…", see ActQueue.take.
    """
    if data.length == 0:
        raise ValueError("episode_data must hold at least one row")
    rewards = np.asarray(data.grid("rewards"), np.float32)
    if not np.isfinite(rewards).all():
        raise NonFiniteError("reward")
    valid = np.ones(rewards.shape, np.bool_) if data.valid is None else data.valid
    log_probs, values, raw = _what_the_policy_thought(policy, data, queue)
    if reward_normalizer is not None:
        reward_normalizer.update_window(rewards, np.asarray(data.grid("dones"), np.bool_), valid)
        rewards = reward_normalizer.normalize(rewards)
    truncated = np.asarray(data.grid("truncated"), np.bool_)
    put = policy.put
    advantages, returns = ops.gae(
        put(rewards),
        put(values),
        put(_next_values(policy, data)),
        put(np.asarray(data.grid("terminated"), np.bool_)),
        put(truncated),
        put(_final_values(policy, data, truncated)),
        gamma=config.gamma,
        gae_lambda=config.gae_lambda,
    )
    rows = put(np.flatnonzero(valid))
    advantages, returns = advantages.reshape(-1)[rows], returns.reshape(-1)[rows]
    if config.normalize_advantages == "window" and len(advantages) > 1:
        advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    masks = data.action_masks
    return Batch(
        policy.prepare(data.observations),
        put(raw),
        put(log_probs[valid]),
        put(values[valid]),
        advantages,
        returns,
        None if masks is None else put(np.asarray(masks, np.bool_)),
    )


def _what_the_policy_thought(
    policy: ActorCriticPolicy, data: EpisodeData, queue: ActQueue
) -> tuple[Array, Array, Array]:
    """log_probs and values [T, N] as of acting, and the raw actions of the valid rows."""
    if data.log_probs is None:
        acted = queue.take(data.observations, data.length)
        shape = (data.n_steps, data.n_envs)
        if len(acted) != shape[0] * shape[1]:
            raise ValueError("a window without log_probs must not have invalid rows")
        log_probs = np.array([call.log_prob for call in acted], np.float32).reshape(shape)
        values = np.array([call.value for call in acted], np.float32).reshape(shape)
        return log_probs, values, np.stack([call.raw for call in acted])
    column = policy.head.raw_column
    stored = None if column is None else getattr(data, column)
    raw = policy.head.raw_of(np.asarray(data.actions)) if stored is None else stored
    return data.grid("log_probs"), data.grid("values"), raw


def _final_values(policy: ActorCriticPolicy, data: EpisodeData, truncated: Array) -> Array:
    """V of the true final observations of truncated rows, [T, N].

    Zero for a truncated row whose final observation the window does not carry (a hand-made window
    in the old format): what follows it is unknown, and the row is learned as an end.
    """
    if data.final_values is not None:
        return np.asarray(data.final_values, np.float32)
    values = np.zeros(truncated.shape, np.float32)
    if data.final_rows is not None and len(data.final_rows):
        cut = truncated.reshape(-1)[data.final_rows]
        if cut.any():
            finals = tree_map(lambda leaf: leaf[cut], data.final_observations)
            values.reshape(-1)[data.final_rows[cut]] = policy.values(policy.prepare(finals))
    return values


def _next_values(policy: ActorCriticPolicy, data: EpisodeData) -> Array:
    """V of what each environment shows after the last row, [N]; zero where nothing is known."""
    following = data.next_observations
    if following is None and data.final_obs is not None:
        following = tree_map(lambda leaf: np.asarray(leaf)[None], data.final_obs)
    if following is None:
        return np.zeros(data.n_envs, np.float32)
    return policy.values(policy.prepare(following))
