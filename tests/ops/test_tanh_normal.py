"""tanh_normal: numbers by hand, native against reference, properties, gradients, errors."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from optix_fast import ops, random, reference
from optix_fast.random import RandomStream

F64 = torch.float64


def one(mean, log_std, value, name="pre_tanh", dtype=F64):
    """log_prob of one number, and its gradients by mean, log_std and the value."""
    tensors = [torch.tensor([[float(x)]], dtype=dtype, requires_grad=True) for x in (mean, log_std, value)]
    log_prob = ops.tanh_normal_log_prob(tensors[0], tensors[1], **{name: tensors[2]})
    log_prob.sum().backward()
    return log_prob.item(), *(t.grad.item() for t in tensors)


# ---- numbers by hand -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("u", "log_std", "expected"),
    [
        (0.0, 0.0, -0.9189385332046727),  # −½ ln 2π
        (1.0, 0.0, -0.5513768722),  # −½ − ½ ln 2π − log(1 − tanh² 1) = −0.5 − 0.9189385 + 0.8675617
        (-1.0, 0.0, -0.5513768722),
        (50.0, 0.0, -1152.3052328943),  # −1250 − ½ ln 2π + 100 − 2 ln 2
        (-50.0, 0.0, -1152.3052328943),
        (1e4, math.log(1e4), 19987.9844267337),  # −½ − ln 10⁴ − ½ ln 2π + 20000 − 2 ln 2
        (-1e4, math.log(1e4), 19987.9844267337),
        (1e4, 0.0, -49980002.3052328943),
    ],
)
def test_log_prob_of_a_sample_before_tanh(u, log_std, expected):
    assert one(0.0, log_std, u)[0] == pytest.approx(expected, rel=1e-9)
    assert one(0.0, log_std, u, dtype=torch.float32)[0] == pytest.approx(expected, rel=1e-6)


def test_log_prob_of_an_action():
    # a = ½: u = 0.5493061443, −½u² − ½ ln 2π − ln ¾.
    log_prob, _, _, by_action = one(0.0, 0.0, 0.5, "action")
    assert log_prob == pytest.approx(-0.7821250811, abs=1e-9)
    # ∂/∂a = (2a − u)/(1 − a²)
    assert by_action == pytest.approx(0.6009251408, abs=1e-9)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_action_at_the_border_is_limited(sign):
    # u = ½ ln((2 − 1e-6)/1e-6) = 7.2543286193; float32 has no 1 − 1e-6, its nearest gives 7.2477.
    log_prob, by_mean, by_log_std, by_action = one(0.0, 0.0, sign, "action")
    assert log_prob == pytest.approx(-14.1092165142, abs=1e-8)
    assert by_mean == pytest.approx(sign * 7.2543286193, abs=1e-9)
    assert by_log_std == pytest.approx(7.2543286193**2 - 1.0, abs=1e-8)
    assert by_action == 0.0
    assert one(0.0, 0.0, sign, "action", torch.float32)[0] == pytest.approx(-14.0745818, abs=2e-5)


def test_gradients_of_log_prob():
    # u = 1, σ = 2, z = ½: ∂/∂μ = z/σ, ∂/∂log σ = z² − 1, ∂/∂u = 2 tanh 1 − z/σ.
    _, by_mean, by_log_std, by_pre_tanh = one(0.0, math.log(2.0), 1.0)
    assert by_mean == pytest.approx(0.25, abs=1e-12)
    assert by_log_std == pytest.approx(-0.75, abs=1e-12)
    assert by_pre_tanh == pytest.approx(1.2731883119, abs=1e-9)


def test_dimensions_add_up():
    zero, one_ = torch.zeros(1, 3, dtype=F64), torch.tensor([[0.0, 1.0, -50.0]], dtype=F64)
    log_prob = ops.tanh_normal_log_prob(zero, zero, pre_tanh=one_)
    assert log_prob.item() == pytest.approx(-0.9189385332 - 0.5513768722 - 1152.3052328943, abs=1e-8)


def test_sample_takes_the_numbers_of_the_stream():
    noise = torch.from_numpy(RandomStream(7).normal((5, 3)))
    mean, log_std = torch.full((5, 3), 0.5), torch.full((5, 3), math.log(2.0))
    action, log_prob, pre_tanh = ops.tanh_normal_sample(mean, log_std, RandomStream(7))
    torch.testing.assert_close(pre_tanh, 0.5 + 2.0 * noise)
    torch.testing.assert_close(action, torch.tanh(pre_tanh))
    torch.testing.assert_close(log_prob, reference.tanh_normal_log_prob(mean, log_std, pre_tanh=pre_tanh))


@pytest.mark.parametrize("size", [0, 1, 2, 4, 5, 1023])
def test_sample_moves_the_stream_as_its_numbers_do(size):
    expected, stream = RandomStream(1), RandomStream(1)
    expected.normal(size)
    ops.tanh_normal_sample(torch.zeros(size, 1), torch.zeros(1), stream)
    assert stream.state_dict() == expected.state_dict()


def test_without_a_stream_the_default_one_is_used():
    random.seed_default_stream(3)
    first = ops.tanh_normal_sample(torch.zeros(4, 2), torch.zeros(2))[2]
    second = ops.tanh_normal_sample(torch.zeros(4, 2), torch.zeros(2))[2]
    random.seed_default_stream(3)
    assert torch.equal(ops.tanh_normal_sample(torch.zeros(4, 2), torch.zeros(2))[2], first)
    assert not torch.equal(first, second)


# ---- parity ----------------------------------------------------------------------------------------------

SHAPES = [
    (0, 3), (3, 0), (1, 1), (2, 1), (17, 1), (513, 1), (1, 6), (5, 3), (64, 6), (100, 7), (33, 16), (31, 17),
    (7, 64), (9, 65), (3, 511), (2, 512), (3, 1030), (4096, 6),
]  # fmt: skip


def inputs(shape, dtype=torch.float32, shared=False, seed=0, device="cpu"):
    """mean, log_std, pre_tanh and a weight for every sample; |u| stays below 4, so that tanh u < 1."""
    g = torch.Generator().manual_seed(seed)
    mean = torch.randn(shape, generator=g, dtype=dtype)
    log_std = torch.randn(shape[1:] if shared else shape, generator=g, dtype=dtype) * 0.5
    pre_tanh = (torch.randn(shape, generator=g, dtype=dtype) * 1.5).clamp(-4.0, 4.0)
    weights = torch.randn(shape[0], generator=g, dtype=dtype)
    return tuple(t.to(device) for t in (mean, log_std, pre_tanh, weights))


def differentiated(function, tensors, weights):
    """The results and, of all of them weighted, the gradients by the tensors, in float64 on the CPU."""
    leaves = [t.clone().requires_grad_() for t in tensors]
    results = function(*leaves)
    results = results if isinstance(results, tuple) else (results,)
    total = sum(((r * weights.view(-1, *[1] * (r.ndim - 1))) * (i + 1)).sum() for i, r in enumerate(results))
    gradients = torch.autograd.grad(total, leaves)
    return [t.detach().double().cpu() for t in (*results, *gradients)]


def check(function, expected_of, tensors, weights, names, factors):
    """Against the reference in float64, at `factors` units of rounding of the largest term of each sum."""
    got = differentiated(function, tensors, weights)
    expected = differentiated(expected_of, [t.double().cpu() for t in tensors], weights.double().cpu())
    epsilon = torch.finfo(weights.dtype).eps
    for name, a, b in zip(names, got, expected, strict=True):
        scale = max(1.0, b.abs().max().item()) if b.numel() else 1.0
        if name == "by_log_std" and b.ndim == 1:  # a sum over the batch, whose terms cancel
            scale *= max(1, len(weights))
        atol = factors.get(name, 32) * epsilon * scale
        torch.testing.assert_close(a, b, rtol=0.0, atol=atol, msg=lambda m, n=name: f"{n}: {m}")


def check_log_prob(shape, dtype, shared, name, device="cpu"):
    mean, log_std, u, weights = inputs(shape, dtype, shared, device=device)
    value = u.tanh() if name == "action" else u
    # log_prob adds A terms one after the other. ∂/∂a is divided by 1 − a², at least 1/745 here.
    check(
        lambda m, s, v: ops.tanh_normal_log_prob(m, s, **{name: v}),
        lambda m, s, v: reference.tanh_normal_log_prob(m, s, **{name: v}),
        (mean, log_std, value), weights, ("log_prob", "by_mean", "by_log_std", "by_value"),
        {"log_prob": 32 + shape[1], "by_value": 1000 if name == "action" else 32},
    )  # fmt: skip


def check_sample(shape, dtype, shared, device="cpu", noise_error=0.0):
    mean, log_std, _, weights = inputs(shape, dtype, shared, device=device)
    factor = 32 + noise_error / torch.finfo(dtype).eps
    names = ("action", "log_prob", "pre_tanh", "by_mean", "by_log_std")
    check(
        lambda m, s: ops.tanh_normal_sample(m, s, RandomStream(5)),
        lambda m, s: reference.tanh_normal_sample(m, s, RandomStream(5)),
        (mean, log_std), weights, names,
        dict.fromkeys(names, factor) | {"log_prob": factor * (1 + shape[1])},
    )  # fmt: skip


cases = pytest.mark.parametrize(
    ("shape", "dtype", "shared"),
    list(itertools.product(SHAPES, [torch.float32, F64], [False, True])),
    ids=str,
)


@pytest.mark.parametrize("name", ["action", "pre_tanh"])
@cases
def test_parity_of_log_prob(shape, dtype, shared, name):
    check_log_prob(shape, dtype, shared, name)


@cases
def test_parity_of_sample(shape, dtype, shared):
    check_sample(shape, dtype, shared)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["action", "pre_tanh"])
@cases
def test_cuda_parity_of_log_prob(shape, dtype, shared, name):
    check_log_prob(shape, dtype, shared, name, "cuda")


@pytest.mark.gpu
@cases
def test_cuda_parity_of_sample(shape, dtype, shared):
    check_sample(shape, dtype, shared, "cuda", noise_error=1e-6 * 6.0)  # what RandomStream allows its normals


@pytest.mark.gpu
def test_cuda_gives_the_same_bits_again():
    mean, log_std, u, _ = inputs((1000, 7), device="cuda")
    for call in (
        lambda: (ops.tanh_normal_log_prob(mean, log_std, pre_tanh=u),),
        lambda: ops.tanh_normal_sample(mean, log_std, RandomStream(5)),
    ):
        assert all(torch.equal(a, b) for a, b in zip(call(), call(), strict=True))


# ---- properties ------------------------------------------------------------------------------------------

numbers = st.floats(-3.0, 3.0)
scales = st.floats(-2.0, 1.0)


@settings(max_examples=40, deadline=None)
@given(mean=numbers, log_std=scales)
def test_density_integrates_to_one(mean, log_std):
    # ∫ π(a) da over (−1, 1), with a = tanh u: trapezoids in u, dense where the Gaussian is.
    u = torch.linspace(mean - 9.0 * math.exp(log_std), mean + 9.0 * math.exp(log_std), 4001, dtype=F64)
    u = u.unsqueeze(1)
    m, s = torch.full_like(u, mean), torch.full((1,), log_std, dtype=F64)
    density = ops.tanh_normal_log_prob(m, s, pre_tanh=u).exp()
    slope = 1.0 / torch.cosh(u.squeeze(1)) ** 2
    assert torch.trapezoid(density * slope, u.squeeze(1)).item() == pytest.approx(1.0, abs=1e-6)


@settings(max_examples=40, deadline=None)
@given(shape=st.tuples(st.integers(1, 20), st.integers(1, 20)), seed=st.integers(0, 2**20))
def test_mirrored_distribution_gives_mirrored_gradients(shape, seed):
    mean, log_std, u, weights = inputs(shape, F64, seed=seed)
    function = lambda m, s, v: ops.tanh_normal_log_prob(m, s, pre_tanh=v)  # noqa: E731
    log_prob, by_mean, by_log_std, by_u = differentiated(function, (mean, log_std, u), weights)
    mirrored = differentiated(function, (-mean, log_std, -u), weights)
    for got, expected in zip(mirrored, (log_prob, -by_mean, by_log_std, -by_u), strict=True):
        assert torch.equal(got, expected)


@settings(max_examples=40, deadline=None)
@given(shape=st.tuples(st.integers(1, 20), st.integers(1, 20)), seed=st.integers(0, 2**20))
def test_agrees_with_torch_distributions(shape, seed):
    mean, log_std, u, _ = inputs(shape, F64, seed=seed)
    transforms = [torch.distributions.TanhTransform()]
    base = torch.distributions.Normal(mean, log_std.exp())
    expected = torch.distributions.TransformedDistribution(base, transforms).log_prob(u.tanh()).sum(1)
    torch.testing.assert_close(
        ops.tanh_normal_log_prob(mean, log_std, u.tanh()), expected, rtol=1e-9, atol=1e-9
    )
    torch.testing.assert_close(
        ops.tanh_normal_log_prob(mean, log_std, pre_tanh=u), expected, rtol=1e-9, atol=1e-9
    )


def test_sampled_log_prob_is_that_of_the_sample():
    mean, log_std, *_ = inputs((50, 6), F64)
    action, log_prob, pre_tanh = ops.tanh_normal_sample(mean, log_std, RandomStream(2))
    torch.testing.assert_close(log_prob, ops.tanh_normal_log_prob(mean, log_std, pre_tanh=pre_tanh))
    torch.testing.assert_close(action, pre_tanh.tanh())


def test_sampled_action_keeps_the_digits_of_a_small_number():
    pre_tanh, action = (
        ops.tanh_normal_sample(torch.full((8, 3), 1e-4), torch.full((3,), -12.0), RandomStream(2))[i]
        for i in (2, 0)
    )
    torch.testing.assert_close(action, pre_tanh.double().tanh().float(), rtol=4e-7, atol=0.0)


@pytest.mark.parametrize("broken", ["mean", "log_std", "action", "pre_tanh"])
def test_nan_stays_in_its_row(broken):
    mean, log_std, u, _ = inputs((40, 3))
    tensors = {"mean": mean, "log_std": log_std, "action" if broken == "action" else "pre_tanh": u.tanh()}
    tensors[broken][21, 1] = torch.nan
    expected = torch.zeros(40, dtype=torch.bool)
    expected[21] = True
    assert torch.equal(ops.tanh_normal_log_prob(**tensors).isnan(), expected)
    if broken in ("mean", "log_std"):
        action, log_prob, pre_tanh = ops.tanh_normal_sample(mean, log_std, RandomStream(0))
        assert torch.equal(log_prob.isnan(), expected)
        assert action.isnan().sum() == pre_tanh.isnan().sum() == 1


@pytest.mark.native
def test_same_inputs_give_the_same_bits():
    mean, log_std, u, _ = inputs((777, 5))
    for call in (
        lambda: (ops.tanh_normal_log_prob(mean, log_std, u.tanh()),),
        lambda: ops.tanh_normal_sample(mean, log_std, RandomStream(5)),
    ):
        assert all(torch.equal(a, b) for a, b in zip(call(), call(), strict=True))


# ---- gradients -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("name", ["action", "pre_tanh"])
def test_gradcheck_of_log_prob(name, shared):
    mean, log_std, u, _ = inputs((5, 3), F64, shared)
    leaves = [t.requires_grad_() for t in (mean, log_std, u.tanh() if name == "action" else u)]
    function = lambda m, s, v: ops.tanh_normal_log_prob(m, s, **{name: v})  # noqa: E731
    assert torch.autograd.gradcheck(function, leaves)


@pytest.mark.parametrize("shared", [False, True])
def test_gradcheck_of_sample(shared):
    mean, log_std, *_ = inputs((5, 3), F64, shared)
    function = lambda m, s: ops.tanh_normal_sample(m, s, RandomStream(9))  # noqa: E731
    assert torch.autograd.gradcheck(function, (mean.requires_grad_(), log_std.requires_grad_()))


@pytest.mark.parametrize("used", [0, 1, 2])
def test_each_result_of_a_sample_carries_its_own_gradient(used):
    mean, log_std, *_ = inputs((6, 4), F64)
    leaves = (mean.requires_grad_(), log_std.requires_grad_())
    got, expected = (
        torch.autograd.grad(module.tanh_normal_sample(*leaves, RandomStream(9))[used].sum(), leaves)
        for module in (ops, reference)
    )
    torch.testing.assert_close(got, expected)


def both_functions(mean, log_std):
    yield ops.tanh_normal_log_prob(mean, log_std, pre_tanh=torch.ones_like(mean)).sum()
    yield sum(result.sum() for result in ops.tanh_normal_sample(mean, log_std, RandomStream(1)))


def test_backward_twice_with_retain_graph():
    mean, log_std, *_ = inputs((6, 4))
    for total in both_functions(mean.requires_grad_(), log_std.requires_grad_()):
        first = torch.autograd.grad(total, (mean, log_std), retain_graph=True)
        second = torch.autograd.grad(3.0 * total, (mean, log_std))
        torch.testing.assert_close(second, tuple(3.0 * gradient for gradient in first))


@pytest.mark.native
def test_second_derivative_is_refused():
    mean, log_std, *_ = inputs((6, 4))
    for total in both_functions(mean.requires_grad_(), log_std.requires_grad_()):
        with pytest.raises(RuntimeError, match="differentiable once only"):
            torch.autograd.grad(total, mean, create_graph=True)


def test_no_gradient_where_none_is_wanted():
    mean, log_std, *_ = inputs((6, 4))
    assert not any(total.requires_grad for total in both_functions(mean, log_std))
    with torch.no_grad():
        assert not any(total.requires_grad for total in both_functions(mean.requires_grad_(), log_std))
