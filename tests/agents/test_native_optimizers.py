"""Every optimizer that the core steps with, in all updates, against torch."""

from __future__ import annotations

import copy
import gc
import math
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import dqn_cases
import pytest
import sac_cases
import td3_cases
import torch
from actor_critic_cases import FEATURES, WIDTH, networks_of
from ppo_learners import Learner, core_update, learner, permutations, rows_for, torch_update
from torch import Tensor, nn

from optix_fast.learners.dqn.native import dqn_update
from optix_fast.learners.dqn.update import dqn_update as torch_dqn_update
from optix_fast.learners.model import Model
from optix_fast.learners.native.networks import UnsupportedError
from optix_fast.learners.native.optimizers import Trained
from optix_fast.learners.ppo.batch import Batch
from optix_fast.learners.ppo.config import PPOConfig
from optix_fast.learners.sac.native import sac_update
from optix_fast.learners.sac.update import SACModel
from optix_fast.learners.sac.update import sac_update as torch_sac_update
from optix_fast.learners.td3.native import td3_update
from optix_fast.learners.td3.update import td3_update as torch_td3_update
from optix_fast.networks.heads import CategoricalHead
from optix_fast.optimizers import RMSpropTF
from optix_fast.types import NonFiniteError

pytestmark = pytest.mark.native
EVERY_PATH = pytest.mark.usefixtures("every_simd_path")
MakeOptimizer = Callable[[list[Any]], torch.optim.Optimizer]
SGD, RMSprop = torch.optim.SGD, torch.optim.RMSprop
OPTIMIZERS: dict[str, MakeOptimizer] = {
    "adam": lambda p: torch.optim.Adam(p, lr=1e-3, eps=1e-5, weight_decay=0.02),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-3, eps=1e-5, weight_decay=0.02),
    "sgd": lambda p: SGD(p, lr=0.01),
    "sgd with weight decay": lambda p: SGD(p, lr=0.01, weight_decay=0.1),
    "sgd with momentum": lambda p: SGD(p, lr=0.01, momentum=0.9, weight_decay=0.1),
    "sgd with dampening": lambda p: SGD(p, lr=0.01, momentum=0.9, dampening=0.4),
    "sgd with nesterov": lambda p: SGD(p, lr=0.01, momentum=0.9, nesterov=True, weight_decay=0.1),
    "sgd, fused": lambda p: SGD(p, lr=0.01, momentum=0.9, fused=True),
    "sgd, foreach": lambda p: SGD(p, lr=0.01, momentum=0.9, foreach=True),
    "sgd in groups": lambda p: SGD(
        [{"params": p[:2], "lr": 0.02}, {"params": p[2:], "momentum": 0.5, "weight_decay": 0.1}], lr=0.01
    ),
    # Larger ε than the default: where √v is small, both roundings of g show in g/√v.
    "rmsprop": lambda p: RMSprop(p, lr=1e-3, alpha=0.95, eps=1e-3),
    "rmsprop with momentum": lambda p: RMSprop(p, lr=1e-3, eps=1e-3, momentum=0.9, weight_decay=0.1),
    "rmsprop, centered": lambda p: RMSprop(p, lr=1e-3, eps=1e-3, centered=True),
    "rmsprop, all": lambda p: RMSprop(p, lr=1e-3, eps=1e-3, momentum=0.5, centered=True, weight_decay=0.1),
    "rmsprop, foreach": lambda p: RMSprop(p, lr=1e-3, eps=1e-3, foreach=True),
    "rmsprop_tf": lambda p: RMSpropTF(p, lr=1e-3, eps=1e-5),
    "rmsprop_tf, all": lambda p: RMSpropTF(
        p, lr=1e-3, eps=1e-5, momentum=0.5, centered=True, weight_decay=0.1
    ),
}
PRECISIONS = pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [pytest.param(torch.float32, 1e-5, marks=pytest.mark.slow), (torch.float64, 1e-9)],
    ids=["float32", "float64"],
)
EVERY_OPTIMIZER = pytest.mark.parametrize("name", OPTIMIZERS)


