"""TQC's update in plain torch: numbers by hand, and what must hold for any networks."""

from __future__ import annotations

import copy

import pytest
import torch
from actor_critic_cases import networks_of
from sac_cases import batch_for, smallest_transition
from tqc_cases import make_model, smallest_model

from optix_fast.learners.critics import value_of
from optix_fast.learners.squashed_policy import sample
from optix_fast.learners.tqc.config import TQCConfig
from optix_fast.learners.tqc.update import TQCModel, quantile_huber, tqc_step


def test_quantile_huber_of_one_row() -> None:
    # τ = ¼, ¾. u = y − Z: for Z = 0: 2, −½; for Z = 1: 1, −3/2.
    # huber: 1.5, 0.125; 0.5, 1. |τ − 1(u < 0)|: ¼, ¾; ¾, ¼.
    loss = quantile_huber(torch.tensor([[[0.0, 1.0]]]), torch.tensor([[2.0, -0.5]]))
    assert loss.tolist() == pytest.approx([(0.375 + 0.09375 + 0.375 + 0.25) / 4])


def test_one_update_of_the_smallest_networks() -> None:
    model, config = smallest_model(), TQCConfig(tau=0.5, n_quantiles=2, top_quantiles_to_drop_per_net=1)
    step = tqc_step(model, smallest_transition(), torch.zeros(2, 1, 1), config, -1.0)
    # At s' = 2, a' = 0 the atoms are 2, 2, 6, 0; two of the four are dropped: 0, 2. With log π = −0.918939
    # y = 1 + 0.9·(z + 0.918939) = 1.827045, 3.627045. At s = 1, a = ½: Z_1 = (2, 1), Z_2 = (3, 0).
    # The mean of y is 2.727045, those of Z are 1.5 and 1.5.
    assert step.td_errors.tolist() == pytest.approx([1.227045], rel=1e-6)
    # ρ·8: Z = 2 (τ = ¼): u = −0.172955, 1.627045: ¾·0.0149567 + ¼·1.127045
    #      Z = 1 (τ = ¾): u = 0.827045, 2.627045:  ¾·0.3420017 + ¾·2.127045
    #      Z = 3 (τ = ¼): u = −1.172955, 0.627045: ¾·0.672955 + ¼·0.1965927
    #      Z = 0 (τ = ¾): u = 1.827045, 3.627045:  ¾·1.327045 + ¾·3.127045
    critic_loss, actor_loss, alpha_loss, q_value, entropy = step.statistics.values()
    total = 0.2929788 + 1.8517850 + 0.5538644 + 3.3405675
    assert critic_loss == pytest.approx(total / 8, rel=1e-6)
    assert (alpha_loss, q_value, entropy) == pytest.approx((0.0, 1.5, 0.918939), abs=1e-6)
    # ∂ρ/∂Z = −⅛·Σ |…|·clip(u): −⅛·(−0.12971625 + 0.25), −⅛·(0.62028375 + 0.75), −⅛·(−0.75 + 0.15676125),
    # −⅛·1.5. By s, and half of it by a; Adam's moment is a tenth.
    slopes = [-0.01503547, -0.17128547, 0.07415484, -0.1875]
    expected = [size * g for g in slopes for size in (0.1, 0.05)]
    moments = [model.critic_optimizer.state[net.weight]["exp_avg"] for net in model.critics]  # type: ignore[index]
    assert torch.cat(moments).flatten().tolist() == pytest.approx(expected, rel=1e-5)
    # Each weight by 0.1 against its slope: Z_1 = (1.1·s + 2.1·a, 1.1·s + 0.1·a), Z_2 = (2.9·s − 0.1·a, …).
    weights = torch.cat([net.weight for net in model.critics])  # type: ignore[list-item]
    assert weights.flatten().tolist() == pytest.approx([1.1, 2.1, 1.1, 0.1, 2.9, -0.1, 0.1, 0.1])
    targets = torch.cat([net.weight for net in model.targets])  # type: ignore[list-item]
    assert targets.flatten().tolist() == pytest.approx([1.05, 2.05, 1.05, 0.05, 2.95, -0.05, 0.05, 0.05])
    # V(â = 0) = (1.1 + 1.1 + 2.9 + 0.1)/4, ∂V/∂â = (2.1 + 0.1 − 0.1 + 0.1)/4.
    assert actor_loss == pytest.approx(-0.918939 - 1.3)
    moment = model.actor_optimizer.state[model.actor.weight]["exp_avg"].flatten()
    assert moment.tolist() == pytest.approx([-0.055, -0.1])


