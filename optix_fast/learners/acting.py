"""How an agent acts: by the core where it serves, else in torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from optix_fast.learners.native.acting import Acted, NativeActor
from optix_fast.learners.observations import fit_observations, has_batch_axis
from optix_fast.learners.policy import Policy
from optix_fast.learners.ppo.act_queue import ActQueue
from optix_fast.learners.tensors import to_numpy
from optix_fast.learners.uniform_start import UniformStart
from optix_fast.networks.heads import CategoricalHead, Draw
from optix_fast.networks.modes import evaluating
from optix_fast.pipelines.masks import mask_of
from optix_fast.random import RandomStream
from optix_fast.types import Array, Tree, is_recording, tree_map

_NOT_ARRAYS = "observations and masks are not float and bool arrays [N, D] and [N, K]"


class Acting:
    """Acts for one agent, whose lock its callers hold.

    Acting in training and acting in evaluation draw from two streams, so that evaluating changes nothing in
    training. A copy makes its own plan for the core.

    Args:
        policy: what it acts by.
        streams: random numbers by name; "rollout" is read in training, "evaluation" otherwise; "update" is
            what updates draw from.
        requested: "auto"; "native": what the core does not serve is an error (RuntimeError); "torch": the
            core is not asked.
        uniform: acts in its place in training, until its steps are over.
        add_noise: (actions [N, …], stream) → actions with exploration, where the policy is deterministic.
        is_on_policy: whether windows take log-probs, values and raw actions along.
        queue: remembers single actions in training.
    """

    def __init__(
        self,
        policy: Policy,
        streams: Mapping[str, RandomStream],
        requested: str,
        uniform: UniformStart | None = None,
        add_noise: Callable[[Array, RandomStream], Array] | None = None,
        is_on_policy: bool = False,
        queue: ActQueue | None = None,
    ) -> None:
        self.policy, self.requested = policy, requested
        self.observation_space: Any = None
        self.native = NativeActor(policy)
        self._streams, self._uniform, self._add_noise = streams, uniform, add_noise
        self._is_on_policy, self._queue = is_on_policy, queue

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "native"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.native = NativeActor(self.policy)

    def require(self, reason: str) -> None:
        """Raise where the agent was told to be native and there is a reason why not."""
        if self.requested == "native" and reason:
            raise RuntimeError(f"backend='native', but {reason}")

    @property
    def update_stream(self) -> RandomStream:
        """What updates draw from."""
        return self._streams["update"]

    # --- actions ----------------------------------------------------------------------------------

    def act(self, observation: Any, deterministic: bool) -> Any:
        """The action for one observation; see Agent.act."""
        if type(observation) is not np.ndarray:
            observation = tree_map(to_numpy, observation)
        in_training, uniform = is_recording(), self._uniform
        stream = self._streams["rollout" if in_training else "evaluation"]
        if uniform is not None and in_training and not deterministic and uniform.steps > 0:
            return _scalar(uniform.act(1, stream, mask_of(_batch_of_one(observation), {}))[0])
        remembers = in_training and self._queue is not None
        by_policy = deterministic or self._add_noise is not None
        acted = None
        if self.requested != "torch":
            acted = self.native.act(observation, by_policy, remembers, stream)
        if acted is None:
            acted = self._act_in_torch(observation, by_policy, remembers)
        if remembers and self._queue is not None:
            self._queue.push(observation, acted.action, acted.log_prob, acted.value, acted.raw)
        if deterministic or self._add_noise is None:
            return acted.action
        return self._add_noise(acted.action[None], stream)[0]

    def act_batch(self, observations: Tree, deterministic: bool, masks: Array | None) -> Array:
        """Actions [N, …] for N observations; see Agent.act_batch."""
        by_policy, stream = deterministic or self._add_noise is not None, self._stream()
        actions = None
        if self.requested != "torch":
            actions = self.native.act_batch(observations, by_policy, masks, stream)
        if actions is None:
            actions = self._draw(self._prepare_to_act(observations), observations, by_policy, masks).actions
        return actions if deterministic or self._add_noise is None else self._add_noise(actions, stream)

    def act_rows(self, observations: Tree, rows: Any, t: int, deterministic: bool = False) -> Array:
        """Actions of all environments of row t of a window; see Agent.act_rows."""
        actions: Array = rows.actions[t]
        masks = None if rows.action_masks is None else rows.action_masks[t]
        in_training, uniform = is_recording(), self._uniform
        stream = self._streams["rollout" if in_training else "evaluation"]
        if uniform is not None and in_training and uniform.steps > 0:
            actions[...] = uniform.act(rows.n_envs, stream, masks)
            return actions
        by_policy = deterministic or self._add_noise is not None
        if self.requested == "torch" or not self.native.act_rows(observations, rows, t, stream, by_policy):
            self._act_rows_in_torch(observations, rows, t, by_policy, masks)
        if self._add_noise is not None:
            actions[...] = self._add_noise(actions, stream)
        return actions

    def probabilities(self, observation: Tree) -> Array:
        """Probabilities of the actions, [K]; see Agent.action_probs."""
        head = self.policy.head
        if not isinstance(head, CategoricalHead):
            got = "" if head.space is None else f", got {head.space}"
            raise ValueError(f"action_probs needs a Discrete action space{got}")
        prepared = self.prepare(_batch_of_one(tree_map(to_numpy, observation)))
        with torch.no_grad(), evaluating(self.policy.actor):
            probs: Array = head.probabilities(self.policy.params(prepared))[0]
        return probs

    # --- observations -----------------------------------------------------------------------------

    def has_batch_axis(self, observation: Tree) -> bool:
        """Whether these are N observations and not one."""
        return has_batch_axis(observation, self.observation_space, self.policy.actor)

    def prepare(self, observations: Tree) -> Tree:
        """Observations [B, …], checked, as the networks read them."""
        return self.policy.prepare(fit_observations(observations, self.observation_space, self.policy.actor))

    # --- in torch ---------------------------------------------------------------------------------

    def _act_in_torch(self, observation: Tree, deterministic: bool, with_value: bool) -> Acted:
        batch = _batch_of_one(observation)
        prepared = self._prepare_to_act(batch)
        draw = self._draw(prepared, batch, deterministic, None)
        value = float(self.policy.values(prepared)[0]) if with_value else 0.0
        return Acted(_scalar(draw.actions[0]), float(draw.log_probs[0]), value, draw.raw[0].copy())

    def _act_rows_in_torch(
        self, observations: Tree, rows: Any, t: int, deterministic: bool, masks: Array | None
    ) -> None:
        prepared = self._prepare_to_act(observations)
        draw = self._draw(prepared, observations, deterministic, masks)
        rows.actions[t][...] = draw.actions
        if not self._is_on_policy:
            return
        rows.column("log_probs")[t] = draw.log_probs
        if self.policy.critic is not None:
            rows.column("values")[t] = self.policy.values(prepared)
        raw_column = self.policy.head.raw_column
        if raw_column is not None:
            rows.column(raw_column, draw.raw.shape[1:])[t] = draw.raw

    def _prepare_to_act(self, observations: Tree) -> Tree:
        """As `prepare`; RuntimeError where the agent must be native."""
        prepared = self.prepare(observations)
        self.require(self.native.reason or _NOT_ARRAYS)
        return prepared

    def _draw(self, prepared: Tree, observations: Tree, deterministic: bool, masks: Array | None) -> Draw:
        if masks is None:
            masks = mask_of(observations, {})
        return self.policy.draw(prepared, self._stream(), deterministic, masks)

    def _stream(self) -> RandomStream:
        return self._streams["rollout" if is_recording() else "evaluation"]


def _batch_of_one(observation: Tree) -> Tree:
    return tree_map(lambda leaf: leaf[None], observation)


def _scalar(action: Any) -> Any:
    """An action of a Discrete space as an int."""
    return int(action) if action.ndim == 0 and action.dtype.kind in "iu" else action
