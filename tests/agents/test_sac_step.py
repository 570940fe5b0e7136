"""SAC's update in plain torch: numbers by hand, and what must hold for any networks."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from sac_cases import batch_for, make_model, smallest_model, smallest_transition
from torch import nn

from optix_fast.learners.experience import Transitions
from optix_fast.learners.sac.config import SACConfig
from optix_fast.learners.sac.update import SACModel, discrete_sac_step, sac_step
from optix_fast.types import NonFiniteError


def test_one_update_of_the_smallest_networks() -> None:
    model = smallest_model()
    step = sac_step(model, smallest_transition(), torch.zeros(2, 1, 1), SACConfig(tau=0.5), -1.0)
    # log π(0) = −½·ln 2π = −0.918939; y = 1 + 0.9·(min(2, 6) + 0.918939) = 3.627045.
    critic_loss, actor_loss, alpha_loss, q_value, entropy = step.statistics.values()
    assert critic_loss == pytest.approx(0.5 * (1.627045**2 + 0.627045**2), rel=1e-5)
    assert step.td_errors.tolist() == pytest.approx([1.127045])
    # The critics after their step: 1.1·s + 2.1·a and 3.1·s + 0.1·a.
    assert actor_loss == pytest.approx(-0.918939 - 1.1)
    assert (alpha_loss, q_value, entropy) == pytest.approx((0.0, 2.5, 0.918939), abs=1e-6)
    moments = [model.critic_optimizer.state[net.weight]["exp_avg"].flatten() for net in model.critics]
    assert moments[0].tolist() == pytest.approx([-0.1627045, -0.08135225])
    assert moments[1].tolist() == pytest.approx([-0.0627045, -0.03135225])
    assert model.critics[0].weight.flatten().tolist() == pytest.approx([1.1, 2.1])
    assert model.critics[1].weight.flatten().tolist() == pytest.approx([3.1, 0.1])
    assert model.targets[0].weight.flatten().tolist() == pytest.approx([1.05, 2.05])
    assert model.targets[1].weight.flatten().tolist() == pytest.approx([3.05, 0.05])
    # ∂/∂μ = −∂Q/∂a = −2.1, ∂/∂log σ = −α = −1.
    moment = model.actor_optimizer.state[model.actor.weight]["exp_avg"].flatten()
    assert moment.tolist() == pytest.approx([-0.21, -0.1])
    assert model.actor.weight.flatten().tolist() == pytest.approx([0.1, 0.1])
    # ∂/∂log α = −(log π + target entropy) = 1.918939.
    assert model.alpha_optimizer.state[model.log_alpha]["exp_avg"].item() == pytest.approx(0.1918939)
    assert model.log_alpha.item() == pytest.approx(-0.1)


def test_one_update_of_the_smallest_categorical_networks() -> None:
    """Two actions, logits 0: π = ½. Q_1 = (1, 3)·s, Q_2 = (2, 2)·s."""
    actor, critics = nn.Linear(1, 2, bias=False), [nn.Linear(1, 2, bias=False) for _ in range(2)]
    with torch.no_grad():
        actor.weight.zero_()
        critics[0].weight.copy_(torch.tensor([[1.0], [3.0]]))
        critics[1].weight.copy_(torch.tensor([[2.0], [2.0]]))
    model = make_model(actor, critics, discrete=True)
    batch = Transitions(
        torch.ones(1, 1), torch.tensor([1]), torch.ones(1), torch.full((1, 1), 2.0), torch.full((1,), 0.5)
    )
    step = discrete_sac_step(model, batch, SACConfig(tau=0.5), 0.5)
    # min Q̄(s') = (2, 4): V = 3 + ln 2, y = 1 + ½·3.693147 = 2.846574.
    assert step.td_errors.tolist() == pytest.approx([0.5 * (0.153426 + 0.846574)], rel=1e-5)
    critic_loss, actor_loss, alpha_loss, q_value, entropy = step.statistics.values()
    assert critic_loss == pytest.approx(0.5 * (0.153426**2 + 0.846574**2), rel=1e-5)
    # After the critics' step Q_1 = (1, 2.9), Q_2 = (2, 2.1): the least are 1 and 2.1.
    assert actor_loss == pytest.approx(-math.log(2) - 1.55, rel=1e-5)
    assert (alpha_loss, q_value, entropy) == pytest.approx((0.0, 2.5, math.log(2)), abs=1e-6)
    # ∂/∂logit_k = π_k·(x_k − Σπx) with x = α·log π − min Q: ½·(0.55) and −½·(0.55).
    moment = model.actor_optimizer.state[model.actor.weight]["exp_avg"].flatten()
    assert moment.tolist() == pytest.approx([0.0275, -0.0275], rel=1e-5)
    # ∂/∂log α = entropy − target entropy.
    assert model.alpha_optimizer.state[model.log_alpha]["exp_avg"].item() == pytest.approx(
        0.1 * (math.log(2) - 0.5), rel=1e-5
    )


def networks(n_actions: int = 2) -> SACModel:
    torch.manual_seed(3)
    actor = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2 * n_actions))
    critics = [nn.Sequential(nn.Linear(3 + n_actions, 8), nn.Tanh(), nn.Linear(8, 1)) for _ in range(2)]
    return make_model(actor, critics)


def parameters_of(model: SACModel) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for net in model.modules().values() for p in net.parameters()])


def test_equal_weights_change_nothing_and_a_zero_weight_removes_a_row() -> None:
    batch, noise = batch_for(6, 3, 2)
    plain, weighted, without = networks(), networks(), networks()
    sac_step(plain, batch, noise, SACConfig(), -2.0)
    sac_step(weighted, batch._replace(weights=torch.ones(6)), noise, SACConfig(), -2.0)
    assert torch.equal(parameters_of(plain), parameters_of(weighted))
    zero = torch.tensor([0.0, *[1.0] * 5])
    rewards = batch.rewards.clone()
    rewards[0] = 1e3
    other = copy.deepcopy(without)
    for model, changed in ((without, batch), (other, batch._replace(rewards=rewards))):
        sac_step(model, changed._replace(weights=zero), noise, SACConfig(), -2.0)
    assert torch.equal(parameters_of(without), parameters_of(other))


def test_nothing_is_bootstrapped_from_where_an_episode_terminated() -> None:
    batch, noise = batch_for(6, 3, 2)
    batch = batch._replace(discounts=torch.zeros(6))
    ours, theirs = networks(), networks()
    step = sac_step(ours, batch, noise, SACConfig(), -2.0)
    far = batch._replace(next_observations=batch.next_observations * 100)
    assert torch.equal(step.td_errors, sac_step(theirs, far, noise, SACConfig(), -2.0).td_errors)


def test_a_fixed_temperature_stays() -> None:
    batch, noise = batch_for(6, 3, 2)
    model = networks()
    sac_step(model, batch, noise, SACConfig(learn_alpha=False), -2.0)
    assert model.log_alpha.item() == 0.0 and not model.alpha_optimizer.state


def test_frozen_critic_parameters_stay_and_the_actor_gives_them_no_gradient() -> None:
    batch, noise = batch_for(6, 3, 2)
    model = networks()
    model.critics[0][0].weight.requires_grad_(False)
    before = model.critics[0][0].weight.clone()
    sac_step(model, batch, noise, SACConfig(), -2.0)
    assert torch.equal(model.critics[0][0].weight, before)
    # What lies in .grad is the critics' own loss, not the actor's.
    grads = [p.grad.clone() for p in model.critics[1].parameters()]
    twin = networks()
    twin.critics[0][0].weight.requires_grad_(False)
    twin.actor_optimizer = torch.optim.SGD(twin.actor.parameters(), lr=0.0)
    sac_step(twin, batch, noise, SACConfig(), -2.0)
    assert all(torch.equal(a, b.grad) for a, b in zip(grads, twin.critics[1].parameters(), strict=True))


@pytest.mark.parametrize(
    ("field", "named"), [("rewards", "critic loss"), ("observations", "temperature loss")]
)
def test_non_finite_quantities_are_named(field: str, named: str) -> None:
    batch, noise = batch_for(6, 3, 2)
    spoiled = getattr(batch, field).clone()
    spoiled[2] = math.nan
    with pytest.raises(NonFiniteError, match=named):
        sac_step(networks(), batch._replace(**{field: spoiled}), noise, SACConfig(), -2.0)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"gamma": 1.5}, "gamma must be between 0.0 and 1.0"),
        ({"tau": math.nan}, "tau must be between"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"replay_capacity": 0}, "replay_capacity must be at least 1"),
        ({"n_step": 0}, "n_step must be at least 1"),
        ({"learning_starts": -1}, "learning_starts must be at least 0"),
    ],
)
def test_values_out_of_range_are_refused(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SACConfig(**wrong)  # type: ignore[arg-type]


def test_default_target_entropy() -> None:
    assert SACConfig().target_entropy_of(6, discrete=False) == -6.0
    assert SACConfig().target_entropy_of(4, discrete=True) == pytest.approx(0.89 * math.log(4))
    assert SACConfig(target_entropy=0.3).target_entropy_of(4, discrete=True) == 0.3
