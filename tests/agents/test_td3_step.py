"""TD3's update in plain torch: numbers by hand, and what must hold for any networks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sac_cases import batch_for, smallest_transition
from td3_cases import make_model, smallest_experience, smallest_model
from torch import Tensor, nn

from optix_fast.learners.experience import Draws
from optix_fast.learners.td3.config import TD3Config
from optix_fast.learners.td3.update import TD3Model, td3_actor_step, td3_critic_step, td3_update
from optix_fast.types import NonFiniteError

# --- one step of the critics --------------------------------------------------------------------


def moment_of(optimizer: torch.optim.Optimizer, network: nn.Module) -> list[float]:
    """Adam's, which is a tenth of the gradient after the first step."""
    moment: Tensor = optimizer.state[network.weight]["exp_avg"]
    return moment.flatten().tolist()


def test_one_step_of_the_smallest_critics() -> None:
    model = smallest_model()
    loss, q_value, td_errors = td3_critic_step(
        model, smallest_transition(), torch.zeros(1, 1), TD3Config(max_grad_norm=None)
    )
    # a' = tanh 0 = 0, y = 1 + 0.9·min(2, 6) = 2.8; Q_1 = 1 + 2·0.5 = 2, Q_2 = 3: δ = −0.8 and 0.2.
    assert loss == pytest.approx(0.64 + 0.04)
    assert q_value == pytest.approx(2.5)
    assert td_errors.tolist() == pytest.approx([0.5])
    # 2·δ·(s, a): (−1.6, −0.8) and (0.4, 0.2).
    assert moment_of(model.critic_optimizer, model.critic1) == pytest.approx([-0.16, -0.08])
    assert moment_of(model.critic_optimizer, model.critic2) == pytest.approx([0.04, 0.02])
    # Adam's first step is the rate, 0.1, against the sign.
    assert model.critic1.weight.flatten().tolist() == pytest.approx([1.1, 2.1])
    assert model.critic2.weight.flatten().tolist() == pytest.approx([2.9, -0.1])
    assert model.actor.weight.item() == 0.0 and not model.actor_optimizer.state
    assert model.target1.weight.flatten().tolist() == [1.0, 2.0]


# (weight of the target actor, ε, |δ_1|, |δ_2|) at s' = 2. The noise is 0.2·ε, at most 0.5; the action at most
# 1. y = 1 + 0.9·(2 + 2a') = 2.8 + 1.8·a'; Q_1 = 2, Q_2 = 3.
SMOOTHED = {
    "noise": (0.0, 1.0, 1.16, 0.16),  # a' = 0.2, y = 3.16
    "clipped noise": (0.0, 5.0, 1.7, 0.7),  # a' = 0.5, y = 3.7
    "noise clipped below": (0.0, -5.0, 0.1, 1.1),  # a' = −0.5, y = 1.9
    "clipped action": (10.0, 1.0, 2.6, 1.6),  # a' = 1, y = 4.6
    "action at its bound, noise inward": (10.0, -1.0, 2.24, 1.24),  # a' = 1 − 0.2, y = 4.24
    "action clipped below": (-10.0, -1.0, 1.0, 2.0),  # a' = −1, y = 1
    "noise is clipped before the action": (10.0, -5.0, 1.7, 0.7),  # a' = 1 − 0.5, y = 3.7
}


@pytest.mark.parametrize("case", SMOOTHED)
def test_the_target_s_action_is_smoothed_and_both_are_clipped(case: str) -> None:
    weight, noise, first, second = SMOOTHED[case]
    model = smallest_model()
    model.target_actor.weight.fill_(weight)
    loss, _, td_errors = td3_critic_step(model, smallest_transition(), torch.tensor([[noise]]), TD3Config())
    assert loss == pytest.approx(first**2 + second**2, rel=1e-5)
    assert td_errors.tolist() == pytest.approx([0.5 * (first + second)], rel=1e-5)


@pytest.mark.parametrize("options", [{"target_noise": 0.0}, {"target_noise_clip": 0.0}], ids=str)
def test_without_noise_or_within_a_bound_of_zero_nothing_is_smoothed(options: dict[str, float]) -> None:
    _, _, td_errors = td3_critic_step(
        smallest_model(), smallest_transition(), torch.full((1, 1), 3.0), TD3Config(**options)
    )
    assert td_errors.tolist() == pytest.approx([0.5])  # as in the first test: a' = 0


