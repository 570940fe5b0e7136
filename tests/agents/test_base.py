"""What all agents do in the same way: learning rates, hyperparameters, states."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from backends import both_backends
from gymnasium import spaces
from ppo_cases import OBS, assert_same, cartpole_window, discrete_agent, gaussian_agent
from torch import nn

from optix_fast.agents import (
    Agent,
    PPOConfig,
    TorchAgent,
    TorchDQNAgent,
    TorchGaussianPPOAgent,
    TorchPPOAgent,
    TorchSACAgent,
    TorchTD3Agent,
    TorchTQCAgent,
)
from optix_fast.envs.normalizers import ObsNormalizer, RewardNormalizer
from optix_fast.pipelines import VectorBatchPipeline
from optix_fast.tuners import SPSAOptimizer
from optix_fast.tuners.choice import fill_bounds
from optix_fast.types import EpisodeData, EvalMetrics, HyperparamSet

RATES = [1e-4, 1e-3]
Make = Callable[..., Agent]


def net(n_in: int, n_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(n_in, 8), nn.Tanh(), nn.Linear(8, n_out))


def in_two_groups(*modules: nn.Module) -> torch.optim.Optimizer:
    """The first half of the parameters at a tenth of the others' rate."""
    parameters = [p for module in modules for p in module.parameters()]
    half = len(parameters) // 2
    return torch.optim.Adam(
        [{"params": parameters[:half], "lr": RATES[0]}, {"params": parameters[half:], "lr": RATES[1]}]
    )


def ppo(params: dict[str, Any] | None = None, **kwargs: Any) -> TorchPPOAgent:
    actor, critic = net(4, 2), net(4, 1)
    hyperparams = HyperparamSet({"n_epochs": 1, **(params or {})})
    return TorchPPOAgent(
        actor, critic, in_two_groups(actor, critic), hyperparams, device="cpu", seed=0, **kwargs
    )


def dqn(params: dict[str, Any] | None = None, **kwargs: Any) -> TorchDQNAgent:
    network = net(4, 2)
    hyperparams = HyperparamSet({"batch_size": 16, "replay_capacity": 300, **(params or {})})
    return TorchDQNAgent(network, 2, in_two_groups(network), hyperparams, device="cpu", seed=0, **kwargs)


def sac(params: dict[str, Any] | None = None, **kwargs: Any) -> TorchSACAgent:
    actor, critic1, critic2 = net(4, 2), net(4, 2), net(4, 2)
    hyperparams = HyperparamSet({"batch_size": 16, "replay_capacity": 300, **(params or {})})
    return TorchSACAgent(
        actor, critic1, critic2, 2, torch.optim.Adam(actor.parameters(), lr=RATES[0]),
        in_two_groups(critic1, critic2), torch.optim.Adam([nn.Parameter(torch.zeros(()))], lr=3e-3),
        hyperparams, device="cpu", discrete=True, seed=0, **kwargs,
    )  # fmt: skip


def td3(params: dict[str, Any] | None = None, **kwargs: Any) -> TorchTD3Agent:
    actor, critic1, critic2 = net(4, 1), net(5, 1), net(5, 1)
    hyperparams = HyperparamSet({"batch_size": 16, "replay_capacity": 300, **(params or {})})
    return TorchTD3Agent(
        actor, critic1, critic2, 1, torch.optim.Adam(actor.parameters(), lr=RATES[0]),
        in_two_groups(critic1, critic2), hyperparams, device="cpu", seed=0, **kwargs,
    )  # fmt: skip


def tqc(params: dict[str, Any] | None = None, **kwargs: Any) -> TorchTQCAgent:
    actor, critics = net(4, 2), [net(5, 3), net(5, 3)]
    hyperparams = HyperparamSet({"batch_size": 16, "replay_capacity": 300, **(params or {})})
    return TorchTQCAgent(
        actor, critics, 1, torch.optim.Adam(actor.parameters(), lr=RATES[0]), in_two_groups(*critics),
        torch.optim.Adam([nn.Parameter(torch.zeros(()))], lr=3e-3), hyperparams, device="cpu", seed=0,
        **kwargs,
    )  # fmt: skip


def generic(params: dict[str, Any] | None = None) -> TorchAgent:
    model = net(4, 2)
    return TorchAgent(model, in_two_groups(model), HyperparamSet(params or {}), device="cpu", seed=0)


ALL = pytest.mark.parametrize("make", [ppo, dqn, sac, td3, tqc, generic])


def rates_of(agent: Agent) -> list[float]:
    return [group["lr"] for group in agent._groups()]


def pushed_as_hard() -> gym.Env[Any, Any]:
    """CartPole for continuous actions, of which only the sign counts."""
    cartpole = gym.make("CartPole-v1")
    return gym.wrappers.TransformAction(cartpole, lambda a: int(a[0] > 0), spaces.Box(-1, 1, (1,)))