def assert_close(ours: Any, theirs: Any, tolerance: float, where: str = "") -> None:
    """The same nested state: equal keys, and tensors that differ by at most tolerance·(their norm)."""
    if isinstance(theirs, dict):
        assert ours.keys() == theirs.keys(), where
        for key in theirs:
            assert_close(ours[key], theirs[key], tolerance, f"{where}.{key}")
    elif isinstance(theirs, list | tuple):
        assert len(ours) == len(theirs), where
        for i, pair in enumerate(zip(ours, theirs, strict=True)):
            assert_close(*pair, tolerance, f"{where}[{i}]")
    elif isinstance(theirs, Tensor):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape), where
        # Gradients of a few elements may cancel in their mean.
        size = theirs.norm().clamp_min(1e-2 if tolerance > 1e-6 else 1e-4)
        assert float((ours - theirs).norm() / size) <= tolerance, where
    else:
        assert ours == theirs, where


def dqn_model(make: MakeOptimizer, dtype: torch.dtype = torch.float32) -> Model:
    return dqn_cases.model_of(dtype=dtype, make_optimizer=make)


def sac_model(make: MakeOptimizer, dtype: torch.dtype = torch.float32) -> SACModel:
    actor, critics = networks_of(2 * WIDTH, (32, 32), "tanh", dtype, FEATURES, WIDTH)
    return sac_cases.make_model(actor, critics, make, log_alpha=-1.0)


def td3_model(make: MakeOptimizer, dtype: torch.dtype = torch.float32) -> Model:
    actor, critics = networks_of(WIDTH, (32, 32), "tanh", dtype, FEATURES, WIDTH)
    actor.append(nn.Tanh())
    return td3_cases.make_model(actor, critics, make)


def dqn_updates(model: Model, update: Any, n: int, **params: Any) -> None:
    config = dqn_cases.config_of(tau=0.02, **params)
    experience = dqn_cases.experience_of(config)
    update(model, experience, dqn_cases.draws_of(experience, config, n), config, 0)


def sac_updates(model: Model, update: Any, n: int, **params: Any) -> None:
    config = sac_cases.config_of(**params)
    experience = sac_cases.random_experience(config)
    update(model, experience, *sac_cases.random_draws(n, config, experience), config, -2.0)


def td3_updates(model: Model, update: Any, n: int, **params: Any) -> None:
    config = td3_cases.config_of(**params)
    experience = sac_cases.random_experience(config)
    update(model, experience, *td3_cases.random_draws(n, config, experience), config, 0)


OFF_POLICY = {
    "dqn": (dqn_model, dqn_updates, dqn_update, torch_dqn_update),
    "sac": (sac_model, sac_updates, sac_update, torch_sac_update),
    "td3": (td3_model, td3_updates, td3_update, torch_td3_update),
}


# --- numbers by hand ----------------------------------------------------------------------------


