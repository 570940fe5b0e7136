"""gae: native against the reference, torch.compile and the installed peers.

    pytest benchmarks/bench_gae.py --benchmark-only

Groups are op-shape-device; within one, compare ratios, not microseconds of different days.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from optix_fast import backend, ops, reference

SHAPES = [(2048, 1), (128, 8), (128, 64), (256, 256), (128, 4096)]
GAMMA, LAMBDA = 0.99, 0.95


def rollout(shape, device):
    g = torch.Generator().manual_seed(0)
    rewards, values, final_values = (torch.randn(shape, generator=g) for _ in range(3))
    last_value = torch.randn(shape[1], generator=g)
    terminated, truncated = (torch.rand(shape, generator=g) < 0.01 for _ in range(2))
    return [t.to(device) for t in (rewards, values, last_value, terminated, truncated, final_values)]


def native(inputs):
    if backend() != "native":
        pytest.skip("native: the compiled core is not in use")
    return lambda: ops.gae(*inputs, gamma=GAMMA, gae_lambda=LAMBDA)


def in_torch(inputs):
    return lambda: reference.gae(*inputs, gamma=GAMMA, gae_lambda=LAMBDA)


def compiled(inputs):
    if inputs[0].shape[0] > 256:
        pytest.skip("compiled: the unrolled loop of so many steps takes minutes to compile")
    function = torch.compile(lambda *tensors: reference.gae(*tensors, gamma=GAMMA, gae_lambda=LAMBDA))
    function(*inputs)
    return lambda: function(*inputs)


def stable_baselines3(inputs):
    """Its rollout buffer: a numpy loop over time that knows one kind of episode end."""
    buffers = pytest.importorskip(
        "stable_baselines3.common.buffers", reason="stable-baselines3 is not installed"
    )
    spaces = pytest.importorskip("gymnasium.spaces")
    if inputs[0].device.type != "cpu":
        pytest.skip("stable-baselines3: on the CPU only")
    rewards, values, last_value, terminated, *_ = inputs
    steps, envs = rewards.shape
    buffer = buffers.RolloutBuffer(
        steps,
        spaces.Box(-1, 1, (1,)),
        spaces.Discrete(2),
        device="cpu",
        gamma=GAMMA,
        gae_lambda=LAMBDA,
        n_envs=envs,
    )
    buffer.rewards, buffer.values = rewards.numpy(), values.numpy()
    buffer.episode_starts = terminated.numpy().astype(np.float32)
    last_done = np.zeros(envs, np.float32)
    return lambda: buffer.compute_returns_and_advantage(last_value, last_done)


def tianshou(inputs):
    """Its compiled numpy loop, once per environment laid end to end, as its collector stores them."""
    base = pytest.importorskip("tianshou.algorithm.algorithm_base", reason="tianshou is not installed")
    if inputs[0].device.type != "cpu":
        pytest.skip("tianshou: on the CPU only")
    rewards, values, last_value, terminated, truncated, _ = (t.numpy() for t in inputs)
    next_values = np.concatenate([values[1:], last_value[None]])
    flat = [x.T.reshape(-1).copy() for x in (values, next_values, rewards, terminated | truncated)]
    return lambda: base._gae(*flat, GAMMA, LAMBDA)


def torchrl(inputs):
    functional = pytest.importorskip("torchrl.objectives.value.functional", reason="torchrl is not installed")
    rewards, values, last_value, terminated, truncated, _ = inputs
    next_values = torch.cat([values[1:], last_value.unsqueeze(0)])
    batched = [
        t.T.unsqueeze(-1).contiguous()
        for t in (values, next_values, rewards, terminated | truncated, terminated)
    ]
    return lambda: functional.vec_generalized_advantage_estimate(GAMMA, LAMBDA, *batched)


def rlox(inputs):
    """Its float32 batch form, environment after environment."""
    module = pytest.importorskip("rlox", reason="rlox is not installed")
    if inputs[0].device.type != "cpu":
        pytest.skip("rlox: on the CPU only")
    rewards, values, last_value, terminated, truncated, _ = (t.numpy() for t in inputs)
    steps = rewards.shape[0]
    done = (terminated | truncated).astype(np.float32)
    flat = [x.T.reshape(-1).copy() for x in (rewards, values, done)]
    return lambda: module.compute_gae_batched_f32(*flat, last_value, steps, GAMMA, LAMBDA)


IMPLEMENTATIONS = [native, in_torch, compiled, stable_baselines3, tianshou, torchrl, rlox]


# The unrolled loop of 128 steps takes the compiler half a minute.
MEASURED = [pytest.param(f, marks=pytest.mark.slow) if f is compiled else f for f in IMPLEMENTATIONS]


@pytest.mark.parametrize("impl", MEASURED, ids=lambda f: f.__name__.replace("in_torch", "reference"))
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s[0]}x{s[1]}")
def test_gae(benchmark, shape, device, impl):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device is visible")
    benchmark.group = f"gae-{shape[0]}x{shape[1]}-{device}"
    call = impl(rollout(shape, device))

    def synchronised():
        call()
        torch.cuda.synchronize()

    call()
    benchmark(call if device == "cpu" else synchronised)
