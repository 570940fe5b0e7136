"""ppo_loss: gradients by finite differences, autograd's rules, and torch's own checks."""

from __future__ import annotations

import pytest
import torch
from ppo_loss_cases import DISTS, OPTIONS, PLAIN, batch_of, leaves

from optix_fast import ops
from optix_fast.ops import Categorical

# ---- gradients ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
@pytest.mark.parametrize("dist", DISTS.values(), ids=DISTS.keys())
def test_gradcheck(dist, options):
    arguments, mask = batch_of(dist, 9, 4, torch.float64, seed=3, mask=True)
    params, actions, old_log_probs, advantages, values, returns, old_values = arguments

    def loss(params, values):
        return ops.ppo_loss(
            dist, params, actions, old_log_probs, advantages, values, returns, old_values,
            **(PLAIN | options), action_mask=mask,
        ).loss  # fmt: skip

    assert torch.autograd.gradcheck(loss, (params.requires_grad_(), values.requires_grad_()))


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


@pytest.mark.native
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


@pytest.mark.native
@pytest.mark.parametrize("dist", DISTS.values(), ids=DISTS.keys())
def test_opcheck(dist):
    (*tensors, old_values), mask = batch_of(dist, 6, 3, mask=True)
    k = dist.components
    options = (0.2, "max", 0.2, 0.5, [0.01] * k, [0.3] * k, [1.0] * k, True)
    torch.library.opcheck(
        torch.ops.optix_fast.ppo_loss.default, (dist.kind, dist.nvec, *tensors, old_values, mask, *options)
    )


@pytest.mark.parametrize("dist", DISTS.values(), ids=DISTS.keys())
def test_compiles_as_one_graph(dist):
    arguments = leaves(dist)

    def loss(*tensors):
        return ops.ppo_loss(dist, *tensors, **PLAIN).loss

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    got = torch.autograd.grad(compiled(*arguments), (arguments[0], arguments[4]))
    expected = torch.autograd.grad(loss(*arguments), (arguments[0], arguments[4]))
    torch.testing.assert_close(got, expected)
