from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch

from optix_fast.reference.distributions import PolicyKind

def build_info() -> dict[str, Any]: ...
def select_simd(name: str) -> None: ...
def gae(
    rewards: torch.Tensor,
    values: torch.Tensor,
    last_value: torch.Tensor | float,
    terminated: torch.Tensor,
    truncated: torch.Tensor | None,
    final_values: torch.Tensor | None,
    gamma: float,
    gae_lambda: float,
    out: tuple[torch.Tensor, torch.Tensor] | None,
    /,
) -> tuple[torch.Tensor, torch.Tensor]: ...
def ppo_loss(
    kind: PolicyKind,
    nvec: Sequence[int],
    params: torch.Tensor,
    actions: torch.Tensor,
    old_log_probs: torch.Tensor,
    advantages: torch.Tensor,
    values: torch.Tensor,
    returns: torch.Tensor,
    old_values: torch.Tensor | None,
    action_mask: torch.Tensor | None,
    clip_ratio: float,
    value_clip_mode: str,
    value_clip: float,
    vf_coef: float,
    entropy_coef: Sequence[float],
    entropy_floor: Sequence[float],
    entropy_floor_coef: Sequence[float],
    normalize_advantages: bool,
    loss: torch.Tensor,
    stats: torch.Tensor,
    want_gradients: bool,
    /,
) -> tuple[torch.Tensor, torch.Tensor] | None: ...

Activation = Literal[
    "identity", "tanh", "relu", "leaky_relu", "elu", "celu", "selu", "hardtanh", "sigmoid", "silu", "gelu",
    "gelu_tanh", "softplus", "log_sigmoid", "mish", "softsign", "hardsigmoid", "hardswish",
]  # fmt: skip

LayerKind = Literal[
    "dense",
    "layer_norm",
    "rms_norm",
    "sum",
    "product",
    "concat",
    "columns",
    "one_hot",
    "embedding",
    "dueling",
    "batch_norm",
    "batch_renorm",
    "dropout",
]

# The LayerParts of csrc/mlp/mlp_bind.h, see optix_fast/networks/layer.py.
_Layer = tuple[Any, ...]
# (tensor, kind, step or None, state tensors, begins, numbers), or of a frozen one (tensor,); see Trained in
# optix_fast/learners/native/optimizers.py.
_Parameter = tuple[Any, ...]

class _ReplayView(Protocol):
    """Of optix_fast.buffers.ReplayView, what is read."""

    @property
    def records(self) -> torch.Tensor: ...
    @property
    def extra(self) -> torch.Tensor: ...
    @property
    def successor(self) -> torch.Tensor: ...
    @property
    def layout(self) -> tuple[int, int, int]: ...
    @property
    def size(self) -> int: ...
    @property
    def mask_extra(self) -> torch.Tensor | None: ...
    @property
    def mask_offset(self) -> int: ...

def mlp(
    layers: list[_Layer],
    head: bool,
    few: bool,
    input: torch.Tensor,
    output: torch.Tensor,
    grad_output: torch.Tensor | None,
    grads: list[tuple[torch.Tensor | None, torch.Tensor | None]],
    grad_input: torch.Tensor | None,
) -> None: ...
def team_members(work: int, threads: int) -> int:
    """How many of `threads` share a product of `work` multiply-adds."""

class PPORows:
    """R rows of a window: observations [R, D], actions, and what was recorded with them [R]."""

    def __init__(
        self,
        observations: torch.Tensor,
        actions: torch.Tensor,
        log_probs: torch.Tensor,
        values: torch.Tensor,
        advantages: torch.Tensor,
        returns: torch.Tensor,
        action_masks: torch.Tensor | None = None,
    ) -> None: ...

class PPOOptions:
    """PPOConfig's, under the same names. Without value_clip, value_clip_mode is not read.

    joins_last_row: a last minibatch of one row joins the one before it.
    """

    def __init__(
        self,
        *,
        kind: PolicyKind,
        nvec: Sequence[int] = (),
        minibatch_size: int,
        clip_ratio: float,
        value_clip: float | None = None,
        value_clip_mode: str = "max",
        vf_coef: float,
        entropy_coef: float,
        normalize_advantages: bool,
        max_grad_norm: float | None = None,
        target_kl: float | None = None,
        joins_last_row: bool = False,
        threads: int = 1,
    ) -> None: ...

