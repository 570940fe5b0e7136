"""Target networks follow what a user makes of the networks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from optix_fast.learners.dqn.update import DQNModel
from optix_fast.learners.model import LayerWatch, target_of


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.LeakyReLU(0.1), nn.Sequential(nn.Linear(4, 2)))


def model_of(net: nn.Module) -> DQNModel:
    return DQNModel(net, target_of(net), torch.optim.Adam(net.parameters()))


def test_a_target_is_an_untrained_copy() -> None:
    net = network()
    target = target_of(net)
    assert not any(p.requires_grad for p in target.parameters())
    assert all(p.requires_grad for p in net.parameters())
    torch.testing.assert_close(target.state_dict(), net.state_dict())


def test_a_target_that_lags_behind_is_kept() -> None:
    net = network()
    model = model_of(net)
    target = model.target
    with torch.no_grad():
        net[0].weight.add_(1.0)
    model.renew_targets()
    assert model.target is target


@pytest.mark.parametrize(
    ("place", "layer"), [(0, nn.Linear(3, 4, bias=False)), (1, nn.Tanh()), (1, nn.LeakyReLU(0.2))]
)
def test_other_layers_make_a_new_target(place: int, layer: nn.Module) -> None:
    net = network()
    model = model_of(net)
    before = str(net)
    net[place] = layer
    model.renew_targets()
    assert str(model.target) == str(net) != before


def test_a_targets_dropout_is_that_of_the_network() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))
    model = model_of(net)
    target = model.target
    with torch.no_grad():
        net[0].weight.add_(1.0)
    net[2].p = 0.1
    net[2].eval()
    model.renew_targets()
    assert model.target is target  # no other layers: its weights stay
    assert (target[2].p, target[2].training, target[1].training) == (0.1, False, False)
    net[2].train()
    model.renew_targets()
    assert target[2].training and not target[1].training


def test_a_watch_sees_layers_and_parameters_that_were_replaced() -> None:
    net, other = network(), network()
    watch = LayerWatch()
    assert watch.changed([net, other]) and not watch.changed([net, other])
    with torch.no_grad():
        net[0].weight.add_(1.0)
    assert not watch.changed([net, other])
    other[2][0] = nn.Linear(4, 2)
    assert watch.changed([net, other]) and not watch.changed([net, other])
    net[0].weight = nn.Parameter(torch.zeros(4, 3))
    assert watch.changed([net, other])
    assert watch.changed([net])