def window_of(agent: Agent) -> EpisodeData:
    if not isinstance(agent, TorchTD3Agent | TorchTQCAgent):
        return cartpole_window(agent, n_envs=2, window_size=32)
    pipeline = VectorBatchPipeline([pushed_as_hard] * 2, agent, window_size=32, seed=5)
    return next(pipeline.episodes())


# --- learning rates -------------------------------------------------------------------------------


@ALL
def test_writing_back_the_hyperparameters_changes_no_learning_rate(make: Make) -> None:
    agent = make()
    before = rates_of(agent)
    assert len(set(before)) > 1
    agent.set_hyperparams(agent.get_hyperparams())
    assert rates_of(agent) == before
    assert agent.get_hyperparams().params["learning_rate"] == before[0]


@ALL
def test_a_new_learning_rate_scales_every_group_in_proportion(make: Make) -> None:
    agent = make()
    before = rates_of(agent)
    agent.set_hyperparams(HyperparamSet({"learning_rate": before[0] * 5}))
    assert rates_of(agent) == pytest.approx([rate * 5 for rate in before], rel=1e-12)
    agent.set_hyperparams(HyperparamSet({"learning_rate": 0.0}))
    assert rates_of(agent) == [0.0] * len(before)
    agent.set_hyperparams(HyperparamSet({"learning_rate": before[0]}))
    assert rates_of(agent) == pytest.approx(before, rel=1e-12)


@ALL
def test_the_constructors_learning_rate_scales_in_the_same_way(make: Make) -> None:
    plain, scaled = rates_of(make()), rates_of(make({"learning_rate": 2 * RATES[0]}))
    assert scaled == pytest.approx([2 * rate for rate in plain], rel=1e-12)


@ALL
def test_a_group_that_is_frozen_by_its_rate_stays_so(make: Make) -> None:
    agent = make()
    agent._groups()[0]["lr"] = 0.0
    others = rates_of(agent)[1:]
    agent.set_hyperparams(HyperparamSet({"learning_rate": 2 * others[0]}))
    assert rates_of(agent) == pytest.approx([0.0, *(2 * rate for rate in others)])


@ALL
def test_a_state_carries_the_ratios_of_the_rates(make: Make) -> None:
    agent, other = make(), make()
    before = rates_of(agent)
    agent.set_hyperparams(HyperparamSet({"learning_rate": 0.0}))
    for group in other._groups():
        group["lr"] = 0.5
    other.load_state_dict(agent.state_dict())
    other.set_hyperparams(HyperparamSet({"learning_rate": before[0]}))
    assert rates_of(other) == pytest.approx(before, rel=1e-12)


@both_backends
def test_annealing_starts_from_the_optimizers_rates(backend: str) -> None:
    agent = ppo({"anneal_steps": 256}, backend=backend)
    seen = []
    for _ in range(3):
        agent.learn(window_of(agent))
        seen.append(rates_of(agent))
        agent.set_hyperparams(agent.get_hyperparams())
    expected = [[rate * left for rate in RATES] for left in (1.0, 0.75, 0.5)]
    np.testing.assert_allclose(seen, expected, rtol=1e-12)
    assert agent.get_hyperparams().params["learning_rate"] == RATES[0]
    # A new rate is what annealing would have started from; without annealing, all of it is back.
    agent.set_hyperparams(HyperparamSet({"learning_rate": 2e-4, "anneal_steps": 256}))
    assert rates_of(agent) == pytest.approx([1e-4, 1e-3])
    agent.set_hyperparams(HyperparamSet({"learning_rate": 2e-4}))
    assert rates_of(agent) == pytest.approx([2e-4, 2e-3])


def test_annealing_goes_on_in_a_resumed_agent() -> None:
    agent, resumed = ppo({"anneal_steps": 256}), ppo({"anneal_steps": 256})
    agent.learn(window_of(agent))
    agent.learn(window_of(agent))
    resumed.load_state_dict(agent.state_dict())
    for each in (agent, resumed):
        each.learn(window_of(each))
    assert rates_of(resumed) == pytest.approx([5e-5, 5e-4])
    assert_same(resumed.state_dict(), agent.state_dict())


def test_clip_ratio_is_annealed_with_the_rate() -> None:
    # Half of the way through: as an agent with half of both.
    params = {"n_epochs": 4, "minibatch_size": 16, "learning_rate": 0.05}
    halfway = discrete_agent(params={**params, "clip_ratio": 0.2, "anneal_steps": 128})
    halfway.env_steps = 64
    plain = discrete_agent(params={**params, "clip_ratio": 0.1, "learning_rate": 0.025})
    other_clip = discrete_agent(params={**params, "clip_ratio": 0.2, "learning_rate": 0.025})
    results = [agent.learn(cartpole_window(agent)) for agent in (halfway, plain, other_clip)]
    assert results[0] == results[1]
    assert results[0]["clip_fraction"] > results[2]["clip_fraction"]