class PPOResult(NamedTuple):
    """failed: what was not finite. sums: of the minibatches' statistics, in ppo_loss's order."""

    failed: str | None
    updates: int
    sums: list[float]

def ppo_update(
    networks: tuple[list[_Layer], ...],
    parameters: list[_Parameter],
    rows: PPORows,
    permutations: torch.Tensor,
    options: PPOOptions,
    log_std: torch.Tensor | None = None,
) -> PPOResult:
    """networks: trunk, actor, critic."""

class UniformDraws:
    """Rows of the replay, int64 [K, B]."""

    def __init__(self, indices: torch.Tensor) -> None: ...

class PrioritizedDraws:
    """uniforms: float64 [K, B]; betas: float64 [K]; tree: of the priorities (|td| + eps)^alpha."""

    def __init__(
        self,
        tree: SumTree,
        uniforms: torch.Tensor,
        betas: torch.Tensor,
        alpha: float,
        eps: float,
        max_priority: float,
    ) -> None: ...

_Draws = UniformDraws | PrioritizedDraws

class DQNOptions:
    """DQNConfig's, under the same names. updates_before: since training began."""

    def __init__(
        self,
        *,
        n_step: int,
        gamma: float,
        double_q: bool,
        loss: str,
        max_grad_norm: float | None = None,
        tau: float | None = None,
        target_update_freq: int,
        updates_before: int = 0,
        threads: int = 1,
    ) -> None: ...

class DQNResult(NamedTuple):
    """failed: what was not finite. copies: of the network to its target. loss, td_error, q_value: sums over
    the updates. max_priority: None for uniform draws."""

    failed: str | None
    updates: int
    copies: int
    loss: float
    td_error: float
    q_value: float
    max_priority: float | None

def dqn_update(
    networks: tuple[list[_Layer], list[_Layer]],
    parameters: list[_Parameter],
    targets: list[torch.nn.Parameter],
    replay: _ReplayView,
    draws: _Draws,
    options: DQNOptions,
) -> DQNResult:
    """networks: the network and its target. targets: the target's parameters, in the order of parameters."""

class SACOptions:
    """SACConfig's, under the same names."""

    def __init__(
        self,
        *,
        n_step: int,
        gamma: float,
        target_entropy: float,
        max_grad_norm: float | None = None,
        threads: int = 1,
        tau: float,
    ) -> None: ...

class SoftResult(NamedTuple):
    """failed: what was not finite. sums: of the updates' statistics, in the order of squashed_policy.h; the
    actor's and the temperature's over actor_updates alone. max_priority: None for uniform draws."""

    failed: str | None
    sums: list[float]
    actor_updates: int
    max_priority: float | None

def sac_update(
    networks: tuple[list[_Layer], list[list[_Layer]], list[list[_Layer]]],
    parameters: tuple[Any, ...],
    log_alpha: torch.Tensor,
    replay: _ReplayView,
    draws: _Draws,
    noise: torch.Tensor,
    options: SACOptions,
) -> SoftResult:
    """networks: actor, critics, target critics. parameters: (the actor's, the critics', those of the target
    critics, log_alpha's or none). noise: [K, 2, B, A]."""

class TQCOptions:
    """TQCConfig's, under the same names. n_quantiles: the critics' outputs."""

    def __init__(
        self,
        *,
        n_step: int,
        gamma: float,
        target_entropy: float,
        max_grad_norm: float | None = None,
        threads: int = 1,
        tau: float,
        n_quantiles: int,
        top_quantiles_to_drop_per_net: int,
    ) -> None: ...

def tqc_update(
    networks: tuple[list[_Layer], list[list[_Layer]], list[list[_Layer]]],
    parameters: tuple[Any, ...],
    log_alpha: torch.Tensor,
    replay: _ReplayView,
    draws: _Draws,
    noise: torch.Tensor,
    options: TQCOptions,
) -> SoftResult:
    """As sac_update."""

class CrossQOptions:
    """CrossQConfig's, under the same names. updates_before: since training began."""

    def __init__(
        self,
        *,
        n_step: int,
        gamma: float,
        target_entropy: float,
        max_grad_norm: float | None = None,
        threads: int = 1,
        policy_delay: int,
        updates_before: int = 0,
    ) -> None: ...

