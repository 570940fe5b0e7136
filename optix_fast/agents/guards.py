"""What surrounds the methods that learn: a lock, gradients, and the way back from a failed update."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

from optix_fast.locks import exclusive
from optix_fast.types import Stateful

Method = TypeVar("Method", bound=Callable[..., Any])


def as_in_training(method: Method) -> Method:
    """The method under the agent's lock, with gradients and ordinary tensors also where the caller has
    switched them off (no_grad, inference_mode)."""
    with_gradients = torch.inference_mode(False)(torch.enable_grad()(method))
    return exclusive(with_gradients)


@contextmanager
def restored_on_error(agent: Stateful) -> Iterator[None]:
    """Undo a failed update: after any exception the agent is as it was."""
    before = agent.state_dict()
    try:
        yield
    except BaseException:
        agent.load_state_dict(before)
        raise
