"""CrossQ's update in plain torch: numbers by hand, and what must hold for any networks."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from crossq_cases import make_model
from sac_cases import batch_for, smallest_transition
from torch import nn

from optix_fast.learners.critics import least_value
from optix_fast.learners.crossq.config import CrossQConfig
from optix_fast.learners.crossq.update import CrossQModel, crossq_step
from optix_fast.learners.squashed_policy import Step, sample
from optix_fast.networks import BatchRenorm


def smallest_model() -> CrossQModel:
    """μ = log σ = 0·s, Q_1 = s + 2a, Q_2 = 3s."""
    actor = nn.Linear(1, 2, bias=False)
    critics = [nn.Linear(2, 1, bias=False) for _ in range(2)]
    with torch.no_grad():
        actor.weight.zero_()
        critics[0].weight.copy_(torch.tensor([[1.0, 2.0]]))
        critics[1].weight.copy_(torch.tensor([[3.0, 0.0]]))
    return make_model(actor, critics)


def test_one_update_of_the_smallest_networks() -> None:
    """As in test_sac_step.py, where the targets are the critics themselves at first."""
    model = smallest_model()
    step = crossq_step(model, smallest_transition(), torch.zeros(2, 1, 1), CrossQConfig(), -1.0, True)
    # log π(0) = −0.918939; y = 1 + 0.9·(min(2, 6) + 0.918939) = 3.627045.
    critic_loss, actor_loss, alpha_loss, q_value, entropy = step.statistics.values()
    assert critic_loss == pytest.approx(0.5 * (1.627045**2 + 0.627045**2), rel=1e-5)
    assert step.td_errors.tolist() == pytest.approx([1.127045])
    # The critics after their step: 1.1·s + 2.1·a and 3.1·s + 0.1·a.
    assert actor_loss == pytest.approx(-0.918939 - 1.1)
    assert (alpha_loss, q_value, entropy) == pytest.approx((0.0, 2.5, 0.918939), abs=1e-6)
    # Of (s, a) alone: y has no gradient.
    moments = [model.critic_optimizer.state[net.weight]["exp_avg"].flatten() for net in model.critics]  # type: ignore[index, union-attr]
    assert moments[0].tolist() == pytest.approx([-0.1627045, -0.08135225])
    assert moments[1].tolist() == pytest.approx([-0.0627045, -0.03135225])
    moment = model.actor_optimizer.state[model.actor.weight]["exp_avg"].flatten()
    assert moment.tolist() == pytest.approx([-0.21, -0.1])
    assert model.log_alpha.item() == pytest.approx(-0.1)


def test_a_batch_norm_of_the_critic_sees_both_batches() -> None:
    """Q = 2·BN(s): of s = 0, 2 and s' = 4, 6 the mean is 3 and the variance 5."""
    norm = nn.BatchNorm1d(1, eps=1e-12)
    critic = nn.Sequential(nn.Linear(2, 1, bias=False), norm, nn.Linear(1, 1, bias=False))
    with torch.no_grad():
        critic[0].weight.copy_(torch.tensor([[1.0, 0.0]]))
        critic[2].weight.fill_(2.0)
    actor = nn.Linear(1, 2, bias=False)
    nn.init.zeros_(actor.weight)
    model = make_model(actor, [critic])
    batch = smallest_transition()._replace(
        observations=torch.tensor([[0.0], [2.0]]), next_observations=torch.tensor([[4.0], [6.0]]),
        actions=torch.zeros(2, 1), rewards=torch.tensor([1.0, -1.0]), discounts=torch.tensor([0.5, 0.5]),
    )  # fmt: skip
    step = crossq_step(model, batch, torch.zeros(2, 2, 1), CrossQConfig(), -1.0, False)
    # Q(s) = 2·(−3, −1)/√5 and Q(s') = 2·(1, 3)/√5; y = r + ½·(Q(s') + 0.918939).
    root = 5.0**0.5
    y = [1.0 + 0.5 * (2.0 / root + 0.918939), -1.0 + 0.5 * (6.0 / root + 0.918939)]
    q = [-6.0 / root, -2.0 / root]
    assert step.td_errors.tolist() == pytest.approx([y[0] - q[0], y[1] - q[1]], rel=1e-5)
    assert norm.num_batches_tracked.item() == 1
    assert norm.running_mean.tolist() == pytest.approx([0.3])  # type: ignore[union-attr]


