"""ppo_loss: numbers by hand, native against reference, properties, gradients, errors."""

from __future__ import annotations

import itertools
import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from optix_fast import backend, ops, reference
from optix_fast.ops import Categorical, Normal

needs_core = pytest.mark.skipif(backend() != "native", reason="needs the compiled core")

LN2 = math.log(2.0)
PLAIN = {"clip_ratio": 0.2, "vf_coef": 0.5, "entropy_coef": 0.01}
ONLY_POLICY = {"clip_ratio": 0.2, "vf_coef": 0.0, "entropy_coef": 0.0}


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


# ---- parity -------------------------------------------------------------------------------------------

BATCHES = [1, 2, 3, 7, 8, 15, 16, 17, 33, 64, 1000]
WIDTHS = [1, 2, 3, 6, 19, 70]
OPTIONS = {
    "plain": {},
    "max": {"value_clip": 0.2},
    "clipped": {"value_clip": 0.2, "value_clip_mode": "clipped", "normalize_advantages": True},
    "floor": {"entropy_floor": 100.0, "entropy_floor_coef": 0.5},
}


def batch_of(dist, batch, width, dtype=torch.float32, seed=0, mask=False):
    """Arguments whose ratios scatter around 1, and a mask or None."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape, scale=1.0):
        return torch.randn(*shape, generator=g, dtype=dtype) * scale

    action_mask = None
    if isinstance(dist, Normal):
        params = normal(batch, 2 * width, scale=0.5)
        actions = normal(batch, width)
        mean, log_std = params.double().chunk(2, dim=1)
        log_probs = torch.distributions.Normal(mean, log_std.exp()).log_prob(actions.double()).sum(1)
    else:
        params = normal(batch, width, scale=2.0)
        actions = torch.randint(width, (batch,), generator=g)
        logits = params.double()
        if mask:
            action_mask = torch.rand(batch, width, generator=g) < 0.6
            action_mask[torch.arange(batch), actions] = True
            logits = logits.masked_fill(~action_mask, -torch.inf)
        log_probs = torch.distributions.Categorical(logits=logits).log_prob(actions)
    old_log_probs = log_probs.to(dtype) + normal(batch, scale=0.2)
    values, returns = normal(batch), normal(batch)
    old_values = values + normal(batch, scale=0.3)
    arguments = (params, actions, old_log_probs, normal(batch) * 2 + 1, values, returns, old_values)
    return arguments, action_mask


def outcome(function, dist, arguments, action_mask, **options):
    params, actions, old_log_probs, advantages, values, returns, old_values = arguments
    params, values = params.clone().requires_grad_(), values.clone().requires_grad_()
    result = function(
        dist, params, actions, old_log_probs, advantages, values, returns, old_values,
        **(PLAIN | options), action_mask=action_mask,
    )  # fmt: skip
    by_params, by_values = torch.autograd.grad(result.loss, (params, values))
    return {"loss": result.loss.detach(), "stats": result.stats, "params": by_params, "values": by_values}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dist", [Categorical(), Normal()], ids=["categorical", "normal"])
def test_parity_with_reference(dist, width, dtype, options):
    # A ratio is exp of a difference of log-probabilities, so its rounding error grows with their size (about
    # one per dimension of a Normal). Everything else rounds once or twice per sample.
    epsilon = torch.finfo(dtype).eps
    tolerance = epsilon * (64 + (32 * width if isinstance(dist, Normal) else 0))
    for batch, mask in itertools.product(BATCHES, [False, True]):
        if mask and isinstance(dist, Normal):
            continue
        arguments, action_mask = batch_of(dist, batch, width, dtype, seed=batch, mask=mask)
        got = outcome(ops.ppo_loss, dist, arguments, action_mask, **options)
        expected = outcome(reference.ppo_loss, dist, arguments, action_mask, **options)
        largest = expected["stats"].abs().max().item()
        for name, want in expected.items():
            scale = largest if name in ("loss", "stats") else want.abs().max().item()
            atol = (max(tolerance, 2e-7) if name == "stats" else tolerance) * max(scale, 1e-2)
            torch.testing.assert_close(
                got[name], want, rtol=0.0, atol=atol, msg=lambda m, n=name: f"{n}: {m}"
            )


# ---- properties ---------------------------------------------------------------------------------------

dists = st.sampled_from([Categorical(), Normal()])
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
    assert torch.equal(result.entropies.sum(), result.entropy)


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


@pytest.mark.parametrize("dist", [Categorical(), Normal()], ids=["categorical", "normal"])
@pytest.mark.parametrize("name", [0, 2, 3, 4, 5])
def test_nan_in_the_data_reaches_the_loss(dist, name):
    arguments, _ = batch_of(dist, 20, 3)
    arguments[name].view(-1)[-1] = torch.nan
    assert ops.ppo_loss(dist, *arguments, **PLAIN).loss.isnan()


@needs_core
@pytest.mark.parametrize("dist", [Categorical(), Normal()], ids=["categorical", "normal"])
def test_same_inputs_give_the_same_bits(dist):
    arguments, _ = batch_of(dist, 777, 5)
    first, second = (outcome(ops.ppo_loss, dist, arguments, None) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


# ---- gradients ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
@pytest.mark.parametrize("dist", [Categorical(), Normal()], ids=["categorical", "normal"])
def test_gradcheck(dist, options):
    arguments, mask = batch_of(dist, 9, 4, torch.float64, seed=3, mask=True)
    params, actions, old_log_probs, advantages, values, returns, old_values = arguments

    def loss(params, values):
        return ops.ppo_loss(
            dist, params, actions, old_log_probs, advantages, values, returns, old_values,
            **(PLAIN | options), action_mask=mask,
        ).loss  # fmt: skip

    assert torch.autograd.gradcheck(loss, (params.requires_grad_(), values.requires_grad_()))


def leaves(dist=None):
    arguments, _ = batch_of(dist or Categorical(), 8, 3)
    arguments[0].requires_grad_()
    arguments[4].requires_grad_()
    return arguments


def test_backward_scales_by_the_incoming_gradient():
    arguments = leaves()
    result = ops.ppo_loss(Categorical(), *arguments, **PLAIN)
    once = torch.autograd.grad(result.loss, arguments[0], retain_graph=True)[0]
    thrice = torch.autograd.grad(3.0 * result.loss, arguments[0])[0]
    torch.testing.assert_close(thrice, 3.0 * once)


def test_backward_twice_with_retain_graph():
    arguments = leaves()
    loss = ops.ppo_loss(Categorical(), *arguments, **PLAIN).loss
    loss.backward(retain_graph=True)
    once = arguments[0].grad.clone()
    loss.backward()
    torch.testing.assert_close(arguments[0].grad, 2.0 * once)
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


@needs_core
def test_second_derivative_is_refused():
    arguments = leaves()
    loss = ops.ppo_loss(Categorical(), *arguments, **PLAIN).loss
    with pytest.raises(RuntimeError, match="ppo_loss: differentiable once only"):
        torch.autograd.grad(loss, arguments[0], create_graph=True)


def test_only_the_loss_carries_a_gradient():
    result = ops.ppo_loss(Categorical(), *leaves(), **PLAIN)
    assert result.loss.requires_grad
    assert not any(field.requires_grad for field in result[1:])
    with torch.no_grad():
        assert not ops.ppo_loss(Categorical(), *leaves(), **PLAIN).loss.requires_grad


def test_statistics_are_views_of_one_tensor():
    result = ops.ppo_loss(Categorical(), *leaves(), **PLAIN)
    assert result.stats.dtype == torch.float32
    names = ("policy_loss", "value_loss", "entropy", "approx_kl", "clip_fraction")
    for i, name in enumerate(names):
        assert getattr(result, name).data_ptr() == result.stats[i].data_ptr()
    assert result.entropies.data_ptr() == result.stats[5].data_ptr()


# ---- torch's own checks of a registered op ------------------------------------------------------------


@needs_core
@pytest.mark.parametrize(("kind", "dist"), [("categorical", Categorical()), ("normal", Normal())])
def test_opcheck(kind, dist):
    (*tensors, old_values), mask = batch_of(dist, 6, 3, mask=True)
    options = (0.2, 1, 0.2, 0.5, [0.01], [0.3], [1.0], True)
    torch.library.opcheck(torch.ops.optix_fast.ppo_loss.default, (kind, *tensors, old_values, mask, *options))


@pytest.mark.parametrize("dist", [Categorical(), Normal()], ids=["categorical", "normal"])
def test_compiles_as_one_graph(dist):
    arguments = leaves(dist)

    def loss(*tensors):
        return ops.ppo_loss(dist, *tensors, **PLAIN).loss

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    got = torch.autograd.grad(compiled(*arguments), (arguments[0], arguments[4]))
    expected = torch.autograd.grad(loss(*arguments), (arguments[0], arguments[4]))
    torch.testing.assert_close(got, expected)


# ---- errors -------------------------------------------------------------------------------------------

NAMES = ("params", "actions", "old_log_probs", "advantages", "values", "returns", "old_values")


def call_with(dist=None, **changes):
    arguments, _ = batch_of(dist or Categorical(), 64, 3)
    return ops.ppo_loss(dist or Categorical(), **(dict(zip(NAMES, arguments, strict=True)) | PLAIN | changes))


def test_message_names_the_argument_what_was_expected_and_what_came():
    message = "ppo_loss: actions must be int64 [B] = [64] on cpu, got float32 [64, 1]"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call_with(actions=torch.zeros(64, 1))


@pytest.mark.parametrize("name", [*NAMES, "action_mask"])
def test_wrong_shape(name):
    dtype = {"actions": torch.int64, "action_mask": torch.bool}.get(name, torch.float32)
    with pytest.raises(ValueError, match=f"ppo_loss: {name} must be .*, got .* \\[3, 4, 2\\]"):
        call_with(**{name: torch.zeros(3, 4, 2, dtype=dtype)})


@pytest.mark.parametrize("name", [*NAMES, "action_mask"])
def test_wrong_type(name):
    shape = (64, 3) if name in ("params", "action_mask") else (64,)
    with pytest.raises(ValueError, match=f"ppo_loss: {name} must be .*, got int32"):
        call_with(**{name: torch.zeros(shape, dtype=torch.int32)})


@pytest.mark.parametrize("name", [*NAMES, "action_mask"])
def test_not_a_tensor(name):
    with pytest.raises(TypeError, match=f"ppo_loss: {name} must be a torch.Tensor, got list"):
        call_with(**{name: [1.0]})


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("params", "actions")])
def test_not_contiguous(name):
    with pytest.raises(ValueError, match=f"ppo_loss: {name} must be contiguous"):
        call_with(**{name: torch.zeros(64, 2)[:, 0]})


def test_empty_batch():
    arguments, _ = batch_of(Categorical(), 4, 3)
    with pytest.raises(ValueError, match="ppo_loss: params must not be empty"):
        ops.ppo_loss(Categorical(), *(a[:0] for a in arguments), **PLAIN)


def test_normal_needs_an_even_number_of_columns():
    with pytest.raises(ValueError, match=r"ppo_loss: params of a Normal must be \[B, 2A\]"):
        call_with(Normal(), params=torch.zeros(64, 5))


@pytest.mark.parametrize("action", [-1, 3, 2**40])
def test_action_out_of_range(action):
    actions = torch.zeros(64, dtype=torch.int64)
    actions[37] = action
    with pytest.raises(ValueError, match=rf"actions must be in \[0, K\) = \[0, 3\), got {action} at row 37"):
        call_with(actions=actions)


def test_mask_that_forbids_the_action_taken():
    mask = torch.ones(64, 3, dtype=torch.bool)
    mask[21, 2] = False
    with pytest.raises(ValueError, match="action_mask forbids the action taken, 2 at row 21"):
        call_with(actions=torch.full((64,), 2), action_mask=mask)


def test_mask_that_forbids_every_action():
    mask = torch.ones(64, 3, dtype=torch.bool)
    mask[50] = False
    with pytest.raises(ValueError, match="action_mask forbids every action at row 50"):
        call_with(action_mask=mask)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clip_ratio": 0.0}, "clip_ratio must be above 0, got 0.0"),
        ({"clip_ratio": math.nan}, "clip_ratio must be above 0, got nan"),
        ({"value_clip": -1.0}, "value_clip must be above 0 or None, got -1.0"),
        ({"value_clip": 0.2, "old_values": None}, "value_clip needs old_values, got None"),
        ({"value_clip_mode": "both"}, "value_clip_mode must be 'max' or 'clipped', got 'both'"),
        ({"vf_coef": -0.5}, "vf_coef must be 0 or more and finite, got -0.5"),
        ({"entropy_coef": [0.1, 0.2]}, "entropy_coef must be a number or one per component, 1 here, got 2"),
        ({"entropy_floor": math.inf}, "entropy_floor must be finite"),
        (
            {"dist": Normal(), "action_mask": torch.ones(64, 3, dtype=torch.bool)},
            r"action_mask needs Categorical actions, got Normal\(\)",
        ),
    ],
)
def test_options_without_meaning(changes, message):
    with pytest.raises(ValueError, match=f"ppo_loss: {message}"):
        call_with(**changes)


def test_unknown_distribution():
    with pytest.raises(
        TypeError, match=r"ppo_loss: dist must be Categorical\(\) or Normal\(\), got 'normal'"
    ):
        call_with(dist="normal")
