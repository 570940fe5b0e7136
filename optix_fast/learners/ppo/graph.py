"""PPO's update as one CUDA graph: every epoch and minibatch of a window recorded once, then replayed.

What an update needs is copied into buffers that stay where they are; the recorded work reads them. A flag on
the device stops the minibatches behind a KL limit, or behind a loss or gradient that is not finite: Adam's
fused step leaves everything alone where it is told that a gradient is infinite.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as nn_module
from torch.optim.adam import adam

from optix_fast.learners.native.networks import UnsupportedError
from optix_fast.learners.native.optimizers import check_optimizer, note_step
from optix_fast.learners.ppo.batch import Batch
from optix_fast.learners.ppo.config import KL_STOP, PPOConfig
from optix_fast.learners.ppo.update import STATISTICS, PPOModel, Updated, updated_of
from optix_fast.networks.modes import works_on_batches
from optix_fast.types import NonFiniteError

Record = Callable[[Callable[[], None]], Callable[[], Any]]
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_GLOBAL_HOOKS = tuple(f"_global{name}" for name in _HOOKS)
_LOG = logging.getLogger(__name__)
_KL = STATISTICS.index("approx_kl")


def record_on_cuda(work: Callable[[], None]) -> Callable[[], Any]:
    """Runs `work` once on a stream of its own, as capturing demands, and returns the replay of its graph."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


class GraphPPO:
    """Replays the updates of one model.

    A new graph is recorded when the size of the window, a hyperparameter other than the learning rate, a
    module, its settings or hooks, or the memory of a parameter has changed. Where annealing changes the clip
    ratio at every window, there is nothing to replay, and torch does the work as usual. `reason` says why
    torch did the last update; it is empty where the graph did.

    Args:
        record: makes a replay of some work; it is run once with every parameter left alone.
    """

    def __init__(self, record: Record = record_on_cuda) -> None:
        self._record = record
        self._made_for: Any = None
        self._recorded: _Recorded | None = None
        self.reason = ""
        # What could not be captured, as in `_made_for`, and why.
        self._failed_for: Any = None
        self._failed = ""

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._record,)  # a copy records its own graph

    def update(self, model: PPOModel, batch: Batch, permutations: Tensor, config: PPOConfig) -> Updated:
        """The updates of update.ppo_update.

        Raises:
            UnsupportedError: they cannot be replayed; `reason` says why.
            NonFiniteError: a loss or gradient is NaN or infinite; parameters are those before that minibatch.
        """
        try:
            recorded = self._current(model, batch, config, model.parameters())
        except UnsupportedError as error:
            self.reason = str(error)
            raise
        self.reason = ""
        stats, n_updates, finite = recorded.run(batch, permutations)
        if not finite:
            raise NonFiniteError("loss or gradient")
        note_step(model.optimizer)
        return updated_of(stats[:n_updates].double().mean(dim=0).tolist(), n_updates)

    def _current(
        self, model: PPOModel, batch: Batch, config: PPOConfig, parameters: list[nn.Parameter]
    ) -> _Recorded:
        if config.anneal_steps is not None:
            raise UnsupportedError("the clip ratio is annealed")
        if not isinstance(batch.observations, Tensor):
            raise UnsupportedError("the observations are not one array")
        if works_on_batches(model.actor) or works_on_batches(model.critic):
            raise UnsupportedError("a batch norm or Dropout is in training mode")
        kind = type(model.optimizer)
        if kind not in (torch.optim.Adam, torch.optim.AdamW):
            raise UnsupportedError(f"the optimizer is {kind.__name__} (a CUDA graph steps Adam and AdamW)")
        check_optimizer(model.optimizer, parameters)
        requested = (
            replace(config, learning_rate=0.0),
            [None if t is None else (t.shape, t.dtype) for t in batch],
            [(p.data_ptr(), p.shape) for p in parameters],
            _computed_by(model),
            [
                {k: v for k, v in group.items() if k not in ("lr", "params")}
                for group in model.optimizer.param_groups
            ],
        )
        if self._recorded is not None and requested == self._made_for:
            return self._recorded
        self._recorded, self._made_for = None, None
        if self._failed and requested == self._failed_for:
            raise UnsupportedError(self._failed)
        recorded = _Recorded(model, batch, config, parameters)
        try:
            recorded.replay = self._record(recorded.work)
        except RuntimeError as error:
            # A module that asks the device for a number while it runs, for example.
            first = not self._failed
            self._failed = f"the update cannot be captured in a CUDA graph: {error}"
            self._failed_for = requested
            if first:
                _LOG.warning("PPO updates run in torch: %s", self._failed)
            raise UnsupportedError(self._failed) from error
        self._recorded, self._made_for = recorded, requested
        return recorded


def _computed_by(model: PPOModel) -> list[Any]:
    """The modules in their order, with everything of them that a recording has seen: training or not, plain
    settings such as an activation's slope, hooks. Modules and hooks themselves, not their addresses: a new
    one may lie where an old one was."""
    found: list[Any] = [dict(getattr(nn_module, name)) for name in _GLOBAL_HOOKS]
    for module in itertools.chain(model.actor.modules(), model.critic.modules()):
        own = vars(module)
        hooks = [dict(own[name]) for name in _HOOKS if own.get(name)]
        settings = {k: v for k, v in own.items() if isinstance(v, bool | int | float | str)}
        found.append((module, hooks, settings, own.get("forward")))
    return found


