"""gae: numbers by hand, native against reference, properties, errors."""

from __future__ import annotations

import itertools
import re
import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from optix_fast import backend, ops, reference

SHAPES = [
    (0, 3), (3, 0), (0,), (1,), (2,), (5,), (2048,), (1, 1), (2, 1), (17, 1), (7, 2), (300, 2), (6, 3),
    (1, 4), (5, 4), (64, 4), (9, 8), (1000, 4), (1001, 2), (5, 5), (5, 7), (3, 13), (128, 8),
    (4, 31), (33, 64), (16, 67), (9, 130), (2, 257),
]  # fmt: skip
# Relative to the largest advantage: rounding accumulates over at most 1/(1 − γλ) ≈ 17 steps.
TOLERANCE = {torch.float32: 3e-6, torch.float64: 1e-14}


def rollout(shape, dtype=torch.float32, seed=0, ends=0.1, device="cpu"):
    g = torch.Generator().manual_seed(seed)
    rewards, values, final_values = (torch.randn(shape, generator=g, dtype=dtype) for _ in range(3))
    last_value = torch.randn(shape[1:], generator=g, dtype=dtype)
    terminated, truncated = (torch.rand(shape, generator=g) < ends for _ in range(2))
    tensors = (rewards, values, last_value, terminated, truncated, final_values)
    return tuple(t.to(device) for t in tensors)


def assert_close(got, expected, dtype):
    for a, b in zip(got, expected, strict=True):
        scale = max(1.0, b.abs().max().item()) if b.numel() else 1.0
        torch.testing.assert_close(a, b, rtol=0.0, atol=TOLERANCE[dtype] * scale, equal_nan=True)


# ---- numbers by hand: γ = λ = ½, so that every product is exact ---------------------------------------

REWARDS = torch.tensor([1.0, 2.0, 3.0])
VALUES = torch.tensor([4.0, 8.0, 16.0])
NEVER = torch.zeros(3, dtype=torch.bool)
AT_1 = torch.tensor([False, True, False])
HALF = {"gamma": 0.5, "gae_lambda": 0.5}


def test_no_episode_end():
    # δ = 1 + 4 − 4, 2 + 8 − 8, 3 + 16 − 16 = 1, 2, 3;  A₂ = 3, A₁ = 2 + 3/4, A₀ = 1 + 2.75/4
    advantages, returns = ops.gae(REWARDS, VALUES, 32.0, NEVER, **HALF)
    assert advantages.tolist() == [1.6875, 2.75, 3.0]
    assert returns.tolist() == [5.6875, 10.75, 19.0]


def test_terminated_row_has_no_successor():
    # δ₁ = 2 − 8 = −6 and nothing of A₂ reaches A₁;  A₀ = 1 − 6/4
    advantages, _ = ops.gae(REWARDS, VALUES, 32.0, AT_1, **HALF)
    assert advantages.tolist() == [-0.5, -6.0, 3.0]


def test_truncated_row_bootstraps_final_value():
    # δ₁ = 2 + 20/2 − 8 = 4 and nothing of A₂ reaches A₁;  A₀ = 1 + 4/4
    final_values = torch.tensor([torch.nan, 20.0, torch.nan])
    advantages, _ = ops.gae(REWARDS, VALUES, 32.0, NEVER, AT_1, final_values, **HALF)
    assert advantages.tolist() == [2.0, 4.0, 3.0]


def test_row_that_is_both_counts_as_terminated():
    advantages, _ = ops.gae(REWARDS, VALUES, 32.0, AT_1, AT_1, torch.full((3,), 20.0), **HALF)
    assert advantages.tolist() == [-0.5, -6.0, 3.0]


def test_truncated_last_row_reads_final_value_not_last_value():
    last = torch.tensor([False, False, True])
    # δ₂ = 3 + 40/2 − 16 = 7;  A₁ = 2 + 7/4, A₀ = 1 + 3.75/4
    advantages, _ = ops.gae(REWARDS, VALUES, torch.nan, NEVER, last, torch.full((3,), 40.0), **HALF)
    assert advantages.tolist() == [1.9375, 3.75, 7.0]


def test_time_limit_of_a_good_state_is_not_a_failure():
    # V = 50 everywhere, reward 1, γ = 0.99: the target is 1 + 49.5, not 1.
    fifty = torch.tensor([50.0])
    flag = torch.tensor([True])
    _, returns = ops.gae(torch.ones(1), fifty, 0.0, ~flag, flag, fifty, gamma=0.99, gae_lambda=0.95)
    torch.testing.assert_close(returns, torch.tensor([50.5]))


