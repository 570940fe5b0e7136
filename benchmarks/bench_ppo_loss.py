"""ppo_loss, forward and gradient: native against the reference, torch.compile and torch.distributions.

    pytest benchmarks/bench_ppo_loss.py --benchmark-only

Groups are op-shape-device; within one, compare ratios, not microseconds of different days.
"""

from __future__ import annotations

import pytest
import torch

from optix_fast import backend, ops, reference
from optix_fast.ops import Categorical, Normal

# (distribution, actions or action dimensions, batch)
CASES = [
    ("categorical", 2, 64),
    ("categorical", 6, 64),
    ("categorical", 6, 4096),
    ("normal", 6, 64),
    ("normal", 6, 4096),
]
OPTIONS = {"clip_ratio": 0.2, "vf_coef": 0.5, "entropy_coef": 0.01}


def minibatch(kind, width, batch):
    g = torch.Generator().manual_seed(0)
    if kind == "normal":
        params = torch.randn(batch, 2 * width, generator=g) * 0.3
        actions = torch.randn(batch, width, generator=g)
    else:
        params = torch.randn(batch, width, generator=g)
        actions = torch.randint(width, (batch,), generator=g)
    old_log_probs, advantages, values, returns = (torch.randn(batch, generator=g) for _ in range(4))
    old_log_probs = distribution(kind, params)[0](actions) + 0.1 * old_log_probs
    params.requires_grad_()
    values.requires_grad_()
    return params, actions, old_log_probs, advantages, values, returns


def distribution(kind, params):
    """(log_prob, entropy) as a function of the actions, from torch.distributions."""
    if kind == "normal":
        mean, log_std = params.chunk(2, dim=1)
        dist = torch.distributions.Normal(mean, log_std.exp(), validate_args=False)
        return (lambda a: dist.log_prob(a).sum(1)), (lambda: dist.entropy().sum(1))
    dist = torch.distributions.Categorical(logits=params, validate_args=False)
    return dist.log_prob, dist.entropy


def with_gradient(loss_of, tensors):
    def call():
        params, values = tensors[0], tensors[4]
        params.grad = values.grad = None
        loss_of().backward()

    return call


def described(kind):
    return Normal() if kind == "normal" else Categorical()


def native(kind, tensors):
    if backend() != "native":
        pytest.skip("native: the compiled core is not in use")
    dist = described(kind)
    return with_gradient(lambda: ops.ppo_loss(dist, *tensors, **OPTIONS).loss, tensors)


def in_torch(kind, tensors):
    dist = described(kind)
    return with_gradient(lambda: reference.ppo_loss(dist, *tensors, **OPTIONS).loss, tensors)


def compiled(kind, tensors):
    dist = described(kind)
    loss = torch.compile(lambda *t: reference.ppo_loss(dist, *t, **OPTIONS).loss)
    return with_gradient(lambda: loss(*tensors), tensors)


def torch_distributions(kind, tensors):
    """The loss as eager training code writes it, without the statistics."""

    def loss():
        params, actions, old_log_probs, advantages, values, returns = tensors
        log_prob, entropy = distribution(kind, params)
        ratio = (log_prob(actions) - old_log_probs).exp()
        policy = -torch.min(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages).mean()
        return policy + 0.5 * torch.nn.functional.mse_loss(values, returns) - 0.01 * entropy().mean()

    return with_gradient(loss, tensors)


IMPLEMENTATIONS = [native, in_torch, compiled, torch_distributions]


@pytest.mark.parametrize("impl", IMPLEMENTATIONS, ids=lambda f: f.__name__.replace("in_torch", "reference"))
@pytest.mark.parametrize(("kind", "width", "batch"), CASES)
def test_ppo_loss(benchmark, kind, width, batch, impl):
    benchmark.group = f"ppo_loss-{kind}{width}x{batch}-cpu"
    call = impl(kind, minibatch(kind, width, batch))
    call()
    benchmark(call)
