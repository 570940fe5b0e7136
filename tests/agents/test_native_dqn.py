"""The whole DQN update of the core against torch: networks, optimizer state, priorities; failures."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from dqn_cases import (
    FEATURES,
    config_of,
    distance,
    draws_of,
    experience_of,
    leaves_of,
    model_of,
    tensors_of,
    twin,
)
from torch import nn

from optix_fast.learners.dqn.config import DQNConfig
from optix_fast.learners.dqn.native import dqn_update as core_update
from optix_fast.learners.dqn.update import DQNModel, Updated
from optix_fast.learners.dqn.update import dqn_update as torch_update
from optix_fast.learners.experience import Draws, Experience
from optix_fast.learners.native.networks import UnsupportedError
from optix_fast.networks import DuelingQNetwork, mlp
from optix_fast.random import RandomStream
from optix_fast.types import NonFiniteError

pytestmark = pytest.mark.native
EVERY_PATH = pytest.mark.usefixtures("every_simd_path")


BACKENDS = pytest.mark.parametrize("update", [core_update, torch_update], ids=["core", "torch"])


@EVERY_PATH
@BACKENDS
def test_hand_computed_update(update: Callable[..., Updated]) -> None:
    # Q(o) = w·o with w = (1, −2), target network v = (3, 4). Rows: o = 2, a = 0, r = 0.5, o′ = 1.
    network = nn.Linear(1, 2, bias=False)
    with torch.no_grad():
        network.weight.copy_(torch.tensor([[1.0], [-2.0]]))
    model = DQNModel(network, copy.deepcopy(network), torch.optim.Adam(network.parameters(), lr=0.125))
    with torch.no_grad():
        model.target.weight.copy_(torch.tensor([[3.0], [4.0]]))
    config = config_of(
        batch_size=1, gamma=0.5, loss="mse", max_grad_norm=None, target_update_freq=2, double_q=False
    )
    experience = Experience(config, RandomStream(0))
    experience.buffer.push(np.array([2.0], np.float32), 0, 0.5, np.array([1.0], np.float32), False)
    row = Draws(np.zeros((1, 1), np.int64))
    updated = update(model, experience, row, config, 0)
    # y = 0.5 + 0.5·4 = 2.5; Q = 2; TD error −0.5; loss 0.25; gradient 2·(−0.5)·2 = −2.
    assert updated == Updated(1, 0, pytest.approx(0.25), pytest.approx(0.5), pytest.approx(2.0))
    assert model.optimizer.state[network.weight]["exp_avg"].flatten().tolist() == pytest.approx([-0.2, 0.0])
    # Adam's first step is lr times the sign.
    assert network.weight[0].item() == pytest.approx(1.125)


@EVERY_PATH
@BACKENDS
def test_double_q_lets_the_network_choose_and_the_target_value(update: Callable[..., Updated]) -> None:
    network = nn.Linear(1, 2, bias=False)
    with torch.no_grad():
        network.weight.copy_(torch.tensor([[1.0], [-2.0]]))
    model = DQNModel(network, copy.deepcopy(network), torch.optim.Adam(network.parameters(), lr=0.125))
    with torch.no_grad():
        model.target.weight.copy_(torch.tensor([[3.0], [4.0]]))
    config = config_of(batch_size=1, gamma=0.5, max_grad_norm=None)
    experience = Experience(config, RandomStream(0))
    experience.buffer.push(np.array([2.0], np.float32), 0, 5.5, np.array([1.0], np.float32), False)
    updated = update(model, experience, Draws(np.zeros((1, 1), np.int64)), config, 0)
    # The network prefers action 0, which the target values 3: y = 7; Huber of −5 is 4.5.
    assert updated == Updated(1, 0, pytest.approx(4.5), pytest.approx(5.0), pytest.approx(2.0))


@BACKENDS
def test_of_equal_values_double_q_takes_the_first_action(update: Callable[..., Updated]) -> None:
    network = nn.Linear(1, 3, bias=False)
    with torch.no_grad():
        network.weight.copy_(torch.tensor([[1.0], [2.0], [2.0]]))
    model = DQNModel(network, copy.deepcopy(network), torch.optim.Adam(network.parameters(), lr=0.125))
    with torch.no_grad():
        model.target.weight.copy_(torch.tensor([[7.0], [3.0], [5.0]]))
    config = config_of(batch_size=1, gamma=0.5, loss="mse", max_grad_norm=None)
    experience = Experience(config, RandomStream(0))
    experience.buffer.push(np.array([1.0], np.float32), 0, 0.0, np.array([1.0], np.float32), False)
    updated = update(model, experience, Draws(np.zeros((1, 1), np.int64)), config, 0)
    # Actions 1 and 2 are worth 2 each; the target values action 1 at 3: y = 1.5, Q = 1.
    assert updated.td_error == pytest.approx(0.5)


@BACKENDS
def test_a_scheduler_changes_the_rate_without_a_warning(update: Callable[..., Updated]) -> None:
    model, config = model_of(), config_of()
    experience = experience_of(config)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(model.optimizer, 0.5)
    for turn in range(2):
        update(model, experience, draws_of(experience, config, 1), config, turn)
        with warnings.catch_warnings():  # of a rate that changes before the first step
            warnings.simplefilter("error")
            scheduler.step()
    assert model.optimizer.param_groups[0]["lr"] == pytest.approx(7.5e-5)


# --- parity -------------------------------------------------------------------------------------

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {"double_q": False, "loss": "mse", "max_grad_norm": None},
    "double": {},
    "mse": {"loss": "mse"},
    "tight gradient clipping": {"max_grad_norm": 0.01},
    "following target": {"tau": 0.02},
    "copied at each update": {"target_update_freq": 1},
    "n-step": {"n_step": 3},
    "priorities": {"per_alpha": 0.6},
    "everything": {"per_alpha": 0.7, "per_beta": 0.9, "n_step": 2, "tau": 0.05},
}
OPTIMIZERS: dict[str, Callable[[list[Any]], torch.optim.Optimizer]] = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-3, weight_decay=0.02),
    "groups": lambda p: torch.optim.Adam(
        [{"params": p[:3], "lr": 1e-2}, {"params": p[3:], "betas": (0.8, 0.99), "eps": 1e-4}], lr=1e-3
    ),
}
# Bounds of the design, §4.
AFTER_10, AFTER_200 = 1e-5, 1e-4


def assert_parity(
    model: DQNModel, config: DQNConfig, bound: float, updates: int = 10, **shape: Any
) -> tuple[Updated, Updated]:
    theirs, experience = twin(model), experience_of(config, **shape)
    other = copy.deepcopy(experience.buffer.state_dict())
    draws = draws_of(experience, config, updates)
    ours = core_update(model, experience, draws, config, 3)
    leaves, greatest = leaves_of(experience), experience.buffer.max_priority
    experience.buffer.load_state_dict(other)
    expected = torch_update(theirs, experience, draws, config, 3)
    assert distance(model, theirs) < bound
    assert (ours.n_updates, ours.copies) == (expected.n_updates, expected.copies)
    np.testing.assert_allclose(ours[2:], expected[2:], rtol=100 * bound)
    for p, q in zip(model.q_network.parameters(), theirs.q_network.parameters(), strict=True):
        assert model.optimizer.state[p].get("step") == theirs.optimizer.state[q].get("step")
    # A TD error is a difference of values ten times as large, and the power magnifies what is near zero.
    torch.testing.assert_close(leaves, leaves_of(experience), rtol=1000 * bound, atol=100 * bound)
    assert greatest == pytest.approx(experience.buffer.max_priority, rel=100 * bound)
    return ours, expected


@EVERY_PATH
@pytest.mark.parametrize(
    ("variant", "activation"),
    # The loss knows nothing of the hidden layers.
    [
        *[(name, "tanh") for name in VARIANTS],
        *[("everything", name) for name in ("elu", "silu", "gelu", "relu", "leaky_relu")],
    ],
)
def test_ten_updates(variant: str, activation: str) -> None:
    assert_parity(model_of(activation=activation), config_of(**VARIANTS[variant]), AFTER_10)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("norm", ["layer", "rms", None])
@pytest.mark.parametrize("is_dueling", [False, True], ids=["plain", "dueling"])
def test_ten_updates_of_networks_of_other_layers(variant: str, norm: str | None, is_dueling: bool) -> None:
    generator = torch.Generator().manual_seed(7)
    network: nn.Module = mlp([FEATURES, 64, 64, 64, 3], "tanh", 1.0, generator, norm=norm, residual=True)
    if is_dueling:
        network = DuelingQNetwork(FEATURES, 3, (64, 64, 64), "tanh", generator, norm=norm, residual=True)
    with torch.no_grad():
        for p in network.parameters():
            if p.ndim == 1:  # not zero: relative to what hardly moves from there, rounding is large
                p.add_(0.1 * torch.randn(p.shape, generator=generator))
    assert_parity(model_of(network=network), config_of(**VARIANTS[variant]), AFTER_10)
    double = copy.deepcopy(network)
    assert_parity(
        model_of(network=double, dtype=torch.float64),
        config_of(**VARIANTS[variant]),
        1e-7 if "per_alpha" in VARIANTS[variant] else 1e-9,
    )


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_two_hundred_updates_of_smooth_networks(variant: str) -> None:
    assert_parity(model_of(), config_of(**VARIANTS[variant]), AFTER_200, updates=200)


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_two_hundred_updates_in_double(variant: str, activation: str) -> None:
    model = model_of(activation=activation, dtype=torch.float64)
    # Importance weights are float32 on both sides, and a power in each.
    bound = 1e-7 if "per_alpha" in VARIANTS[variant] else 1e-9
    assert_parity(model, config_of(**VARIANTS[variant]), bound, updates=200)


@EVERY_PATH
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_option_of_the_optimizer(name: str) -> None:
    model = model_of(make_optimizer=OPTIMIZERS[name], dtype=torch.float64)
    assert_parity(model, config_of(), 1e-9, updates=20)


@EVERY_PATH
@pytest.mark.parametrize(
    ("hidden", "features", "outputs"),
    [
        ((), 1, 1), ((), 16, 8), ((1,), 21, 9), ((7,), 5, 18), ((7,), 16, 8), ((256, 256), 21, 9),
        ((33, 65, 16), 1, 1), ((33, 65, 16), 5, 18),
    ],
    ids=str,
)  # fmt: skip
def test_every_width(hidden: tuple[int, ...], features: int, outputs: int) -> None:
    model = model_of(outputs, hidden, features=features)
    assert_parity(model, config_of(), AFTER_10, features=features, outputs=outputs)


@EVERY_PATH
@pytest.mark.parametrize("batch_size", [1, 2, 17, 200])
def test_every_batch_size(batch_size: int) -> None:
    assert_parity(model_of(), config_of(batch_size=batch_size, per_alpha=0.5), AFTER_10)


def test_the_target_is_copied_when_the_updates_since_training_began_reach_a_multiple() -> None:
    for before, updates, copies in ((0, 6, 0), (0, 7, 1), (6, 1, 1), (7, 6, 0), (5, 20, 3)):
        model, config = model_of(), config_of()
        experience = experience_of(config)
        draws = draws_of(experience, config, updates)
        assert core_update(model, experience, draws, config, before).copies == copies
        same = [
            torch.equal(p, q)
            for p, q in zip(model.q_network.parameters(), model.target.parameters(), strict=True)
        ]
        assert all(same) == ((before + updates) % 7 == 0)


def test_backends_take_turns_in_mid_training() -> None:
    config = config_of(per_alpha=0.6)
    model = model_of()
    theirs, experience = twin(model), experience_of(config)
    other = experience_of(config)
    for turn in range(6):
        draws = draws_of(experience, config, 20)
        (core_update if turn % 2 else torch_update)(model, experience, draws, config, 20 * turn)
        torch_update(theirs, other, draws, config, 20 * turn)
    assert distance(model, theirs) < AFTER_200
    saved = copy.deepcopy(model.optimizer.state_dict())
    fresh = twin(model)
    fresh.optimizer.load_state_dict(saved)
    other.buffer.load_state_dict(copy.deepcopy(experience.buffer.state_dict()))
    draws = draws_of(experience, config, 20)
    core_update(model, experience, draws, config, 120)
    core_update(fresh, other, draws, config, 120)
    assert distance(fresh, model) == 0.0
    assert torch.equal(leaves_of(experience), leaves_of(other))


def test_the_same_call_gives_the_same_bits_and_many_updates_are_those_of_many_calls() -> None:
    config = config_of(per_alpha=0.6)
    models, experiences = [model_of() for _ in range(3)], [experience_of(config) for _ in range(3)]
    draws = draws_of(experiences[0], config, 30)
    for i in range(2):
        core_update(models[i], experiences[i], draws, config, 0)
    for k in range(30):
        part = Draws(None, draws.uniforms[k : k + 1], draws.betas[k : k + 1])  # type: ignore[index]
        core_update(models[2], experiences[2], part, config, k)
    for i in (1, 2):
        assert distance(models[0], models[i]) == 0.0
        assert torch.equal(leaves_of(experiences[0]), leaves_of(experiences[i]))


# --- what the user may do between updates -------------------------------------------------------


def both_learn(model: DQNModel, theirs: DQNModel) -> float:
    config = config_of()
    experience = experience_of(config)
    draws = draws_of(experience, config, 10)
    core_update(model, experience, draws, config, 0)
    torch_update(theirs, experience, draws, config, 0)
    return distance(model, theirs)


def test_a_changed_learning_rate_is_seen() -> None:
    model = model_of()
    model.optimizer.param_groups[0]["lr"] = 0.0
    before = [p.clone() for p in model.q_network.parameters()]
    both_learn(model, twin(model))
    assert all(torch.equal(p, q) for p, q in zip(model.q_network.parameters(), before, strict=True))
    model.optimizer.param_groups[0]["lr"] = 1e-3
    assert both_learn(model, twin(model)) < AFTER_10


@pytest.mark.parametrize("params", [{}, {"tau": 0.02}], ids=str)
def test_frozen_parameters_stay_and_their_targets_follow(params: dict[str, Any]) -> None:
    model, config = model_of(), config_of(target_update_freq=100, **params)
    weight = model.q_network[0].weight  # type: ignore[index, union-attr]
    weight.requires_grad_(False)
    before = weight.clone()
    assert_parity(model, config, AFTER_10)
    assert torch.equal(weight, before)
    moved = not torch.allclose(model.target[0].weight, 0.9 * before)  # type: ignore[index, union-attr, arg-type]
    assert moved == bool(params)


def test_moved_memory_is_seen() -> None:
    model = model_of()
    for p in model.q_network.parameters():
        p.data = p.data.clone()
    assert both_learn(model, twin(model)) < AFTER_10


def test_autograd_notices_that_parameters_changed() -> None:
    model, config = model_of(), config_of()
    output = model.q_network(torch.randn(3, FEATURES)).sum()
    experience = experience_of(config)
    core_update(model, experience, draws_of(experience, config, 1), config, 0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.backward()


def hooked(model: DQNModel) -> None:
    model.q_network.register_forward_hook(lambda *_: None)


def other_layer(model: DQNModel) -> None:
    model.q_network[1] = nn.PReLU()  # type: ignore[index, operator]


def other_target(model: DQNModel) -> None:
    model.target = nn.Linear(FEATURES, 3)


def all_frozen(model: DQNModel) -> None:
    model.q_network.requires_grad_(False)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (hooked, "has a hook"),
        (other_layer, "PReLU is not served"),
        (other_target, "the target network is not like the network"),
        (all_frozen, "every parameter of a network is frozen"),
    ],
)
def test_what_the_core_does_not_serve_is_refused_with_the_reason(
    change: Callable[[DQNModel], None], reason: str
) -> None:
    model, config = model_of(), config_of()
    change(model)
    experience = experience_of(config)
    with pytest.raises(UnsupportedError, match=reason):
        core_update(model, experience, draws_of(experience, config, 1), config, 0)


# --- failures -----------------------------------------------------------------------------------


def bad_sixth_row(experience: Experience, config: DQNConfig) -> Draws:
    """Ten updates, of which the sixth alone draws the newest row."""
    n = len(experience)
    if config.per_alpha == 0.0:
        indices = np.random.default_rng(0).integers(0, n - 1, (10, config.batch_size))
        indices[5, 3] = n - 1
        return Draws(indices)
    uniforms = np.random.default_rng(0).random((10, config.batch_size))
    uniforms[:, -1] = 0.0  # the beginning of the last part, which the newest row's leaf ends
    uniforms[5, -1] = 1.0 - 2.0**-40
    return Draws(None, uniforms, np.full(10, 0.5))


def fails_at_the_sixth(
    model: DQNModel, experience: Experience, config: DQNConfig, quantity: str, update: Callable[..., Updated]
) -> None:
    """Five good updates pass by themselves; together with the bad one all is as it was before them."""
    draws = bad_sixth_row(experience, config)
    first = Draws(*(None if part is None else part[:5] for part in draws))
    before, leaves = [t.clone() for t in tensors_of(model)], leaves_of(experience)
    greatest, stored = experience.buffer.max_priority, copy.deepcopy(experience.buffer.state_dict())
    other = twin(model)
    assert update(other, experience, first, config, 0).n_updates == 5
    assert not all(torch.equal(a, b) for a, b in zip(tensors_of(other), before, strict=True))
    experience.buffer.load_state_dict(stored)
    with pytest.raises(NonFiniteError) as caught:
        update(model, experience, draws, config, 0)
    assert caught.value.quantity == quantity
    assert all(torch.equal(a, b) for a, b in zip(tensors_of(model), before, strict=True))
    assert torch.equal(leaves_of(experience), leaves)
    assert experience.buffer.max_priority == greatest


@BACKENDS
@pytest.mark.parametrize("params", [{}, {"per_alpha": 0.6}, {"tau": 0.1}], ids=str)
def test_a_non_finite_target_leaves_everything_as_it_was(
    update: Callable[..., Updated], params: dict[str, Any]
) -> None:
    model, config = model_of(activation="relu"), config_of(max_grad_norm=None, **params)
    experience = experience_of(config)
    update(model, experience, draws_of(experience, config, 20), config, 0)
    # One row, which only some of the batches hold.
    view = experience.buffer.replay.view()
    view.observations[5] = math.inf
    before = [t.clone() for t in tensors_of(model)]
    with pytest.raises(NonFiniteError):
        update(model, experience, draws_of(experience, config, 400), config, 0)
    assert all(torch.equal(a, b) for a, b in zip(tensors_of(model), before, strict=True))


@BACKENDS
@pytest.mark.parametrize("params", [{}, {"per_alpha": 0.6}], ids=str)
@pytest.mark.parametrize("quantity", ["target", "loss", "gradient"])
def test_the_quantity_that_is_not_finite_is_named(
    update: Callable[..., Updated], quantity: str, params: dict[str, Any]
) -> None:
    config = config_of(loss="mse", **params)
    model = model_of(activation="relu", make_optimizer=lambda p: torch.optim.Adam(p, lr=1e-12))
    if quantity == "gradient":
        # The newest row's loss is finite; the square of its gradient by the first layer is not.
        with torch.no_grad():
            model.q_network[0].weight.mul_(1e-8)  # type: ignore[index, operator, union-attr]
    experience = experience_of(config)
    update(model, experience, draws_of(experience, config, 3), config, 0)
    observation, following = np.ones(FEATURES, np.float32), np.ones(FEATURES, np.float32)
    reward = 1e30 if quantity == "loss" else 0.0
    if quantity == "target":
        following *= math.inf
    elif quantity == "gradient":
        observation *= 1e16
    experience.buffer.push(observation, 0, reward, following, False)
    fails_at_the_sixth(model, experience, config, quantity, update)


def test_impossible_actions_are_named_and_nothing_changes() -> None:
    model, config = model_of(outputs=2), config_of()
    experience = experience_of(config, outputs=3)
    before = [p.clone() for p in model.q_network.parameters()]
    with pytest.raises(ValueError, match=r"dqn_update: the action is none of the network's at row \d+"):
        core_update(model, experience, draws_of(experience, config, 10), config, 0)
    assert all(torch.equal(a, b) for a, b in zip(model.q_network.parameters(), before, strict=True))


def test_rows_that_do_not_exist_are_named() -> None:
    model, config = model_of(), config_of()
    experience = experience_of(config)
    with pytest.raises(ValueError, match="dqn_update: indices"):
        core_update(model, experience, Draws(np.full((1, 32), 555)), config, 0)
    narrow = experience_of(config, features=4)
    with pytest.raises(UnsupportedError, match="does not read one flat observation"):
        core_update(model, narrow, draws_of(narrow, config, 1), config, 0)
