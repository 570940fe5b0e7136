"""A network forwards and backwards, by the core and by torch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from optix_fast import _native
from optix_fast.learners.native.networks import stack_of
from optix_fast.networks.dropout import Masks

_core: Any = _native.core


def run_core(
    net: nn.Module, x: Tensor, by_output: Tensor, head: bool = True, masks: Masks | None = None
) -> list[Tensor]:
    """Output, gradient by the input, gradients by the parameters in the order of net.parameters()."""
    stack = stack_of(net, "net")
    output, by_input = torch.empty_like(by_output), torch.empty_like(x)
    grads = [tuple(None if p is None else torch.empty_like(p) for p in la.tensors()) for la in stack.layers]
    _core.mlp(stack.described(masks), head, False, x, output, by_output, grads, by_input)
    found = {
        id(p): g
        for la, pair in zip(stack.layers, grads, strict=True)
        for p, g in zip(la.tensors(), pair, strict=True)
    }
    return [output, by_input, *(found[id(p)] for p in net.parameters())]


def run_torch(net: nn.Module, x: Tensor, by_output: Tensor) -> list[Tensor]:
    """The same."""
    x = x.clone().requires_grad_()
    output = net(x)
    gradients = torch.autograd.grad(output, [x, *net.parameters()], by_output)
    return [output.detach(), *gradients]
