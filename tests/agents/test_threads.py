"""One agent, several threads: what each of them gets is what it would have got alone."""

from __future__ import annotations

import copy
import pickle
import threading
import time
from collections.abc import Callable
from itertools import chain
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from backends import both_backends
from in_threads import in_threads
from torch import nn

from optix_fast.agents import TorchAgent, TorchDQNAgent, make_agent
from optix_fast.locks import CallLock
from optix_fast.networks import mlp
from optix_fast.pipelines import BatchPipeline, VectorBatchPipeline
from optix_fast.types import EpisodeData, HyperparamSet, no_recording

THREADS = 4
# Wide enough for the core to let other threads run while it computes.
HIDDEN = (256, 256)
SMALL = {"learning_starts": 0, "batch_size": 16, "updates_per_step": 0.25, "replay_capacity": 4096}
AGENTS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "ppo": ("ppo", "CartPole-v1", {"n_epochs": 2}),
    "gaussian ppo": ("ppo", "Pendulum-v1", {"n_epochs": 2}),
    "dqn": ("dqn", "CartPole-v1", {**SMALL, "epsilon": 0.5}),
    "sac": ("sac", "Pendulum-v1", SMALL),
    "td3": ("td3", "Pendulum-v1", SMALL),
    "tqc": ("tqc", "Pendulum-v1", SMALL),
    "crossq": ("crossq", "Pendulum-v1", SMALL),
    "td3 uniform": ("td3", "Pendulum-v1", {**SMALL, "learning_starts": 10**6}),
    "sac uniform": ("sac", "Pendulum-v1", {**SMALL, "learning_starts": 10**6}),
    "policy gradient": ("", "CartPole-v1", {}),
}
every_agent = pytest.mark.parametrize("kind", AGENTS)


def agent_of(kind: str, backend: str) -> Any:
    algo, env, params = AGENTS[kind]
    if algo:
        return make_agent(
            algo, gym.make(env), HIDDEN, dict(params), seed=3, device="cpu", backend=backend
        )  # fmt: skip
    model = mlp([4, *HIDDEN, 2], "tanh", 1.0, torch.Generator().manual_seed(0))
    return TorchAgent(model, torch.optim.Adam(model.parameters()), HyperparamSet({}), device="cpu", seed=3)


def observations_of(kind: str, n: int, seed: int = 0) -> Any:
    width = gym.make(AGENTS[kind][1]).observation_space.shape[0]  # type: ignore[index]
    return np.random.default_rng(seed).normal(size=(n, width)).astype(np.float32)


def windows_of(kind: str, n: int) -> list[EpisodeData]:
    """Collected by another agent, so that those of the test have not acted."""
    env = AGENTS[kind][1]
    pipeline = VectorBatchPipeline(
        [lambda: gym.make(env)] * 2, agent_of(kind, "torch"), window_size=16, seed=4
    )
    return [data for data, _ in zip(pipeline.episodes(), range(n), strict=False)]


@every_agent
@both_backends
def test_deterministic_actions_are_those_of_one_thread(kind: str, backend: str) -> None:
    agent, sizes = agent_of(kind, backend), [1, 3, 7, 8, 20, 64, 130, 260]
    batches = [observations_of(kind, n, seed=n) for n in sizes]
    singles = observations_of(kind, 64)

    def act() -> tuple[list[Any], list[Any]]:
        # Growing batches: room is made while others compute.
        return [agent.act(o, True) for o in singles], [agent.act_batch(b, True) for b in batches]

    expected = agent_of(kind, backend)
    one_by_one = [expected.act(o, True) for o in singles]
    by_batches = [expected.act_batch(b, True) for b in batches]
    for ones, many in in_threads(*[act] * THREADS):
        np.testing.assert_array_equal(ones, one_by_one)
        for got, wanted in zip(many, by_batches, strict=True):
            np.testing.assert_array_equal(got, wanted)


@every_agent
@both_backends
@pytest.mark.parametrize("recording", [True, False], ids=["rollout", "evaluation"])
def test_random_numbers_go_to_one_thread_each(kind: str, backend: str, recording: bool) -> None:
    agent, alone = agent_of(kind, backend), agent_of(kind, backend)
    batch = np.tile(observations_of(kind, 1), (9, 1))

    def act(it: Any, calls: int) -> list[Any]:
        if not recording:
            with no_recording():
                return [it.act_batch(batch, False).tolist() for _ in range(calls)]
        return [np.asarray(it.act(batch[0])).tolist() for _ in range(calls)]

    drawn = list(chain.from_iterable(in_threads(*[lambda: act(agent, 30)] * THREADS)))
    assert sorted(drawn) == sorted(act(alone, 30 * THREADS))
    assert agent.state_dict()["streams"] == alone.state_dict()["streams"]


