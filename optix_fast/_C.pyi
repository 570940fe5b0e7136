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
    advantages: torch.Tensor,
    returns: torch.Tensor,
) -> None: ...
def ppo_loss(
    dist: str,
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
    grad_params: torch.Tensor | None,
    grad_values: torch.Tensor | None,
) -> None: ...
def philox(counter: Sequence[int], key: Sequence[int]) -> list[int]: ...
def random_words(key: int, offset: int, out: npt.NDArray[np.uint32]) -> int: ...
def random_uniform(key: int, offset: int, out: npt.NDArray[np.float32]) -> int: ...
def random_normal(key: int, offset: int, out: npt.NDArray[np.float32]) -> int: ...
def random_integers(key: int, offset: int, low: int, high: int, out: npt.NDArray[np.int64]) -> int: ...
def random_permutation(key: int, offset: int, out: npt.NDArray[np.int64]) -> int: ...