def test_environments_do_not_mix():
    rewards = torch.stack([REWARDS, torch.zeros(3)], dim=1)
    values = torch.stack([VALUES, torch.zeros(3)], dim=1)
    terminated = torch.stack([NEVER, AT_1], dim=1)
    advantages, _ = ops.gae(rewards, values, torch.tensor([32.0, 8.0]), terminated, **HALF)
    assert advantages[:, 0].tolist() == [1.6875, 2.75, 3.0]
    assert advantages[:, 1].tolist() == [0.0, 0.0, 4.0]


# ---- parity -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("truncation", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_parity_with_reference(shape, dtype, truncation):
    rewards, values, last_value, terminated, truncated, final_values = rollout(shape, dtype)
    ends = (terminated, truncated, final_values) if truncation else (terminated,)
    got = ops.gae(rewards, values, last_value, *ends)
    assert_close(got, reference.gae(rewards, values, last_value, *ends), dtype)


@pytest.mark.parametrize("last_value", [0.25, 1, torch.tensor(0.25), torch.tensor([0.25] * 5)], ids=repr)
def test_parity_of_every_form_of_last_value(last_value):
    rewards, values, _, terminated, *_ = rollout((6, 5), ends=0.0)
    got = ops.gae(rewards, values, last_value, terminated)
    assert_close(got, reference.gae(rewards, values, last_value, terminated), torch.float32)


@pytest.mark.parametrize("last_value", [0.5, torch.tensor(0.5), torch.tensor([0.5])], ids=repr)
def test_one_environment_takes_a_number_or_one_element(last_value):
    advantages, _ = ops.gae(REWARDS, VALUES, last_value, NEVER, **HALF)
    assert advantages[-1].item() == 3.0 + 0.25 - 16.0


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_cuda_parity_with_reference(shape, dtype):
    on_cpu = rollout(shape, dtype)
    got = ops.gae(*(t.cuda() for t in on_cpu))
    assert_close([t.cpu() for t in got], reference.gae(*on_cpu), dtype)


@pytest.mark.gpu
def test_cuda_runs_on_the_current_stream():
    on_gpu = rollout((64, 33), device="cuda")
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        scaled = [t * 2 if t.is_floating_point() else t for t in on_gpu]
        got = ops.gae(*scaled)
    stream.synchronize()
    assert_close([t.cpu() for t in got], reference.gae(*(t.cpu() for t in scaled)), torch.float32)


# ---- out= ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(0, 3), (5,), (2048, 1), (17, 4), (9, 130)], ids=str)
def test_out_is_written_and_returned(shape):
    inputs = rollout(shape)
    out = (torch.empty(shape), torch.empty(shape))
    versions = [t._version for t in out]
    got = ops.gae(*inputs, out=out)
    assert got[0] is out[0] and got[1] is out[1]
    expected = ops.gae(*inputs)
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
    assert all(t._version > v for t, v in zip(out, versions, strict=True))


@pytest.mark.native
@pytest.mark.parametrize("name", ["rewards", "values", "terminated", "final_values"])
def test_out_must_not_share_memory_with_an_input(name):
    inputs = dict(zip(ARGUMENTS, rollout((64, 4)), strict=True))
    shared = inputs[name] if name != "terminated" else None
    out = torch.empty(64, 4)
    if shared is None:
        shared = out
        inputs[name] = out.view(torch.uint8).view(-1)[:256].view(torch.bool).view(64, 4)
    with pytest.raises(ValueError, match="gae: out must not share memory"):
        ops.gae(**inputs, out=(shared, torch.empty(64, 4)))
    with pytest.raises(ValueError, match="gae: out must not share memory"):
        ops.gae(**dict(zip(ARGUMENTS, rollout((64, 4)), strict=True)), out=(out, out))


@pytest.mark.parametrize(
    ("out", "error", "message"),
    [
        (torch.zeros(2, 128, 8), TypeError, "out must be a tuple"),
        ((torch.zeros(128, 8),), TypeError, "out must be a tuple"),
        ((torch.zeros(128, 7), torch.zeros(128, 8)), ValueError, r"advantages must be float32 \[T, N\]"),
        ((torch.zeros(128, 8), torch.zeros(8, 128).T), ValueError, "returns must be contiguous"),
        ((torch.zeros(128, 8, requires_grad=True),) * 2, ValueError, "out must not require a gradient"),
        (("a", "b"), TypeError, "advantages must be a torch.Tensor, got str"),
    ],
    ids=["tensor", "single", "shape", "strides", "gradient", "text"],
)
def test_out_without_meaning(out, error, message):
    with pytest.raises(error, match=f"gae: {message}"):
        call_with(out=out)