@pytest.mark.parametrize("value", [1e30, math.inf, math.nan])
def test_a_discount_of_zero_leaves_the_reward_whatever_the_targets_say(value: float) -> None:
    model = smallest_model()
    for target in (model.target1, model.target2):
        target.weight.fill_(value)
    batch = smallest_transition()._replace(discounts=torch.zeros(1))
    loss, _, td_errors = td3_critic_step(model, batch, torch.zeros(1, 1), TD3Config())
    # y = 1: δ = 1 and 2.
    assert loss == pytest.approx(5.0)
    assert td_errors.tolist() == pytest.approx([1.5])


def test_weights_count_in_the_loss_and_not_in_the_errors() -> None:
    model, one = smallest_model(), smallest_transition()
    batch = type(one)(*(torch.cat((part, part)) for part in one[:5]), weights=torch.tensor([0.5, 1.0]))
    loss, _, td_errors = td3_critic_step(model, batch, torch.zeros(2, 1), TD3Config(max_grad_norm=None))
    # Two rows of the first test: the mean weight is ¾.
    assert loss == pytest.approx(0.75 * 0.68)
    assert td_errors.tolist() == pytest.approx([0.5, 0.5])
    assert moment_of(model.critic_optimizer, model.critic1) == pytest.approx([-0.12, -0.06])


def test_the_gradient_of_both_critics_together_is_clipped() -> None:
    model = smallest_model()
    td3_critic_step(model, smallest_transition(), torch.zeros(1, 1), TD3Config(max_grad_norm=0.5))
    # ‖(−1.6, −0.8, 0.4, 0.2)‖ = √3.4.
    factor = 0.5 / math.sqrt(3.4)
    assert moment_of(model.critic_optimizer, model.critic1) == pytest.approx([-0.16 * factor, -0.08 * factor])
    assert moment_of(model.critic_optimizer, model.critic2) == pytest.approx([0.04 * factor, 0.02 * factor])


# --- one step of the actor ----------------------------------------------------------------------


def test_one_step_of_the_smallest_actor() -> None:
    # tanh of ½·ln 3 is ½, its derivative ¾.
    model = smallest_model(0.5 * math.log(3.0))
    loss = td3_actor_step(model, torch.ones(1, 1), TD3Config(max_grad_norm=None))
    # −Q_1(1, ½) = −(1 + 2·½); its derivative by the weight: −2·¾·s.
    assert loss == pytest.approx(-2.0)
    assert moment_of(model.actor_optimizer, model.actor) == pytest.approx([-0.15])
    assert model.actor.weight.item() == pytest.approx(0.5 * math.log(3.0) + 0.1)
    assert model.critic1.weight.flatten().tolist() == [1.0, 2.0] and not model.critic_optimizer.state
    assert model.target_actor.weight.item() == pytest.approx(0.5 * math.log(3.0))


def test_the_actor_s_step_is_clipped_and_gives_the_critics_no_gradient() -> None:
    model = smallest_model()
    td3_actor_step(model, torch.ones(1, 1), TD3Config(max_grad_norm=0.5))
    assert moment_of(model.actor_optimizer, model.actor) == pytest.approx([-0.05])  # of −2, a quarter
    assert all(net.weight.grad is None for net in model.critics)


# --- K updates ----------------------------------------------------------------------------------


def updated(model: TD3Model, updates: int, updates_before: int = 0, **params: float) -> dict[str, float]:
    given = {"gamma": 0.9, "tau": 0.5, "batch_size": 1, "replay_capacity": 1, "target_noise": 0.0, **params}
    config = TD3Config(**given)  # type: ignore[arg-type]
    draws = Draws(np.zeros((updates, 1), np.int64))
    result = td3_update(
        model, smallest_experience(config), draws, torch.zeros(updates, 1, 1), config, updates_before
    )
    assert result.n_updates == updates
    return {**result.means, "actor_updates": result.actor_updates}


def test_one_update_of_everything() -> None:
    model = smallest_model()
    means = updated(model, 1, policy_delay=1)
    # The critics' step is the first test's. Then Q_1 = 1.1·s + 2.1·a: −Q_1(1, 0) = −1.1, by the weight −2.1.
    assert means == pytest.approx(
        {"critic_loss": 0.68, "actor_loss": -1.1, "q_value": 2.5, "actor_updates": 1}
    )
    assert model.actor.weight.item() == pytest.approx(0.1)
    # Halfway, for τ = 0.5.
    assert model.target_actor.weight.item() == pytest.approx(0.05)
    assert model.target1.weight.flatten().tolist() == pytest.approx([1.05, 2.05])
    assert model.target2.weight.flatten().tolist() == pytest.approx([2.95, -0.05])


