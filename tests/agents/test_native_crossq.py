"""The whole CrossQ update of the core against torch: parameters, optimizer state, temperature. Batch norms in
every mode are in test_native_batch_critics.py."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from actor_critic_cases import AFTER_10, FEATURES, WIDTH, adam, distance, networks_of, state_of
from crossq_cases import config_of, make_model
from hypothesis import given, settings
from hypothesis import strategies as st
from sac_cases import random_draws, random_experience
from torch import nn

from optix_fast.learners.crossq.config import CrossQConfig
from optix_fast.learners.crossq.native import crossq_update
from optix_fast.learners.crossq.update import CrossQModel
from optix_fast.learners.crossq.update import crossq_update as reference_update
from optix_fast.learners.experience import Draws, Experience
from optix_fast.learners.native.networks import UnsupportedError
from optix_fast.learners.squashed_policy import STATISTICS
from optix_fast.random import RandomStream
from optix_fast.types import NonFiniteError

pytestmark = pytest.mark.native
EVERY_PATH = pytest.mark.usefixtures("every_simd_path")


def model_of(
    hidden: tuple[int, ...] = (64, 64),
    critics: int = 2,
    dtype: torch.dtype = torch.float64,
    features: int = FEATURES,
    width: int = WIDTH,
    norm: str | None = "batch_renorm",
    **blocks: Any,
) -> CrossQModel:
    actor, nets = networks_of(
        2 * width, hidden, "tanh", dtype, features, width, (1,) * critics, norm=norm, **blocks
    )
    if norm == "batch_renorm":
        # The gradient by a bias before a batch norm is nothing but rounding.
        for layer in (layer for net in (actor, *nets) for layer in net[:-1] if isinstance(layer, nn.Linear)):
            layer.register_parameter("bias", None)
    return make_model(actor, nets, adam, log_alpha=-1.0)


def assert_parity(
    ours: CrossQModel, config: CrossQConfig, tolerance: float = 1e-9, updates: int = 10, before: int = 1
) -> None:
    theirs = copy.deepcopy(ours)
    features, width = ours.actor[0].in_features, ours.actor[-1].out_features // 2  # type: ignore[index, union-attr]
    experience, again = (random_experience(config, features, width) for _ in range(2))
    draws = random_draws(updates, config, experience, width)
    done = crossq_update(ours, experience, *draws, config, -width, before)
    expected = reference_update(theirs, again, *draws, config, -width, before)
    assert distance(ours, theirs) < tolerance
    assert done.actor_updates == expected.actor_updates
    for name in STATISTICS:
        assert done.means[name] == pytest.approx(
            expected.means[name], rel=10 * tolerance, abs=10 * tolerance
        ), name
    if config.per_alpha:
        priorities = [e.buffer.tree.priorities(torch.arange(len(e))) for e in (experience, again)]
        assert torch.allclose(*priorities, rtol=100 * tolerance, atol=1e-7)


VARIANTS: dict[str, dict[str, Any]] = {
    "no gradient clipping": {"max_grad_norm": None},
    "tight gradient clipping": {"max_grad_norm": 0.01},
    "three steps": {"n_step": 3},
    "fixed temperature": {"learn_alpha": False},
    "the actor in every update": {"policy_delay": 1},
    "the actor in none": {"policy_delay": 100},
}


@EVERY_PATH
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_option(variant: str) -> None:
    assert_parity(model_of(), config_of(**VARIANTS[variant]))


@EVERY_PATH
@pytest.mark.parametrize("norm", [None, "layer"])
def test_networks_whose_rows_do_not_depend_on_each_other(norm: str | None) -> None:
    assert_parity(model_of(norm=norm), config_of())


@EVERY_PATH
def test_ten_updates_in_single() -> None:
    assert_parity(model_of(dtype=torch.float32, norm=None), config_of(), AFTER_10)


@EVERY_PATH
def test_priorities() -> None:
    # The importance weights are float32.
    assert_parity(model_of(), config_of(per_alpha=0.6), 1e-6)


@settings(max_examples=15, deadline=None)
@given(
    k=st.integers(1, 6), batch=st.integers(2, 40), features=st.integers(1, 20), width=st.integers(1, 5),
    delay=st.integers(1, 4), before=st.integers(0, 10),
)  # fmt: skip
def test_random_shapes(k: int, batch: int, features: int, width: int, delay: int, before: int) -> None:
    model = model_of((7,), k, features=features, width=width, norm=None)
    config = config_of(batch_size=batch, policy_delay=delay)
    assert_parity(model, config, updates=3, before=before)


def test_one_call_is_as_many_calls_of_one_update() -> None:
    ours, config = model_of(), config_of()
    theirs, experience = copy.deepcopy(ours), random_experience(config)
    draws, noise = random_draws(7, config, experience)
    crossq_update(ours, experience, draws, noise, config, -2.0, 0)
    assert draws.indices is not None
    for k in range(7):
        one = Draws(draws.indices[k : k + 1])
        crossq_update(theirs, experience, one, noise[k : k + 1], config, -2.0, k)
    assert distance(ours, theirs) == 0.0


@pytest.mark.parametrize("update", [crossq_update, reference_update], ids=["core", "torch"])
def test_an_actor_that_is_not_due_has_taken_no_step(update: Any) -> None:
    model, config = model_of(), config_of(policy_delay=4)
    model.actor_optimizer = torch.optim.SGD(model.actor.parameters(), lr=0.1, momentum=0.9)
    experience = random_experience(config)
    update(model, experience, *random_draws(3, config, experience), config, -2.0, 0)
    assert not model.actor_optimizer.state and not model.alpha_optimizer.state
    update(model, experience, *random_draws(1, config, experience), config, -2.0, 3)
    assert model.actor_optimizer.state and model.alpha_optimizer.state


def test_critics_of_several_outputs_are_not_served() -> None:
    networks = networks_of(2 * WIDTH, (8,), "tanh", torch.float64, FEATURES, WIDTH, (3, 3))
    config = config_of()
    experience = random_experience(config)
    with pytest.raises(UnsupportedError, match="a critic has 3 outputs, not 1"):
        crossq_update(
            make_model(*networks), experience, *random_draws(1, config, experience), config, -2.0, 0
        )


@pytest.mark.parametrize(
    ("where", "value", "quantity"), [(0, math.inf, "critic loss"), (1, math.nan, "temperature loss")]
)
def test_what_is_not_finite_leaves_everything_as_it_was(where: int, value: float, quantity: str) -> None:
    model, config = model_of(), config_of(per_alpha=0.6)
    experience = random_experience(config)
    crossq_update(model, experience, *random_draws(3, config, experience), config, -2.0, 0)
    before, rows = [t.clone() for t in state_of(model)], torch.arange(len(experience))
    priorities = experience.buffer.tree.priorities(rows)
    draws, noise = random_draws(10, config, experience, seed=1)
    noise[5, where].fill_(value)  # the sixth update is one of the actor's
    with pytest.raises(NonFiniteError) as caught:
        crossq_update(model, experience, draws, noise, config, -2.0, 0)
    assert caught.value.quantity == quantity
    assert all(torch.equal(a, b) for a, b in zip(state_of(model), before, strict=True))
    assert torch.equal(experience.buffer.tree.priorities(rows), priorities)


@pytest.mark.parametrize("update", [crossq_update, reference_update], ids=["core", "torch"])
def test_a_terminal_observation_that_is_not_finite_leaves_the_statistics_finite(update: Any) -> None:
    model, config = model_of(dtype=torch.float32), config_of(batch_size=4, replay_capacity=8)
    experience = Experience(config, RandomStream(0))
    rng = np.random.default_rng(0)
    for k in range(8):
        seen, following = rng.normal(size=(2, FEATURES)).astype(np.float32)
        following[k % FEATURES] = math.nan if k % 2 else math.inf
        experience.buffer.push(seen, rng.normal(size=WIDTH).astype(np.float32), 1.0, following, True)
    update(model, experience, *random_draws(4, config, experience), config, -2.0, 0)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in model.critics.state_dict().values())