# ---- properties ---------------------------------------------------------------------------------------

shapes = st.tuples(st.integers(1, 40), st.integers(1, 40))
unit = st.floats(0.0, 1.0)


@settings(max_examples=40, deadline=None)
@given(shape=shapes, seed=st.integers(0, 2**20), gamma=unit)
def test_lambda_zero_is_the_temporal_difference(shape, seed, gamma):
    rewards, values, last_value, terminated, *_ = rollout(shape, torch.float64, seed)
    advantages, _ = ops.gae(rewards, values, last_value, terminated, gamma=gamma, gae_lambda=0.0)
    successors = torch.cat([values[1:], last_value.unsqueeze(0)])
    torch.testing.assert_close(advantages, rewards + gamma * successors * ~terminated - values)


@settings(max_examples=40, deadline=None)
@given(shape=shapes, seed=st.integers(0, 2**20), gamma=unit)
def test_lambda_one_returns_are_discounted_rewards(shape, seed, gamma):
    rewards, values, last_value, terminated, *_ = rollout(shape, torch.float64, seed)
    _, returns = ops.gae(rewards, values, last_value, terminated, gamma=gamma, gae_lambda=1.0)
    expected = torch.empty_like(rewards)
    following = last_value
    for t in range(shape[0] - 1, -1, -1):
        following = rewards[t] + gamma * following * ~terminated[t]
        expected[t] = following
    torch.testing.assert_close(returns, expected)


@settings(max_examples=40, deadline=None)
@given(shape=shapes, seed=st.integers(0, 2**20), data=st.data())
def test_nan_stays_within_its_episode(shape, seed, data):
    rewards, values, last_value, terminated, truncated, final_values = rollout(shape, seed=seed, ends=0.3)
    t = data.draw(st.integers(0, shape[0] - 1))
    rewards[t] = torch.nan
    done = terminated | truncated
    advantages, _ = ops.gae(rewards, values, last_value, terminated, truncated, final_values)
    for env in range(shape[1]):
        first = t
        while first > 0 and not done[first - 1, env]:
            first -= 1
        expected = torch.zeros(shape[0], dtype=torch.bool)
        expected[first : t + 1] = True
        assert torch.equal(advantages[:, env].isnan(), expected)


@pytest.mark.native
def test_same_inputs_give_the_same_bits():
    inputs = rollout((50, 77))
    first, second = ops.gae(*inputs), ops.gae(*inputs)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.native