def model_of(outputs: tuple[int, ...] = (5, 5, 5)) -> TQCModel:
    return make_model(*networks_of(4, (8,), "tanh", torch.float64, 3, 2, outputs))


def step_on(model: TQCModel, **changed: torch.Tensor) -> torch.Tensor:
    batch, noise = batch_for(6, 3, 2, torch.float64)
    return tqc_step(model, batch._replace(**changed), noise, TQCConfig(n_quantiles=5), -2.0).td_errors


def parameters_of(model: TQCModel) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for net in model.modules().values() for p in net.parameters()])


def test_a_zero_weight_removes_a_row() -> None:
    batch, _ = batch_for(6, 3, 2, torch.float64)
    zero, rewards = torch.tensor([0.0, *[1.0] * 5]).double(), batch.rewards.clone()
    rewards[0] = 1e3
    plain, other, all_rows = model_of(), model_of(), model_of()
    step_on(plain, weights=zero)
    step_on(other, weights=zero, rewards=rewards)
    step_on(all_rows)
    assert torch.equal(parameters_of(plain), parameters_of(other))
    assert not torch.equal(parameters_of(plain), parameters_of(all_rows))


def test_nothing_is_bootstrapped_from_where_an_episode_terminated() -> None:
    batch, _ = batch_for(6, 3, 2, torch.float64)
    zero = torch.zeros(6).double()
    near, far = (
        step_on(model_of(), discounts=zero, next_observations=batch.next_observations * scale)
        for scale in (1.0, 100.0)
    )
    assert torch.equal(near, far)


def test_dropped_atoms_do_not_count() -> None:
    """The last quantile of every target critic is the greatest; how great it is does not matter."""
    models = [model_of(), model_of()]
    for model, bias in zip(models, (1e2, 1e3), strict=True):
        for net in model.targets:
            with torch.no_grad():
                net[-1].bias[3:] = bias  # type: ignore[index]
    one, other = (step_on(model) for model in models)
    assert torch.equal(one, other)


def test_critics_of_one_quantile_and_none_dropped_learn_the_mean_of_all_targets() -> None:
    model = model_of((1, 1))
    batch, noise = batch_for(6, 3, 2, torch.float64)
    before = copy.deepcopy(model)
    config = TQCConfig(n_quantiles=1, top_quantiles_to_drop_per_net=0)
    errors = tqc_step(model, batch, noise, config, -2.0).td_errors
    with torch.no_grad():
        actions, log_prob = sample(before.actor, batch.next_observations, noise[0])
        z = torch.stack([value_of(net, batch.next_observations, actions) for net in before.targets]).mean(0)
        y = batch.rewards + batch.discounts * (z - log_prob)
        q = [value_of(net, batch.observations, batch.actions) for net in before.critics]
    assert torch.allclose(errors, 0.5 * ((q[0] - y).abs() + (q[1] - y).abs()))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"n_quantiles": 0}, "n_quantiles must be at least 1"),
        ({"n_critics": 0}, "n_critics must be at least 1"),
        ({"top_quantiles_to_drop_per_net": -1}, "top_quantiles_to_drop_per_net must be at least 0"),
    ],
)
def test_values_out_of_range_are_refused(wrong: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TQCConfig(**wrong)  # type: ignore[arg-type]


def test_critics_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match=r"all critics must have as many outputs, got \[5, 4\]"):
        step_on(model_of((5, 4)))
    with pytest.raises(ValueError, match="must be below the critics' 2 quantiles, got 2"):
        step_on(model_of((2, 2)))