class _Recorded:
    """The buffers of one recorded update, and the work on them."""

    def __init__(
        self,
        model: PPOModel,
        batch: Batch,
        config: PPOConfig,
        parameters: list[nn.Parameter],
    ) -> None:
        self._model, self._config = model, config
        self._parameters = parameters
        device, n_rows = batch.returns.device, len(batch.returns)
        self._batch = Batch(*(None if t is None else t.clone() for t in batch))  # type: ignore[arg-type]
        self._order = torch.arange(n_rows, device=device).repeat(config.n_epochs, 1)
        size = config.minibatch_size
        n = config.n_epochs * -(-n_rows // size)
        components = model.head.dist.components
        self._stats = torch.zeros(n, len(STATISTICS) + components, device=device)
        self._ran = torch.zeros(n, device=device)
        # float32 flags, as fused Adam reads them: 1 is true.
        self._stopped_at_start = torch.ones((), device=device)
        self._stopped, self._broken = torch.zeros((), device=device), torch.zeros((), device=device)
        n_groups = len(model.optimizer.param_groups)
        self._groups = [_Group(model.optimizer, at, parameters, device) for at in range(n_groups)]
        self.replay: Callable[[], Any] = self.work

    def run(self, batch: Batch, order: Tensor) -> tuple[Tensor, int, bool]:
        """Statistics [minibatches, 5 + components], how many minibatches ran, and whether all was finite."""
        for buffer, given in zip(self._batch, batch, strict=True):
            if buffer is not None:
                buffer.copy_(given)
        self._order.copy_(order)
        self._stopped_at_start.zero_()
        for group in self._groups:
            group.read()
        self.replay()
        for group in self._groups:
            group.write()
        n_updates = int(self._ran.sum())
        return self._stats.cpu(), n_updates, not bool(self._broken)

    def work(self) -> None:
        """What is recorded; nothing in it asks the device for a number."""
        self._stopped.copy_(self._stopped_at_start)
        self._broken.zero_()
        at = 0
        for epoch in range(self._config.n_epochs):
            for index in torch.split(self._order[epoch], self._config.minibatch_size):
                self._minibatch(self._batch.rows(index), at)
                at += 1

    def _minibatch(self, rows: Batch, at: int) -> None:
        config = self._config
        result = self._model.loss(rows, config)
        grads = list(torch.autograd.grad(result.loss, self._parameters))
        norm = nn.utils.get_total_norm(grads)
        finite = torch.isfinite(result.stats).all() & torch.isfinite(norm)
        goes_on = (self._stopped == 0) & finite
        if config.max_grad_norm:
            # As torch's clip_grad_norm_.
            torch._foreach_mul_(grads, torch.clamp(config.max_grad_norm / (norm + 1e-6), max=1.0))
        skip = 1.0 - goes_on.float()
        for group in self._groups:
            group.step(grads, skip)
        self._broken.copy_(torch.maximum(self._broken, ((self._stopped == 0) & ~finite).float()))
        self._ran[at] = goes_on.float()
        self._stats[at] = torch.where(goes_on, result.stats, 0.0)
        past = result.stats[_KL] > (math.inf if config.target_kl is None else KL_STOP * config.target_kl)
        self._stopped.copy_(torch.maximum(skip, past.float()))


class _Group:
    """A parameter group of Adam with its state; step counters and learning rate on the device."""

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        at: int,
        parameters: list[nn.Parameter],
        device: torch.device,
    ) -> None:
        # By its place: load_state_dict puts new groups and new state there.
        self._optimizer, self._at = optimizer, at
        index_of = {id(p): i for i, p in enumerate(parameters)}
        self._own = [p for p in optimizer.param_groups[at]["params"] if id(p) in index_of]
        self._indices = [index_of[id(p)] for p in self._own]
        self._counters = torch.zeros(len(self._own), device=device)
        self._lr = torch.zeros((), device=device)
        # Moments may be replaced by load_state_dict: the recorded work has copies.
        self._moments = [[torch.zeros_like(p) for p in self._own] for _ in range(2)]

    def _states(self) -> list[Any]:
        states = [self._optimizer.state[p] for p in self._own]
        for p, state in zip(self._own, states, strict=True):
            if not state:
                state["step"] = torch.tensor(0.0)
                state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(p), torch.zeros_like(p)
        return states

    def read(self) -> None:
        """The optimizer's state and learning rate as they are now."""
        states = self._states()
        self._lr.fill_(float(self._optimizer.param_groups[self._at]["lr"]))
        self._counters.copy_(torch.stack([state["step"].float().cpu() for state in states]))
        for moments, key in zip(self._moments, ("exp_avg", "exp_avg_sq"), strict=True):
            torch._foreach_copy_(moments, [state[key] for state in states])

    def write(self) -> None:
        """Back into the optimizer's state."""
        states = self._states()
        for state, counter in zip(states, self._counters.cpu(), strict=True):
            state["step"].copy_(counter)
        for moments, key in zip(self._moments, ("exp_avg", "exp_avg_sq"), strict=True):
            torch._foreach_copy_([state[key] for state in states], moments)

    def step(self, grads: list[Tensor], skip: Tensor) -> None:
        """Adam's step on this group, or nothing where `skip` is 1."""
        group = self._optimizer.param_groups[self._at]
        beta1, beta2 = group["betas"]
        with torch.no_grad():
            adam(
                self._own, [grads[i] for i in self._indices], self._moments[0], self._moments[1], [],
                list(self._counters.unbind()), foreach=False, fused=True, capturable=True, found_inf=skip,
                decoupled_weight_decay=bool(group.get("decoupled_weight_decay", False)), amsgrad=False,
                beta1=beta1, beta2=beta2, lr=self._lr, weight_decay=group["weight_decay"], eps=group["eps"],
                maximize=False,
            )  # fmt: skip