def test_several_threads_at_once():
    inputs = [rollout((64, 1024), seed=i) for i in range(4)]
    expected = [ops.gae(*i) for i in inputs]
    results = [None] * 4

    def work(i):
        for _ in range(20):
            results[i] = ops.gae(*inputs[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for got, want in zip(results, expected, strict=True):
        assert torch.equal(got[0], want[0])


def test_outputs_carry_no_gradient():
    rewards, values, last_value, terminated, *_ = rollout((4, 3))
    advantages, returns = ops.gae(rewards, values.requires_grad_(), last_value.requires_grad_(), terminated)
    assert not advantages.requires_grad
    assert not returns.requires_grad


# ---- torch's own checks of a registered op ------------------------------------------------------------


@pytest.mark.native
@pytest.mark.parametrize("truncation", [False, True])
def test_opcheck(truncation):
    rewards, values, last_value, terminated, truncated, final_values = rollout((5, 4))
    ends = (truncated, final_values) if truncation else (None, None)
    torch.library.opcheck(
        torch.ops.optix_fast.gae.default, (rewards, values, last_value, terminated, *ends, 0.99, 0.95)
    )


@pytest.mark.parametrize("last_value", [0.5, torch.full((4,), 0.5)], ids=["number", "tensor"])
def test_compiles_as_one_graph(last_value):
    rewards, values, _, terminated, truncated, final_values = rollout((5, 4))
    compiled = torch.compile(ops.gae, fullgraph=True, backend="aot_eager")
    got = compiled(rewards, values, last_value, terminated, truncated, final_values)
    expected = reference.gae(rewards, values, last_value, terminated, truncated, final_values)
    assert_close(got, expected, torch.float32)


# ---- errors -------------------------------------------------------------------------------------------

ARGUMENTS = ("rewards", "values", "last_value", "terminated", "truncated", "final_values")


def call_with(**changes):
    arguments = dict(zip(ARGUMENTS, rollout((128, 8)), strict=True)) | changes
    return ops.gae(**arguments)


def test_message_names_the_argument_what_was_expected_and_what_came():
    message = "gae: values must be float32 [T, N] = [128, 8] on cpu, got float64 [128, 8]"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call_with(values=torch.zeros(128, 8, dtype=torch.float64))


@pytest.mark.parametrize("name", ARGUMENTS)
def test_wrong_shape(name):
    with pytest.raises(ValueError, match=f"gae: {name} must be .*, got .* \\[3, 4, 2\\]"):
        call_with(**{name: torch.zeros(3, 4, 2, dtype=torch.bool if "ated" in name else torch.float32)})


@pytest.mark.parametrize("name", ARGUMENTS)
def test_wrong_type(name):
    shape = (8,) if name == "last_value" else (128, 8)
    with pytest.raises(ValueError, match=f"gae: {name} must be .*, got int32"):
        call_with(**{name: torch.zeros(shape, dtype=torch.int32)})


@pytest.mark.parametrize("name", [n for n in ARGUMENTS if n != "last_value"])
def test_not_contiguous(name):
    dtype = torch.bool if "ated" in name else torch.float32
    with pytest.raises(ValueError, match=rf"gae: {name} must be contiguous, got one with strides \[1, 128\]"):
        call_with(**{name: torch.zeros(8, 128, dtype=dtype).T})


@pytest.mark.parametrize(("name", "value"), list(itertools.product(ARGUMENTS, ["text", [1.0, 2.0]])))
def test_not_a_tensor(name, value):
    with pytest.raises(TypeError, match=f"gae: {name} must be a torch.Tensor, got (str|list)"):
        call_with(**{name: value})


@pytest.mark.parametrize("name", ARGUMENTS)
def test_other_device(name):
    shape = (8,) if name == "last_value" else (128, 8)
    dtype = torch.bool if "ated" in name else torch.float32
    # A first argument elsewhere makes the second one the odd one out.
    blamed = "values" if name == "rewards" else name
    with pytest.raises(ValueError, match=f"gae: {blamed} must be "):
        call_with(**{name: torch.zeros(shape, dtype=dtype, device="meta")})


@pytest.mark.parametrize("name", ["rewards", "values", "last_value", "final_values"])
def test_lazily_negated_view_is_not_read_with_the_wrong_sign(name):
    view = torch._neg_view(torch.ones(8) if name == "last_value" else torch.ones(128, 8))
    if backend() == "torch":
        call_with(**{name: view})  # torch resolves it
        return
    with pytest.raises(ValueError, match=f"gae: {name} must not be a lazily negated view"):
        call_with(**{name: view})


@pytest.mark.native
def test_fake_tensor_is_refused():
    with FakeTensorMode():
        fake = torch.zeros(128, 8)
    with pytest.raises(ValueError, match="gae: rewards must be a .*tensor with memory"):
        call_with(rewards=fake)


@pytest.mark.native
@pytest.mark.parametrize(
    "rewards",
    [torch.zeros(128, 8).to_sparse(), torch.zeros(128, 8, dtype=torch.bfloat16), torch.zeros(128, 8) + 0j],
    ids=["sparse", "bfloat16", "complex"],
)
def test_exotic_tensors_are_refused(rewards):
    with pytest.raises(ValueError, match="gae: rewards must be"):
        call_with(rewards=rewards)


@pytest.mark.native
def test_batched_tensor_is_refused():
    rewards, values, last_value, terminated, *_ = rollout((3, 4))
    stacked = torch.stack([rewards, rewards])
    with pytest.raises(ValueError, match="gae: rewards must be"):
        torch.vmap(lambda r: ops.gae(r, values, last_value, terminated)[0])(stacked)


@pytest.mark.parametrize(
    ("name", "value"), list(itertools.product(["gamma", "gae_lambda"], [-0.1, 1.1, torch.nan]))
)
def test_factor_outside_the_unit_interval(name, value):
    with pytest.raises(ValueError, match=rf"gae: {name} must be in \[0, 1\], got "):
        call_with(**{name: value})


def test_truncated_and_final_values_come_together():
    with pytest.raises(ValueError, match="gae: truncated needs final_values, got None"):
        call_with(final_values=None)
    with pytest.raises(ValueError, match="gae: final_values needs truncated, got None"):
        call_with(truncated=None)
