"""The whole SAC update of the core against torch: parameters, targets, optimizer state, temperature."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from actor_critic_cases import (
    AFTER_10,
    AFTER_200,
    FEATURES,
    WIDTH,
    adam,
    distance,
    networks_of,
    state_of,
)
from sac_cases import (
    MakeOptimizer,
    config_of,
    make_model,
    random_draws,
    random_experience,
    smallest_model,
)
from torch import Tensor, nn

from optix_fast.learners.experience import Draws, Experience
from optix_fast.learners.native.networks import UnsupportedError
from optix_fast.learners.sac.config import SACConfig
from optix_fast.learners.sac.native import sac_update
from optix_fast.learners.sac.update import SACModel
from optix_fast.learners.sac.update import sac_update as reference_update
from optix_fast.learners.squashed_policy import STATISTICS
from optix_fast.ops import SumTree
from optix_fast.random import RandomStream
from optix_fast.types import NonFiniteError

pytestmark = pytest.mark.native
EVERY_PATH = pytest.mark.usefixtures("every_simd_path")


def model_of(
    hidden: tuple[int, ...] = (64, 64),
    activation: str = "tanh",
    dtype: torch.dtype = torch.float32,
    make_optimizer: MakeOptimizer = adam,
    features: int = FEATURES,
    width: int = WIDTH,
    **blocks: Any,
) -> SACModel:
    actor, critics = networks_of(2 * width, hidden, activation, dtype, features, width, **blocks)
    return make_model(actor, critics, make_optimizer, log_alpha=-1.0)


def assert_parity(ours: SACModel, config: SACConfig, tolerance: float, updates: int = 10) -> None:
    theirs = copy.deepcopy(ours)
    features, width = ours.actor[0].in_features, ours.actor[-1].out_features // 2
    experience = random_experience(config, features, width)
    draws = random_draws(updates, config, experience, width)
    means = sac_update(ours, experience, *draws, config, -width).means
    again = random_experience(config, features, width)
    expected = reference_update(theirs, again, *draws, config, -width).means
    assert distance(ours, theirs) < tolerance
    for name in STATISTICS:
        assert means[name] == pytest.approx(expected[name], rel=10 * tolerance, abs=10 * tolerance), name
    if config.per_alpha:
        priorities = [e.buffer.tree.priorities(torch.arange(len(e))) for e in (experience, again)]
        assert torch.allclose(*priorities, rtol=100 * tolerance, atol=1e-7)
        assert experience.buffer.max_priority == pytest.approx(again.buffer.max_priority, rel=10 * tolerance)


# --- numbers by hand ----------------------------------------------------------------------------


@EVERY_PATH
def test_one_update_of_the_smallest_networks() -> None:
    """As in test_sac_step.py, where every number is computed by hand; γ takes the place of the discount."""
    model, config = smallest_model(), SACConfig(tau=0.5, gamma=0.9, batch_size=1, replay_capacity=1)
    experience = Experience(config, RandomStream(0))
    experience.buffer.push(np.ones(1), np.array([0.5], np.float32), 1.0, np.array([2.0]), False)
    draws = Draws(np.zeros((1, 1), np.int64))
    means = sac_update(model, experience, draws, torch.zeros(1, 2, 1, 1), config, -1.0).means
    assert means["critic_loss"] == pytest.approx(0.5 * (1.627045**2 + 0.627045**2), rel=1e-5)
    assert means["actor_loss"] == pytest.approx(-0.918939 - 1.1)
    assert means["q_value"] == pytest.approx(2.5) and means["entropy"] == pytest.approx(0.918939)
    assert model.critics[0].weight.flatten().tolist() == pytest.approx([1.1, 2.1])
    assert model.targets[0].weight.flatten().tolist() == pytest.approx([1.05, 2.05])
    assert model.targets[1].weight.flatten().tolist() == pytest.approx([3.05, 0.05])
    moment = model.actor_optimizer.state[model.actor.weight]["exp_avg"].flatten()
    assert moment.tolist() == pytest.approx([-0.21, -0.1])
    assert model.alpha_optimizer.state[model.log_alpha]["exp_avg"].item() == pytest.approx(0.1918939)
    assert model.log_alpha.item() == pytest.approx(-0.1)


# --- parity -------------------------------------------------------------------------------------

VARIANTS: dict[str, dict[str, Any]] = {
    "no gradient clipping": {"max_grad_norm": None},
    "tight gradient clipping": {"max_grad_norm": 0.05},
    "three steps": {"n_step": 3},
    "fixed temperature": {"learn_alpha": False},
    "fast targets": {"tau": 0.5},
    "hard targets": {"tau": 1.0},
    "still targets": {"tau": 0.0},
    "priorities": {"per_alpha": 0.6},
}
OPTIMIZERS: dict[str, Callable[[list[Any]], torch.optim.Optimizer]] = {
    "weight decay": lambda p: torch.optim.Adam(p, lr=1e-3, weight_decay=0.02),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-3, weight_decay=0.02),
    "fused": lambda p: torch.optim.Adam(p, lr=1e-3, fused=True),
}


@EVERY_PATH
@pytest.mark.parametrize("activation", ["tanh", "elu", "silu", "gelu", "relu", "leaky_relu"])
def test_ten_updates(activation: str) -> None:
    assert_parity(model_of(activation=activation), config_of(), AFTER_10)


@pytest.mark.parametrize("norm", ["layer", "rms", None])
def test_ten_updates_of_networks_of_other_layers(norm: str | None) -> None:
    assert_parity(model_of((64, 64, 64), norm=norm, residual=True), config_of(), AFTER_10)


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["tanh", "silu"])
def test_two_hundred_updates_of_smooth_networks(activation: str) -> None:
    assert_parity(model_of(activation=activation), config_of(), AFTER_200, updates=200)


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_two_hundred_updates_in_double(activation: str) -> None:
    assert_parity(model_of(activation=activation, dtype=torch.float64), config_of(), 1e-9, updates=200)


@EVERY_PATH
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_option(variant: str) -> None:
    assert_parity(model_of(), config_of(**VARIANTS[variant]), AFTER_10)


@pytest.mark.slow
def test_two_hundred_prioritized_updates_in_double() -> None:
    assert_parity(model_of(dtype=torch.float64), config_of(per_alpha=0.6, n_step=3), 1e-6, updates=200)


@EVERY_PATH
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_option_of_the_optimizer(name: str) -> None:
    model = model_of(make_optimizer=OPTIMIZERS[name], dtype=torch.float64)
    assert_parity(model, config_of(), 1e-6, updates=20)  # fused Adam computes some factors in float


@pytest.mark.parametrize(
    ("hidden", "features", "width"),
    [
        ((), 1, 1), ((), 17, 6), ((1,), 16, 1), ((7,), 13, 3), ((7,), 3, 17), ((256, 256), 17, 6),
        ((33, 65, 16), 1, 1), ((33, 65, 16), 3, 17),
    ],
    ids=str,
)  # fmt: skip
def test_every_width(hidden: tuple[int, ...], features: int, width: int) -> None:
    assert_parity(model_of(hidden, features=features, width=width), config_of(), AFTER_10)


@pytest.mark.parametrize("update", [sac_update, reference_update], ids=["core", "torch"])
def test_critics_of_equal_value_share_the_gradient(update: Callable[..., Any]) -> None:
    # At s = 0 and â = 0 both critics are worth 0, and ∂Q_1/∂a = 2, ∂Q_2/∂a = 0; they do not move.
    model = smallest_model()
    actor = nn.Linear(1, 2)
    for p in actor.parameters():
        nn.init.zeros_(p)
    model = make_model(actor, model.critics)
    model.critic_optimizer.param_groups[0]["lr"] = 0.0
    config = SACConfig(gamma=0.9, batch_size=1, replay_capacity=1, max_grad_norm=None, learn_alpha=False)
    experience = Experience(config, RandomStream(0))
    experience.buffer.push(np.zeros(1), np.array([0.5], np.float32), 1.0, np.array([2.0]), False)
    update(model, experience, Draws(np.zeros((1, 1), np.int64)), torch.zeros(1, 2, 1, 1), config, -1.0)
    assert model.critics[0].weight.flatten().tolist() == [1.0, 2.0]
    # By the mean: −½·2 − ½·0 = −1; by log σ: −α = −1. Adam's moment is a tenth of it.
    moment = model.actor_optimizer.state[actor.bias]["exp_avg"]
    assert moment.tolist() == pytest.approx([-0.1, -0.1])


@pytest.mark.parametrize("update", [sac_update, reference_update], ids=["core", "torch"])
def test_schedulers_change_the_rates_without_a_warning(update: Callable[..., Any]) -> None:
    model, config = model_of(), config_of()
    experience = random_experience(config)
    schedulers = [torch.optim.lr_scheduler.ExponentialLR(o, 0.5) for o in model.optimizers().values()]
    update(model, experience, *random_draws(1, config, experience), config, -2.0)
    with warnings.catch_warnings():  # of a rate that changes before the first step
        warnings.simplefilter("error")
        for scheduler in schedulers:
            scheduler.step()


@pytest.mark.parametrize("log_std", [-7.0, 3.0])
def test_clamped_log_std_has_no_gradient(log_std: float) -> None:
    ours = model_of(dtype=torch.float64)
    with torch.no_grad():
        ours.actor[-1].bias.copy_(torch.tensor([0.0, 0.0, log_std, 0.2]))
        ours.actor[-1].weight[2].zero_()
    assert_parity(ours, config_of(), 1e-7)
    assert ours.actor[-1].bias[2] == log_std and ours.actor[-1].bias[3] != 0.2


@pytest.mark.slow
def test_backends_take_turns_in_mid_training() -> None:
    ours, config = model_of(), config_of()
    theirs, experience = copy.deepcopy(ours), random_experience(config)
    for turn in range(6):
        draws = random_draws(10, config, experience, seed=turn)
        (sac_update if turn % 2 else reference_update)(ours, experience, *draws, config, -2.0)
        reference_update(theirs, experience, *draws, config, -2.0)
    assert distance(ours, theirs) < AFTER_200
    fresh = model_of()
    fresh.load_state_dict(ours.state_dict())
    draws = random_draws(3, config, experience)
    for model in (ours, fresh):
        sac_update(model, experience, *draws, config, -2.0)
    assert distance(ours, fresh) == 0.0


def test_one_call_is_as_many_calls_of_one_update() -> None:
    ours, config = model_of(), config_of()
    theirs, experience = copy.deepcopy(ours), random_experience(config)
    draws, noise = random_draws(5, config, experience)
    sac_update(ours, experience, draws, noise, config, -2.0)
    for k in range(5):
        one = Draws(draws.indices[k : k + 1])
        sac_update(theirs, experience, one, noise[k : k + 1], config, -2.0)
    assert distance(ours, theirs) == 0.0


# --- what the user may do between updates -------------------------------------------------------


def both_learn(ours: SACModel) -> float:
    theirs, config = copy.deepcopy(ours), config_of()
    experience = random_experience(config)
    draws = random_draws(10, config, experience)
    sac_update(ours, experience, *draws, config, -2.0)
    reference_update(theirs, experience, *draws, config, -2.0)
    return distance(ours, theirs)


def learn(model: SACModel, updates: int = 1) -> None:
    config = config_of()
    experience = random_experience(config)
    sac_update(model, experience, *random_draws(updates, config, experience), config, -2.0)


def test_frozen_parameters_stay_and_their_targets_follow() -> None:
    model = model_of()
    assert both_learn(model) < AFTER_10
    for net in (model.actor, model.critics[0]):
        net[2].weight.requires_grad_(False)
    before = [net[2].weight.clone() for net in (model.actor, model.critics[0], model.targets[0])]
    assert both_learn(model) < AFTER_10
    assert torch.equal(model.actor[2].weight, before[0]) and torch.equal(
        model.critics[0][2].weight, before[1]
    )
    assert not torch.equal(model.targets[0][2].weight, before[2])


def test_a_new_learning_rate_and_a_replaced_layer_are_seen() -> None:
    model = model_of()
    assert both_learn(model) < AFTER_10
    for optimizer in model.optimizers().values():
        optimizer.param_groups[0]["lr"] = 1e-3
    model.critics[0][2], model.targets[0][2] = nn.Linear(64, 64), nn.Linear(64, 64)
    model.critic_optimizer = adam([p for net in model.critics for p in net.parameters()])
    assert both_learn(model) < AFTER_10


def test_autograd_notices_that_parameters_changed() -> None:
    model = model_of()
    output = model.critics[0](torch.randn(3, FEATURES + WIDTH)).sum()
    learn(model)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.backward()


REFUSALS: dict[str, tuple[Callable[[SACModel], Any], str]] = {
    "a hook": (lambda m: m.critics[0][0].register_forward_hook(lambda *_: None), "has a hook"),
    "another layer": (lambda m: m.actor.append(nn.AlphaDropout(0.1)), "AlphaDropout is not served"),
    "another optimizer": (
        lambda m: setattr(m, "actor_optimizer", torch.optim.Adagrad(m.actor.parameters(), lr=0.1)),
        "the optimizer is Adagrad",
    ),
    "a shared layer": (lambda m: m.critics[1].__setitem__(0, m.critics[0][0]), "more than one place"),
    "another target": (
        lambda m: m.targets[0].__setitem__(2, nn.Linear(64, 64, bias=False)),
        "target1 is not like critic1",
    ),
    "a categorical policy": (lambda m: setattr(m, "discrete", True), "categorical"),
    "too wide an actor": (
        lambda m: m.actor.__setitem__(4, nn.Linear(64, 6)), "observations and actions side by side"
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSALS)
def test_what_is_not_served_is_named(what: str) -> None:
    model = model_of()
    change, reason = REFUSALS[what]
    change(model)
    with pytest.raises(UnsupportedError, match=reason):
        learn(model)


# --- failures -----------------------------------------------------------------------------------


@pytest.mark.parametrize("per_alpha", [0.0, 0.6])
@pytest.mark.parametrize(
    ("where", "value", "quantity"), [(0, math.inf, "critic loss"), (1, math.nan, "temperature loss")]
)
def test_what_is_not_finite_leaves_everything_as_it_was(
    where: int, value: float, quantity: str, per_alpha: float
) -> None:
    model, config = model_of(), config_of(per_alpha=per_alpha)
    experience = random_experience(config)
    sac_update(model, experience, *random_draws(2, config, experience), config, -2.0)
    before, rows = [t.clone() for t in state_of(model)], torch.arange(len(experience))
    priorities, greatest = experience.buffer.tree.priorities(rows), experience.buffer.max_priority
    draws, noise = random_draws(10, config, experience, seed=1)
    noise[6, where].fill_(value)
    with pytest.raises(NonFiniteError) as caught:
        sac_update(model, experience, draws, noise, config, -2.0)
    assert caught.value.quantity == quantity
    assert all(torch.equal(a, b) for a, b in zip(state_of(model), before, strict=True))
    assert torch.equal(experience.buffer.tree.priorities(rows), priorities)
    assert experience.buffer.max_priority == greatest


def test_a_non_finite_gradient_is_named() -> None:
    model = model_of(activation="relu")
    with torch.no_grad():
        model.critics[0][0].weight.mul_(1e16)
        model.critics[0][2].weight.mul_(1e6)
        model.critics[0][4].weight.mul_(1e-5)
    with pytest.raises(NonFiniteError, match="critic"):
        learn(model)


def test_draws_that_do_not_fit_are_named() -> None:
    model, config = model_of(), config_of()
    experience = random_experience(config)
    draws, noise = random_draws(2, config, experience)

    def update(experience: Experience, draws: Draws, noise: Tensor) -> None:
        sac_update(model, experience, draws, noise, config, -2.0)

    with pytest.raises(ValueError, match=r"sac_update: indices must be in \[0, size\) = \[0, 400\)"):
        update(experience, draws._replace(indices=draws.indices + 400), noise)
    with pytest.raises(ValueError, match=r"sac_update: indices must be int64 \[K, B\] = \[1, 32\]"):
        update(experience, draws, noise[:1])
    with pytest.raises(ValueError, match="sac_update: the replay's actions must be"):
        update(random_experience(config, width=3), draws, noise)
    with pytest.raises(UnsupportedError, match="does not read one flat observation"):
        update(random_experience(config, features=6), draws, noise)


def test_a_priority_of_a_row_that_is_not_there_is_refused() -> None:
    model, config = model_of(), config_of(per_alpha=0.6)
    experience = random_experience(config)
    draws, noise = random_draws(2, config, experience)
    capacity = experience.buffer.tree.capacity
    experience.buffer._tree = SumTree(capacity + 1)
    experience.buffer.tree.update(torch.arange(capacity - 1, capacity + 1), 1.0)
    before = [p.clone() for p in model.actor.parameters()]
    with pytest.raises(ValueError, match="the tree has a priority for a row that the replay does not hold"):
        sac_update(model, experience, draws, noise, config, -2.0)
    assert all(torch.equal(a, b) for a, b in zip(model.actor.parameters(), before, strict=True))
