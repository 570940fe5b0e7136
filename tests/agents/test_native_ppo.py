"""The whole PPO update of the core against torch: parameters, optimizer state, statistics; failures."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from ppo_learners import (
    Learner,
    core_update,
    distance,
    learner,
    permutations,
    rows_for,
    torch_update,
)
from torch import nn

from optix_fast.learners.ppo.batch import Batch
from optix_fast.learners.ppo.config import PPOConfig
from optix_fast.learners.ppo.update import STATISTICS
from optix_fast.networks.heads import CategoricalHead
from optix_fast.types import NonFiniteError

pytestmark = pytest.mark.native
EVERY_PATH = pytest.mark.usefixtures("every_simd_path")


def assert_parity(
    it: Learner, config: PPOConfig, tolerance: float, n_minibatches: int = 10, **rows: Any
) -> None:
    ours, theirs = it, it.twin()
    window = rows_for(it, 32 * n_minibatches // 2, **rows)
    config = replace(config, minibatch_size=32)
    order = permutations(2, len(window.actions))
    means, n = core_update(ours, window, order, config)
    expected_means, expected_n = torch_update(theirs, window, order, config)
    assert n == expected_n == n_minibatches
    assert distance(ours, theirs) < tolerance
    for name in STATISTICS:
        assert means[name] == pytest.approx(expected_means[name], rel=10 * tolerance, abs=10 * tolerance), (
            name
        )


# --- numbers by hand ----------------------------------------------------------------------------


def test_one_adam_step_of_the_smallest_networks() -> None:
    """One row, everything linear: actor logits 0·x, critic 2x; every number below is computed by hand."""
    actor, critic = nn.Linear(1, 2, bias=False), nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        actor.weight.zero_()
        critic.weight.fill_(2.0)
    optimizer = torch.optim.Adam([*actor.parameters(), *critic.parameters()], lr=0.1, eps=0.0)
    it = Learner(actor, critic, optimizer, CategoricalHead())
    one = torch.ones(1)
    rows = Batch(
        3.0 * one[None], torch.tensor([1]), math.log(0.5) * one, 0.0 * one, 4.0 * one, 5.0 * one, None
    )
    config = PPOConfig(
        entropy_coef=0.0, vf_coef=0.5, max_grad_norm=None, normalize_advantages="none", minibatch_size=1
    )
    means, n = core_update(it, rows, permutations(1, 1), config)
    # The ratio is 1: loss −4 + 0.5·(6 − 5)². Gradients: actor ±4·½·3 = ±6, critic 0.5·2·1·3 = 3.
    assert n == 1
    assert means["policy_loss"] == pytest.approx(-4.0) and means["value_loss"] == pytest.approx(1.0)
    assert means["entropy"] == pytest.approx(math.log(2.0)) and means["approx_kl"] == pytest.approx(0.0)
    moments = [optimizer.state[p]["exp_avg"].flatten().tolist() for p in it.parameters]
    assert moments == [pytest.approx([0.6, -0.6]), pytest.approx([0.3])]
    # Adam's first step is lr times the sign.
    assert actor.weight.flatten().tolist() == pytest.approx([-0.1, 0.1])
    assert critic.weight.item() == pytest.approx(1.9)


# --- parity -------------------------------------------------------------------------------------

SMOOTH = ("tanh", "elu", "silu", "gelu")
VARIANTS: dict[str, dict[str, Any]] = {
    "no gradient clipping": {"max_grad_norm": None},
    "tight gradient clipping": {"max_grad_norm": 0.05},
    "value clip max": {"value_clip": 0.1},
    "value clip clipped": {"value_clip": 0.1, "value_clip_mode": "clipped"},
    "window advantages": {"normalize_advantages": "none"},
    "entropy": {"entropy_coef": 0.1},
    "small clip": {"clip_ratio": 0.02},
}
OPTIMIZERS: dict[str, Callable[[list[Any]], torch.optim.Optimizer]] = {
    "weight decay": lambda p: torch.optim.Adam(p, lr=1e-3, weight_decay=0.02),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-3, weight_decay=0.02),
    "fused": lambda p: torch.optim.Adam(p, lr=1e-3, fused=True),
    "groups": lambda p: torch.optim.Adam(
        [{"params": p[:3], "lr": 1e-2}, {"params": p[3:], "betas": (0.8, 0.99), "eps": 1e-4}], lr=1e-3
    ),
}
# Bounds of the design, §4: 1e-5 after 10 minibatches.
AFTER_10, AFTER_200 = 1e-5, 1e-4


@EVERY_PATH
@pytest.mark.parametrize(
    ("dist", "activation"),
    # Hidden layers know nothing of the head: every activation with one head, every head with one or two.
    [
        *[("state", name) for name in (*SMOOTH, "relu", "leaky_relu")],
        *[(dist, "tanh") for dist in ("categorical", "multi_discrete", "free")],
        ("multi_discrete", "elu"),
    ],
)
@pytest.mark.parametrize("shared", [False, True], ids=["separate", "shared"])
def test_ten_minibatches(dist: str, shared: bool, activation: str) -> None:
    assert_parity(learner(activation=activation, dist=dist, shared=shared), PPOConfig(), AFTER_10)


@EVERY_PATH
@pytest.mark.parametrize("dist", ["categorical", "state"])
@pytest.mark.parametrize("shared", [False, True], ids=["separate", "shared"])
@pytest.mark.parametrize("norm", ["layer", "rms", None])
def test_ten_minibatches_of_networks_of_other_layers(dist: str, shared: bool, norm: str | None) -> None:
    it = learner(hidden=(64, 64, 64), dist=dist, shared=shared, norm=norm, residual=True)
    assert_parity(it, PPOConfig(), AFTER_10)


@pytest.mark.slow
@pytest.mark.parametrize("dist", ["categorical", "multi_discrete", "state", "free"])
@pytest.mark.parametrize("shared", [False, True], ids=["separate", "shared"])
def test_two_hundred_minibatches_of_smooth_networks(dist: str, shared: bool) -> None:
    assert_parity(learner(dist=dist, shared=shared), PPOConfig(), AFTER_200, n_minibatches=200)


@pytest.mark.slow
@pytest.mark.parametrize("dist", ["categorical", "multi_discrete", "state", "free"])
@pytest.mark.parametrize("shared", [False, True], ids=["separate", "shared"])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_two_hundred_minibatches_in_double(dist: str, shared: bool, activation: str) -> None:
    it = learner(dist=dist, shared=shared, activation=activation, dtype=torch.float64)
    assert_parity(it, PPOConfig(), 1e-9, n_minibatches=200)


@EVERY_PATH
@pytest.mark.parametrize(
    ("dist", "variant"),
    # tests/ops/test_ppo_loss.py has every option with every head.
    [*[("state", name) for name in VARIANTS], *[(d, "entropy") for d in ("categorical", "multi_discrete")]],
)
def test_every_option_of_the_loss(variant: str, dist: str) -> None:
    assert_parity(learner(dist=dist), PPOConfig(**VARIANTS[variant]), AFTER_10)


@EVERY_PATH
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_option_of_the_optimizer(name: str) -> None:
    it = learner(make_optimizer=OPTIMIZERS[name], dtype=torch.float64)
    assert_parity(it, PPOConfig(), 1e-6, n_minibatches=20)  # fused Adam computes some factors in float


@EVERY_PATH
@pytest.mark.parametrize("outputs", [2, 8, 9, 18])
def test_masked_actions(outputs: int) -> None:
    assert_parity(learner(outputs), PPOConfig(entropy_coef=0.05), AFTER_10, masks=True)


@EVERY_PATH
def test_masked_actions_of_several_components() -> None:
    assert_parity(learner(dist="multi_discrete"), PPOConfig(entropy_coef=0.05), AFTER_10, masks=True)


@EVERY_PATH
@pytest.mark.parametrize(
    ("hidden", "features"),
    [((), 1), ((), 16), ((1,), 21), ((7,), 1), ((7,), 16), ((256, 256), 21), ((33, 65, 16), 16)],
    ids=str,
)
def test_every_width(hidden: tuple[int, ...], features: int) -> None:
    it = learner(4, hidden, features=features)
    assert_parity(it, PPOConfig(), AFTER_10, features=features)


@EVERY_PATH
@pytest.mark.parametrize("dist", ["state", "free"])
@pytest.mark.parametrize("log_std", [-7.0, 3.0])
def test_clamped_log_std_has_no_gradient(dist: str, log_std: float) -> None:
    # In double: with a deviation of e⁻⁵ the ratio magnifies rounding beyond the bounds for float.
    it = learner(2, dist=dist, dtype=torch.float64)
    with torch.no_grad():
        if it.log_std is not None:
            it.log_std.copy_(torch.tensor([log_std, 0.1]))
        else:
            it.actor[-1].bias.copy_(torch.tensor([0.0, 0.0, log_std, 0.2]))
    theirs, rows, order = it.twin(), rows_for(it), permutations(1, 320)
    core_update(it, rows, order, PPOConfig(minibatch_size=32))
    torch_update(theirs, rows, order, PPOConfig(minibatch_size=32))
    assert distance(it, theirs) < 1e-7
    clamped = it.log_std if it.log_std is not None else it.actor[-1].bias[2:]
    assert clamped[0] == log_std and clamped[1] not in (0.1, 0.2)


def test_a_kl_stop_ends_on_the_same_minibatch() -> None:
    it = learner(make_optimizer=lambda p: torch.optim.Adam(p, lr=3e-3))
    theirs = it.twin()
    rows, order = rows_for(it), permutations(10, 320)
    # Away from the threshold, 0.0099: the KL of the third and fourth minibatch is 0.0079 and 0.0109.
    config = PPOConfig(minibatch_size=64, target_kl=0.0066)
    assert core_update(it, rows, order, config)[1] == torch_update(theirs, rows, order, config)[1] == 4
    assert distance(it, theirs) < AFTER_200


@EVERY_PATH
def test_a_last_small_minibatch_and_one_of_a_single_row() -> None:
    for n in (100, 97):
        it = learner()
        theirs, rows, order = it.twin(), rows_for(it, n), permutations(2, n)
        config = PPOConfig(minibatch_size=32)
        core_update(it, rows, order, config)
        torch_update(theirs, rows, order, config)
        assert distance(it, theirs) < AFTER_10


def test_backends_take_turns_in_mid_training() -> None:
    it = learner()
    theirs, config, order = it.twin(), PPOConfig(minibatch_size=32), permutations(1, 320)
    for turn in range(6):
        rows = rows_for(theirs, seed=turn)
        (core_update if turn % 2 else torch_update)(it, rows, order, config)
        torch_update(theirs, rows, order, config)
    assert distance(it, theirs) < AFTER_200
    saved = copy.deepcopy(it.optimizer.state_dict())
    fresh = it.twin()
    fresh.optimizer.load_state_dict(saved)
    rows = rows_for(it)
    core_update(it, rows, order, config)
    core_update(fresh, rows, order, config)
    assert distance(fresh, it) == 0.0


def test_the_same_call_gives_the_same_bits() -> None:
    it = learner()
    other, rows, order = it.twin(), rows_for(it), permutations(3, 320)
    core_update(it, rows, order, PPOConfig())
    core_update(other, rows, order, PPOConfig())
    assert distance(it, other) == 0.0


# --- what the user may do between updates -------------------------------------------------------


def both_learn(it: Learner, theirs: Learner) -> float:
    rows, order, config = rows_for(it, seed=3), permutations(1, 320), PPOConfig(minibatch_size=32)
    core_update(it, rows, order, config)
    torch_update(theirs, rows, order, config)
    return distance(it, theirs)


def test_a_scheduler_changes_the_rate_without_a_warning() -> None:
    it = learner()
    theirs = it.twin()
    windows = [rows_for(it, seed=turn) for turn in range(2)]
    for one in (it, theirs):
        scheduler = torch.optim.lr_scheduler.ExponentialLR(one.optimizer, 0.5)
        for rows in windows:
            update = core_update if one is it else torch_update
            update(one, rows, permutations(1, 320), PPOConfig(minibatch_size=32))
            scheduler.step()
    assert it.optimizer.param_groups[0]["lr"] == pytest.approx(7.5e-5)
    assert distance(it, theirs) < AFTER_200


def test_a_replaced_layer_is_seen() -> None:
    it = learner()
    assert both_learn(it, it.twin()) < AFTER_10
    for p in it.actor[2].parameters():
        it.optimizer.param_groups[0]["params"] = [
            q for q in it.optimizer.param_groups[0]["params"] if q is not p
        ]
    it.actor[2] = nn.Linear(64, 64)
    it.optimizer.add_param_group({"params": list(it.actor[2].parameters())})
    assert both_learn(it, it.twin()) < AFTER_10


def test_frozen_parameters_stay_and_do_not_count_in_the_norm() -> None:
    it = learner(shared=True)
    assert both_learn(it, it.twin()) < AFTER_10
    it.actor[0][0].weight.requires_grad_(False)
    before = it.actor[0][0].weight.clone()
    assert both_learn(it, it.twin()) < AFTER_10
    assert torch.equal(it.actor[0][0].weight, before)


def test_moved_memory_is_seen() -> None:
    it = learner()
    for p in it.parameters:
        p.data = p.data.clone()
    assert both_learn(it, it.twin()) < AFTER_10


def test_autograd_notices_that_parameters_changed() -> None:
    it = learner()
    output = it.actor(torch.randn(3, 5)).sum()
    rows = rows_for(it)
    core_update(it, rows, permutations(1, 320), PPOConfig())
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.backward()


# --- failures -----------------------------------------------------------------------------------


def spoiled(rows: Batch, what: str) -> Batch:
    field = rows._asdict()[what].clone()
    field[-1] = math.inf
    return rows._replace(**{what: field})


@pytest.mark.parametrize("what", ["advantages", "returns", "observations", "log_probs"])
def test_a_non_finite_loss_leaves_everything_as_it_was(what: str) -> None:
    it = learner()
    rows, order, config = rows_for(it), permutations(3, 320), PPOConfig(minibatch_size=32)
    core_update(it, rows, order, config)
    before = [t.clone() for t in it.state()]
    with pytest.raises(NonFiniteError) as caught:
        core_update(it, spoiled(rows, what), order, config)
    assert caught.value.quantity == "loss"
    assert all(torch.equal(a, b) for a, b in zip(it.state(), before, strict=True))


def test_a_non_finite_gradient_is_named() -> None:
    it = learner(activation="relu")
    rows = rows_for(it)
    huge = rows._replace(returns=rows.returns + 1e17)  # its square is finite, the gradient's is not
    with torch.no_grad():
        it.critic[0].weight.mul_(1e15)
    with pytest.raises(NonFiniteError) as caught:
        core_update(it, huge, permutations(1, 320), PPOConfig(normalize_advantages="none", minibatch_size=32))
    assert caught.value.quantity == "gradient"


def test_impossible_actions_are_named_and_nothing_changes() -> None:
    it = learner()
    rows, order = rows_for(it), permutations(1, 320)
    actions = rows.actions.clone()
    actions[17] = 3
    before = [p.clone() for p in it.parameters]
    with pytest.raises(ValueError, match=r"none of the actor's at row 17"):
        core_update(it, rows._replace(actions=actions), order, PPOConfig())
    assert all(torch.equal(a, b) for a, b in zip(it.parameters, before, strict=True))


def test_rows_that_do_not_fit_are_named() -> None:
    it = learner()
    rows, order = rows_for(it), permutations(1, 320)
    with pytest.raises(ValueError, match=r"ppo_update: advantages must be float32 \[R\] = \[320\]"):
        core_update(it, rows._replace(advantages=rows.advantages[:-1]), order, PPOConfig())
    with pytest.raises(ValueError, match=r"row numbers in \[0, R\)"):
        core_update(it, rows, order + 1, PPOConfig())
