"""tanh_normal, log-probability with gradients and sampling: native against the reference, torch.compile and
torch.distributions.

    pytest benchmarks/bench_tanh_normal.py --benchmark-only
    python benchmarks/bench_tanh_normal.py        # in turns, in processor time: steady on a busy machine

Groups are op-shape-device; within one, compare ratios, not microseconds of different days. The gradient is
that of a weighted sum of the log-probabilities by mean and log_std, as torch.autograd.grad gives it: what
stands before and behind the log-probability in a training step is the same for all and left out.
"""

from __future__ import annotations

import statistics
import time

import pytest
import torch
from torch.distributions import Independent, Normal, TanhTransform, TransformedDistribution

from optix_fast import backend, ops, reference
from optix_fast.random import RandomStream

SHAPES = [(64, 1), (64, 6), (4096, 1), (4096, 6)]


def inputs(shape):
    """mean and log_std, which want gradients; the sample before tanh, the action, and a weight per row."""
    g = torch.Generator().manual_seed(0)
    mean, log_std, pre_tanh = (torch.randn(shape, generator=g) for _ in range(3))
    weights = torch.randn(shape[0], generator=g)
    return mean.requires_grad_(), (0.3 * log_std).requires_grad_(), pre_tanh, pre_tanh.tanh(), weights


def distribution(mean, log_std, checked=True):
    """As torch makes it, which checks arguments and values by default, or without the checks. Said
    explicitly, because torch.compile turns the default off for the whole process."""
    base = Normal(mean, log_std.exp(), validate_args=checked)
    squashed = TransformedDistribution(base, [TanhTransform()], validate_args=checked)
    return Independent(squashed, 1, validate_args=checked)


def with_gradient(log_prob_of, shape):
    mean, log_std, pre_tanh, action, weights = inputs(shape)

    def call():
        return torch.autograd.grad(log_prob_of(mean, log_std, pre_tanh, action), (mean, log_std), weights)

    return call


def log_prob_native(shape):
    return with_gradient(lambda m, s, u, a: ops.tanh_normal_log_prob(m, s, a), shape)


def log_prob_native_pre_tanh(shape):
    return with_gradient(lambda m, s, u, a: ops.tanh_normal_log_prob(m, s, pre_tanh=u), shape)


def log_prob_reference(shape):
    return with_gradient(lambda m, s, u, a: reference.tanh_normal_log_prob(m, s, a), shape)


def log_prob_compiled(shape):
    function = torch.compile(lambda m, s, a: reference.tanh_normal_log_prob(m, s, a), dynamic=False)
    return with_gradient(lambda m, s, u, a: function(m, s, a), shape)


def log_prob_distributions(shape):
    return with_gradient(lambda m, s, u, a: distribution(m, s).log_prob(a), shape)


def log_prob_distributions_unchecked(shape):
    return with_gradient(lambda m, s, u, a: distribution(m, s, checked=False).log_prob(a), shape)


def sample_native(shape):
    mean, log_std, *_ = (t.detach() for t in inputs(shape))
    stream = RandomStream(0)
    return lambda: ops.tanh_normal_sample(mean, log_std, stream)


def sample_reference(shape):
    mean, log_std, *_ = (t.detach() for t in inputs(shape))
    stream = RandomStream(0)
    return lambda: reference.tanh_normal_sample(mean, log_std, stream)


def sample_distributions(shape):
    mean, log_std, *_ = (t.detach() for t in inputs(shape))

    def call():
        dist = distribution(mean, log_std)
        action = dist.rsample()
        return action, dist.log_prob(action)

    return call


LOG_PROB = [
    log_prob_native, log_prob_native_pre_tanh, log_prob_reference, log_prob_compiled, log_prob_distributions,
    log_prob_distributions_unchecked,
]  # fmt: skip
SAMPLE = [sample_native, sample_reference, sample_distributions]


def prepared(impl, shape):
    if "native" in impl.__name__ and backend() != "native":
        pytest.skip("native: the compiled core is not in use")
    call = impl(shape)
    for _ in range(3):
        call()
    return call


def identity(impl):
    return impl.__name__.removeprefix("log_prob_").removeprefix("sample_")


@pytest.mark.parametrize("impl", LOG_PROB, ids=identity)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s[0]}x{s[1]}")
def test_log_prob_with_gradient(benchmark, shape, impl):
    benchmark.group = f"tanh_normal_log_prob-{shape[0]}x{shape[1]}-cpu"
    benchmark(prepared(impl, shape))


@pytest.mark.parametrize("impl", SAMPLE, ids=identity)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s[0]}x{s[1]}")
def test_sample(benchmark, shape, impl):
    benchmark.group = f"tanh_normal_sample-{shape[0]}x{shape[1]}-cpu"
    benchmark(prepared(impl, shape))


def in_turns(impls, shape, rounds=40, calls=50):
    """The median processor time of each, microseconds a call; all take part in every round."""
    ready = [prepared(impl, shape) for impl in impls]
    times = [[] for _ in impls]
    for _ in range(rounds):
        for call, record in zip(ready, times, strict=True):
            start = time.thread_time()
            for _ in range(calls):
                call()
            record.append((time.thread_time() - start) / calls * 1e6)
    return [statistics.median(record) for record in times]


def main():
    torch.set_num_threads(1)
    for impls in (LOG_PROB, SAMPLE):
        for shape in SHAPES:
            medians = in_turns(impls, shape)
            print(f"\n{shape[0]}x{shape[1]}")
            for impl, median in zip(impls, medians, strict=True):
                print(f"  {impl.__name__:33} {median:9.1f} µs   {median / medians[0]:5.2f} × native")


if __name__ == "__main__":
    main()