@EVERY_PATH
@pytest.mark.parametrize(
    ("make", "weight", "state"),
    [
        (lambda p: SGD(p, lr=0.1), 1.7, {}),
        (lambda p: SGD(p, lr=0.1, weight_decay=0.5), 1.6, {}),
        # At first the buffer is the gradient itself, whatever the dampening.
        (lambda p: SGD(p, lr=0.1, momentum=0.5, dampening=0.5), 1.7, {"momentum_buffer": 3.0}),
        # 3 + 0.5·3
        (lambda p: SGD(p, lr=0.1, momentum=0.5, nesterov=True), 1.55, {"momentum_buffer": 3.0}),
        # v = 0.25·9, d = 1.5 + 0.5
        (lambda p: RMSprop(p, lr=0.1, alpha=0.75, eps=0.5), 1.85, {"step": 1.0, "square_avg": 2.25}),
        # v = 0.5·9, ḡ = 0.5·3, d = √(4.5 − 2.25)
        (
            lambda p: RMSprop(p, lr=0.1, alpha=0.5, eps=0.0, centered=True),
            1.8,
            {"step": 1.0, "square_avg": 4.5, "grad_avg": 1.5},
        ),
        (
            lambda p: RMSprop(p, lr=0.1, alpha=0.75, eps=0.5, momentum=0.9),
            1.85,
            {"step": 1.0, "square_avg": 2.25, "momentum_buffer": 1.5},
        ),
        # v = 0.5·1 + 0.5·9, d = √(5 + 4)
        (lambda p: RMSpropTF(p, lr=0.1, alpha=0.5, eps=4.0), 1.9, {"step": 1.0, "square_avg": 5.0}),
        # v = 0.75·1 + 0.25·9 = 3, ḡ = 0.25·3, d = √(3 − 0.5625 + 1.5625)
        (
            lambda p: RMSpropTF(p, lr=0.1, alpha=0.75, eps=1.5625, centered=True),
            1.85,
            {"step": 1.0, "square_avg": 3.0, "grad_avg": 0.75},
        ),
    ],
    ids=lambda value: "" if callable(value) else str(value),
)
def test_one_step_of_the_smallest_critic(make: MakeOptimizer, weight: float, state: dict[str, float]) -> None:
    """The critic 2x at x = 3 with return 5: the gradient is ∂ 0.5·(2·3 − 5)² = 3."""
    actor, critic = nn.Linear(1, 2, bias=False), nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        actor.weight.zero_()
        critic.weight.fill_(2.0)
    it = Learner(actor, critic, make([actor.weight, critic.weight]), CategoricalHead())
    one = torch.ones(1)
    rows = Batch(
        3.0 * one[None], torch.tensor([1]), math.log(0.5) * one, 0.0 * one, 4.0 * one, 5.0 * one, None
    )
    config = PPOConfig(
        entropy_coef=0.0, vf_coef=0.5, max_grad_norm=None, normalize_advantages="none", minibatch_size=1
    )
    core_update(it, rows, permutations(1, 1), config)
    assert critic.weight.item() == pytest.approx(weight, rel=1e-6)
    kept = {name: tensor.item() for name, tensor in it.optimizer.state.get(critic.weight, {}).items()}
    assert kept == pytest.approx(state, rel=1e-6)


# --- parity -------------------------------------------------------------------------------------


@PRECISIONS
@EVERY_OPTIMIZER
def test_ppo_with_clipping(name: str, dtype: torch.dtype, tolerance: float) -> None:
    ours = learner(dtype=dtype, make_optimizer=OPTIMIZERS[name], dist="free", shared=True)
    ours.parameters[1].requires_grad_(False)
    theirs, config = ours.twin(), PPOConfig(minibatch_size=32, max_grad_norm=0.3)
    window, order = rows_for(ours, 160), permutations(2, 160)
    core_update(ours, window, order, config)
    torch_update(theirs, window, order, config)
    assert_close(ours.actor.state_dict(), theirs.actor.state_dict(), tolerance)
    assert_close(ours.critic.state_dict(), theirs.critic.state_dict(), tolerance)
    assert_close(ours.optimizer.state_dict(), theirs.optimizer.state_dict(), tolerance)


@PRECISIONS
@pytest.mark.parametrize("algo", OFF_POLICY)
@EVERY_OPTIMIZER
def test_off_policy_with_targets_and_a_frozen_parameter(
    name: str, algo: str, dtype: torch.dtype, tolerance: float
) -> None:
    make_model, updates, native, reference = OFF_POLICY[algo]
    ours = make_model(OPTIMIZERS[name], dtype)
    next(iter(ours.networks().values()))[0].bias.requires_grad_(False)
    theirs = copy.deepcopy(ours)
    updates(ours, native, 10, max_grad_norm=0.3)
    updates(theirs, reference, 10, max_grad_norm=0.3)
    assert_close(ours.state_dict(), theirs.state_dict(), tolerance)