def test_a_group_that_joins_while_the_rates_are_annealed_is_served() -> None:
    agent = ppo({"anneal_steps": 1000})
    agent.learn(window_of(agent))
    agent._optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))], "lr": 1e-2})
    rate = agent._optimizer.param_groups[0]["lr"]
    agent.set_hyperparams(HyperparamSet({"anneal_steps": 1000, "learning_rate": 2 * rate}))
    assert [group["lr"] for group in agent._optimizer.param_groups][::2] == pytest.approx([2 * rate, 2e-2])
    assert agent.learn(window_of(agent))["learning_rate"] < 2 * rate


def test_a_constructor_that_fails_leaves_the_optimizer_alone() -> None:
    actor, critic = net(3, 1), net(3, 1)
    optimizer = in_two_groups(actor, critic)
    before = [len(group["params"]) for group in optimizer.param_groups]
    with pytest.raises(ValueError, match="seed"):
        TorchGaussianPPOAgent(actor, critic, optimizer, 1, HyperparamSet({}), "cpu", log_std="free", seed=-1)
    assert [len(group["params"]) for group in optimizer.param_groups] == before


def test_a_scheduler_made_before_a_free_log_std_goes_on() -> None:
    from optix_fast.agents import TorchGaussianPPOAgent

    actor, critic = nn.Linear(3, 1), nn.Linear(3, 1)
    optimizer = torch.optim.Adam([*actor.parameters(), *critic.parameters()], lr=1e-3)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.5, total_iters=2)
    agent = TorchGaussianPPOAgent(
        actor, critic, optimizer, 1, HyperparamSet({}), device="cpu", log_std="free", backend="torch"
    )
    optimizer.step()
    scheduler.step()
    assert rates_of(agent) == pytest.approx([7.5e-4])
    assert any(p is agent._policy.log_std for group in optimizer.param_groups for p in group["params"])


def test_the_default_tuner_searches_what_was_chosen_not_every_default() -> None:
    agent, tuner = ppo({"clip_ratio": 0.15}), SPSAOptimizer(seed=0)
    agent.set_hyperparams(agent.get_hyperparams())
    fill_bounds(tuner, agent)
    tuner.suggest(agent.get_hyperparams(), [EvalMetrics(0.0, {}, 0)])
    assert tuner.space.names is not None and set(tuner.space.names) == {"learning_rate", "clip_ratio"}


# --- gradients ------------------------------------------------------------------------------------


@ALL
def test_parameters_outside_of_the_optimizer_get_no_gradients_and_change_no_norm(make: Make) -> None:
    def trained(outside: bool) -> tuple[Agent, torch.Tensor]:
        torch.manual_seed(0)
        few_updates = {} if make in (ppo, generic) else {"learning_starts": 100}
        backend = {} if make is generic else {"backend": "torch"}
        agent = make({"max_grad_norm": 0.01, **few_updates}, **backend)
        bodies = [module for name, module in agent._networks().items() if name != "log_alpha"]
        first = [p for module in bodies for p in list(module.parameters())[:2]]
        for parameter in first:
            parameter.requires_grad_(outside)
        for group in agent._groups():
            group["params"] = [p for p in group["params"] if not any(p is q for q in first)]
        for _ in range(2):
            agent.learn(window_of(agent))
        assert all(p.grad is None for p in first)
        return agent, torch.cat([p.detach().reshape(-1) for body in bodies for p in body.parameters()])

    assert torch.equal(trained(outside=True)[1], trained(outside=False)[1])


# --- hyperparameters ------------------------------------------------------------------------------


@ALL
def test_all_values_in_force_are_reported(make: Make) -> None:
    agent = make()
    params = agent.get_hyperparams().params
    assert set(params) >= {field.name for field in fields(agent.config_type)}
    assert agent.get_hyperparams().params == params


def test_writing_back_keeps_what_was_said_and_what_was_not() -> None:
    agent = ppo({"clip_ratio": PPOConfig().clip_ratio})
    before = agent.state_dict()["hyperparams"]
    agent.set_hyperparams(agent.get_hyperparams())
    assert agent.state_dict()["hyperparams"] == {**before, "learning_rate": RATES[0]}


@ALL
@pytest.mark.parametrize("value", [math.inf, True, "0.1", -1.0])
def test_values_that_are_no_rate_are_refused(make: Make, value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="^learning_rate must be"):
        make({"learning_rate": value})


@ALL
def test_a_typo_is_named_once_wherever_it_comes_from(make: Make) -> None:
    agent = make()
    typo = HyperparamSet({"learning_rte": 1e-3})
    with pytest.warns(UserWarning, match="unknown hyperparameter 'learning_rte'; .* 'learning_rate'"):
        agent.set_hyperparams(typo)
    agent.set_hyperparams(typo)


