"""Policy heads: what a network's outputs mean, how actions are drawn from them, and how an action
of the policy becomes an action of the environment."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from optix_fast.ops import Categorical, MultiDiscrete, Normal
from optix_fast.random import RandomStream
from optix_fast.reference.distributions import PolicyKind
from optix_fast.types import Array, NonFiniteError

LOG_STD_MIN, LOG_STD_MAX = -5.0, 2.0
_HALF_LOG_TWO_PI = 0.5 * math.log(2.0 * math.pi)


class Draw(NamedTuple):
    """A batch of drawn actions.

    actions: what the environment receives, [N] or [N, A].
    log_probs: [N] float32, as ppo_loss counts them: of `raw` under the head's distribution.
    raw: what the loss is told was done: [N] int64 indices, or [N, A] samples before squashing.
    """

    actions: Array
    log_probs: Array
    raw: Array


class ActSpec(NamedTuple):
    """A head as the core acts by it (csrc/act/act.h).

    kind: a name of csrc/policy_kind.h.
    outputs: of the network, as many as the head reads.
    components: of discrete actions, how many actions each component has and the number of its first one.
    bounds: of continuous actions, scale, offset, low and high, [A] each.
    squash, log_std: of a Gaussian; log_std where it is a parameter of its own.
    """

    kind: PolicyKind
    outputs: int
    components: list[tuple[int, int]]
    bounds: tuple[Array, ...] | None = None
    squash: bool = False
    log_std: Tensor | None = None


class CategoricalHead:
    """Logits over a Discrete space's actions.

    Args:
        n_actions: K, where it is known before the space is.
    """

    dist = Categorical()
    raw_column: str | None = None
    is_continuous: ClassVar[bool] = False
    # Numbers in one action.
    action_width = 1
    who, outputs_are = "a categorical policy", "actor must return logits"
    act_kind: ClassVar[PolicyKind] = "categorical"
    # The attributes that acting depends on.
    act_state: ClassVar[tuple[str, ...]] = ("_start", "space")

    def __init__(self, n_actions: int | None = None) -> None:
        self.space: spaces.Discrete | None = None
        self.n_actions = n_actions
        self._start = 0

    def bind(self, space: spaces.Space[Any]) -> None:
        """Act in `space`.

        Raises:
            ValueError: the space is not Discrete, or the head is bound to another one.
        """
        if not isinstance(space, spaces.Discrete):
            raise ValueError(f"{self.who} needs a Discrete action space, got {space}")
        if self.n_actions not in (None, space.n):
            raise ValueError(f"n_actions is {self.n_actions}, but the action space is {space}")
        if self.space is not None and self.space != space:
            raise ValueError(f"the policy is bound to {self.space}; it cannot act in {space}")
        self.space, self._start = space, int(space.start)

    def params(self, outputs: Tensor) -> Tensor:
        """Network outputs [B, K] → logits (a Q-network's: values), checked against the space."""
        k = self._known_width
        if outputs.ndim != 2 or (k is not None and outputs.shape[1] != k):
            raise ValueError(f"{self.outputs_are} [B, {k or 'K'}], got {list(outputs.shape)}")
        return outputs

    @property
    def _known_width(self) -> int | None:
        return self.n_actions if self.space is None else int(self.space.n)

    def act_spec(self, outputs: int) -> ActSpec:
        """See ActSpec; `outputs` of the network, where the head does not know how many to read."""
        n = self._known_width or outputs
        return ActSpec(self.act_kind, n, [(n, self._start)])

    def draw(
        self,
        params: Tensor,
        stream: RandomStream,
        deterministic: bool = False,
        action_masks: Array | None = None,
    ) -> Draw:
        """Actions for a batch of logits, by inversion of the cumulative distribution: the first
        action whose cumulative probability exceeds a uniform number. Deterministic: the most
        probable action."""
        uniform = None if deterministic else stream.uniform((params.shape[0], 1))
        raw, log_probs = _draw_component(params, uniform, action_masks)
        return Draw(raw + self._start, _finite(log_probs), raw)

    def probabilities(self, params: Tensor) -> Array:
        """Probabilities of the actions, [B, K]."""
        probs: Array = torch.softmax(params, dim=-1).cpu().numpy()
        return probs

    def uniform(self, n: int, stream: RandomStream, action_masks: Array | None = None) -> Array:
        """n actions in environment units, each allowed one equally likely."""
        return CategoricalHead.draw(
            self, torch.zeros(n, self._known_width or 0), stream, False, action_masks
        ).actions

    def allows(self, actions: Array, action_masks: Array) -> Array:
        """Whether the masks [N, K] allow the actions [N]."""
        taken = self.raw_of(actions)
        allowed: Array = np.asarray(action_masks, np.bool_)[np.arange(len(taken)), taken]
        return allowed

    def raw_of(self, actions: Array) -> Array:
        """Indices of environment actions."""
        return np.asarray(actions, np.int64) - self._start

    def shaped(self, actions: Array) -> Array:
        """Actions as the core writes them, in the shape of the space."""
        return actions


def component_sizes(space: spaces.MultiDiscrete | spaces.MultiBinary) -> list[int]:
    """C numbers of actions, the components in row-major order; a bit has two."""
    if isinstance(space, spaces.MultiBinary):
        return [2] * math.prod(space.shape)
    return [int(n) for n in space.nvec.reshape(-1)]


class MultiDiscreteHead:
    """Logits over the actions of each component of a MultiDiscrete or MultiBinary space of any shape, one
    component after the other.

    Args:
        nvec: C numbers of actions; see component_sizes.
    """

    raw_column: str | None = None
    is_continuous: ClassVar[bool] = False
    act_state: ClassVar[tuple[str, ...]] = ("_start", "space")

    def __init__(self, nvec: Sequence[int]) -> None:
        self.dist = MultiDiscrete(nvec)
        self.space: spaces.MultiDiscrete | spaces.MultiBinary | None = None
        self._start: Array = np.zeros(len(self.dist.nvec), np.int64)

    def bind(self, space: spaces.Space[Any]) -> None:
        """Act in `space`.

        Raises:
            ValueError: not a MultiDiscrete or MultiBinary of these numbers, or bound to another one.
        """
        if (
            not isinstance(space, spaces.MultiDiscrete | spaces.MultiBinary)
            or tuple(component_sizes(space)) != self.dist.nvec
        ):
            raise ValueError(f"the policy needs a MultiDiscrete({list(self.dist.nvec)}) space, got {space}")
        if self.space is not None and self.space != space:
            raise ValueError(f"the policy is bound to {self.space}; it cannot act in {space}")
        self.space = space
        if isinstance(space, spaces.MultiDiscrete):
            self._start = np.asarray(space.start, np.int64).reshape(-1)

    @property
    def action_width(self) -> int:
        """Numbers in one action."""
        return len(self.dist.nvec)

    def act_spec(self, outputs: int) -> ActSpec:
        """See ActSpec."""
        components = list(zip(self.dist.nvec, self._start.tolist(), strict=True))
        return ActSpec("multi_discrete", sum(self.dist.nvec), components)

    def params(self, outputs: Tensor) -> Tensor:
        """Network outputs [B, ΣK] → logits, checked against the components."""
        width = sum(self.dist.nvec)
        if outputs.ndim != 2 or outputs.shape[1] != width:
            raise ValueError(f"actor must return logits [B, {width}], got {list(outputs.shape)}")
        return outputs

    def draw(
        self,
        params: Tensor,
        stream: RandomStream,
        deterministic: bool = False,
        action_masks: Array | None = None,
    ) -> Draw:
        """Actions [N, *space.shape] for logits [N, ΣK], each component as a CategoricalHead draws; the
        log-probs are summed over the components. Masks are [N, ΣK] like the logits."""
        n_components = len(self.dist.nvec)
        uniform = None if deterministic else stream.uniform((params.shape[0], n_components))
        raw = np.empty((params.shape[0], n_components), np.int64)
        log_probs = np.zeros(params.shape[0], np.float32)
        ends = np.cumsum(self.dist.nvec)
        for c, (end, n) in enumerate(zip(ends, self.dist.nvec, strict=True)):
            part = slice(end - n, end)
            masks = None if action_masks is None else np.asarray(action_masks)[:, part]
            numbers = None if uniform is None else uniform[:, c : c + 1]
            raw[:, c], chosen = _draw_component(params[:, part], numbers, masks)
            log_probs += chosen
        return Draw(self.shaped(raw + self._start), _finite(log_probs), raw)

    def shaped(self, actions: Array) -> Array:
        """Actions [N, C] → [N, *space.shape] with the space's dtype."""
        if self.space is None:
            return actions
        return actions.reshape(len(actions), *self.space.shape).astype(self.space.dtype, copy=False)

    def raw_of(self, actions: Array) -> Array:
        """Indices [N, C] of environment actions [N, *space.shape]."""
        return np.asarray(actions, np.int64).reshape(len(actions), -1) - self._start


def _draw_component(params: Tensor, uniform: Array | None, masks: Array | None) -> tuple[Array, Array]:
    """Indices [N] and their log-probs for logits [N, K]; without uniform numbers [N, 1] the most probable."""
    # On the CPU on every device: a parallel cumulative sum may fall by a rounding error.
    params = params.detach().float().cpu()
    if masks is not None:
        allowed = torch.from_numpy(np.array(masks, np.bool_))
        if not allowed.any(dim=-1).all():
            raise ValueError("action_masks: a row allows no action")
        params = params.masked_fill(~allowed, -math.inf)
    log_p = torch.log_softmax(params, dim=-1)
    if uniform is None:
        index = log_p.argmax(dim=-1)
    else:
        cumulative = log_p.exp().cumsum(dim=-1)
        # Scaling by the last sum keeps rounding from running past the last action; counting the entries
        # that do not exceed the number skips actions of probability zero.
        index = (cumulative <= torch.from_numpy(uniform) * cumulative[:, -1:]).sum(dim=-1)
    return index.numpy(), log_p.gather(-1, index[:, None]).squeeze(-1).numpy()


class GreedyHead(CategoricalHead):
    """Action values over a Discrete space's actions, acted on greedily, save with probability epsilon.

    Args:
        epsilon: probability of an action that is drawn uniformly from the allowed ones.
        n_actions: K, where it is known before the space is.
    """

    who, outputs_are = "a Q-network", "q_network must return one value for each action,"
    act_kind = "greedy"

    def __init__(self, epsilon: float = 0.0, n_actions: int | None = None) -> None:
        super().__init__(n_actions)
        self.epsilon = epsilon

    def draw(
        self,
        params: Tensor,
        stream: RandomStream,
        deterministic: bool = False,
        action_masks: Array | None = None,
    ) -> Draw:
        """The action of the greatest value, the first of equals; where a uniform number is below epsilon,
        one that a second number chooses. log_probs are zero: nothing learns from them."""
        values = _finite(params.detach().float().cpu().numpy())
        allowed = (
            np.ones(values.shape, np.bool_) if action_masks is None else np.asarray(action_masks, np.bool_)
        )
        n_allowed = allowed.sum(axis=-1)
        if not n_allowed.all():
            raise ValueError("action_masks: a row allows no action")
        raw = np.where(allowed, values, -np.inf).argmax(axis=-1)
        if not deterministic:
            explores, which = stream.uniform((2, len(values)))
            explored = explores < np.float32(self.epsilon)
            number = np.minimum((which * n_allowed.astype(np.float32)).astype(np.int64), n_allowed - 1)
            chosen = (allowed.cumsum(axis=-1) > number[:, None]).argmax(axis=-1)
            raw = np.where(explored, chosen, raw)
        return Draw(raw + self._start, np.zeros(len(raw), np.float32), raw)

    def probabilities(self, params: Tensor) -> Array:
        """Probabilities of the actions under ε-greedy, [B, K]."""
        values = _finite(params.cpu().numpy())
        probs = np.full(values.shape, self.epsilon / values.shape[1], np.float32)
        probs[np.arange(len(values)), values.argmax(axis=1)] += 1.0 - self.epsilon
        return probs


class NormalHead:
    """A diagonal Gaussian, squashed by tanh or not, scaled to the environment's Box.

    Unbound, a squashed head acts in (−1, 1). Bound to a Box, bounded dimensions are scaled from
    (−1, 1) to [low, high] and unbounded ones are left as they are; an unsquashed head's sample is
    clipped to the Box.

    Args:
        action_dim: A.
        squash: whether actions are tanh of the sample.
        log_std: None when the network's outputs are [mean ‖ log_std], [B, 2A]; otherwise a free
            parameter [A], and the outputs are the mean, [B, A].
    """

    dist = Normal()
    raw_column: str | None = "pre_tanh"
    is_continuous: ClassVar[bool] = True
    act_state: ClassVar[tuple[str, ...]] = (
        "_scale", "_offset", "_low", "_high", "squash", "log_std", "space",
    )  # fmt: skip

    def __init__(self, action_dim: int, squash: bool = True, log_std: Tensor | None = None) -> None:
        self.action_dim, self.squash, self.log_std = action_dim, squash, log_std
        self.space: spaces.Box | None = None
        # Unbound: neither scaled nor clipped.
        self._shape: tuple[int, ...] = (action_dim,)
        self._scale: Array = np.ones(action_dim, np.float32)
        self._offset: Array = np.zeros(action_dim, np.float32)
        self._low: Array = np.full(action_dim, -np.inf, np.float32)
        self._high: Array = np.full(action_dim, np.inf, np.float32)

    def bind(self, space: spaces.Space[Any]) -> None:
        """Act in `space`.

        Raises:
            ValueError: not a Box with action_dim floats, or bound to another one.
        """
        if (
            not isinstance(space, spaces.Box)
            or math.prod(space.shape) != self.action_dim
            or not np.issubdtype(space.dtype, np.floating)
        ):
            raise ValueError(
                f"a Gaussian policy with action_dim={self.action_dim} needs a Box action space of that many "
                f"floats, got {space}"
            )
        if self.space is not None and self.space != space:
            raise ValueError(f"the policy is bound to {self.space}; it cannot act in {space}")
        self.space, self._shape = space, space.shape
        low, high = space.low.reshape(-1), space.high.reshape(-1)
        with np.errstate(over="ignore"):  # a float64 bound that float32 cannot hold is none
            low32, high32 = low.astype(np.float32), high.astype(np.float32)
        bounded = np.isfinite(low32) & np.isfinite(high32)
        from_, to = np.where(bounded, low, -1.0), np.where(bounded, high, 1.0)
        self._scale = (to / 2 - from_ / 2).astype(np.float32)
        self._offset = (to / 2 + from_ / 2).astype(np.float32)
        # A float64 bound may round to a float32 that lies outside of it.
        self._low = np.where(low32 < low, np.nextafter(low32, np.float32(np.inf)), low32)
        self._high = np.where(high32 > high, np.nextafter(high32, np.float32(-np.inf)), high32)

    @property
    def action_width(self) -> int:
        """Numbers in one action."""
        return self.action_dim

    def act_spec(self, outputs: int) -> ActSpec:
        """See ActSpec."""
        reads = self.action_dim * (2 if self.log_std is None else 1)
        bounds = (self._scale, self._offset, self._low, self._high)
        return ActSpec("normal", reads, [], bounds, bool(self.squash), self.log_std)

    def params(self, outputs: Tensor) -> Tensor:
        """Network outputs → [B, 2A] = mean ‖ log_std, the log_std clamped to [−5, 2]."""
        width = self.action_dim * (2 if self.log_std is None else 1)
        if outputs.ndim != 2 or outputs.shape[1] != width:
            parts = "mean ‖ log_std" if self.log_std is None else "mean"
            raise ValueError(f"actor must return {parts} [B, {width}], got {list(outputs.shape)}")
        if self.log_std is None:
            mean, log_std = outputs.chunk(2, dim=-1)
        else:
            mean, log_std = outputs, self.log_std.expand_as(outputs)
        return torch.cat((mean, log_std.clamp(LOG_STD_MIN, LOG_STD_MAX)), dim=-1)

    def draw(
        self,
        params: Tensor,
        stream: RandomStream,
        deterministic: bool = False,
        action_masks: Array | None = None,
    ) -> Draw:
        """Samples mean + std·ε; deterministic: the mean. log_probs are the Gaussian's own, before
        squashing: its Jacobian cancels in PPO's ratio (design of ppo_loss)."""
        if action_masks is not None:
            raise ValueError("action masks have no meaning for a Gaussian policy")
        array = params.detach().float().cpu().numpy()
        mean, log_std = array[:, : self.action_dim], array[:, self.action_dim :]
        noise = np.zeros_like(mean) if deterministic else stream.normal(mean.shape)
        # A free log_std keeps the log-probability finite when the mean is not.
        raw = _finite(mean + np.exp(log_std) * noise)
        log_probs = (-0.5 * np.square(noise) - log_std - _HALF_LOG_TWO_PI).sum(axis=-1)
        return Draw(self.to_environment(raw), _finite(log_probs.astype(np.float32)), raw)

    def to_environment(self, raw: Array) -> Array:
        """Samples [N, A] → actions in environment units, [N, *space.shape]."""
        actions: Array = np.tanh(raw) * self._scale + self._offset if self.squash else raw
        return self.shaped(np.clip(actions, self._low, self._high))

    def shaped(self, actions: Array) -> Array:
        """Actions [N, A] → [N, *space.shape]."""
        return actions.reshape(len(actions), *self._shape)

    def raw_of(self, actions: Array) -> Array:
        """Raise ValueError: the sample before squashing cannot be told from the action."""
        raise ValueError("a Gaussian policy learns from the pre_tanh column, which is missing")


class SquashedHead(NormalHead):
    """The squashed Gaussian of an off-policy agent: it learns from actions in (−1, 1) that windows do not
    carry but the environment's actions tell, so the Box must be bounded.

    Args:
        action_dim: A. The network's outputs are [mean ‖ log_std], [B, 2A].
    """

    raw_column = None

    def __init__(self, action_dim: int) -> None:
        super().__init__(action_dim)

    def bind(self, space: spaces.Space[Any]) -> None:
        """Act in `space`.

        Raises:
            ValueError: not a Box with action_dim floats within finite bounds, or bound to another one.
        """
        if isinstance(space, spaces.Box) and not space.is_bounded():
            raise ValueError(f"the action space must have finite bounds, got {space}")
        super().bind(space)

    def of_unit(self, actions: Array) -> Array:
        """Actions [N, A] in (−1, 1) → in environment units, [N, *space.shape]."""
        return self.shaped(np.clip(actions * self._scale + self._offset, self._low, self._high))

    def uniform(self, n: int, stream: RandomStream, action_masks: Array | None = None) -> Array:
        """n actions in environment units, uniform in the Box."""
        return self.of_unit(2.0 * stream.uniform((n, self.action_dim)) - 1.0)

    def raw_of(self, actions: Array) -> Array:
        """Actions [N, *space.shape] in environment units → in (−1, 1), float32 [N, A]."""
        flat = np.asarray(actions, np.float32).reshape(len(actions), -1)
        if flat.shape[1] != self.action_dim:
            raise ValueError(f"actions must have {self.action_dim} values, got {list(np.shape(actions))}")
        # A dimension whose bounds are equal has no scale.
        scale = np.where(self._scale > 0, self._scale, 1)
        return np.clip((flat - self._offset) / scale, -1, 1)


def _finite(numbers: Array) -> Array:
    if not np.isfinite(numbers).all():
        raise NonFiniteError("policy output while acting")
    return numbers


class DeterministicHead(SquashedHead):
    """tanh of the network's outputs, scaled to a bounded Box. Exploration is the agent's.

    Args:
        action_dim: A. The network's outputs are [B, A].
    """

    act_state = (*SquashedHead.act_state, "_no_log_std")

    def __init__(self, action_dim: int) -> None:
        super().__init__(action_dim)
        # Unbound, too: noise is added to what is within (−1, 1).
        self._low, self._high = np.full(action_dim, -1.0, np.float32), np.full(action_dim, 1.0, np.float32)
        # The core draws from a Gaussian or takes its mean; here it is only asked for the mean.
        self._no_log_std = nn.Parameter(torch.zeros(action_dim), requires_grad=False)

    def act_spec(self, outputs: int) -> ActSpec:
        """See ActSpec."""
        return super().act_spec(outputs)._replace(outputs=self.action_dim, log_std=self._no_log_std)

    def params(self, outputs: Tensor) -> Tensor:
        """Network outputs [B, A], checked."""
        if outputs.ndim != 2 or outputs.shape[1] != self.action_dim:
            raise ValueError(f"actor must return [B, {self.action_dim}], got {list(outputs.shape)}")
        return outputs

    def draw(
        self,
        params: Tensor,
        stream: RandomStream,
        deterministic: bool = True,
        action_masks: Array | None = None,
    ) -> Draw:
        """tanh of the outputs in environment units; nothing is drawn. log_probs are zero: nothing learns from
        them."""
        if action_masks is not None:
            raise ValueError("action masks have no meaning for continuous actions")
        raw = _finite(params.detach().float().cpu().numpy())
        return Draw(self.to_environment(raw), np.zeros(len(raw), np.float32), raw)

    def with_noise(self, actions: Array, std: float, stream: RandomStream) -> Array:
        """Actions [N, *space.shape] plus Gaussian noise, within the Box.

        Args:
            std: of the noise where actions span (−1, 1).
        """
        flat = actions.reshape(len(actions), -1)
        noise = std * stream.normal(flat.shape) * self._scale
        return self.shaped(np.clip(flat + noise, self._low, self._high).astype(np.float32))


PolicyHead = CategoricalHead | MultiDiscreteHead | NormalHead
