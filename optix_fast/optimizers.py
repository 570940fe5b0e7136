"""Optimizers that torch does not have; the compiled core takes their steps, too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class RMSpropTF(torch.optim.Optimizer):
    """RMSprop as TensorFlow computes it: ε inside of the square root, and mean squares that start at one.

        v ← α·v + (1 − α)·g²                    from v = 1, with g = ∇ + weight_decay·θ
        d = √(v + ε)                            centered: ḡ ← α·ḡ + (1 − α)·g,  d = √(v − ḡ² + ε)
        θ ← θ − lr·g/d                          momentum: b ← momentum·b + g/d,  θ ← θ − lr·b

    torch.optim.RMSprop divides by √v + ε and starts from v = 0, so that its first steps are larger. Published
    results of A2C come from TensorFlow's; Stable-Baselines3 offers the same as RMSpropTFLike.

    lr multiplies the buffer, as in torch.optim.RMSprop. TensorFlow adds lr·g/d to it and takes θ ← θ − b:
    with momentum the two differ where lr changes, since earlier steps there keep the rate that they had.

    Args:
        params: parameters, or groups of them.
        lr: learning rate, at least 0.
        alpha: decay of the mean squares, in [0, 1).
        eps: added to the mean squares, at least 0.
        weight_decay: factor of θ in g, at least 0.
        momentum: at least 0.
        centered: divide by an estimate of g's standard deviation.

    The state has torch.optim.RMSprop's names: step, square_avg, momentum_buffer, grad_avg.

    Raises:
        ValueError: a number outside of its range.

    Source: `RMSPropOptimizer` of TensorFlow 1; Tieleman & Hinton 2012.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
    ) -> None:
        numbers = {"lr": lr, "eps": eps, "weight_decay": weight_decay, "momentum": momentum}
        for name, number in numbers.items():
            if not number >= 0.0:
                raise ValueError(f"{name} must be at least 0, got {number}")
        if not 0.0 <= alpha < 1.0:
            raise ValueError(f"alpha must be in [0, 1), got {alpha}")
        super().__init__(params, {**numbers, "alpha": alpha, "centered": centered})

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step on every parameter that has a gradient; returns the loss of `closure`, if there is one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with torch.no_grad():
            for group in self.param_groups:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        self._step(parameter, parameter.grad, group)
        return loss

    def _step(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state, alpha = self.state[parameter], group["alpha"]
        if not state:
            state["step"] = torch.tensor(0.0, dtype=torch.float32)
            state["square_avg"] = torch.ones_like(parameter, memory_format=torch.preserve_format)
            if group["momentum"] > 0.0:
                state["momentum_buffer"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
            if group["centered"]:
                state["grad_avg"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        state["step"] += 1
        if group["weight_decay"] != 0.0:
            gradient = gradient.add(parameter, alpha=group["weight_decay"])
        squares = state["square_avg"]
        squares.mul_(alpha).addcmul_(gradient, gradient, value=1.0 - alpha)
        if group["centered"]:
            mean = state["grad_avg"].lerp_(gradient, 1.0 - alpha)
            squares = squares.addcmul(mean, mean, value=-1.0)
        divisor = squares.add(group["eps"]).sqrt_()
        if group["momentum"] > 0.0:
            buffer = state["momentum_buffer"].mul_(group["momentum"]).addcdiv_(gradient, divisor)
            parameter.add_(buffer, alpha=-group["lr"])
        else:
            parameter.addcdiv_(gradient, divisor, value=-group["lr"])
