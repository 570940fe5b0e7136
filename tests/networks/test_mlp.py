"""The networks are what PPO's implementations start from, and nobody's random numbers are used up."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from optix_fast.networks import mlp


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_layers_have_the_sizes_and_activations_asked_for():
    net = mlp((4, 64, 32, 2), "relu")
    assert [type(layer) for layer in net] == [nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.Linear]
    assert [tuple(layer.weight.shape) for layer in net if isinstance(layer, nn.Linear)] == [
        (64, 4), (32, 64), (2, 32),
    ]  # fmt: skip
    assert net(torch.zeros(7, 4)).shape == (7, 2)
    assert all(p.dtype == torch.float32 and p.device.type == "cpu" for p in net.parameters())
    assert all(p.requires_grad for p in net.parameters())


def test_default_activation_is_tanh():
    assert isinstance(mlp((2, 3, 1))[1], nn.Tanh)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("tanh", nn.Tanh), ("relu", nn.ReLU), ("leaky_relu", nn.LeakyReLU), ("elu", nn.ELU),
     ("silu", nn.SiLU), ("gelu", nn.GELU), ("gelu_tanh", nn.GELU), ("celu", nn.CELU), ("selu", nn.SELU),
     ("mish", nn.Mish), ("softplus", nn.Softplus), ("sigmoid", nn.Sigmoid), ("log_sigmoid", nn.LogSigmoid),
     ("softsign", nn.Softsign), ("relu6", nn.ReLU6), ("hardtanh", nn.Hardtanh),
     ("hardsigmoid", nn.Hardsigmoid), ("hardswish", nn.Hardswish)],
)  # fmt: skip
def test_every_activation_has_its_name(name, kind):
    assert isinstance(mlp((2, 3, 1), name)[1], kind)


def test_weights_are_orthogonal_with_their_gain_and_biases_zero():
    net = mlp((4, 16, 16, 2), output_gain=0.01, generator=generator(0))
    first, hidden, last = (layer for layer in net if isinstance(layer, nn.Linear))
    torch.testing.assert_close(first.weight.T @ first.weight, 2.0 * torch.eye(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(hidden.weight @ hidden.weight.T, 2.0 * torch.eye(16), atol=1e-5, rtol=0)
    torch.testing.assert_close(last.weight @ last.weight.T, 1e-4 * torch.eye(2), atol=1e-9, rtol=0)
    assert not any(layer.bias.any() for layer in (first, hidden, last))


def test_generator_decides_the_weights():
    a, b, c = (mlp((4, 8, 2), generator=generator(seed))[0].weight for seed in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


@pytest.mark.parametrize("seed", [None, 3])
def test_global_random_state_is_not_touched(seed):
    before, numpy_before = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    a = mlp((4, 8, 2), generator=None if seed is None else generator(seed))
    b = mlp((4, 8, 2), generator=None if seed is None else generator(seed))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert (np.random.get_state()[1] == numpy_before).all()
    assert torch.equal(a[0].weight, b[0].weight) == (seed is not None)


@pytest.mark.parametrize("sizes", [(), (4,), (4, 0), (4, -1, 2)])
def test_sizes_that_make_no_network_are_refused(sizes):
    with pytest.raises(ValueError, match="sizes must be at least two positive widths"):
        mlp(sizes)


def test_unknown_activation_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="activation must be one of tanh, relu, .*, got 'softmax'"):
        mlp((2, 1), "softmax")


def test_without_a_gain_every_layer_is_uniform_as_torch_starts_it() -> None:
    state = torch.get_rng_state()
    layers = mlp([64, 256, 100], output_gain=None, generator=torch.Generator().manual_seed(0))
    assert torch.equal(torch.get_rng_state(), state)
    for layer, bound in ((layers[0], 1 / 8), (layers[2], 1 / 16)):
        for parameter in (layer.weight.detach(), layer.bias.detach()):
            assert 0.95 * bound < parameter.abs().max() <= bound
            assert abs(parameter.mean()) < 0.2 * bound
            assert parameter.std() == pytest.approx(bound / 3**0.5, rel=0.15)
