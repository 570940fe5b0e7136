"""Acting by one call of the core: from observations to actions, log-probabilities and values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn.modules import module as nn_module

from optix_fast import _native
from optix_fast.envs.normalizers import ObsNormalizer, RunningMeanStd
from optix_fast.learners.native.networks import UnsupportedError, check_parameter, guards_of, networks_of
from optix_fast.learners.policy import Policy
from optix_fast.networks.flat_layout import FlatLayout
from optix_fast.networks.heads import (
    CategoricalHead,
    DeterministicHead,
    GreedyHead,
    MultiDiscreteHead,
    NormalHead,
    SquashedHead,
)
from optix_fast.pipelines.masks import mask_of
from optix_fast.random import RandomStream
from optix_fast.types import Array, NonFiniteError, tree_map

_core = _native.core
# Exactly these classes: a subclass may act in any way.
_SERVED = (
    CategoricalHead, MultiDiscreteHead, NormalHead, SquashedHead, DeterministicHead, GreedyHead,
)  # fmt: skip


class Acted(NamedTuple):
    """One action in environment units, and what the policy thought of it."""

    action: Any
    log_prob: float
    value: float
    raw: Array


class NativeActor:
    """Acts for a policy as long as the core can.

    The plan that the core acts by holds shapes and the places where the parameters are found. The core
    verifies at every call that modules, hooks, parameters and head are still the ones it was made for; when
    they are not, the plan is made anew, or the reason why there is none is kept. One call at a time: the
    agents hold their lock.

    Args:
        policy: whose modules, head and normalizer are used.
    """

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._plan: Any = None
        self._layout: FlatLayout | None = None
        self._explores: GreedyHead | None = None
        self._rows: Any = None
        self._targets: Any = None
        self._single: dict[bool, tuple[Any, Array, Array, Array, Array | None]] = {}
        self.reason = ""

    # --- what can be served ---------------------------------------------------------------------

    def ready(self) -> bool:
        """Whether the core serves the policy as it is now; `reason` says why not."""
        self.reason = ""
        try:
            if torch.is_autocast_enabled("cpu"):
                raise UnsupportedError("autocast is enabled")
            if self._plan is None or not self._plan.current():
                self._make_plan()
        except UnsupportedError as error:
            self._forget()
            self.reason = str(error)
        return not self.reason

    def _forget(self) -> None:
        self._plan, self._rows, self._targets = None, None, None
        self._single.clear()

    def _make_plan(self) -> None:
        policy, head = self._policy, self._policy.head
        self._forget()
        if _native.backend() == "torch":
            raise UnsupportedError("the compiled core is not loaded")
        if type(head) not in _SERVED:
            raise UnsupportedError(f"the policy head is a {type(head).__name__}")
        networks = networks_of(policy.actor, policy.critic)
        if any(parameter.dtype != torch.float32 for parameter in networks.parameters()):
            raise UnsupportedError("the networks are not float32")
        spec = head.act_spec(networks.outputs)
        if networks.outputs != spec.outputs:
            raise UnsupportedError("the actor's outputs do not fit the action space")
        if spec.log_std is not None:
            check_parameter(spec.log_std, "log_std")
        plan = _core.ActPlan(
            tuple([layer.described_to_act() for layer in part.layers] for part in networks),
            networks.features, spec.kind, spec.log_std, spec.squash, spec.components, spec.bounds,
            [*map(guards_of, _nets(policy)), _own_guards(policy)],
        )  # fmt: skip
        normalizer = policy.obs_normalizer
        if normalizer is not None:
            statistics = normalizer.statistics
            if type(normalizer) is not ObsNormalizer or type(statistics) is not RunningMeanStd:
                raise UnsupportedError("the observation normalizer is not an ObsNormalizer")
            if statistics.mean.shape != (plan.features,):
                raise UnsupportedError("the normalizer's shape is not the networks' input")
            plan.normalize(statistics.mean, statistics.var, normalizer.clip)
        self._layout = networks.layout
        self._plan, self._explores = plan, head if isinstance(head, GreedyHead) else None

    # --- acting: None or False where the core does not serve the call, see `reason` ----------------

    def act_rows(
        self, observations: Any, rows: Any, t: int, stream: RandomStream, deterministic: bool = False
    ) -> bool:
        """Act for row t of a window and fill its columns.

        Raises:
            NonFiniteError: the policy returned NaN or infinite values.
        """
        if rows is not self._rows:
            self._begin(rows)
        masks = rows.action_masks
        mask = None if masks is None else masks[t]
        while self._targets is not None and (mask is None or self._takes_mask(mask, rows.n_envs)):
            served = self._run(self._targets, t, self._flat(observations), mask, deterministic, stream)
            if served is not None:
                return served
            self._begin(rows)  # something was changed in mid-window
        return False

    def act_batch(
        self, observations: Any, deterministic: bool, masks: Array | None, stream: RandomStream
    ) -> Array | None:
        """Actions [N, …] for observations [N, D]."""
        if masks is None:
            masks = mask_of(observations, {})
        mask = None if masks is None else np.ascontiguousarray(masks, np.bool_)
        look_again = self._plan is None or torch.is_autocast_enabled("cpu")
        while not look_again or self.ready():
            flat = self._flat(observations)
            if type(flat) is not np.ndarray or len(flat) == 0:
                return None
            n = len(flat)
            if mask is not None and not self._takes_mask(mask, n):
                return None
            targets, actions, *_ = self._new_targets(n, values=False)
            served = self._run(targets, 0, flat, mask, deterministic, stream)
            if served is not None:
                return self._policy.head.shaped(actions) if served else None
            look_again = True
        return None

    def act(self, observation: Any, deterministic: bool, value: bool, stream: RandomStream) -> Acted | None:
        """One action for one observation [D]. The value is 0 where it is not asked for.

        What is not served is not looked at again before the next window or update.
        """
        if torch.is_autocast_enabled("cpu"):
            return None
        is_array = type(observation) is np.ndarray
        batch = observation[None] if is_array else tree_map(lambda leaf: leaf[None], observation)
        while not self.reason and (self._plan is not None or self.ready()):
            flat = self._flat(batch)
            if type(flat) is not np.ndarray:
                return None
            mask = None if is_array else mask_of(batch, {})
            if mask is not None:
                mask = np.ascontiguousarray(mask, np.bool_)
                if not self._takes_mask(mask, 1):
                    return None
            if value not in self._single:
                self._single[value] = self._new_targets(1, value)
            targets, actions, log_probs, values, raw = self._single[value]
            served = self._run(targets, 0, flat, mask, deterministic, stream)
            if served is None:
                self.ready()
                continue
            if not served:
                return None
            if raw is None:
                sample = self._policy.head.raw_of(actions)[0]
                action = int(actions[0]) if actions.ndim == 1 else self._policy.head.shaped(actions)[0].copy()
                return Acted(action, float(log_probs[0]), float(values[0]), sample)
            action = self._policy.head.shaped(actions)[0].copy()
            return Acted(action, float(log_probs[0]), float(values[0]), raw[0].copy())
        return None

    def _begin(self, rows: Any) -> None:
        """The columns of a new window."""
        self._rows, self._targets = rows, None
        if not self.ready():
            return
        self._rows = rows
        raw, judged = None, self._policy.critic is not None
        column = self._policy.head.raw_column
        if column is not None:
            raw = rows.column(column, (self._plan.width,))
        self._targets = _core.ActTargets(
            rows.n_steps, rows.n_envs, self._policy.head.action_width, self._policy.head.is_continuous,
            rows.actions, rows.column("log_probs") if judged else None,
            rows.column("values") if judged else None, raw,
        )  # fmt: skip

    def _flat(self, observations: Any) -> Any:
        """Observations as the core reads them; what it does not read as it is, or None."""
        if self._layout is None:
            return observations
        try:
            return self._layout.flatten(observations)
        except (ValueError, KeyError, TypeError, IndexError):
            return None  # torch says what is wrong with them

    def _takes_mask(self, mask: Array, n: int) -> bool:
        """Whether the core reads this mask of allowed actions [N, K]."""
        return not self._policy.head.is_continuous and mask.shape == (n, self._plan.width)

    def _new_targets(self, n: int, values: bool) -> tuple[Any, Array, Array, Array, Array | None]:
        head = self._policy.head
        width = head.action_width
        log_probs, value_column = np.empty(n, np.float32), np.zeros(n, np.float32)
        raw: Array | None = None
        if head.is_continuous:
            actions, raw = np.empty((n, width), np.float32), np.empty((n, width), np.float32)
        else:
            actions = np.empty(n if isinstance(head, CategoricalHead) else (n, width), np.int64)
        targets = _core.ActTargets(
            1, n, width, raw is not None, actions, log_probs, value_column if values else None, raw
        )
        return targets, actions, log_probs, value_column, raw

    def _run(
        self,
        targets: Any,
        t: int,
        observations: Any,
        mask: Array | None,
        deterministic: bool,
        stream: RandomStream,
    ) -> bool | None:
        """True: done. False: these are not observations [N, D] that the core reads. None: the plan no longer
        describes the policy."""
        if self._explores is not None:
            self._plan.explore(self._explores.epsilon)
        key, offset = stream.position()
        blocks = _core.act(self._plan, targets, t, observations, mask, deterministic, key, offset)
        if blocks is None or blocks is False:
            return blocks
        if blocks < 0:
            if self._layout is not None:
                self._layout.check(observations)
            raise NonFiniteError("policy output while acting")
        stream.advance(blocks)
        return True


def _nets(policy: Policy) -> list[nn.Module]:
    return [policy.actor] if policy.critic is None else [policy.actor, policy.critic]


def _own_guards(policy: Policy) -> _core.Guards:
    sizes = [(getattr(nn_module, name), 0) for name in ("_global_forward_hooks", "_global_forward_pre_hooks")]
    return _core.Guards(sizes, list(_own_entries(policy)))


def _own_entries(policy: Policy) -> Iterator[tuple[dict[str, Any], str, Any]]:
    for key in ("actor", "critic", "head", "obs_normalizer"):
        yield policy.__dict__, key, policy.__dict__[key]
    state = policy.head.__dict__
    for key in policy.head.act_state:
        yield state, key, state[key]
    normalizer = policy.obs_normalizer
    if normalizer is not None:
        yield normalizer.__dict__, "clip", normalizer.clip
        yield normalizer.__dict__, "statistics", normalizer.statistics
        for key in ("mean", "var"):
            yield normalizer.statistics.__dict__, key, getattr(normalizer.statistics, key)