def crossq_update(
    networks: tuple[list[_Layer], list[list[_Layer]], list[list[_Layer]]],
    parameters: tuple[Any, ...],
    log_alpha: torch.Tensor,
    replay: _ReplayView,
    draws: _Draws,
    noise: torch.Tensor,
    options: CrossQOptions,
) -> SoftResult:
    """As sac_update; there are no target critics, and no parameters of theirs."""

class TD3Options:
    """TD3Config's, under the same names. updates_before: since training began."""

    def __init__(
        self,
        *,
        n_step: int,
        gamma: float,
        tau: float,
        policy_delay: int,
        target_noise: float,
        target_noise_clip: float,
        max_grad_norm: float | None = None,
        updates_before: int = 0,
        threads: int = 1,
    ) -> None: ...

class TD3Result(NamedTuple):
    """failed: what was not finite. sums: of critic loss, actor loss (over actor_updates alone) and
    ½(Q₁ + Q₂)(s, a). max_priority: None for uniform draws."""

    failed: str | None
    sums: list[float]
    actor_updates: int
    max_priority: float | None

def td3_update(
    networks: tuple[list[_Layer], list[_Layer], list[list[_Layer]], list[list[_Layer]]],
    parameters: tuple[Any, ...],
    replay: _ReplayView,
    draws: _Draws,
    noise: torch.Tensor,
    options: TD3Options,
) -> TD3Result:
    """networks: actor, target actor, critics, target critics. parameters: (the actor's, those of
    its target, the critics', those of their targets). noise: ε [K, B, A]."""

def act(
    plan: ActPlan,
    targets: ActTargets,
    t: int,
    observations: npt.NDArray[np.float32] | npt.NDArray[np.float64],
    action_masks: npt.NDArray[np.bool_] | None,
    deterministic: bool,
    key: int,
    offset: int,
    /,
) -> int | bool | None: ...

class Guards:
    def __init__(
        self,
        sizes: list[tuple[dict[Any, Any], int]],
        entries: list[tuple[dict[Any, Any], Any, Any]],
        tensors: list[torch.Tensor] = ...,
    ) -> None: ...
    def hold(self) -> bool: ...

class ActPlan:
    def __init__(
        self,
        networks: tuple[list[_Layer], ...],
        features: int,
        kind: PolicyKind,
        log_std: torch.Tensor | None,
        squash: bool,
        components: list[tuple[int, int]],
        bounds: tuple[npt.NDArray[np.float32], ...] | None,
        guards: list[Guards],
    ) -> None: ...
    def normalize(
        self, mean: npt.NDArray[np.float64] | None, var: npt.NDArray[np.float64] | None, clip: float
    ) -> None: ...
    def explore(self, epsilon: float) -> None: ...
    def current(self) -> bool: ...
    @property
    def width(self) -> int: ...
    @property
    def features(self) -> int: ...

class ActTargets:
    def __init__(
        self,
        steps: int,
        envs: int,
        width: int,
        normal: bool,
        actions: npt.NDArray[Any],
        log_probs: npt.NDArray[np.float32] | None,
        values: npt.NDArray[np.float32] | None,
        raw: npt.NDArray[np.float32] | None,
    ) -> None: ...

class Replay:
    def __init__(
        self,
        capacity: int,
        rows: list[npt.NDArray[Any]],
        extra: list[npt.NDArray[Any]],
        actions: npt.NDArray[Any],
        rewards: npt.NDArray[np.float32],
        terminated: npt.NDArray[np.bool_],
        truncated: npt.NDArray[np.bool_],
        next: npt.NDArray[np.int64],
        free: npt.NDArray[np.int64],
        pending: npt.NDArray[np.int64],
        counts: npt.NDArray[np.int64],
        successor: npt.NDArray[np.int64],
        n_compared: int,
    ) -> None: ...
    def push(
        self,
        observations: list[npt.NDArray[Any]],
        others: list[npt.NDArray[Any]],
        envs: npt.NDArray[np.int64],
        next_index: npt.NDArray[np.int64],
        actions: npt.NDArray[Any],
        rewards: npt.NDArray[np.float32],
        terminated: npt.NDArray[np.bool_],
        truncated: npt.NDArray[np.bool_],
        joins: npt.NDArray[np.uint8],
    ) -> None: ...
    def gather(
        self,
        indices: npt.NDArray[np.int64],
        n_step: int,
        gamma: float,
        observations: list[npt.NDArray[Any]],
        next_observations: list[npt.NDArray[Any]],
        actions: npt.NDArray[Any],
        rewards: npt.NDArray[np.float32],
        discounts: npt.NDArray[np.float32],
        terminated: npt.NDArray[np.bool_],
        n_steps: npt.NDArray[np.int32],
    ) -> None: ...

