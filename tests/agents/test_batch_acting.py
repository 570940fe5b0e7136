"""Agents whose networks hold batch norms and Dropout: acting evaluates, learning trains."""

from __future__ import annotations

import copy
import threading
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from same_state import assert_same
from torch import Tensor, nn

from optix_fast import Agent, HyperparamSet, TorchAgent, TorchDQNAgent, TorchPPOAgent, make_agent
from optix_fast.networks import BatchRenorm
from optix_fast.networks.modes import evaluating
from optix_fast.pipelines import VectorBatchPipeline
from optix_fast.random import RandomStream
from optix_fast.types import NonFiniteError, no_recording

BACKENDS = pytest.mark.parametrize("backend", [pytest.param("native", marks=pytest.mark.native), "torch"])
SEEN = np.random.default_rng(1).normal(size=(20, 4)).astype(np.float32)


def network(outputs: int) -> nn.Sequential:
    torch.manual_seed(outputs)
    return nn.Sequential(
        nn.Linear(4, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Dropout(0.5), nn.Linear(16, 16),
        BatchRenorm(16, warmup_steps=3), nn.Tanh(), nn.Linear(16, outputs),
    )  # fmt: skip


def agent_of(algo: str, backend: str) -> Any:
    q_network, critic = network(2), network(1)
    space = spaces.Discrete(2)
    if algo == "dqn":
        params = HyperparamSet({"batch_size": 16, "epsilon": 0.0, "epsilon_min": 0.0, "tau": 0.1})
        optimizer = torch.optim.Adam(q_network.parameters(), 1e-3)
        return TorchDQNAgent(
            q_network, 2, optimizer, params, "cpu", action_space=space, seed=0, backend=backend
        )
    optimizer = torch.optim.Adam([*q_network.parameters(), *critic.parameters()], 1e-3)
    params = HyperparamSet({"minibatch_size": 32, "n_epochs": 2})
    return TorchPPOAgent(
        q_network, critic, optimizer, params, "cpu", action_space=space, seed=0, backend=backend
    )


def windows_of(agent: Agent, n: int) -> list[Any]:
    pipeline = VectorBatchPipeline([lambda: gym.make("CartPole-v1")] * 4, agent, window_size=16, seed=0)
    episodes = pipeline.episodes()
    return [next(episodes) for _ in range(n)]


def trained(algo: str, backend: str, n: int = 3) -> Any:
    agent = agent_of(algo, backend)
    for window in windows_of(agent, n):
        agent.learn(window)
    return agent


@BACKENDS
@pytest.mark.parametrize("algo", ["ppo", "dqn"])
def test_acting_evaluates_and_leaves_no_trace(algo: str, backend: str) -> None:
    agent = trained(algo, backend)
    assert agent.backend == backend
    net = agent._policy.actor
    modes, before = [m.training for m in net.modules()], copy.deepcopy(net.state_dict())
    with torch.no_grad():
        expected = copy.deepcopy(net).eval()(torch.from_numpy(SEEN))
        in_training = copy.deepcopy(net)(torch.from_numpy(SEEN))
    greedy = expected.argmax(dim=1).numpy()
    assert (in_training.argmax(dim=1).numpy() != greedy).any()
    with no_recording():
        assert np.array_equal(agent.act_batch(SEEN, deterministic=True), greedy)
        assert np.array_equal(agent.predict(SEEN[:5])[0], greedy[:5])
        assert [agent.act(row, deterministic=True) for row in SEEN] == greedy.tolist()
        if algo == "ppo":
            torch.testing.assert_close(
                torch.from_numpy(agent.action_probs(SEEN[0])), expected[0].softmax(dim=0), atol=1e-5, rtol=0
            )
    assert [m.training for m in net.modules()] == modes
    assert_same(net.state_dict(), before, "state")


@BACKENDS
def test_a_window_holds_what_the_evaluated_networks_said(backend: str) -> None:
    agent = trained("ppo", backend)
    before = copy.deepcopy([agent.actor.state_dict(), agent.critic.state_dict()])
    (window,) = windows_of(agent, 1)
    assert_same([agent.actor.state_dict(), agent.critic.state_dict()], before, "state")
    seen = torch.from_numpy(window.observations.reshape(-1, 4))
    with torch.no_grad(), evaluating(agent.actor, agent.critic):
        values, logits = agent.critic(seen).reshape(-1), agent.actor(seen)
    actions = torch.from_numpy(np.asarray(window.actions).reshape(-1))
    log_probs = torch.log_softmax(logits, dim=1).gather(1, actions[:, None]).squeeze(1)
    torch.testing.assert_close(torch.from_numpy(np.ravel(window.values)), values, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(torch.from_numpy(np.ravel(window.log_probs)), log_probs, atol=1e-5, rtol=1e-5)


@pytest.mark.native
@pytest.mark.parametrize("rows", [1, 20])
def test_statistics_that_change_are_seen_by_the_core(rows: int) -> None:
    agents = [agent_of("dqn", backend) for backend in ("native", "torch")]

    def check() -> None:
        both = [agent.act_batch(SEEN[:rows], deterministic=True).tolist() for agent in agents]
        assert both[0] == both[1]

    check()
    for change in (
        lambda net: net[1].running_mean.fill_(2.0),
        lambda net: setattr(net[1], "running_var", torch.full((16,), 9.0)),
        lambda net: net.eval(),
        lambda net: net[5].running_mean.fill_(-0.5),
        lambda net: setattr(net[5], "eps", 4.0),
        lambda net: net.train(),
    ):
        for agent in agents:
            change(agent.q_network)
        check()
    assert agents[0].backend == "native"


def test_frozen_layers_stay_frozen_and_errors_leave_the_modes() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.BatchNorm1d(4).eval(), nn.Dropout(0.5))
    seen: list[list[bool]] = []
    net.register_forward_pre_hook(lambda *_: seen.append([m.training for m in net]))
    with pytest.raises(RuntimeError, match="shapes"), evaluating(net):
        net(torch.ones(3, 5))
    assert seen == [[True, False, False, False]]  # a Linear has no modes
    assert [m.training for m in net] == [True, True, False, True]


class Noisy(nn.Module):
    """Its own way to be different in training."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 100.0 if self.training else x


def test_a_module_of_a_users_own_is_evaluated_too() -> None:
    agent = agent_of("dqn", "torch")
    agent.q_network.append(Noisy())
    expected = agent.q_network.eval()(torch.from_numpy(SEEN)).argmax(dim=1).tolist()
    agent.q_network.train()
    seen: list[bool] = []
    agent.q_network[-1].register_forward_hook(lambda module, *_: seen.append(module.training))
    assert agent.act_batch(SEEN, deterministic=True).tolist() == expected
    assert seen == [False] and agent.q_network[-1].training


# --- learning --------------------------------------------------------------------------------------------


@BACKENDS
@pytest.mark.parametrize("algo", ["ppo", "dqn"])
def test_a_resumed_agent_goes_on_with_the_same_bits(algo: str, backend: str) -> None:
    agent, other = trained(algo, backend), agent_of(algo, backend)
    other.load_state_dict(agent.state_dict())
    assert_same(other.state_dict(), agent.state_dict(), "state")
    for window in windows_of(agent_of(algo, backend), 2):
        for each in (agent, other):
            each.learn(copy.deepcopy(window))
    assert_same(other.state_dict(), agent.state_dict(), "state")


@BACKENDS
@pytest.mark.parametrize("algo", ["dqn", "sac", "td3", "tqc"])
def test_a_dropout_that_a_user_changes_is_changed_in_the_target_at_the_next_learn(
    algo: str, backend: str
) -> None:
    env = "CartPole-v1" if algo == "dqn" else "Pendulum-v1"
    agent = make_agent(algo, gym.make(env), (8,), {"batch_size": 8}, 0, backend=backend, dropout=0.2)
    pipeline = VectorBatchPipeline([lambda: gym.make(env)] * 2, agent, window_size=8, seed=0)
    episodes = pipeline.episodes()
    agent.learn(next(episodes))
    nets, targets = agent._model.networks(), {t: getattr(agent._model, t) for t in agent._model.TARGETS}
    for module in (m for net in nets.values() for m in net.modules() if isinstance(m, nn.Dropout)):
        module.p = 0.4
        module.eval()
    agent.learn(next(episodes))
    for name, target in targets.items():
        assert getattr(agent._model, name) is target
        found = [(m.p, m.training) for m in target.modules() if isinstance(m, nn.Dropout)]
        assert found and set(found) == {(0.4, False)}


@pytest.mark.parametrize("algo", ["ppo", "dqn"])
def test_layers_that_a_user_has_frozen_are_frozen_after_loading(algo: str, tmp_path: Path) -> None:
    agent, other = trained(algo, "torch", 1), agent_of(algo, "torch")
    net = agent._policy.actor
    for layer in (net[1], net[3]):
        layer.eval()
    windows = windows_of(agent_of(algo, "torch"), 1)
    agent.learn(windows[0])  # the target's Dropout, too
    agent.save(str(tmp_path / "all"))
    agent.save_weights(str(tmp_path / "weights"))
    for saved in ("all", "weights"):
        made: Any = Agent.load(str(tmp_path / saved), "cpu", backend="torch")
        assert [m.training for m in made._policy.actor] == [m.training for m in net]
    other._policy.actor[5].eval()
    older = agent.state_dict()
    del older["model"]["evaluating"]
    other.load_state_dict(older)
    assert [m.training for m in other._policy.actor] == [True] * 5 + [False, True, True]
    other.load_state_dict(agent.state_dict())
    for name, network_ in agent._model.modules().items():
        twin = other._model.modules()[name]
        assert [m.training for m in twin.modules()] == [m.training for m in network_.modules()]
    assert [m.training for m in net] == [True, False, True, False, True, True, True, True]


@BACKENDS
@pytest.mark.parametrize("algo", ["ppo", "dqn"])
def test_each_learn_draws_one_seed_and_other_masks(algo: str, backend: str) -> None:
    """Where no Dropout trains, the stream of updates is as it always was."""
    agent, frozen = agent_of(algo, backend), agent_of(algo, backend)
    for module in (m for net in frozen._model.modules().values() for m in net if isinstance(m, nn.Dropout)):
        module.eval()
    window = windows_of(agent, 1)[0]
    for each in (agent, frozen):
        each.learn(copy.deepcopy(window))
    drawn, base = agent._streams["update"].offset, frozen._streams["update"].offset
    assert drawn == base + 1
    assert agent._model.masks is None
    if algo == "dqn":
        assert base == 0


@BACKENDS
def test_global_random_numbers_are_left_alone(backend: str) -> None:
    agent = agent_of("ppo", backend)
    (window,) = windows_of(agent, 1)
    before = torch.get_rng_state()
    agent.learn(window)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_torch_agent_draws_from_its_own_stream_too() -> None:
    made = []
    for seed in (0, 0, 1):
        net = network(2)
        agent = TorchAgent(
            net, torch.optim.SGD(net.parameters(), 0.1), HyperparamSet({}), device="cpu", seed=seed
        )
        agent.bind_spaces(None, spaces.Discrete(2))
        (window,) = windows_of(agent_of("ppo", "torch"), 1)
        torch.manual_seed(len(made))
        agent.learn(window)
        made.append(copy.deepcopy(net.state_dict()))
    assert_same(made[0], made[1], "state")
    assert not torch.equal(made[0]["0.weight"], made[2]["0.weight"])


@BACKENDS
def test_a_learn_that_fails_leaves_everything_as_it_was(backend: str) -> None:
    agent = trained("ppo", backend)
    (window,) = windows_of(agent, 1)
    before = agent.state_dict()
    window.log_probs[3] = np.nan
    with pytest.raises(NonFiniteError):
        agent.learn(window)
    assert_same(agent.state_dict(), before, "state")


@BACKENDS
def test_a_window_whose_last_minibatch_has_one_row_is_learned_from(backend: str) -> None:
    agent, expected = agent_of("ppo", backend), RandomStream(0)
    (window,) = windows_of(agent, 1)  # 16 steps of 4 environments
    agent.set_hyperparams(HyperparamSet({"minibatch_size": 21, "n_epochs": 4}))
    expected.load_state_dict(agent._streams["update"].state_dict())
    assert agent.learn(window)["n_updates"] == 12  # each epoch: 21, 21 and 22 rows
    expected.integers(0, 2**63 - 1, (1,))  # the seed of the masks
    for _ in range(4):
        expected.permutation(64)
    assert agent._streams["update"].state_dict() == expected.state_dict()


@BACKENDS
def test_a_window_of_one_row_is_not_learned_from(backend: str, caplog: pytest.LogCaptureFixture) -> None:
    agent = agent_of("ppo", backend)
    pipeline = VectorBatchPipeline([lambda: gym.make("CartPole-v1")], agent, window_size=1, seed=0)
    before, drawn = agent._model.state_dict(), agent._streams["update"].state_dict()
    done = agent.learn(next(pipeline.episodes()))
    assert (done["n_updates"], done["policy_loss"]) == (0, 0.0)
    assert "actor.1 (BatchNorm1d) is in training mode" in caplog.text
    assert_same(agent._model.state_dict(), before, "state")
    assert agent._streams["update"].state_dict() == drawn and agent.env_steps == 1


@BACKENDS
def test_acting_in_other_threads_does_not_disturb_learning(backend: str) -> None:
    alone, shared = agent_of("ppo", backend), agent_of("ppo", backend)
    windows = windows_of(agent_of("ppo", backend), 4)
    over = threading.Event()

    def act() -> None:
        while not over.is_set():
            with no_recording():
                shared.act_batch(SEEN)

    threads = [threading.Thread(target=act) for _ in range(2)]
    for thread in threads:
        thread.start()
    for window in windows:
        alone.learn(copy.deepcopy(window))
        shared.learn(copy.deepcopy(window))
    over.set()
    for thread in threads:
        thread.join()
    assert_same(shared._model.state_dict(), alone._model.state_dict(), "state")
    assert all(m.training for m in shared.actor.modules())


@pytest.mark.parametrize("algo", ["sac", "td3"])
def test_off_policy_agents_learn_with_these_layers(algo: str) -> None:
    agent: Any = make_agent(
        algo, gym.make("Pendulum-v1"), (16,), {"batch_size": 8}, 0, norm="batch", dropout=0.2
    )
    pipeline = VectorBatchPipeline([lambda: gym.make("Pendulum-v1")] * 2, agent, window_size=200, seed=0)
    episodes = pipeline.episodes()
    for _ in range(2):
        assert agent.learn(next(episodes))["n_updates"] >= 0
    for target, network_ in agent._model.TARGETS.items():
        own, followed = getattr(agent._model, target), getattr(agent._model, network_)
        assert all(map(torch.equal, own.buffers(), followed.buffers()))
        assert [m.training for m in own.modules() if isinstance(m, nn.BatchNorm1d)] == [False]
        assert [m.training for m in own.modules() if isinstance(m, nn.Dropout)] == [True]
