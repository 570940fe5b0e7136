"""What torch.compile runs outside of its graphs. Imported by code that is being compiled, never before:
torch.compiler.disable loads the whole compiler."""

from __future__ import annotations

from collections.abc import Callable

import torch

from optix_fast.ops.tanh_normal import _sample

Samples = tuple[torch.Tensor, torch.Tensor, torch.Tensor]

sample_outside_the_graph: Callable[..., Samples]
sample_outside_the_graph = torch.compiler.disable(_sample)  # type: ignore[no-untyped-call]