def layers(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, 8), BatchRenorm(8, warmup_steps=0), nn.Tanh(), nn.Linear(8, outputs)
    )


def normed_model(dtype: torch.dtype = torch.float64) -> CrossQModel:
    torch.manual_seed(3)
    actor, critics = layers(3, 4).to(dtype), [layers(5, 1).to(dtype) for _ in range(2)]
    return make_model(actor, critics)


def step_on(model: CrossQModel, delayed: bool, **changed: Any) -> Step:
    batch, noise = batch_for(6, 3, 2, torch.float64)
    return crossq_step(model, batch._replace(**changed), noise, CrossQConfig(), -2.0, delayed)


def state(module: nn.Module) -> dict[str, torch.Tensor]:
    return copy.deepcopy(module.state_dict())


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(tensor, other[key]) for key, tensor in one.items())


def test_without_the_delayed_step_actor_and_temperature_stay() -> None:
    model = normed_model()
    actor, critics = state(model.actor), state(model.critics)
    step = step_on(model, False)
    assert list(step.statistics) == ["critic_loss", "q_value"]
    assert same(state(model.actor), actor) and model.log_alpha.item() == 0.0
    assert not same(state(model.critics), critics)


def test_modes_and_statistics_of_a_delayed_step() -> None:
    """The critics' batch norms move once, by the joint batch; the actor's once, by s alone."""
    model = normed_model()
    step_on(model, True)
    assert [int(n[1].num_batches_tracked) for n in (model.actor, *model.critics)] == [1, 1, 1]  # type: ignore[index, arg-type, union-attr]
    assert all(module.training for module in (*model.actor.modules(), *model.critics.modules()))


def test_the_actors_loss_is_by_critics_in_evaluation_mode() -> None:
    model = normed_model()
    before = copy.deepcopy(model)
    loss = step_on(model, True).statistics["actor_loss"]
    batch, noise = batch_for(6, 3, 2, torch.float64)
    actions, log_prob = sample(before.actor, batch.observations, noise[1])
    with torch.no_grad():
        values = least_value(model.critics.eval(), batch.observations, actions)
    assert loss == pytest.approx((log_prob - values).mean().item())


def test_only_batch_norms_evaluate() -> None:
    """As set_bn_training_mode of sb3-contrib's CrossQ; Dropout stays active in every pass."""

    class Spy(nn.Module):
        def __init__(self, layer: nn.Module, modes: list[bool]) -> None:
            super().__init__()
            self.layer, self.modes = layer, modes

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.modes.append(self.layer.training)
            return self.layer(x)  # type: ignore[no-any-return]

    def spied(inputs: int, outputs: int) -> nn.Sequential:
        norm, dropout = Spy(nn.BatchNorm1d(inputs), norms[-1]), Spy(nn.Dropout(0.5), dropouts[-1])
        return nn.Sequential(norm, nn.Linear(inputs, 8), dropout, nn.Linear(8, outputs)).double()

    norms: list[list[bool]] = []
    dropouts: list[list[bool]] = []
    networks = []
    for inputs, outputs in ((3, 4), (5, 1), (5, 1)):
        norms.append([])
        dropouts.append([])
        networks.append(spied(inputs, outputs))
    step_on(make_model(networks[0], networks[1:]), True)
    # The actor: a', then â; each critic: the joint batch, then the actor's loss.
    assert norms == [[False, True], [True, False], [True, False]]
    assert dropouts == [[True, True]] * 3


@pytest.mark.parametrize(("wrong", "message"), [({"policy_delay": 0}, "policy_delay must be at least 1")])
def test_values_out_of_range_are_refused(wrong: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CrossQConfig(**wrong)  # type: ignore[arg-type]