def replay_gather(
    view: _ReplayView,
    indices: torch.Tensor,
    n_step: int,
    gamma: float,
    observations: torch.Tensor,
    next_observations: torch.Tensor,
    actions: torch.Tensor,
    rewards: torch.Tensor,
    discounts: torch.Tensor,
    /,
) -> None: ...
def philox(counter: Sequence[int], key: Sequence[int]) -> list[int]: ...
def tanh_normal_log_prob(
    mean: torch.Tensor,
    log_std: torch.Tensor,
    value: torch.Tensor,
    squashed: bool,
    log_prob: torch.Tensor,
    by_mean: torch.Tensor | None,
    by_log_std: torch.Tensor | None,
    by_value: torch.Tensor | None,
) -> None: ...
def tanh_normal_sample(
    mean: torch.Tensor,
    log_std: torch.Tensor,
    key: int,
    offset: int,
    action: torch.Tensor,
    log_prob: torch.Tensor,
    pre_tanh: torch.Tensor,
    slope: torch.Tensor | None,
    spread: torch.Tensor | None,
) -> int: ...
def tanh_normal_scale(
    by_log_prob: torch.Tensor,
    by_mean: torch.Tensor,
    by_log_std: torch.Tensor,
    by_value: torch.Tensor | None,
    out_mean: torch.Tensor,
    out_log_std: torch.Tensor,
    out_value: torch.Tensor | None,
) -> None: ...
def random_words(key: int, offset: int, out: npt.NDArray[np.uint32]) -> int: ...
def random_uniform(key: int, offset: int, out: npt.NDArray[np.float32]) -> int: ...
def random_normal(key: int, offset: int, out: npt.NDArray[np.float32]) -> int: ...
def random_integers(key: int, offset: int, low: int, high: int, out: npt.NDArray[np.int64]) -> int: ...
def random_permutation(key: int, offset: int, out: npt.NDArray[np.int64]) -> int: ...
def sum_tree_weights(priorities: torch.Tensor, beta: float, weights: torch.Tensor) -> None: ...

class SumTree:
    def __init__(self, capacity: int, key: int, offset: int) -> None: ...
    def update(
        self,
        indices: torch.Tensor | npt.NDArray[np.int64],
        priorities: torch.Tensor | npt.NDArray[np.float32] | float,
    ) -> None: ...
    def priorities(self, indices: torch.Tensor | npt.NDArray[np.int64], out: torch.Tensor) -> None: ...
    def find(self, mass: torch.Tensor | npt.NDArray[np.float64], out: torch.Tensor) -> None: ...
    def sample(
        self, indices: torch.Tensor, priorities: torch.Tensor, weights: torch.Tensor | None, beta: float
    ) -> None: ...
    def total(self) -> float: ...
    def positive(self) -> int: ...
    def save(self, priorities: torch.Tensor) -> tuple[int, int]: ...
    def load(self, priorities: torch.Tensor, key: int, offset: int) -> None: ...

class SumTreeCuda:
    """In builds with CUDA only."""

    @staticmethod
    def bytes(capacity: int) -> int: ...
    def __init__(self, storage: torch.Tensor, capacity: int, key: int, offset: int) -> None: ...
    def update(self, indices: torch.Tensor, priorities: torch.Tensor) -> None: ...
    def priorities(self, indices: torch.Tensor, out: torch.Tensor) -> None: ...
    def find(self, mass: torch.Tensor, out: torch.Tensor) -> None: ...
    def sample(
        self, indices: torch.Tensor, priorities: torch.Tensor, weights: torch.Tensor | None, beta: float
    ) -> None: ...
    def total(self) -> float: ...
    def positive(self) -> int: ...
    def leaves_offset(self) -> int: ...
    def save(self) -> tuple[int, int]: ...
    def load(self, key: int, offset: int) -> None: ...