@pytest.mark.parametrize(("delay", "before"), [(1, 0), (2, 0), (2, 1), (3, 0), (3, 2), (3, 7)])
def test_critics_move_at_every_update_actor_and_targets_at_every_so_many_th(delay: int, before: int) -> None:
    model = smallest_model()
    for n in range(before + 1, before + 8):
        weights = [net.weight.clone() for net in model.modules().values()]
        means = updated(model, 1, n - 1, policy_delay=delay)
        moved = [
            not torch.equal(net.weight, w) for net, w in zip(model.modules().values(), weights, strict=True)
        ]
        due = n % delay == 0
        # Actor, critics, target actor, target critics.
        assert moved == [due, True, True, due, due, due]
        assert means["actor_updates"] == due and (means["actor_loss"] != 0.0) == due


def test_the_actor_s_loss_is_a_mean_over_the_actor_s_updates_alone() -> None:
    ours, theirs = smallest_model(), smallest_model()
    means = updated(ours, 5, 1, policy_delay=2)
    apart = [updated(theirs, 1, before, policy_delay=2) for before in range(1, 6)]
    assert means["actor_updates"] == 3
    assert means["actor_loss"] == pytest.approx(sum(apart[k]["actor_loss"] for k in (0, 2, 4)) / 3)
    for name in ("critic_loss", "q_value"):
        assert means[name] == pytest.approx(sum(each[name] for each in apart) / 5)
    assert all(
        torch.equal(a.weight, b.weight)
        for a, b in zip(ours.modules().values(), theirs.modules().values(), strict=True)
    )


def test_without_an_update_of_the_actor_its_loss_is_zero() -> None:
    assert updated(smallest_model(), 1, policy_delay=2)["actor_loss"] == 0.0


# --- any networks -------------------------------------------------------------------------------


def networks() -> TD3Model:
    torch.manual_seed(3)
    actor = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2))
    critics = [nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 1)) for _ in range(2)]
    return make_model(actor, critics)


@pytest.mark.parametrize("field", ["rewards", "observations"])
def test_a_critic_s_loss_that_is_not_finite_is_named_before_anything_changes(field: str) -> None:
    batch, noise = batch_for(6, 3, 2)
    spoiled = getattr(batch, field).clone()
    spoiled[2] = math.nan
    model = networks()
    before = [p.clone() for net in model.modules().values() for p in net.parameters()]
    with pytest.raises(NonFiniteError, match="critic loss"):
        td3_critic_step(model, batch._replace(**{field: spoiled}), noise[0], TD3Config())
    after = [p for net in model.modules().values() for p in net.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))


def test_an_actor_s_loss_that_is_not_finite_is_named() -> None:
    with pytest.raises(NonFiniteError, match="actor loss"):
        td3_actor_step(networks(), torch.full((2, 3), math.nan), TD3Config())


def test_frozen_parameters_stay() -> None:
    batch, noise = batch_for(6, 3, 2)
    model = networks()
    frozen = (model.critic1[0].weight, model.actor[0].weight)  # type: ignore[index]
    for parameter in frozen:
        parameter.requires_grad_(False)
    before = [p.clone() for p in frozen]
    td3_critic_step(model, batch, noise[0], TD3Config())
    td3_actor_step(model, batch.observations, TD3Config())
    assert all(torch.equal(a, b) for a, b in zip(frozen, before, strict=True))
    assert not torch.equal(model.critic1[0].bias, model.target1[0].bias)  # type: ignore[index]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"gamma": 1.5}, "gamma must be between 0.0 and 1.0"),
        ({"tau": math.nan}, "tau must be between"),
        ({"policy_delay": 0}, "policy_delay must be at least 1"),
        ({"exploration_noise": -0.1}, "exploration_noise must be"),
        ({"target_noise": math.inf}, "target_noise must be"),
        ({"target_noise_clip": -1.0}, "target_noise_clip must be"),
        ({"uniform_action_repeat": 0}, "uniform_action_repeat must be at least 1"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"n_step": 0}, "n_step must be at least 1"),
        ({"learning_starts": -1}, "learning_starts must be at least 0"),
    ],
)
def test_values_out_of_range_are_refused(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TD3Config(**wrong)  # type: ignore[arg-type]