@EVERY_PATH
@pytest.mark.parametrize("name", ["sgd with nesterov", "rmsprop, all", "rmsprop_tf, all"])
@PRECISIONS
def test_every_instruction_set(name: str, dtype: torch.dtype, tolerance: float) -> None:
    ours = dqn_model(OPTIMIZERS[name], dtype)
    theirs = copy.deepcopy(ours)
    dqn_updates(ours, dqn_update, 10)
    dqn_updates(theirs, torch_dqn_update, 10)
    assert_close(ours.state_dict(), theirs.state_dict(), tolerance)


def mixed(model: SACModel) -> SACModel:
    model.actor_optimizer = RMSpropTF(model.actor.parameters(), lr=1e-3, momentum=0.5)
    critics = [p for net in model.critics for p in net.parameters()]
    model.critic_optimizer = SGD(critics, lr=0.01, momentum=0.9)
    model.alpha_optimizer = torch.optim.AdamW([model.log_alpha], lr=1e-2)
    return model


def test_networks_of_one_model_have_different_optimizers() -> None:
    ours = mixed(sac_model(OPTIMIZERS["adam"], torch.float64))
    theirs = copy.deepcopy(ours)
    sac_updates(ours, sac_update, 10)
    sac_updates(theirs, torch_sac_update, 10)
    assert_close(ours.state_dict(), theirs.state_dict(), 1e-9)


@EVERY_OPTIMIZER
def test_an_actor_that_waits_for_its_first_step(name: str) -> None:
    ours = td3_model(OPTIMIZERS[name], torch.float64)
    theirs = copy.deepcopy(ours)
    config = td3_cases.config_of(policy_delay=3)
    for model, update in ((ours, td3_update), (theirs, torch_td3_update)):
        experience = sac_cases.random_experience(config)
        for before in range(7):
            update(model, experience, *td3_cases.random_draws(1, config, experience), config, before)
            if before == 0:
                assert not model.optimizers()["actor"].state
    assert_close(ours.state_dict(), theirs.state_dict(), 1e-9)


@EVERY_OPTIMIZER
def test_backends_take_turns_in_mid_training(name: str) -> None:
    ours = dqn_model(OPTIMIZERS[name], torch.float64)
    theirs = copy.deepcopy(ours)
    for update in (dqn_update, torch_dqn_update, dqn_update):
        dqn_updates(ours, update, 3)
        dqn_updates(theirs, torch_dqn_update, 3)
    assert_close(ours.state_dict(), theirs.state_dict(), 1e-9)


def test_momentum_that_is_switched_on_and_off_again() -> None:
    ours = dqn_model(OPTIMIZERS["sgd with dampening"], torch.float64)
    theirs = copy.deepcopy(ours)
    for momentum in (0.0, 0.9, 0.0, 0.5):
        for model, update in ((ours, dqn_update), (theirs, torch_dqn_update)):
            model.optimizers()["optimizer"].param_groups[0]["momentum"] = momentum
            dqn_updates(model, update, 3)
    assert_close(ours.state_dict(), theirs.state_dict(), 1e-9)


def test_a_buffer_that_an_older_torch_has_saved_as_none() -> None:
    ours = dqn_model(OPTIMIZERS["sgd with dampening"], torch.float64)
    theirs = copy.deepcopy(ours)
    for parameter in ours.parameters():
        ours.optimizers()["optimizer"].state[parameter]["momentum_buffer"] = None
    dqn_updates(ours, dqn_update, 3)
    dqn_updates(theirs, torch_dqn_update, 3)
    assert_close(ours.state_dict(), theirs.state_dict(), 1e-9)


# --- what surrounds a step ----------------------------------------------------------------------


