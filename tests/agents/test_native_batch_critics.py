"""Updates of actors and critics with batch norms and Dropout: the core against torch."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import crossq_cases
import pytest
import sac_cases
import td3_cases
import torch
import tqc_cases
from actor_critic_cases import FEATURES, WIDTH, adam, distance
from sac_cases import random_experience
from torch import nn

from optix_fast.learners.crossq import native as crossq_native
from optix_fast.learners.crossq.update import crossq_update
from optix_fast.learners.model import Model
from optix_fast.learners.sac import native as sac_native
from optix_fast.learners.sac.update import sac_update
from optix_fast.learners.td3 import native as td3_native
from optix_fast.learners.td3.update import td3_update
from optix_fast.learners.tqc import native as tqc_native
from optix_fast.learners.tqc.update import tqc_update
from optix_fast.networks import BatchRenorm
from optix_fast.random import RandomStream
from optix_fast.types import NonFiniteError

pytestmark = pytest.mark.native


def layers(kind: str, width: int) -> list[nn.Module]:
    """What stands before an activation, and behind it."""
    return {
        "batch norm": [nn.BatchNorm1d(width), nn.Tanh()],
        "batch renorm": [BatchRenorm(width, momentum=0.2, warmup_steps=5), nn.Tanh()],
        "DroQ": [nn.Dropout(0.2), nn.LayerNorm(width), nn.ReLU()],
        "norm and dropout": [nn.BatchNorm1d(width), nn.Tanh(), nn.Dropout(0.1)],
    }[kind]


KINDS = ("batch norm", "batch renorm", "DroQ", "norm and dropout")


def network(kind: str, inputs: int, outputs: int) -> nn.Sequential:
    """In float64, and without a bias before a batch norm: its gradient is nothing but rounding."""
    return nn.Sequential(
        nn.Linear(inputs, 24, bias=False), *layers(kind, 24),
        nn.Linear(24, 17, bias=False), *layers(kind, 17), nn.Linear(17, outputs),
    ).double()  # fmt: skip


class Case(NamedTuple):
    """How an algorithm is tried."""

    native: Callable[..., Any]
    reference: Callable[..., Any]
    cases: Any
    actor_outputs: int
    critic_outputs: int
    draws: Callable[..., Any]
    last: tuple[int, ...] = (-WIDTH,)  # the last arguments of an update


CASES = {
    "sac": Case(sac_native.sac_update, sac_update, sac_cases, 2 * WIDTH, 1, sac_cases.random_draws),
    "td3": Case(td3_native.td3_update, td3_update, td3_cases, WIDTH, 1, td3_cases.random_draws, (0,)),
    "tqc": Case(tqc_native.tqc_update, tqc_update, tqc_cases, 2 * WIDTH, 7, sac_cases.random_draws),
    "crossq": Case(
        crossq_native.crossq_update, crossq_update, crossq_cases, 2 * WIDTH, 1, sac_cases.random_draws,
        (-WIDTH, 1),
    ),
}  # fmt: skip


def model_of(case: Case, kind: str, actor_kind: str | None = None) -> Any:
    torch.manual_seed(3)
    actor = network(actor_kind or kind, FEATURES, case.actor_outputs)
    critics = [network(kind, FEATURES + WIDTH, case.critic_outputs) for _ in range(2)]
    return case.cases.make_model(actor, critics, adam)


def run(update: Callable[..., Any], model: Model, *args: Any, seed: int = 1) -> Any:
    """As optix_fast.learners.learner.Learner calls it."""
    with model.drawing_masks(RandomStream(seed)):
        if update.__module__.endswith(".native"):
            return update(model, *args)
        with model.masked_in_torch():
            return update(model, *args)


def buffers_of(model: Model) -> dict[str, torch.Tensor]:
    return {
        f"{name}.{key}": buffer.clone()
        for name, module in model.modules().items()
        for key, buffer in module.named_buffers()
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("algo", CASES)
def test_ten_updates(algo: str, kind: str) -> None:
    case = CASES[algo]
    ours = model_of(case, kind)
    theirs, config = copy.deepcopy(ours), case.cases.config_of()
    experience = random_experience(config)
    draws = case.draws(10, config, experience)
    mine = run(case.native, ours, experience, *draws, config, *case.last)
    other = run(case.reference, theirs, experience, *draws, config, *case.last)
    assert distance(ours, theirs) < 1e-9
    assert mine.means == pytest.approx(other.means, rel=1e-8, abs=1e-9)
    expected = buffers_of(theirs)
    for name, buffer in buffers_of(ours).items():
        assert torch.allclose(buffer.double(), expected[name].double(), rtol=1e-9), name


@pytest.mark.parametrize("algo", CASES)
def test_running_statistics_count_each_pass_and_targets_copy_them(algo: str) -> None:
    case = CASES[algo]
    model, config = model_of(case, "batch norm"), case.cases.config_of()
    experience = random_experience(config)
    run(case.native, model, experience, *case.draws(4, config, experience), config, *case.last)
    passes = {
        name: int(b) for name, b in buffers_of(model).items() if name.endswith(".1.num_batches_tracked")
    }
    # Each update: of the actor s' and s, of each critic (s, a) and (s, â); TD3's actor and first critic see
    # those of every second update, its second critic only what was taken. CrossQ's critics see one batch in
    # each update, its actor that of every third.
    own = {"sac": {"actor": 8, "critic1": 8, "critic2": 8, "target1": 8, "target2": 8},
           "td3": {"actor": 2, "critic1": 6, "critic2": 4, "target_actor": 2, "target1": 6, "target2": 4},
           "crossq": {"actor": 1, "critics.0": 4, "critics.1": 4},
           "tqc": {"actor": 8, "critics.0": 8, "critics.1": 8, "targets.0": 8, "targets.1": 8}}  # fmt: skip
    assert passes == {f"{name}.1.num_batches_tracked": n for name, n in own[algo].items()}


@pytest.mark.parametrize("algo", CASES)
def test_a_failed_update_puts_the_statistics_back(algo: str) -> None:
    case = CASES[algo]
    model, config = model_of(case, "norm and dropout"), case.cases.config_of()
    experience = random_experience(config)
    draws, noise = case.draws(6, config, experience)
    noise[4].fill_(math.nan)
    before = buffers_of(model)
    with pytest.raises(NonFiniteError):
        run(case.native, model, experience, draws, noise, config, *case.last)
    after = buffers_of(model)
    assert all(torch.equal(buffer, after[name]) for name, buffer in before.items())


@pytest.mark.parametrize("algo", CASES)
@pytest.mark.parametrize("backend", ["native", "reference"])
def test_a_batch_of_one_row_is_named(algo: str, backend: str) -> None:
    case = CASES[algo]
    model, config = model_of(case, "batch norm", "DroQ"), case.cases.config_of(batch_size=1)
    experience = random_experience(config)
    with pytest.raises(ValueError, match=r"critic.*\(BatchNorm1d\) is in training mode and needs at least 2"):
        run(getattr(case, backend), model, experience, *case.draws(1, config, experience), config, *case.last)
