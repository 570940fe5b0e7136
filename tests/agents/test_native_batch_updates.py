"""Updates of networks with batch norms and Dropout: the core against torch, and what a failed one leaves."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from dqn_cases import FEATURES, config_of, draws_of, experience_of
from dqn_cases import model_of as dqn_model_of
from torch import Tensor, nn

from optix_fast.learners.dqn import native as dqn_native
from optix_fast.learners.dqn.update import dqn_update
from optix_fast.learners.model import Model
from optix_fast.learners.native.networks import UnsupportedError, networks_of
from optix_fast.learners.ppo import native as ppo_native
from optix_fast.learners.ppo.batch import Batch
from optix_fast.learners.ppo.config import PPOConfig
from optix_fast.learners.ppo.update import PPOModel, minibatch_sizes, ppo_step, ppo_update
from optix_fast.networks import BatchRenorm
from optix_fast.networks.heads import CategoricalHead
from optix_fast.random import RandomStream
from optix_fast.types import NonFiniteError

pytestmark = pytest.mark.native


def network(outputs: int, *, norms: bool = True, dropout: bool = True) -> nn.Sequential:
    """Of 5 inputs, in float64: the gradient of a bias before a batch norm is nothing but rounding, which in
    float32 is enough for steps of Adam."""
    layers: list[nn.Module] = [nn.Linear(FEATURES, 24)]
    layers += [nn.BatchNorm1d(24)] if norms else []
    layers += [nn.Tanh(), *([nn.Dropout(0.25)] if dropout else []), nn.Linear(24, 19)]
    layers += [BatchRenorm(19, momentum=0.2, warmup_steps=3)] if norms else []
    layers += [nn.ReLU(), *([nn.Dropout(0.1)] if dropout else []), nn.Linear(19, outputs)]
    return nn.Sequential(*layers).double()


KINDS: dict[str, dict[str, bool]] = {"norms": {"dropout": False}, "dropout": {"norms": False}, "both": {}}


def ppo_model(kind: str = "both") -> PPOModel:
    torch.manual_seed(3)
    actor, critic = network(3, **KINDS[kind]), network(1, **KINDS[kind])
    optimizer = torch.optim.Adam([*actor.parameters(), *critic.parameters()], lr=3e-3)
    return PPOModel(actor, critic, optimizer, CategoricalHead())


def dqn_model(kind: str = "both") -> Any:
    torch.manual_seed(3)
    return dqn_model_of(network=network(3, **KINDS[kind]), dtype=torch.float64)


def assert_same_state(ours: Model, theirs: Model, tolerance: float = 1e-9) -> None:
    for name, module in ours.modules().items():
        other = theirs.modules()[name].state_dict()
        for key, tensor in module.state_dict().items():
            scale = max(1.0, float(other[key].double().norm()))
            assert float((tensor - other[key]).double().norm()) <= tolerance * scale, f"{name}.{key}"


def copied(model: Model) -> dict[str, dict[str, Tensor]]:
    return copy.deepcopy({name: module.state_dict() for name, module in model.modules().items()})


def assert_unchanged(model: Model, before: dict[str, dict[str, Tensor]]) -> None:
    for name, module in model.modules().items():
        for key, tensor in module.state_dict().items():
            assert torch.equal(tensor, before[name][key]), f"{name}.{key}"


def run(update: Callable[..., Any], model: Model, *args: Any, seed: int = 1) -> Any:
    """As optix_fast.learners.learner.Learner calls it."""
    with model.drawing_masks(RandomStream(seed)):
        if update.__module__.endswith(".native"):
            return update(model, *args)
        with model.masked_in_torch():
            return update(model, *args)


# --- PPO -----------------------------------------------------------------------------------------------


def ppo_arguments(model: PPOModel, n: int = 100) -> tuple[Batch, Tensor, PPOConfig]:
    torch.manual_seed(5)
    observations = torch.randn(n, FEATURES, dtype=torch.float64)
    columns = torch.randn(4, n, dtype=torch.float64)
    batch = Batch(observations, torch.randint(3, (n,)), columns[0] - 2.0, *columns[1:], None)
    order = torch.stack([torch.randperm(n, generator=torch.Generator().manual_seed(i)) for i in range(3)])
    return batch, order, PPOConfig(minibatch_size=32, n_epochs=3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_ppo_update_equals_torchs(kind: str) -> None:
    ours = ppo_model(kind)
    theirs, arguments = copy.deepcopy(ours), ppo_arguments(ours)
    mine, other = run(ppo_native.ppo_update, ours, *arguments), run(ppo_update, theirs, *arguments)
    assert mine.n_updates == other.n_updates == 12
    assert mine.means == pytest.approx(other.means, rel=1e-5, abs=1e-6)  # their sums are float32
    assert_same_state(ours, theirs)


@pytest.mark.parametrize("update", [ppo_native.ppo_update, ppo_update], ids=["core", "torch"])
def test_twelve_minibatches_move_the_statistics_twelve_times(update: Callable[..., Any]) -> None:
    model = ppo_model("norms")
    run(update, model, *ppo_arguments(model))
    assert [int(b) for key, b in model.actor.named_buffers() if key.endswith("tracked")] == [12, 12]


def test_a_ppo_update_that_fails_puts_the_statistics_back() -> None:
    model = ppo_model()
    batch, order, config = ppo_arguments(model)
    batch.returns[int(order[1, 50])] = math.nan  # before that, a few minibatches move the statistics
    batch.advantages[int(order[1, 50])] = math.nan
    before = copied(model)
    with pytest.raises(NonFiniteError):
        run(ppo_native.ppo_update, model, batch, order[1:], config)
    assert_unchanged(model, before)


@pytest.mark.parametrize("update", [ppo_native.ppo_update, ppo_update], ids=["core", "torch"])
@pytest.mark.parametrize(("n", "size"), [(1, 32), (3, 1)])
def test_a_minibatch_of_one_row_is_refused_by_name(update: Callable[..., Any], n: int, size: int) -> None:
    model = ppo_model()
    batch, order, config = ppo_arguments(model, n)
    before = copied(model)
    with pytest.raises(ValueError, match=r"actor\.1 \(BatchNorm1d\) is in training mode"):
        run(update, model, batch, order, replace(config, minibatch_size=size))
    assert_unchanged(model, before)


@pytest.mark.parametrize(
    ("n", "size", "sizes"), [(65, 32, [32, 33]), (33, 32, [33]), (66, 32, [32, 32, 2]), (64, 32, [32, 32])]
)
def test_a_last_row_joins_the_minibatch_before_it(n: int, size: int, sizes: list[int]) -> None:
    ours = ppo_model()
    assert minibatch_sizes(ours, n, size) == sizes
    theirs, by_hand, (batch, order, config) = copy.deepcopy(ours), copy.deepcopy(ours), ppo_arguments(ours, n)
    config = replace(config, minibatch_size=size)
    mine = run(ppo_native.ppo_update, ours, batch, order, config)
    other = run(ppo_update, theirs, batch, order, config)
    assert mine.n_updates == other.n_updates == 3 * len(sizes)
    assert mine.means == pytest.approx(other.means, rel=1e-5, abs=1e-6)
    assert_same_state(ours, theirs)
    with by_hand.drawing_masks(RandomStream(1)), by_hand.masked_in_torch():
        for index in (part for epoch in order for part in torch.split(epoch, sizes)):
            ppo_step(by_hand, batch.rows(index), config)
    assert_same_state(theirs, by_hand)


def test_a_last_row_is_a_minibatch_where_no_batch_norm_trains() -> None:
    model = ppo_model("dropout")
    assert minibatch_sizes(model, 65, 32) == [32, 32, 1]
    batch, order, config = ppo_arguments(model, 65)
    assert run(ppo_native.ppo_update, model, batch, order, config).n_updates == 9


def test_frozen_statistics_stay_in_updates() -> None:
    ours = ppo_model()
    for net in (ours.actor, ours.critic):
        for layer in (net[1], net[5]):
            layer.eval()
            layer.running_mean.normal_()
    theirs, arguments, before = copy.deepcopy(ours), ppo_arguments(ours, 65), copied(ours)
    run(ppo_native.ppo_update, ours, *arguments)  # with a minibatch of one row
    run(ppo_update, theirs, *arguments)
    assert_same_state(ours, theirs)
    assert torch.equal(ours.actor[1].running_mean, before["actor"]["1.running_mean"])
    assert not torch.equal(ours.actor[1].weight, before["actor"]["1.weight"])


# --- DQN -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"tau": 0.05}, {"target_update_freq": 4}, {"double_q": False}], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_dqn_updates_equal_torchs(kind: str, options: dict[str, Any]) -> None:
    ours, config = dqn_model(kind), config_of(**options)
    theirs, experience = copy.deepcopy(ours), experience_of(config)
    draws = draws_of(experience, config, 9)
    mine = run(dqn_native.dqn_update, ours, experience, draws, config, 0)
    other = run(dqn_update, theirs, experience, draws, config, 0)
    assert mine == pytest.approx(other, rel=1e-9)
    assert_same_state(ours, theirs)


@pytest.mark.parametrize("update", [dqn_native.dqn_update, dqn_update], ids=["core", "torch"])
@pytest.mark.parametrize("options", [{"tau": 0.05}, {"target_update_freq": 2}], ids=str)
def test_a_target_takes_over_the_statistics_when_it_moves(
    update: Callable[..., Any], options: dict[str, Any]
) -> None:
    model, config = dqn_model("norms"), config_of(**options)
    experience = experience_of(config)
    if "tau" not in options:
        run(update, model, experience, draws_of(experience, config, 1), config, 0)
        assert int(model.target[1].num_batches_tracked) == 0
    run(update, model, experience, draws_of(experience, config, 2), config, 0)
    for own, followed in zip(model.target.buffers(), model.q_network.buffers(), strict=True):
        assert torch.equal(own, followed)
    # With double Q, two passes for each update.
    assert int(model.target[1].num_batches_tracked) == (4 if "tau" in options else 6)


@pytest.mark.parametrize("update", [dqn_native.dqn_update, dqn_update], ids=["core", "torch"])
def test_a_dqn_update_that_fails_puts_the_statistics_back(update: Callable[..., Any]) -> None:
    model, config = dqn_model(), config_of(tau=0.05)
    experience = experience_of(config)
    draws, before = draws_of(experience, config, 6), copied(model)
    assert draws.indices is not None
    draws.indices[np.isin(draws.indices, (4, 7))] = 8  # row 7 follows row 4: there are three environments
    draws.indices[5, 0] = 7
    experience.buffer.replay.view().observations[7] = math.inf
    first = draws._replace(indices=draws.indices[:5])
    run(update, copy.deepcopy(model), experience, first, config, 0)  # these alone pass
    with pytest.raises(NonFiniteError):
        run(update, model, experience, draws, config, 0)
    assert_unchanged(model, before)


@pytest.mark.parametrize("update", [dqn_native.dqn_update, dqn_update], ids=["core", "torch"])
def test_a_batch_of_one_is_refused_by_name(update: Callable[..., Any]) -> None:
    model, config = dqn_model(), config_of(batch_size=1)
    experience = experience_of(config)
    with pytest.raises(ValueError, match=r"q_network\.1 \(BatchNorm1d\) is in training mode"):
        run(update, model, experience, draws_of(experience, config, 1), config, 0)


# --- what is refused -----------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", [nn.BatchNorm1d(24), BatchRenorm(24), nn.Dropout(0.3)], ids=str)
def test_a_shared_layer_in_training_goes_to_torch(layer: nn.Module) -> None:
    """Torch runs it twice for each minibatch."""
    trunk = nn.Sequential(nn.Linear(FEATURES, 24), layer, nn.Tanh())
    nets = nn.Sequential(trunk, nn.Linear(24, 3)), nn.Sequential(trunk, nn.Linear(24, 1))
    with pytest.raises(UnsupportedError, match="share a batch norm or Dropout in training mode"):
        networks_of(*nets)
    layer.eval()
    assert networks_of(*nets).trunk.layers


def test_a_layer_that_is_used_twice_goes_to_torch() -> None:
    drop = nn.Dropout(0.5)
    net = nn.Sequential(nn.Linear(FEATURES, 8), drop, nn.Linear(8, 8), drop, nn.Linear(8, 2))
    with pytest.raises(UnsupportedError, match="used in more than one place"):
        networks_of(net, None)