@EVERY_OPTIMIZER
def test_a_call_that_fails_leaves_no_trace(name: str) -> None:
    """Neither in an optimizer that has not stepped yet, nor in one that has."""
    config = sac_cases.config_of()
    experience = sac_cases.random_experience(config)
    draws, noise = sac_cases.random_draws(10, config, experience)
    noise[6, 1].fill_(math.nan)
    model = sac_model(OPTIMIZERS[name])
    for _ in range(2):
        before = copy.deepcopy(model.state_dict())
        with pytest.raises(NonFiniteError):
            sac_update(model, experience, draws, noise, config, -2.0)
        assert_close(model.state_dict(), before, 0.0)
        sac_updates(model, sac_update, 3)


def test_the_state_of_a_first_failed_call_is_not_kept_by_the_optimizer() -> None:
    model = sac_model(OPTIMIZERS["sgd with momentum"])
    config = sac_cases.config_of()
    experience = sac_cases.random_experience(config)
    draws, noise = sac_cases.random_draws(2, config, experience)
    with pytest.raises(NonFiniteError):
        sac_update(model, experience, draws, noise * math.nan, config, -2.0)
    assert all(not optimizer.state for optimizer in model.optimizers().values())


@pytest.mark.parametrize("name", ["sgd with momentum", "rmsprop", "rmsprop_tf"])
def test_a_scheduler_changes_the_rate_without_a_warning(name: str) -> None:
    ours = dqn_model(OPTIMIZERS[name], torch.float64)
    theirs = copy.deepcopy(ours)
    for model, update in ((ours, dqn_update), (theirs, torch_dqn_update)):
        scheduler = torch.optim.lr_scheduler.ExponentialLR(model.optimizers()["optimizer"], 0.5)
        for _ in range(3):
            dqn_updates(model, update, 2)
            with warnings.catch_warnings():  # of a rate that changes before the first step
                warnings.simplefilter("error")
                scheduler.step()
    assert_close(ours.state_dict()["networks"], theirs.state_dict()["networks"], 1e-9)


def test_autograd_notices_that_buffers_changed() -> None:
    model = dqn_model(OPTIMIZERS["sgd with momentum"])
    dqn_updates(model, dqn_update, 1)
    parameter = model.parameters()[0]
    buffer = model.optimizers()["optimizer"].state[parameter]["momentum_buffer"]
    versions = parameter._version, buffer._version
    dqn_updates(model, dqn_update, 1)
    assert parameter._version > versions[0] and buffer._version > versions[1]


# --- what is not served -------------------------------------------------------------------------


class MySGD(torch.optim.SGD):
    pass


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (
            lambda p: torch.optim.Adagrad(p),
            "the optimizer is Adagrad (served: Adam, AdamW, SGD, RMSprop, RMSpropTF)",
        ),
        (lambda p: MySGD(p), "the optimizer is MySGD"),
        (lambda p: SGD(p, maximize=True), "set to maximize"),
        (lambda p: SGD(p, differentiable=True), "set to differentiable"),
        (lambda p: SGD(p, lr=torch.tensor(0.1)), "lr is a tensor"),
        (lambda p: SGD(p, weight_decay=torch.tensor(0.1)), "weight_decay is a tensor"),
        (lambda p: RMSprop(p, maximize=True), "set to maximize"),
        (lambda p: RMSprop(p, capturable=True), "set to capturable"),
        (lambda p: RMSprop(p, differentiable=True), "set to differentiable"),
        (lambda p: RMSprop(p, lr=torch.tensor(0.1)), "lr is a tensor"),
    ],
)
def test_optimizers_that_are_not_served(make: MakeOptimizer, reason: str) -> None:
    parameters = [nn.Parameter(torch.ones(3))]
    with pytest.raises(UnsupportedError) as caught:
        Trained(make(parameters), parameters, create=True)
    assert reason in str(caught.value)


def test_momentum_that_rmsprop_s_state_does_not_know() -> None:
    model = dqn_model(OPTIMIZERS["rmsprop"])
    dqn_updates(model, dqn_update, 1)
    model.optimizers()["optimizer"].param_groups[0]["momentum"] = 0.5
    with pytest.raises(UnsupportedError, match="the optimizer's state holds square_avg, step"):
        dqn_updates(model, dqn_update, 1)