@both_backends
@pytest.mark.parametrize("algo", ["sac", "td3"])
def test_two_threads_take_the_uniform_steps_one_after_the_other(
    backend: str, algo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent: Any = make_agent(
        algo, gym.make("Pendulum-v1"), (16,), {**SMALL, "learning_starts": 200}, seed=3, backend=backend
    )  # fmt: skip
    uniform, inside, drawn = agent._head.uniform, [], []

    def alone(n: int, *rest: Any) -> Any:
        inside.append(n)
        time.sleep(0.001)  # long enough for the other thread to come in if it may
        drawn.append((n, len(inside)))
        actions = uniform(n, *rest)
        inside.pop()
        return actions

    monkeypatch.setattr(agent._head, "uniform", alone)
    before = agent.state_dict()["uniform_start"]["steps"]
    pipelines = [
        VectorBatchPipeline([lambda: gym.make("Pendulum-v1")], agent, window_size=16, seed=i)
        for i in range(2)
    ]
    observation = observations_of(algo, 1)[0]

    def act() -> Any:
        return [agent.act(observation) for _ in range(16)]

    in_threads(act, act, *[lambda p=p: next(p.episodes()) for p in pipelines])  # type: ignore[misc]
    assert drawn == [(1, 1)] * 64
    assert (before, agent.state_dict()["uniform_start"]["steps"]) == (200, 136)


@every_agent
@both_backends
def test_learning_is_not_disturbed_and_actions_are_of_a_policy_that_was_learned(
    kind: str, backend: str
) -> None:
    agent, alone = agent_of(kind, backend), agent_of(kind, backend)
    windows, batch = windows_of(kind, 6), observations_of(kind, 40)
    policies = {alone.act_batch(batch, True).tobytes()}
    for window in windows:
        alone.learn(window)
        policies.add(alone.act_batch(batch, True).tobytes())

    def learn() -> list[bytes]:
        for window in windows:
            agent.learn(window)
        return []

    def act() -> list[bytes]:
        return [agent.act_batch(batch, True).tobytes() for _ in range(60)]

    for acted in in_threads(learn, act, act):
        assert set(acted) <= policies
    ours, theirs = (list(leaves(it.state_dict())) for it in (agent, alone))
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(mine, other)


def leaves(state: Any) -> Any:
    if isinstance(state, dict):
        state = list(state.values())
    if isinstance(state, list | tuple):
        for part in state:
            yield from leaves(part)
    else:
        yield np.asarray(state)


@both_backends
def test_two_threads_that_learn_do_one_window_after_the_other(backend: str) -> None:
    agent = agent_of("ppo", backend)
    windows = windows_of("ppo", 2)
    orders = []
    for order in (windows, windows[::-1]):
        alone = agent_of("ppo", backend)
        for window in order:
            alone.learn(window)
        orders.append(weights(alone))
    in_threads(*[lambda window=window: agent.learn(window) for window in windows])
    assert weights(agent) in orders


def weights(agent: Any) -> bytes:
    return b"".join(p.detach().numpy().tobytes() for p in agent._model.parameters())


def test_a_loss_function_may_act_with_its_agent() -> None:
    seen: list[int] = []

    def loss(model: torch.nn.Module, data: EpisodeData, targets: torch.Tensor) -> torch.Tensor:
        seen.append(agent.act(data.observations[0], True))
        return (model(torch.as_tensor(data.observations)).sum(dim=-1) * targets).mean()

    model = mlp([4, 8, 2], "tanh", 1.0, torch.Generator().manual_seed(0))
    agent = TorchAgent(
        model, torch.optim.Adam(model.parameters()), HyperparamSet({}), loss, device="cpu", seed=0
    )
    agent.learn(windows_of("ppo", 1)[0])
    assert len(seen) == 1


@pytest.mark.parametrize("copied", [copy.deepcopy, pickle.dumps], ids=["deepcopy", "pickle"])
def test_a_copy_waits_for_the_end_of_what_another_thread_does(copied: Callable[[Any], Any]) -> None:
    agent, done = agent_of("ppo", "torch"), threading.Event()

    def work() -> None:
        copied(agent)
        done.set()

    thread = threading.Thread(target=work)
    with agent._lock:
        thread.start()
        assert not done.wait(0.3)  # without the lock it takes a tenth of that
    thread.join(60)
    assert done.is_set()


def test_what_is_pickled_is_of_one_moment() -> None:
    agent = agent_of("ppo", "torch")
    state, before = agent.__reduce_ex__(4)[2], weights(agent)
    agent.learn(windows_of("ppo", 1)[0])
    assert before != weights(agent)
    assert b"".join(p.detach().numpy().tobytes() for p in state["_model"].parameters()) == before


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy], ids=["copy", "deepcopy"])
def test_a_copied_lock_is_free(copied: Callable[[CallLock], CallLock]) -> None:
    lock = CallLock()
    with lock:
        other = copied(lock)
        assert in_threads(lambda: other.acquire(blocking=False)) == [True]
        assert in_threads(lambda: lock.acquire(blocking=False)) == [False]


def test_a_pickled_td3_agent_explores_by_itself() -> None:
    env = gym.make("Pendulum-v1")
    agent = make_agent("td3", env, (8,), {"learning_starts": 1, "exploration_noise": 0.3}, seed=0)
    twin = pickle.loads(pickle.dumps(agent))
    for _ in range(2):
        twin.learn(next(iter(BatchPipeline(env, twin, window_size=4, seed=0).episodes())))
    twin.set_hyperparams(HyperparamSet({**twin.get_hyperparams().params, "exploration_noise": 0.0}))
    seen = np.ones(3, np.float32)
    assert len({float(twin.act(seen)[0]) for _ in range(3)}) == 1


class Guarded(TorchDQNAgent):
    """Holds what cannot be copied, and makes it new."""

    guard: Any = None

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        state.pop("guard", None)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.guard = threading.Lock()


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda agent: pickle.loads(pickle.dumps(agent))], ids=["deepcopy", "pickle"]
)
def test_subclasses_say_what_their_copies_hold(copied: Any) -> None:
    network = nn.Linear(4, 2)
    agent = Guarded(network, 2, torch.optim.Adam(network.parameters()), HyperparamSet({}), seed=0)
    agent.guard = threading.Lock()
    twin = copied(agent)
    assert twin.guard is not None and twin.guard is not agent.guard
    assert twin.q_network is not agent.q_network and torch.equal(twin.q_network.weight, network.weight)
