"""The whole TD3 update of the core against torch: parameters, targets, optimizer state."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable
from typing import Any

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
    values_of,
)
from sac_cases import MakeOptimizer, random_experience
from td3_cases import config_of, make_model, random_draws, smallest_experience, smallest_model
from torch import Tensor, nn

from optix_fast.learners.experience import Draws, Experience
from optix_fast.learners.native.networks import UnsupportedError
from optix_fast.learners.td3.config import TD3Config
from optix_fast.learners.td3.native import td3_update
from optix_fast.learners.td3.update import STATISTICS, TD3Model
from optix_fast.learners.td3.update import td3_update as reference_update
from optix_fast.ops import SumTree
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
) -> TD3Model:
    actor, critics = networks_of(width, hidden, activation, dtype, features, width)
    return make_model(actor, critics, make_optimizer)


def assert_parity(
    ours: TD3Model, config: TD3Config, tolerance: float, updates: int = 10, before: int = 0
) -> None:
    theirs = copy.deepcopy(ours)
    features, width = ours.actor[0].in_features, ours.actor[-1].out_features
    experience = random_experience(config, features, width)
    draws = random_draws(updates, config, experience, width)
    done = td3_update(ours, experience, *draws, config, before)
    again = random_experience(config, features, width)
    expected = reference_update(theirs, again, *draws, config, before)
    assert distance(ours, theirs) < tolerance
    assert (done.n_updates, done.actor_updates) == (expected.n_updates, expected.actor_updates)
    for name in STATISTICS:
        assert done.means[name] == pytest.approx(
            expected.means[name], rel=10 * tolerance, abs=10 * tolerance
        ), name
    if config.per_alpha:
        priorities = [e.buffer.tree.priorities(torch.arange(len(e))) for e in (experience, again)]
        assert torch.allclose(*priorities, rtol=100 * tolerance, atol=1e-7)
        assert experience.buffer.max_priority == pytest.approx(again.buffer.max_priority, rel=10 * tolerance)


# --- numbers by hand ----------------------------------------------------------------------------


@EVERY_PATH
def test_one_update_of_the_smallest_networks() -> None:
    """As in test_td3_step.py, where every number is computed by hand; γ takes the place of the discount."""
    model = smallest_model()
    config = TD3Config(
        tau=0.5, gamma=0.9, batch_size=1, replay_capacity=1, policy_delay=1, max_grad_norm=None
    )
    draws = Draws(torch.zeros(1, 1, dtype=torch.int64).numpy())
    done = td3_update(model, smallest_experience(config), draws, torch.zeros(1, 1, 1), config, 0)
    assert done.means == pytest.approx({"critic_loss": 0.68, "actor_loss": -1.1, "q_value": 2.5})
    assert (done.n_updates, done.actor_updates) == (1, 1)
    assert model.critic1.weight.flatten().tolist() == pytest.approx([1.1, 2.1])
    assert model.critic2.weight.flatten().tolist() == pytest.approx([2.9, -0.1])
    assert model.target1.weight.flatten().tolist() == pytest.approx([1.05, 2.05])
    assert model.target2.weight.flatten().tolist() == pytest.approx([2.95, -0.05])
    assert model.actor.weight.item() == pytest.approx(0.1)
    assert model.target_actor.weight.item() == pytest.approx(0.05)
    moment = model.actor_optimizer.state[model.actor.weight]["exp_avg"]
    assert moment.item() == pytest.approx(-0.21)
    moment = model.critic_optimizer.state[model.critic1.weight]["exp_avg"].flatten()
    assert moment.tolist() == pytest.approx([-0.16, -0.08])


@EVERY_PATH
@pytest.mark.parametrize(
    ("weight", "noise", "loss"),
    [
        (0.0, 1.0, 1.16**2 + 0.16**2),
        (0.0, 5.0, 1.7**2 + 0.7**2),
        (0.0, -5.0, 0.1**2 + 1.1**2),
        (10.0, 1.0, 2.6**2 + 1.6**2),
        (10.0, -5.0, 1.7**2 + 0.7**2),
        (-10.0, -1.0, 1.0**2 + 2.0**2),
    ],
)
def test_the_target_s_action_is_smoothed_and_both_are_clipped(
    weight: float, noise: float, loss: float
) -> None:
    """Cases of test_td3_step.py."""
    model = smallest_model()
    model.target_actor.weight.fill_(weight)
    config = TD3Config(gamma=0.9, batch_size=1, replay_capacity=1)
    draws = Draws(torch.zeros(1, 1, dtype=torch.int64).numpy())
    done = td3_update(model, smallest_experience(config), draws, torch.full((1, 1, 1), noise), config, 0)
    assert done.means["critic_loss"] == pytest.approx(loss, rel=1e-5)
    assert done.actor_updates == 0 and done.means["actor_loss"] == 0.0


# --- parity -------------------------------------------------------------------------------------

VARIANTS: dict[str, dict[str, Any]] = {
    "no gradient clipping": {"max_grad_norm": None},
    "tight gradient clipping": {"max_grad_norm": 0.05},
    "three steps": {"n_step": 3},
    "an actor's step in every update": {"policy_delay": 1},
    "an actor's step in every third update": {"policy_delay": 3},
    "more delay than updates": {"policy_delay": 11},
    "no noise": {"target_noise": 0.0},
    "much noise": {"target_noise": 3.0, "target_noise_clip": 1.5},
    "noise without a bound": {"target_noise": 1.0, "target_noise_clip": 1e30},
    "noise clipped to nothing": {"target_noise_clip": 0.0},
    "fast targets": {"tau": 0.5},
    "hard targets": {"tau": 1.0},
    "still targets": {"tau": 0.0},
    "priorities": {"per_alpha": 0.6},
    "priorities and three steps": {"per_alpha": 0.6, "n_step": 3},
}
OPTIMIZERS: dict[str, Callable[[list[Any]], torch.optim.Optimizer]] = {
    "weight decay": lambda p: torch.optim.Adam(p, lr=1e-3, weight_decay=0.02),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-3, weight_decay=0.02),
    "fused": lambda p: torch.optim.Adam(p, lr=1e-3, fused=True),
}


@EVERY_PATH
@pytest.mark.parametrize("updates", [1, 10])
@pytest.mark.parametrize("activation", ["tanh", "elu", "silu", "gelu", "relu", "leaky_relu"])
def test_one_update_and_ten(activation: str, updates: int) -> None:
    # An odd number before: the first update is one of the actor, too.
    assert_parity(model_of(activation=activation), config_of(), AFTER_10, updates, before=1)


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


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_option_in_double(variant: str) -> None:
    priorities = "per_alpha" in VARIANTS[variant]  # are float32 where they are stored
    model = model_of(dtype=torch.float64)
    assert_parity(model, config_of(**VARIANTS[variant]), 1e-6 if priorities else 1e-11)


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


@pytest.mark.parametrize("batch_size", [1, 7, 100])
def test_every_size_of_a_batch(batch_size: int) -> None:
    assert_parity(model_of(), config_of(batch_size=batch_size), AFTER_10)


@pytest.mark.parametrize("update", [td3_update, reference_update], ids=["core", "torch"])
def test_schedulers_change_the_rates_without_a_warning(update: Callable[..., Any]) -> None:
    model, config = model_of(), config_of()
    experience = random_experience(config)
    schedulers = [torch.optim.lr_scheduler.ExponentialLR(o, 0.5) for o in model.optimizers().values()]
    update(model, experience, *random_draws(2, config, experience), config, 0)
    with warnings.catch_warnings():  # of a rate that changes before the first step
        warnings.simplefilter("error")
        for scheduler in schedulers:
            scheduler.step()


def test_backends_take_turns_in_mid_training() -> None:
    ours, config = model_of(), config_of()
    theirs, experience = copy.deepcopy(ours), random_experience(config)
    for turn in range(6):
        draws = random_draws(9, config, experience, seed=turn)
        (td3_update if turn % 2 else reference_update)(ours, experience, *draws, config, 9 * turn)
        reference_update(theirs, experience, *draws, config, 9 * turn)
    assert distance(ours, theirs) < AFTER_200
    fresh = model_of()
    fresh.load_state_dict(ours.state_dict())
    draws = random_draws(3, config, experience)
    for model in (ours, fresh):
        td3_update(model, experience, *draws, config, 54)
    assert distance(ours, fresh) == 0.0


def test_torch_goes_on_from_an_actor_that_the_core_has_not_updated_yet() -> None:
    ours, config = model_of(), config_of(policy_delay=5)
    theirs, experience = copy.deepcopy(ours), random_experience(config)
    draws, noise = random_draws(6, config, experience)
    one, others = Draws(draws.indices[:1]), Draws(draws.indices[1:])
    td3_update(ours, experience, one, noise[:1], config, 0)
    reference_update(ours, experience, others, noise[1:], config, 1)
    reference_update(theirs, experience, draws, noise, config, 0)
    assert distance(ours, theirs) < AFTER_10


@pytest.mark.parametrize(("delay", "before"), [(1, 0), (2, 0), (2, 1), (3, 0), (3, 4)])
def test_one_call_is_as_many_calls_of_one_update(delay: int, before: int) -> None:
    ours, config = model_of(), config_of(policy_delay=delay)
    theirs, experience = copy.deepcopy(ours), random_experience(config)
    draws, noise = random_draws(7, config, experience)
    done = td3_update(ours, experience, draws, noise, config, before)
    apart = []
    for k in range(7):
        one = Draws(draws.indices[k : k + 1])
        apart.append(td3_update(theirs, experience, one, noise[k : k + 1], config, before + k))
    assert distance(ours, theirs) == 0.0
    due = [n % delay == 0 for n in range(before + 1, before + 8)]
    assert [bool(part.actor_updates) for part in apart] == due and done.actor_updates == sum(due)
    mean = sum(part.means["actor_loss"] for part in apart) / sum(due)
    assert done.means["actor_loss"] == pytest.approx(mean)


def test_between_its_updates_the_actor_and_all_targets_stay() -> None:
    model, config = model_of(), config_of(policy_delay=5)
    experience = random_experience(config)
    still = (model.actor, model.target_actor, model.target1, model.target2)
    before = [p.detach().clone() for net in still for p in net.parameters()]
    td3_update(model, experience, *random_draws(4, config, experience), config, 0)
    assert all(
        torch.equal(a, b) for a, b in zip((p for net in still for p in net.parameters()), before, strict=True)
    )
    td3_update(model, experience, *random_draws(1, config, experience), config, 4)
    assert not any(
        torch.equal(a, b) for a, b in zip((p for net in still for p in net.parameters()), before, strict=True)
    )


# --- what the user may do between updates -------------------------------------------------------


def both_learn(ours: TD3Model) -> float:
    theirs, config = copy.deepcopy(ours), config_of()
    experience = random_experience(config)
    draws = random_draws(10, config, experience)
    td3_update(ours, experience, *draws, config, 0)
    reference_update(theirs, experience, *draws, config, 0)
    return distance(ours, theirs)


def learn(model: TD3Model, updates: int = 2) -> None:
    config = config_of()
    experience = random_experience(config)
    td3_update(model, experience, *random_draws(updates, config, experience), config, 0)


def test_frozen_parameters_stay_and_their_targets_follow() -> None:
    model = model_of()
    assert both_learn(model) < AFTER_10
    pairs = [(model.actor, model.target_actor), (model.critic1, model.target1)]
    for net, _ in pairs:
        net[2].weight.requires_grad_(False)
    before = [(net[2].weight.clone(), target[2].weight.clone()) for net, target in pairs]
    assert both_learn(model) < AFTER_10
    for (net, target), (weight, followed) in zip(pairs, before, strict=True):
        assert torch.equal(net[2].weight, weight)
        assert not torch.equal(target[2].weight, followed)


def test_a_new_learning_rate_and_a_replaced_layer_are_seen() -> None:
    model = model_of()
    assert both_learn(model) < AFTER_10
    for optimizer in model.optimizers().values():
        optimizer.param_groups[0]["lr"] = 1e-3
    for net in (model.critic1, model.target1):
        net[2] = nn.Linear(64, 64)
    model.critic_optimizer = adam([p for net in model.critics for p in net.parameters()])
    assert both_learn(model) < AFTER_10


@pytest.mark.parametrize("name", ["actor", "critic1"])
def test_autograd_notices_that_parameters_changed(name: str) -> None:
    model = model_of()
    network = getattr(model, name)
    output = network(torch.randn(3, network[0].in_features)).sum()
    learn(model)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.backward()


def freeze(network: nn.Module) -> None:
    network.requires_grad_(False)


REFUSALS: dict[str, tuple[Callable[[TD3Model], Any], str]] = {
    "a hook": (lambda m: m.critic1[0].register_forward_hook(lambda *_: None), "critic1.* has a hook"),
    "a hook on a target": (
        lambda m: m.target_actor[0].register_forward_hook(lambda *_: None), "target_actor.* has a hook"
    ),
    "another layer": (lambda m: m.actor.append(nn.AlphaDropout(0.1)), "AlphaDropout is not served"),
    "another optimizer": (
        lambda m: setattr(m, "actor_optimizer", torch.optim.Adagrad(m.actor.parameters(), lr=0.1)),
        "the optimizer is Adagrad",
    ),
    "a shared layer": (lambda m: m.critic2.__setitem__(0, m.critic1[0]), "more than one place"),
    "a target that is the network": (lambda m: setattr(m, "target_actor", m.actor), "more than one place"),
    "another target critic": (
        lambda m: m.target1.__setitem__(2, nn.Linear(64, 64, bias=False)), "target1 is not like critic1"
    ),
    "another target actor": (
        lambda m: m.target_actor.__setitem__(2, nn.Linear(64, 64, bias=False)),
        "target_actor is not like actor",
    ),
    "the actor of a Gaussian": (
        lambda m: m.actor.__setitem__(4, nn.Linear(64, 4)), "observations and actions side by side"
    ),
    "critics of discrete actions": (
        lambda m: [net.__setitem__(4, nn.Linear(64, 3)) for net in (m.critic1, m.target1)],
        "a critic has 3 outputs, not 1",
    ),
    "a frozen actor": (lambda m: freeze(m.actor), "every parameter of a network is frozen"),
    "frozen critics": (
        lambda m: [freeze(net) for net in m.critics], "every parameter of a network is frozen"
    ),
    "two dtypes": (lambda m: m.target2.double(), "float64|dtype"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSALS)
def test_what_is_not_served_is_named(what: str) -> None:
    model = model_of()
    change, reason = REFUSALS[what]
    change(model)
    before = [p.detach().clone() for p in values_of(model)]
    with pytest.raises(UnsupportedError, match=reason):
        learn(model)
    assert all(torch.equal(a, b) for a, b in zip(values_of(model), before, strict=True))


# --- failures -----------------------------------------------------------------------------------


def same(ours: Tensor, theirs: Tensor) -> bool:
    """Equal, where NaN equals NaN."""
    return torch.equal(ours.nan_to_num(nan=7.25), theirs.nan_to_num(nan=7.25))


def assert_undone(
    model: TD3Model, experience: Experience, config: TD3Config, draws: tuple[Draws, Tensor], quantity: str
) -> None:
    """The core, and torch, name the quantity and leave everything as it was."""
    before, rows = [t.clone() for t in state_of(model)], torch.arange(len(experience))
    tree = experience.buffer.tree
    priorities = tree.priorities(rows) if config.per_alpha else None
    greatest = experience.buffer.max_priority
    for update in (td3_update, reference_update):
        with pytest.raises(NonFiniteError) as caught:
            update(model, experience, *draws, config, 0)
        assert caught.value.quantity == quantity
        assert all(same(a, b) for a, b in zip(state_of(model), before, strict=True))
        assert priorities is None or torch.equal(tree.priorities(rows), priorities)
        assert experience.buffer.max_priority == greatest


@pytest.mark.parametrize("per_alpha", [0.0, 0.6])
def test_a_critic_s_loss_that_is_not_finite_leaves_everything_as_it_was(per_alpha: float) -> None:
    model, config = model_of(), config_of(per_alpha=per_alpha)
    experience = random_experience(config)
    td3_update(model, experience, *random_draws(2, config, experience), config, 0)
    draws, noise = random_draws(10, config, experience, seed=1)
    noise[6, :, 1].fill_(math.nan)
    assert_undone(model, experience, config, (draws, noise), "critic loss")


def test_an_infinite_noise_is_clipped() -> None:
    ours, config = model_of(), config_of()
    theirs, experience = copy.deepcopy(ours), random_experience(config)
    draws, noise = random_draws(3, config, experience)
    noise[1].fill_(math.inf)
    td3_update(ours, experience, draws, noise, config, 0)
    reference_update(theirs, experience, draws, noise, config, 0)
    assert distance(ours, theirs) < AFTER_10


@pytest.mark.parametrize("per_alpha", [0.0, 0.6])
def test_an_actor_s_loss_that_is_not_finite_leaves_everything_as_it_was(per_alpha: float) -> None:
    model, config = model_of(), config_of(per_alpha=per_alpha)
    experience = random_experience(config)
    td3_update(model, experience, *random_draws(2, config, experience), config, 0)
    with torch.no_grad():
        model.actor[4].bias[0] = math.nan  # the target actor is well
    assert_undone(model, experience, config, random_draws(10, config, experience, seed=1), "actor loss")


def test_a_critic_s_gradient_that_is_not_finite_is_named() -> None:
    # Values of about 1e17: their squares are finite, their product with the first layer's 1e16·1e6 is not.
    model, config = model_of(activation="relu"), config_of(policy_delay=1)
    with torch.no_grad():
        model.critic1[0].weight.mul_(1e16)
        model.critic1[2].weight.mul_(1e6)
        model.critic1[4].weight.mul_(1e-5)
    experience = random_experience(config)
    assert_undone(model, experience, config, random_draws(1, config, experience), "critic gradient")


def test_an_actor_s_gradient_that_is_not_finite_is_named() -> None:
    # The actor's hidden units are 1e37 of weight 0, so the action is 0; ∂Q_1/∂a = 4·100, so 4e39 by a weight.
    model, config = model_of((4,), "relu"), config_of(policy_delay=1)
    with torch.no_grad():
        for p in model.actor.parameters():
            p.zero_()
        model.actor[0].bias.fill_(1e37)
        model.critic1[0].weight[:, FEATURES:] = 100.0
        model.critic1[0].bias.fill_(1000.0)
        model.critic1[2].weight.fill_(1.0)
    experience = random_experience(config)
    assert_undone(model, experience, config, random_draws(1, config, experience), "actor gradient")


def test_draws_that_do_not_fit_are_named() -> None:
    model, config = model_of(), config_of()
    experience = random_experience(config)
    draws, noise = random_draws(2, config, experience)

    def update(experience: Experience, draws: Draws, noise: Tensor) -> None:
        td3_update(model, experience, draws, noise, config, 0)

    with pytest.raises(ValueError, match=r"td3_update: indices must be in \[0, size\) = \[0, 400\)"):
        update(experience, draws._replace(indices=draws.indices + 400), noise)
    with pytest.raises(ValueError, match=r"td3_update: indices must be int64 \[K, B\] = \[1, 32\]"):
        update(experience, draws, noise[:1])
    with pytest.raises(ValueError, match="td3_update: noise"):
        update(experience, draws, noise[..., :1])
    with pytest.raises(ValueError, match="td3_update: the replay's actions must be"):
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
    before = [p.clone() for p in values_of(model)]
    with pytest.raises(ValueError, match="the tree has a priority for a row that the replay does not hold"):
        td3_update(model, experience, draws, noise, config, 0)
    assert all(torch.equal(a, b) for a, b in zip(values_of(model), before, strict=True))