def test_a_buffer_of_another_shape() -> None:
    parameters = [nn.Parameter(torch.ones(3))]
    optimizer = SGD(parameters, lr=0.1, momentum=0.5)
    optimizer.state[parameters[0]]["momentum_buffer"] = torch.zeros(2)
    with pytest.raises(UnsupportedError, match="momentum_buffer is not like its parameter"):
        Trained(optimizer, parameters, create=True)


# --- a description that is kept between calls ----------------------------------------------------


def change_rate(model: Model) -> None:
    model.optimizers()["optimizer"].param_groups[0]["lr"] = 0.05


def change_group(model: Model) -> None:
    group = model.optimizers()["optimizer"].param_groups[0]
    model.optimizers()["optimizer"].param_groups[0] = {**group, "lr": 0.05}


def load_state(model: Model) -> None:
    optimizer = model.optimizers()["optimizer"]
    state = copy.deepcopy(optimizer.state_dict())
    for entry in state["state"].values():
        entry["momentum_buffer"].mul_(2.0)
    optimizer.load_state_dict(state)


def replace_buffer(model: Model) -> None:
    state = model.optimizers()["optimizer"].state[model.parameters()[0]]
    state["momentum_buffer"] = 2.0 * state["momentum_buffer"]


def forget_buffer(model: Model) -> None:
    del model.optimizers()["optimizer"].state[model.parameters()[0]]


def forget_everything(model: Model) -> None:
    model.optimizers()["optimizer"].state.clear()


def freeze(model: Model) -> None:
    model.parameters()[1].requires_grad_(False)


def split_groups(model: Model) -> None:
    optimizer = model.optimizers()["optimizer"]
    moved = optimizer.param_groups[0]["params"].pop()
    optimizer.add_param_group({"params": [moved], "lr": 0.05})


@pytest.mark.parametrize(
    "change",
    [
        change_rate, change_group, load_state, replace_buffer, forget_buffer, forget_everything, freeze,
        split_groups,
    ],
    ids=lambda change: change.__name__,
)  # fmt: skip
def test_what_changes_between_calls_is_seen(change: Callable[[Model], None]) -> None:
    ours = dqn_model(OPTIMIZERS["sgd with dampening"], torch.float64)
    theirs = copy.deepcopy(ours)
    for model, update in ((ours, dqn_update), (theirs, torch_dqn_update)):
        for _ in range(3):
            dqn_updates(model, update, 2)
        change(model)
        for _ in range(2):
            dqn_updates(model, update, 2)
    assert_close(ours.state_dict(), theirs.state_dict(), 1e-9)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda o: o.param_groups[0].update(maximize=True), "set to maximize"),
        (lambda o: o.register_step_pre_hook(lambda *_: None), "step hook"),
        (lambda o: o.param_groups[0]["params"].pop(), "does not hold every parameter"),
        (lambda o: o.param_groups[0]["params"].append(nn.Parameter(torch.ones(1))), "not the policy's"),
    ],
    ids=["maximize", "hook", "fewer", "more"],
)
def test_what_is_no_longer_served_is_seen(change: Callable[[Any], None], reason: str) -> None:
    model = dqn_model(OPTIMIZERS["sgd with momentum"])
    for _ in range(3):
        dqn_updates(model, dqn_update, 1)
    change(model.optimizers()["optimizer"])
    with pytest.raises(UnsupportedError, match=reason):
        dqn_updates(model, dqn_update, 1)


def test_an_optimizer_that_nobody_holds_any_more_is_gone() -> None:
    model = dqn_model(OPTIMIZERS["sgd with momentum"])
    scheduler = torch.optim.lr_scheduler.ExponentialLR(model.optimizers()["optimizer"], 0.5)
    for _ in range(3):
        dqn_updates(model, dqn_update, 1)
    gone = weakref.ref(model.optimizers()["optimizer"])
    del model, scheduler
    gc.collect()
    assert gone() is None
