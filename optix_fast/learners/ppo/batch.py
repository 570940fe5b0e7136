"""From a window to the rows that PPO learns from: old log-probs, values, GAE."""

from __future__ import annotations

from types import ModuleType
from typing import NamedTuple

import numpy as np
from torch import Tensor

from optix_fast.envs.normalizers import RewardNormalizer
from optix_fast.learners.policy import Policy
from optix_fast.learners.ppo.act_queue import ActQueue
from optix_fast.learners.ppo.config import PPOConfig
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
    policy: Policy,
    data: EpisodeData,
    config: PPOConfig,
    ops: ModuleType,
    queue: ActQueue,
    reward_normalizer: RewardNormalizer | None,
) -> Batch:
    """Advantages over the window's grid [T, N], then its valid rows.

    Where an episode was cut off, by a time limit or by the end of the window, it goes on with V of what
    followed: `final_values`, `final_observations` or `final_obs`, `next_observations`. A hand-made window
    may not tell what followed. The row's own value is taken for its return then: it teaches nothing itself,
    and the rows before it are bootstrapped from it.

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
    terminated = np.asarray(data.grid("terminated"), np.bool_)
    truncated = np.asarray(data.grid("truncated"), np.bool_)
    # The V' with which a row's return is its own value.
    unmoved = (values - rewards) / np.float32(config.gamma) if config.gamma > 0 else np.zeros_like(values)
    next_values = _after_window(policy, data, terminated[-1] | truncated[-1]).or_else(unmoved[-1])
    finals = _at_cuts(policy, data, truncated).or_else(unmoved)
    put = policy.put
    advantages, returns = ops.gae(
        put(rewards),
        put(values),
        put(next_values),
        put(terminated),
        put(truncated),
        put(finals),
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
    policy: Policy, data: EpisodeData, queue: ActQueue
) -> tuple[Array, Array, Array]:
    """log_probs and values [T, N] as of acting, and the raw actions of the valid rows."""
    if data.log_probs is None:
        acted = queue.take(data.observations, data.actions, data.length)
        shape = (data.n_steps, data.n_envs)
        if len(acted) != shape[0] * shape[1]:
            raise ValueError("a window without log_probs must not have invalid rows")
        log_probs = np.array([call.log_prob for call in acted], np.float32).reshape(shape)
        values = np.array([call.value for call in acted], np.float32).reshape(shape)
        return log_probs, values, np.stack([call.raw for call in acted])
    column = policy.head.raw_column
    stored = None if column is None else getattr(data, column)
    raw = policy.head.raw_of(np.asarray(data.actions)) if stored is None else stored
    log_probs, values = (np.asarray(data.grid(name), np.float32) for name in ("log_probs", "values"))
    return log_probs, values, raw


class _Successors(NamedTuple):
    """V of what follows, and whether the window tells what follows."""

    values: Array
    known: Array

    def or_else(self, substitute: Array) -> Array:
        """`substitute` where it is unknown."""
        return np.where(self.known, self.values, substitute)


def _at_cuts(policy: Policy, data: EpisodeData, truncated: Array) -> _Successors:
    """The true final observations of truncated rows, [T, N].

    Of a hand-made window with one environment, `final_obs` is what a truncated last row led to.
    """
    if data.final_values is not None:
        values = np.asarray(data.final_values, np.float32).reshape(truncated.shape)
        return _Successors(values, np.ones_like(truncated))
    values, known = np.zeros(truncated.shape, np.float32), ~truncated
    if data.final_rows is not None:
        cut = truncated.reshape(-1)[data.final_rows]
        if cut.any():
            finals = tree_map(lambda leaf: leaf[cut], data.final_observations)
            values.reshape(-1)[data.final_rows[cut]] = policy.values(policy.prepare(finals))
            known.reshape(-1)[data.final_rows] = True
    elif data.final_obs is not None and data.n_envs == 1 and truncated[-1, 0]:
        values[-1], known[-1] = _value_of_one(policy, data.final_obs), True
    return _Successors(values, known)


def _after_window(policy: Policy, data: EpisodeData, done: Array) -> _Successors:
    """What each environment shows after the last row, [N].

    Args:
        done: environments whose last row ended an episode, [N]. What they show is not looked at.
    """
    values, known = np.zeros(data.n_envs, np.float32), done
    if data.next_observations is not None and not done.all():
        shown = tree_map(lambda leaf: np.asarray(leaf)[~done], data.next_observations)
        values[~done] = policy.values(policy.prepare(shown))
        known = np.ones_like(done)
    elif data.final_obs is not None and data.n_envs == 1 and not done.all():
        values[:], known = _value_of_one(policy, data.final_obs), np.ones_like(done)
    return _Successors(values, known)


def _value_of_one(policy: Policy, observation: Tree) -> Array:
    batch = tree_map(lambda leaf: np.asarray(leaf)[None], observation)
    return policy.values(policy.prepare(batch))
