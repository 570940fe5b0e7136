"""The whole TQC update of the core against torch: parameters, targets, optimizer state, temperature."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from actor_critic_cases import AFTER_10, FEATURES, WIDTH, adam, distance, networks_of, state_of
from hypothesis import given, settings
from hypothesis import strategies as st
from sac_cases import MakeOptimizer, random_draws, random_experience
from torch import Tensor, nn
from tqc_cases import config_of, make_model, smallest_model

from optix_fast.learners.experience import Draws, Experience
from optix_fast.learners.native.networks import UnsupportedError
from optix_fast.learners.squashed_policy import STATISTICS
from optix_fast.learners.tqc.config import TQCConfig
from optix_fast.learners.tqc.native import tqc_update
from optix_fast.learners.tqc.update import TQCModel
from optix_fast.learners.tqc.update import tqc_update as reference_update
from optix_fast.random import RandomStream
from optix_fast.types import NonFiniteError

pytestmark = pytest.mark.native
EVERY_PATH = pytest.mark.usefixtures("every_simd_path")


def model_of(
    hidden: tuple[int, ...] = (64, 64),
    critic_outputs: tuple[int, ...] = (25, 25),
    dtype: torch.dtype = torch.float64,
    make_optimizer: MakeOptimizer = adam,
    features: int = FEATURES,
    width: int = WIDTH,
    activation: str = "tanh",
    **blocks: Any,
) -> TQCModel:
    actor, critics = networks_of(
        2 * width, hidden, activation, dtype, features, width, critic_outputs, **blocks
    )
    return make_model(actor, critics, make_optimizer, log_alpha=-1.0)


def assert_parity(ours: TQCModel, config: TQCConfig, tolerance: float = 1e-9, updates: int = 10) -> None:
    theirs = copy.deepcopy(ours)
    features, width = ours.actor[0].in_features, ours.actor[-1].out_features // 2  # type: ignore[index, union-attr]
    experience, again = (random_experience(config, features, width) for _ in range(2))
    draws = random_draws(updates, config, experience, width)
    means = tqc_update(ours, experience, *draws, config, -width).means
    expected = reference_update(theirs, again, *draws, config, -width).means
    assert distance(ours, theirs) < tolerance
    for name in STATISTICS:
        assert means[name] == pytest.approx(expected[name], rel=10 * tolerance, abs=10 * tolerance), name
    if config.per_alpha:
        priorities = [e.buffer.tree.priorities(torch.arange(len(e))) for e in (experience, again)]
        assert torch.allclose(*priorities, rtol=100 * tolerance, atol=1e-7)


@EVERY_PATH
def test_one_update_of_the_smallest_networks() -> None:
    """As in test_tqc_step.py, where every number is computed by hand; γ takes the place of the discount."""
    model = smallest_model()
    config = TQCConfig(
        tau=0.5, gamma=0.9, batch_size=1, replay_capacity=1, n_quantiles=2, top_quantiles_to_drop_per_net=1
    )
    experience = Experience(config, RandomStream(0))
    experience.buffer.push(np.ones(1), np.array([0.5], np.float32), 1.0, np.array([2.0]), False)
    draws = Draws(np.zeros((1, 1), np.int64))
    means = tqc_update(model, experience, draws, torch.zeros(1, 2, 1, 1), config, -1.0).means
    assert means["critic_loss"] == pytest.approx(6.0391957 / 8, rel=1e-6)
    assert means["actor_loss"] == pytest.approx(-0.918939 - 1.3)
    assert means["q_value"] == pytest.approx(1.5) and means["entropy"] == pytest.approx(0.918939)
    targets = torch.cat([net.weight for net in model.targets])  # type: ignore[misc]
    assert targets.flatten().tolist() == pytest.approx([1.05, 2.05, 1.05, 0.05, 2.95, -0.05, 0.05, 0.05])
    moment = model.actor_optimizer.state[model.actor.weight]["exp_avg"].flatten()
    assert moment.tolist() == pytest.approx([-0.055, -0.1])


VARIANTS: dict[str, dict[str, Any]] = {
    "no gradient clipping": {"max_grad_norm": None},
    "tight gradient clipping": {"max_grad_norm": 0.01},
    "three steps": {"n_step": 3},
    "fixed temperature": {"learn_alpha": False},
    "fast targets": {"tau": 0.5},
    "nothing dropped": {"top_quantiles_to_drop_per_net": 0},
    "nearly all dropped": {"top_quantiles_to_drop_per_net": 24},
    "batch of one": {"batch_size": 1},
}


@EVERY_PATH
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_option(variant: str) -> None:
    assert_parity(model_of(), config_of(**VARIANTS[variant]))


@EVERY_PATH
def test_ten_updates_in_single() -> None:
    assert_parity(model_of(dtype=torch.float32), config_of(), AFTER_10)


@EVERY_PATH
def test_priorities() -> None:
    # The importance weights are float32.
    assert_parity(model_of(), config_of(per_alpha=0.6), 1e-6)


@pytest.mark.parametrize("critic_outputs", [(3,), (8, 8), (9,) * 5, (64,) * 16], ids=str)
def test_every_number_of_critics_and_quantiles(critic_outputs: tuple[int, ...]) -> None:
    config = config_of(n_quantiles=critic_outputs[0], batch_size=6)  # torch holds B·K·M·K·M numbers
    assert_parity(model_of((16,), critic_outputs), config, updates=2)


@pytest.mark.parametrize("norm", ["layer", "rms"])
def test_networks_of_other_layers(norm: str) -> None:
    assert_parity(model_of((32, 32), norm=norm, residual=True, activation="relu"), config_of())


@settings(max_examples=15, deadline=None)
@given(
    k=st.integers(1, 6), m=st.integers(1, 40), batch=st.integers(1, 40), features=st.integers(1, 20),
    width=st.integers(1, 5), data=st.data(),
)  # fmt: skip
def test_random_shapes(k: int, m: int, batch: int, features: int, width: int, data: st.DataObject) -> None:
    dropped = data.draw(st.integers(0, m - 1))
    model = model_of((7,), (m,) * k, features=features, width=width)
    config = config_of(batch_size=batch, n_quantiles=m, top_quantiles_to_drop_per_net=dropped)
    assert_parity(model, config, updates=2)


def test_large_errors_and_equal_atoms() -> None:
    """Both branches of the Huber loss, and atoms that a sort may leave in either order."""
    model = model_of()
    with torch.no_grad():
        for net in (*model.critics, *model.targets):
            net[-1].bias[::2] = 5.0  # type: ignore[index]
            net[-1].weight[::4] = 0.0  # type: ignore[index]
    assert_parity(model, config_of())


def test_the_greatest_atoms_may_be_nan() -> None:
    """torch.sort puts them last, so they are among the dropped."""
    model = model_of()
    with torch.no_grad():
        model.targets[0][-1].bias[3] = math.nan  # type: ignore[index]
    assert_parity(model, config_of(tau=0.0), updates=1)


def test_one_call_is_as_many_calls_of_one_update() -> None:
    ours, config = model_of(), config_of()
    theirs, experience = copy.deepcopy(ours), random_experience(config)
    draws, noise = random_draws(5, config, experience)
    tqc_update(ours, experience, draws, noise, config, -2.0)
    assert draws.indices is not None
    for k in range(5):
        tqc_update(theirs, experience, Draws(draws.indices[k : k + 1]), noise[k : k + 1], config, -2.0)
    assert distance(ours, theirs) == 0.0


def learn(model: TQCModel, updates: int = 1, **params: Any) -> None:
    config = config_of(**params)
    experience = random_experience(config)
    tqc_update(model, experience, *random_draws(updates, config, experience), config, -2.0)


@pytest.mark.parametrize(
    ("outputs", "reason"),
    [((25, 24), "a critic has 24 outputs, not 25"), ((1,) * 17, "there are more than 16 critics")],
)
def test_critics_that_are_not_served_are_named(outputs: tuple[int, ...], reason: str) -> None:
    with pytest.raises(UnsupportedError, match=reason):
        learn(model_of((8,), outputs), top_quantiles_to_drop_per_net=0)


def test_another_target_is_named() -> None:
    model = model_of()
    model.targets[1] = nn.Linear(7, 25).double()
    with pytest.raises(UnsupportedError, match="target2 is not like critic2"):
        learn(model)


def test_more_dropped_than_the_critics_return_is_named() -> None:
    with pytest.raises(ValueError, match="must be below the critics' 2 quantiles, got 2"):
        learn(model_of((8,), (2, 2)))


@pytest.mark.parametrize("per_alpha", [0.0, 0.6])
@pytest.mark.parametrize(
    ("where", "value", "quantity"), [(0, math.inf, "critic loss"), (1, math.nan, "temperature loss")]
)
def test_what_is_not_finite_leaves_everything_as_it_was(
    where: int, value: float, quantity: str, per_alpha: float
) -> None:
    model, config = model_of(), config_of(per_alpha=per_alpha)
    experience = random_experience(config)
    tqc_update(model, experience, *random_draws(2, config, experience), config, -2.0)
    before, rows = [t.clone() for t in state_of(model)], torch.arange(len(experience))
    priorities = experience.buffer.tree.priorities(rows)
    draws, noise = random_draws(10, config, experience, seed=1)
    noise[6, where].fill_(value)
    with pytest.raises(NonFiniteError) as caught:
        tqc_update(model, experience, draws, noise, config, -2.0)
    assert caught.value.quantity == quantity
    same: list[tuple[Tensor, Tensor]] = list(zip(state_of(model), before, strict=True))
    assert all(torch.equal(a, b) for a, b in same)
    assert torch.equal(experience.buffer.tree.priorities(rows), priorities)
