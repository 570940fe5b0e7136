from typing import Any

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
