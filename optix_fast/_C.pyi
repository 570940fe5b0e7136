from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

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
    kind: int,
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
    value_clip_mode: int,
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

# (weight, bias, activation, its parameter)
_Layer = tuple[torch.Tensor, torch.Tensor | None, int, float]

def mlp(
    layers: list[_Layer],
    head: bool,
    few: bool,
    input: torch.Tensor,
    output: torch.Tensor,
    grad_output: torch.Tensor | None,
    grads: list[tuple[torch.Tensor, torch.Tensor]],
    grad_input: torch.Tensor | None,
) -> None: ...
def ppo_update(
    networks: tuple[list[_Layer], list[_Layer], list[_Layer]],
    parameters: list[tuple[Any, ...]],
    rows: dict[str, torch.Tensor | None],
    permutations: torch.Tensor,
    options: dict[str, Any],
) -> tuple[str | None, int, list[float]]: ...
def dqn_update(
    networks: tuple[list[_Layer], list[_Layer]],
    parameters: list[tuple[Any, ...]],
    targets: list[torch.Tensor],
    replay: Any,
    drawn: dict[str, Any],
    options: dict[str, Any],
) -> tuple[str | None, int, int, float, float, float, float]: ...
def sac_update(
    networks: tuple[list[_Layer], ...],
    parameters: tuple[Any, ...],
    log_alpha: torch.Tensor,
    replay: Any,
    drawn: dict[str, Any],
    noise: torch.Tensor,
    options: dict[str, Any],
) -> tuple[str | None, list[float], float]: ...
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

class ActPlan:
    def __init__(
        self,
        networks: tuple[list[tuple[Any, ...]], ...],
        kind: int,
        log_std: torch.Tensor | None,
        squash: bool,
        components: list[tuple[int, int]],
        bounds: tuple[npt.NDArray[np.float32], ...] | None,
        sizes: list[tuple[dict[Any, Any], int]],
        entries: list[tuple[dict[str, Any], str, Any]],
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
        following: npt.NDArray[np.int64],
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
    view: Any,
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
