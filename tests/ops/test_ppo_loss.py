"""ppo_loss: numbers by hand, native against reference, properties."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ppo_loss_cases import (
    DISTS,
    ONLY_POLICY,
    OPTIONS,
    PLAIN,
    assert_same_outcome,
    batch_of,
    outcome,
    per_component,
)

from optix_fast import ops, reference
from optix_fast.ops import Categorical, Hybrid, MultiDiscrete, Normal

LN2 = math.log(2.0)


def column(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


def one_sample(logits, action, old_probability, advantage, value=0.0, target=0.0, **options):
    """One categorical sample: the loss and the gradients of its logits and its value."""
    params = torch.tensor([logits], dtype=torch.float64, requires_grad=True)
    values = column(value).requires_grad_()
    result = ops.ppo_loss(
        Categorical(), params, torch.tensor([action]), column(math.log(old_probability)), column(advantage),
        values, column(target), **(ONLY_POLICY | options),
    )  # fmt: skip
    result.loss.backward()
    return result, params.grad[0].tolist(), values.grad.item()


# ---- numbers by hand ----------------------------------------------------------------------------------


def test_unchanged_policy():
    # p = ½, ratio 1, A = 2: policy −2.  V = 1, R = 3: value 4.  H = ln 2.  loss = −2 + 4/2 − ln2/10.
    # ∂/∂z = −A·(δ − p) = ∓1, and a uniform distribution's entropy is flat.  ∂/∂V = ½·2·(1 − 3).
    result, by_logits, by_value = one_sample(
        [0.0, 0.0], 0, 0.5, 2.0, value=1.0, target=3.0, vf_coef=0.5, entropy_coef=0.1
    )
    assert result.loss.item() == pytest.approx(-0.1 * LN2, abs=1e-12)
    assert result.stats.tolist() == pytest.approx([-2.0, 4.0, LN2, 0.0, 0.0, LN2], abs=1e-6)
    assert by_logits == pytest.approx([-1.0, 1.0], abs=1e-12)
    assert by_value == pytest.approx(-2.0, abs=1e-12)


def test_clipped_sample_pulls_no_more():
    # p = ¾ against ½: ratio 1.5, clipped to 1.2.
    result, by_logits, _ = one_sample([math.log(3.0), 0.0], 0, 0.5, 1.0)
    assert result.policy_loss.item() == pytest.approx(-1.2, abs=1e-6)
    assert result.clip_fraction.item() == 1.0
    assert result.approx_kl.item() == pytest.approx(0.5 - math.log(1.5), abs=1e-6)
    assert by_logits == [0.0, 0.0]


def test_clip_is_pessimistic_for_a_negative_advantage():
    # The unclipped −1.5 is the smaller one: ∂/∂z = 1.5·(δ − p).
    result, by_logits, _ = one_sample([math.log(3.0), 0.0], 0, 0.5, -1.0)
    assert result.policy_loss.item() == pytest.approx(1.5, abs=1e-6)
    assert by_logits == pytest.approx([0.375, -0.375], abs=1e-12)


def test_entropy_gradient():
    # p = ¾, ¼: H = 0.5623351446, ∂H/∂z₀ = −¾·(ln ¾ + H) = −0.2059898041.
    result, by_logits, _ = one_sample([math.log(3.0), 0.0], 0, 0.75, 0.0, entropy_coef=1.0)
    assert result.loss.item() == pytest.approx(-0.5623351446, abs=1e-9)
    assert by_logits == pytest.approx([0.2059898041, -0.2059898041], abs=1e-9)


def test_entropy_floor_costs_what_is_missing():
    # H = ln 2 is 1 − 0.6931 below the floor: 3·0.30685 on top, whatever entropy_coef is.
    result, _, _ = one_sample([0.0, 0.0], 0, 0.5, 0.0, entropy_floor=1.0, entropy_floor_coef=3.0)
    assert result.loss.item() == pytest.approx(3.0 * (1.0 - LN2), abs=1e-12)
    _, by_logits, _ = one_sample([math.log(3.0), 0.0], 0, 0.75, 0.0, entropy_floor=1.0)
    assert by_logits == pytest.approx([0.2059898041, -0.2059898041], abs=1e-9)


def test_entropy_above_its_floor_costs_nothing():
    result, by_logits, _ = one_sample([math.log(3.0), 0.0], 0, 0.75, 0.0, entropy_floor=0.5)
    assert result.loss.item() == 0.0
    assert by_logits == [0.0, 0.0]


def test_masked_action_has_neither_probability_nor_gradient():
    # Of logits 0, 5, 0 the middle one is impossible: p = ½, 0, ½.
    mask = torch.tensor([[True, False, True]])
    result, by_logits, _ = one_sample([0.0, 5.0, 0.0], 2, 0.5, 1.0, action_mask=mask, entropy_coef=0.1)
    assert result.approx_kl.item() == pytest.approx(0.0, abs=1e-7)
    assert result.entropy.item() == pytest.approx(LN2, abs=1e-6)
    assert by_logits == pytest.approx([0.5, 0.0, -0.5], abs=1e-12)
    assert by_logits[1] == 0.0


def test_impossible_logit_gives_no_nan():
    result, by_logits, _ = one_sample([0.0, -math.inf, 0.0], 0, 0.5, 1.0, entropy_coef=0.1)
    assert result.entropy.item() == pytest.approx(LN2, abs=1e-6)
    assert by_logits == pytest.approx([-0.5, 0.0, 0.5], abs=1e-12)


@pytest.mark.parametrize(
    ("value", "target", "mode", "loss", "gradient"),
    [
        # V_old = 1, c = ½.  V = 3 is limited to 1.5, V = 1.25 not at all.
        (3.0, 4.0, "max", 6.25, 0.0),  # (1.5 − 4)² beats (3 − 4)²
        (3.0, 4.0, "clipped", 6.25, 0.0),
        (3.0, 1.0, "max", 4.0, 4.0),  # (3 − 1)² beats (1.5 − 1)²
        (3.0, 1.0, "clipped", 0.25, 0.0),
        (1.25, 1.0, "max", 0.0625, 0.5),
        (1.25, 1.0, "clipped", 0.0625, 0.5),
        (3.0, 2.25, "max", 0.5625, 0.75),  # a tie, (3 − 2.25)² = (1.5 − 2.25)²: half of each gradient
    ],
)
def test_value_clipping(value, target, mode, loss, gradient):
    options = {"vf_coef": 1.0, "value_clip": 0.5, "value_clip_mode": mode, "old_values": column(1.0)}
    result, _, by_value = one_sample([0.0, 0.0], 0, 0.5, 0.0, value=value, target=target, **options)
    assert result.value_loss.item() == loss
    assert by_value == gradient


def test_normal():
    # μ = 0, σ = 1, a = 1: log π = −½ − ½ ln 2π = −1.4189385332 = −H.  ratio 1, A = 1.
    # ∂/∂μ = −(a − μ)/σ² = −1;  ∂/∂log σ = −(z² − 1) − entropy_coef = −0.1.
    params = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    result = ops.ppo_loss(
        Normal(), params, torch.ones(1, 1, dtype=torch.float64), column(-1.4189385332), column(1.0),
        column(0.0), column(0.0), clip_ratio=0.2, vf_coef=0.5, entropy_coef=0.1,
    )  # fmt: skip
    result.loss.backward()
    assert result.loss.item() == pytest.approx(-1.0 - 0.1 * 1.4189385332, abs=1e-9)
    assert params.grad.tolist()[0] == pytest.approx([-1.0, -0.1], abs=1e-9)


def test_normalised_advantages():
    # A = 1, 3: mean 2, unbiased std √2, so ∓1/√2.  ∂/∂z of row 0 = (1/√2)/2·(½, −½).
    params = torch.zeros(2, 2, dtype=torch.float64, requires_grad=True)
    zeros = column(0.0, 0.0)
    result = ops.ppo_loss(
        Categorical(), params, torch.tensor([0, 0]), zeros - LN2, column(1.0, 3.0), zeros, zeros,
        **ONLY_POLICY, normalize_advantages=True,
    )  # fmt: skip
    result.loss.backward()
    eighth = math.sqrt(0.5) / 4
    assert params.grad[0].tolist() == pytest.approx([eighth, -eighth], rel=1e-7)
    assert params.grad[1].tolist() == pytest.approx([-eighth, eighth], rel=1e-7)


def test_batch_of_one_is_not_normalised():
    result, _, _ = one_sample([0.0, 0.0], 0, 0.5, 2.0, normalize_advantages=True)
    assert result.policy_loss.item() == pytest.approx(-2.0)


def test_components_add_up():
    # Two fair coins and a Gaussian, ratio 1 each: H = ln 2, ln 2, 1.4189385332; log π their negative sum.
    params = torch.zeros(1, 6, dtype=torch.float64, requires_grad=True)
    log_prob = -2 * LN2 - 1.4189385332046727
    result = ops.ppo_loss(
        Hybrid((2, 2)), params, torch.tensor([[0.0, 1.0, 1.0]], dtype=torch.float64), column(log_prob),
        column(1.0), column(0.0), column(0.0), clip_ratio=0.2, vf_coef=0.0, entropy_coef=[0.1, 0.2, 0.4],
        entropy_floor=[0.0, 1.0, 2.0], entropy_floor_coef=[9.0, 1.0, 0.5],
    )  # fmt: skip
    result.loss.backward()
    entropies = [LN2, LN2, 1.4189385332]
    assert result.entropies.tolist() == pytest.approx(entropies, abs=1e-6)
    assert result.entropy.item() == pytest.approx(sum(entropies), abs=1e-6)
    # −1 − 0.1·H₀ − 0.2·H₁ − 0.4·H₂ + (1 − H₁) + ½·(2 − H₂)
    expected = -1.0 - 0.3 * LN2 - 0.4 * 1.4189385332 + (1.0 - LN2) + 0.5 * (2.0 - 1.4189385332)
    assert result.loss.item() == pytest.approx(expected, abs=1e-9)
    # Coins: −(δ − ½).  Gaussian at z = 1: mean −1, log_std −(z² − 1) − 0.4 − ½.
    assert params.grad.tolist()[0] == pytest.approx([-0.5, 0.5, 0.5, -0.5, -1.0, -0.9], abs=1e-9)


def test_masked_component_of_a_multi_discrete():
    # Component 1 may only do its action 1: probability 1, entropy 0, no gradient.
    params = torch.tensor([[0.0, 0.0, 3.0, 1.0]], dtype=torch.float64, requires_grad=True)
    result = ops.ppo_loss(
        MultiDiscrete([2, 2]), params, torch.tensor([[1, 1]]), column(-LN2), column(1.0), column(0.0),
        column(0.0), **ONLY_POLICY, action_mask=torch.tensor([[True, True, False, True]]),
    )  # fmt: skip
    result.loss.backward()
    assert result.approx_kl.item() == pytest.approx(0.0, abs=1e-7)
    assert result.entropies.tolist() == pytest.approx([LN2, 0.0], abs=1e-6)
    assert params.grad.tolist()[0] == pytest.approx([0.5, -0.5, 0.0, 0.0], abs=1e-12)


# ---- parity -------------------------------------------------------------------------------------------

BATCHES = [1, 2, 3, 7, 8, 15, 16, 17, 33, 64, 1000]
WIDTHS = [1, 2, 3, 6, 19, 70]


def assert_parity(dist, width, dtype, options, device="cpu"):
    # Every batch with two widths and every width with four batches; the reference goes through many
    # components one by one, and no batch adds anything there.
    batches = BATCHES if dist.components < 10 and width in (1, 6) else [1, 8, 17, 33]
    for batch, mask in itertools.product(batches, [False, True]):
        if mask and isinstance(dist, Normal):
            continue
        arguments, action_mask = batch_of(dist, batch, width, dtype, seed=batch, mask=mask)
        expected = outcome(reference.ppo_loss, dist, arguments, action_mask, **options)
        there = [t.to(device) for t in arguments]
        action_mask = action_mask if action_mask is None else action_mask.to(device)
        got = outcome(ops.ppo_loss, dist, there, action_mask, **options)
        assert_same_outcome(got, expected, dist, dtype)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dist", [Categorical(), Normal()], ids=["categorical", "normal"])
def test_parity_with_reference(dist, width, dtype, options):
    assert_parity(dist, width, dtype, options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "dist",
    [
        MultiDiscrete((1,)), MultiDiscrete((5,)), MultiDiscrete((3, 1, 4)), MultiDiscrete((2,) * 40),
        MultiDiscrete((70, 3)), Hybrid((3,)), Hybrid((2, 7, 3)),
    ],
    ids=repr,
)  # fmt: skip
def test_parity_of_several_components(dist, dtype):
    assert_parity(dist, 3, dtype, per_component(dist, value_clip=0.2, normalize_advantages=True))
    assert_parity(dist, 1, dtype, {})


def test_multi_discrete_of_one_component_is_a_categorical():
    arguments, _ = batch_of(Categorical(), 100, 5)
    one = outcome(ops.ppo_loss, Categorical(), arguments, None)
    actions = arguments[1].unsqueeze(1)
    multi = outcome(ops.ppo_loss, MultiDiscrete([5]), (arguments[0], actions, *arguments[2:]), None)
    assert all(torch.equal(one[name], multi[name]) for name in one)


@pytest.mark.gpu
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("dist", DISTS.values(), ids=DISTS.keys())
def test_cuda_parity_with_reference(dist, dtype, options):
    for width in (1, 6, 70):
        assert_parity(dist, width, dtype, options, "cuda")
    assert_parity(dist, 3, dtype, per_component(dist, **options) | {"entropy_floor": None}, "cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("dist", DISTS.values(), ids=DISTS.keys())
def test_cuda_gives_the_same_bits_and_a_large_batch_the_same_loss(dist):
    arguments, _ = batch_of(dist, 300_001, 4)
    options = {"normalize_advantages": True, "entropy_floor": 100.0}
    there = [t.cuda() for t in arguments]
    first, second = (outcome(ops.ppo_loss, dist, there, None, **options) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    expected = outcome(
        reference.ppo_loss,
        dist,
        [t.double() if t.is_floating_point() else t for t in arguments],
        None,
        **options,
    )
    torch.testing.assert_close(first["loss"].double().cpu(), expected["loss"], rtol=1e-5, atol=1e-5)


@pytest.mark.gpu
def test_cuda_impossible_action_makes_the_loss_nan():
    arguments, _ = batch_of(Categorical(), 64, 3)
    there = [t.cuda() for t in arguments]
    there[1][37] = 3
    assert ops.ppo_loss(Categorical(), *there, **PLAIN).loss.isnan()


# ---- properties ---------------------------------------------------------------------------------------

dists = st.sampled_from(list(DISTS.values()))
sizes = st.tuples(st.integers(1, 50), st.integers(1, 9))


@settings(max_examples=40, deadline=None)
@given(dist=dists, size=sizes, seed=st.integers(0, 2**20))
def test_loss_is_the_sum_of_its_parts(dist, size, seed):
    arguments, _ = batch_of(dist, *size, torch.float64, seed)
    result = ops.ppo_loss(dist, *arguments, clip_ratio=0.2, vf_coef=0.7, entropy_coef=0.3)
    parts = result.policy_loss + 0.7 * result.value_loss - 0.3 * result.entropy
    assert result.loss.item() == pytest.approx(parts.item(), rel=1e-5, abs=1e-5)
    assert result.approx_kl.item() >= -1e-6
    assert 0.0 <= result.clip_fraction.item() <= 1.0
    assert result.entropies.sum().item() == pytest.approx(result.entropy.item(), rel=1e-6, abs=1e-6)


@settings(max_examples=40, deadline=None)
@given(size=sizes, seed=st.integers(0, 2**20), shift=st.floats(-50.0, 50.0))
def test_logits_may_be_shifted(size, seed, shift):
    arguments, _ = batch_of(Categorical(), *size, torch.float64, seed)
    first = ops.ppo_loss(Categorical(), *arguments, **PLAIN).loss.item()
    shifted = ops.ppo_loss(Categorical(), arguments[0] + shift, *arguments[1:], **PLAIN).loss.item()
    assert shifted == pytest.approx(first, rel=1e-9, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(dist=dists, size=sizes, seed=st.integers(0, 2**20))
def test_order_of_the_samples_does_not_matter(dist, size, seed):
    arguments, _ = batch_of(dist, *size, torch.float64, seed)
    order = torch.randperm(size[0], generator=torch.Generator().manual_seed(seed))
    straight = outcome(ops.ppo_loss, dist, arguments, None)
    mixed = outcome(ops.ppo_loss, dist, tuple(a[order].contiguous() for a in arguments), None)
    torch.testing.assert_close(mixed["params"], straight["params"][order])
    torch.testing.assert_close(mixed["loss"], straight["loss"])


@pytest.mark.parametrize("dist", DISTS.values(), ids=DISTS.keys())
@pytest.mark.parametrize("name", [0, 2, 3, 4, 5])
def test_nan_in_the_data_reaches_the_loss(dist, name):
    arguments, _ = batch_of(dist, 20, 3)
    arguments[name].view(-1)[-1] = torch.nan
    assert ops.ppo_loss(dist, *arguments, **PLAIN).loss.isnan()


@pytest.mark.native
@pytest.mark.parametrize("dist", DISTS.values(), ids=DISTS.keys())
def test_same_inputs_give_the_same_bits(dist):
    arguments, _ = batch_of(dist, 777, 5)
    first, second = (outcome(ops.ppo_loss, dist, arguments, None) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
