"""A PPO learner made twice, and both ways to update it: the core's and torch's."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from optix_fast import reference
from optix_fast.learners.ppo.batch import Batch
from optix_fast.learners.ppo.config import PPOConfig
from optix_fast.learners.ppo.native import ppo_update
from optix_fast.learners.ppo.update import STATISTICS, PPOModel
from optix_fast.networks import mlp
from optix_fast.networks.heads import CategoricalHead, MultiDiscreteHead, NormalHead, PolicyHead


@dataclass
class Learner:
    """Everything that an update changes."""

    actor: nn.Module
    critic: nn.Module
    optimizer: torch.optim.Optimizer
    head: PolicyHead

    @property
    def log_std(self) -> nn.Parameter | None:
        return getattr(self.head, "log_std", None)

    @property
    def model(self) -> PPOModel:
        return PPOModel(self.actor, self.critic, self.optimizer, self.head)

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def twin(self) -> Learner:
        return copy.deepcopy(self)

    def state(self) -> list[torch.Tensor]:
        """Parameters, then each one's Adam state."""
        kept = [p.detach() for p in self.parameters]
        for p in self.parameters:
            kept += [self.optimizer.state[p][key] for key in ("exp_avg", "exp_avg_sq", "step")]
        return kept


def learner(
    outputs: int = 3,
    hidden: tuple[int, ...] = (64, 64),
    activation: str = "tanh",
    dist: str = "categorical",
    dtype: torch.dtype = torch.float32,
    shared: bool = False,
    make_optimizer: Callable[[list[Any]], torch.optim.Optimizer] | None = None,
    features: int = 5,
    **blocks: Any,
) -> Learner:
    generator = torch.Generator().manual_seed(7)
    head: PolicyHead = CategoricalHead()
    log_std = None
    if dist == "multi_discrete":
        head, outputs = MultiDiscreteHead((2, 4, 3)), 9
    elif dist != "categorical":
        log_std = nn.Parameter(torch.full((outputs,), -0.3, dtype=dtype)) if dist == "free" else None
        head = NormalHead(outputs, True, log_std)
        outputs = outputs if dist == "free" else 2 * outputs
    actor = mlp([features, *hidden, outputs], activation, 0.5, generator, **blocks).to(dtype)
    critic = mlp([features, *hidden, 1], activation, 1.0, generator, **blocks).to(dtype)
    for p in (*actor.parameters(), *critic.parameters()):
        if p.ndim == 1:  # not zero: relative to what a few steps of Adam make of zero, rounding is large
            p.data = 0.1 * torch.randn(p.shape, generator=generator, dtype=dtype)
    if shared:
        trunk = actor[:-1]
        actor, critic = nn.Sequential(trunk, actor[-1]), nn.Sequential(trunk, critic[-1])
    unique = {id(p): p for net in (actor, critic) for p in net.parameters()}
    parameters = [*unique.values(), *([] if log_std is None else [log_std])]
    make_optimizer = make_optimizer or (lambda p: torch.optim.Adam(p, lr=3e-4, eps=1e-5))
    return Learner(actor, critic, make_optimizer(parameters), head)


def rows_for(it: Learner, n: int = 320, masks: bool = False, seed: int = 0, features: int = 5) -> Batch:
    """A window as the learner's policy would have left it, with random advantages."""
    torch.manual_seed(seed)
    dtype = it.parameters[0].dtype
    observations = torch.randn(n, features, dtype=dtype)
    with torch.no_grad():
        params = it.head.params(it.actor(observations))
        values = it.critic(observations).reshape(-1)
    action_masks = None
    if isinstance(it.head, NormalHead):
        mean, log_std = params.chunk(2, dim=-1)
        distribution: Any = torch.distributions.Independent(
            torch.distributions.Normal(mean, log_std.exp()), 1
        )
    else:
        if masks:
            action_masks = torch.rand(params.shape) < 0.6
            at = 0
            for size in it.head.dist.nvec or (params.shape[1],):
                action_masks[torch.arange(n), at + torch.randint(size, (n,))] = True
                at += size
            params = params.masked_fill(~action_masks, -math.inf)
        distribution = torch.distributions.Categorical(logits=params)
    if isinstance(it.head, MultiDiscreteHead):
        parts = [
            torch.distributions.Categorical(logits=part) for part in params.split(it.head.dist.nvec, dim=-1)
        ]
        actions = torch.stack([part.sample() for part in parts], dim=-1)
        exact = torch.stack([p.log_prob(a) for p, a in zip(parts, actions.T, strict=True)]).sum(dim=0)
    else:
        actions = distribution.sample()
        exact = distribution.log_prob(actions)
    log_probs = exact + 0.05 * torch.randn(n, dtype=dtype)
    advantages = 2.0 * torch.randn(n, dtype=dtype) + 0.3
    return Batch(observations, actions, log_probs, values, advantages, advantages + values, action_masks)


def permutations(n_epochs: int, n_rows: int) -> torch.Tensor:
    return torch.stack(
        [torch.randperm(n_rows, generator=torch.Generator().manual_seed(i)) for i in range(n_epochs)]
    )


def torch_update(
    it: Learner, rows: Batch, order: torch.Tensor, config: PPOConfig
) -> tuple[dict[str, float], int]:
    """The specification: the same minibatches with torch's own modules, autograd and optimizer."""
    collected: list[list[float]] = []
    for index in (part for epoch in order for part in torch.split(epoch, config.minibatch_size)):
        part = Batch(*(None if x is None else x[index] for x in rows))  # type: ignore[arg-type]
        result = reference.ppo_loss(
            it.head.dist, it.head.params(it.actor(part.observations)), part.actions, part.log_probs,
            part.advantages, it.critic(part.observations).reshape(-1), part.returns,
            None if config.value_clip is None else part.values,
            clip_ratio=config.clip_ratio, value_clip=config.value_clip, vf_coef=config.vf_coef,
            value_clip_mode=config.value_clip_mode, entropy_coef=config.entropy_coef,
            action_mask=part.action_masks, normalize_advantages=config.normalize_advantages == "minibatch",
        )  # fmt: skip
        it.optimizer.zero_grad()
        result.loss.backward()
        trained = [p for p in it.parameters if p.requires_grad]
        nn.utils.clip_grad_norm_(trained, config.max_grad_norm or math.inf)
        it.optimizer.step()
        collected.append(result.stats.tolist())
        if config.target_kl is not None and collected[-1][3] > 1.5 * config.target_kl:
            break
    means = torch.tensor(collected, dtype=torch.float64).mean(dim=0).tolist()
    return dict(zip(STATISTICS, means, strict=False)), len(collected)


def core_update(
    it: Learner, rows: Batch, order: torch.Tensor, config: PPOConfig
) -> tuple[dict[str, float], int]:
    updated = ppo_update(it.model, rows, order, config)
    return updated.means, updated.n_updates


def distance(ours: Learner, theirs: Learner) -> float:
    """The largest ‖Δ‖/‖θ‖ over parameters and optimizer state.

    A single number, such as the moment of the critic's last bias, may come out near zero by cancellation of
    terms around 0.1: it is judged against 0.01 at least.
    """
    pairs = zip(ours.state(), theirs.state(), strict=True)
    return max(
        float((a - b).norm() / b.norm().clamp_min(0.01 if b.numel() == 1 else 1e-12)) for a, b in pairs
    )