@pytest.mark.parametrize(
    ("make", "name"),
    [(ppo, "n_epochs"), (dqn, "batch_size"), (sac, "n_step"), (td3, "policy_delay"), (ppo, "anneal_steps")],
)
def test_half_a_count_is_a_users_mistake_but_a_tuners_right(make: Make, name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name} must be a whole number, got 2.5"):
        make({name: 2.5})
    make({name: 2.0}).set_hyperparams(HyperparamSet({name: 2.5}))


@ALL
@pytest.mark.parametrize(("seed", "error"), [(-1, ValueError), (1.5, TypeError), (True, TypeError)])
def test_seeds_are_integers_from_zero(make: Make, seed: Any, error: type[Exception]) -> None:
    good = make()
    arguments: dict[str, Any] = {"hyperparams": HyperparamSet({}), "seed": seed}
    with pytest.raises(error, match="^seed must be"):
        Agent.__init__(good, **arguments)


# --- states ---------------------------------------------------------------------------------------


@ALL
def test_an_empty_state_is_named_by_what_it_lacks(make: Make) -> None:
    agent = make()
    before = agent.state_dict()
    with pytest.raises(ValueError, match=f"state of a {type(agent).__name__} must hold '.*'hyperparams'"):
        agent.load_state_dict({})
    assert_same(agent.state_dict(), before)


@ALL
def test_a_state_that_breaks_anywhere_changes_nothing(make: Make) -> None:
    normalized = (
        {"obs_normalizer": ObsNormalizer((4,)), "reward_normalizer": RewardNormalizer()}
        if make is ppo
        else {}
    )
    agent = make(**normalized)
    agent.learn(window_of(agent))
    state = copy.deepcopy(agent.state_dict())
    agent.learn(window_of(agent))
    before = agent.state_dict()
    for key in state:
        incomplete = {k: v for k, v in state.items() if k != key}
        wrong = {"gamma": "much"} if key == "hyperparams" else {"nothing": "here"}
        for broken in (incomplete, {**state, key: wrong}):
            with pytest.raises((ValueError, TypeError, RuntimeError)):
                agent.load_state_dict(broken)
            assert_same(agent.state_dict(), before, key)


def test_moments_of_another_shape_are_refused_before_anything_is_loaded() -> None:
    agent, other = discrete_agent(), discrete_agent(seed=1)
    for each in (agent, other):
        each.learn(cartpole_window(each))
    state, before = other.state_dict(), agent.state_dict()
    state["model"]["optimizers"]["optimizer"]["state"]["0"]["exp_avg"] = torch.zeros(3)
    with pytest.raises(ValueError, match=r"optimizer has exp_avg of shape \[3\]"):
        agent.load_state_dict(state)
    assert_same(agent.state_dict(), before)


@both_backends
def test_evaluation_goes_on_with_the_same_numbers_after_a_resume(backend: str) -> None:
    from optix_fast.types import no_recording

    agent, resumed = gaussian_agent(backend=backend), gaussian_agent(backend=backend)
    observation = OBS[:3]
    with no_recording():
        for _ in range(5):
            agent.act(observation)
        resumed.load_state_dict(agent.state_dict())
        np.testing.assert_array_equal(
            [agent.act(observation) for _ in range(5)], [resumed.act(observation) for _ in range(5)]
        )


def test_an_experience_without_its_counters_leaves_the_stored_transitions() -> None:
    agent, other = dqn(), dqn()
    for each in (agent, other, other):
        each.learn(window_of(each))
    state, before = other.state_dict(), agent.state_dict()
    del state["experience"]["credit"]
    with pytest.raises(ValueError, match="the state of a TorchDQNAgent must hold 'credit'"):
        agent.load_state_dict(state)
    assert_same(agent.state_dict(), before)


@ALL
def test_a_warning_of_a_typo_points_to_the_line_that_holds_it(make: Make) -> None:
    with pytest.warns(UserWarning, match="gama") as constructed:
        agent = make({"gama": 0.9})
    with pytest.warns(UserWarning, match="taau") as replaced:
        agent.set_hyperparams(HyperparamSet({"taau": 0.9}))
    assert [one.filename for caught in (constructed, replaced) for one in caught] == [__file__] * 2


def test_a_state_holds_a_learning_rate_that_is_a_tensor() -> None:
    model = net(4, 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=torch.tensor(1e-3))
    agent = TorchAgent(model, optimizer, HyperparamSet({}), device="cpu", seed=0)
    state = agent.state_dict()
    agent.set_hyperparams(HyperparamSet({"learning_rate": 1e-2}))
    agent.load_state_dict(state)
    assert agent.get_hyperparams().params["learning_rate"] == pytest.approx(1e-3)
