"""make_agent: what is built from which spaces, and what is refused."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from backends import both_backends
from gymnasium import spaces

from optix_fast.agents import (
    TorchDQNAgent,
    TorchGaussianPPOAgent,
    TorchPPOAgent,
    TorchSACAgent,
    make_agent,
)
from optix_fast.loop import evaluate_policy
from optix_fast.networks import DuelingQNetwork
from optix_fast.pipelines import BatchPipeline, VectorBatchPipeline
from optix_fast.types import HyperparamSet


class SpacesOnly:
    def __init__(self, observation_space: Any, action_space: Any) -> None:
        self.observation_space, self.action_space = observation_space, action_space


def test_action_space_chooses_the_agent() -> None:
    assert isinstance(make_agent("auto", gym.make("CartPole-v1")), TorchPPOAgent)
    assert isinstance(make_agent("ppo", gym.make("Pendulum-v1")), TorchGaussianPPOAgent)


def test_dqn_is_made_with_its_own_network_and_hyperparameters() -> None:
    agent = make_agent("dqn", gym.make("Acrobot-v1"), hyperparams={"n_step": 3}, seed=0)
    assert isinstance(agent, TorchDQNAgent)
    assert [type(layer).__name__ for layer in agent._q_network] == ["Linear", "ReLU"] * 2 + ["Linear"]
    assert agent.act(np.zeros(6, np.float32)) in (0, 1, 2)
    assert agent.get_hyperparams().params["learning_rate"] == 5e-4
    dueling = make_agent("dqn", gym.make("Acrobot-v1"), dueling=True)
    assert isinstance(dueling._q_network, DuelingQNetwork)


@pytest.mark.parametrize("dueling", [False, True])
def test_dqn_learns_from_dict_observations(dueling: bool) -> None:
    space = spaces.Dict({"a": spaces.Box(-1, 1, (2,)), "b": spaces.Discrete(3)})

    class Env(gym.Env[Any, Any]):
        observation_space, action_space = space, spaces.Discrete(2)

        def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
            super().reset(seed=seed)
            return space.sample(), {}

        def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
            return space.sample(), 1.0, False, False, {}

    pipeline = BatchPipeline(Env(), window_size=128, seed=0)
    agent = make_agent("dqn", pipeline, seed=0, dueling=dueling)
    pipeline.set_agent(agent)
    assert agent.learn(next(pipeline.episodes()))["n_updates"] == 16


@pytest.mark.parametrize(
    ("env_id", "arguments", "message"),
    [
        ("Pendulum-v1", {}, "dqn needs a Discrete action space, got Box"),
        ("CartPole-v1", {"normalize_rewards": True}, "dqn .* no normalizers"),
        ("CartPole-v1", {"hyperparams": {"clip_ratio": 0.1}}, "unknown hyperparameter 'clip_ratio'"),
        ("CartPole-v1", {"algo": "ppo", "dueling": True}, "dueling is an option of dqn"),
    ],
)
def test_what_dqn_does_not_do_is_refused(env_id: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_agent(**{"algo": "dqn", "env": gym.make(env_id), **arguments})


def test_sac_is_made_with_its_own_networks_and_hyperparameters() -> None:
    agent = make_agent("sac", gym.make("Pendulum-v1"), (32,), {"tau": 0.01}, seed=0)
    assert isinstance(agent, TorchSACAgent)
    assert [type(layer).__name__ for layer in agent._actor] == ["Linear", "ReLU", "Linear"]
    assert [net[0].in_features for net in agent._model.critics] == [4, 4]  # type: ignore[index]
    first, second = (net[0].weight for net in agent._model.critics)  # type: ignore[index]
    assert not torch.equal(first, second)
    assert agent.get_hyperparams().params["learning_rate"] == 3e-4
    assert abs(agent.act(np.zeros(3, np.float32))[0]) <= 2.0
    discrete = make_agent("sac", gym.make("CartPole-v1"))
    assert isinstance(discrete, TorchSACAgent) and discrete._model.discrete


@pytest.mark.parametrize(
    "space",
    [
        spaces.Dict({"a": spaces.Box(-1, 1, (2,)), "b": spaces.Discrete(3)}),
        spaces.MultiDiscrete([3, 4]),
        spaces.Box(0, 255, (6,), np.uint8),
        spaces.Discrete(5),
        spaces.Box(-1, 1, (2, 3)),
    ],
    ids=str,
)
def test_sac_learns_from_observations_of_every_space(space: spaces.Space[Any]) -> None:
    class Env(gym.Env[Any, Any]):
        observation_space, action_space = space, spaces.Box(-3, 3, (2,))

        def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
            super().reset(seed=seed)
            return self.observation_space.sample(), {}

        def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
            return self.observation_space.sample(), 1.0, False, False, {}

    pipeline = BatchPipeline(Env(), window_size=24, seed=0)
    agent = make_agent("sac", pipeline, (16,), {"batch_size": 16}, seed=0)
    pipeline.set_agent(agent)
    assert agent.learn(next(pipeline.episodes()))["n_updates"] == 8


@pytest.mark.parametrize(
    ("space", "arguments", "message"),
    [
        (spaces.MultiDiscrete([2, 2]), {}, "sac needs a Box action space with finite bounds, or a Discrete"),
        (spaces.Box(-np.inf, np.inf, (1,)), {}, "sac needs a Box action space with finite bounds"),
        (spaces.Box(-1, 1, (1,)), {"normalize_observations": True}, "sac .* no normalizers"),
        (spaces.Box(-1, 1, (1,)), {"hyperparams": {"taw": 0.1}}, "'taw'; the nearest known one is 'tau'"),
        (spaces.Box(-1, 1, (1,)), {"dueling": True}, "dueling is an option of dqn"),
    ],
)
def test_what_sac_does_not_do_is_refused(space: Any, arguments: dict[str, Any], message: str) -> None:
    class Env(gym.Env[Any, Any]):
        observation_space, action_space = spaces.Box(-1, 1, (2,)), space

    with pytest.raises(ValueError, match=message):
        make_agent("sac", Env(), **arguments)


def test_vector_environments_and_pipelines_serve_as_env() -> None:
    venv = gym.make_vec("CartPole-v1", num_envs=3, vectorization_mode="sync")
    assert make_agent("ppo", venv)._actor[0].in_features == 4
    pipeline = BatchPipeline(gym.make("CartPole-v1"))
    assert make_agent("ppo", pipeline)._actor[-1].out_features == 2


@pytest.mark.parametrize(
    ("space", "sample"),
    [
        (spaces.Discrete(5), 3),
        (spaces.MultiDiscrete([2, 3]), np.array([1, 2])),
        (spaces.Box(0, 255, (4, 4, 3), np.uint8), np.zeros((4, 4, 3), np.uint8)),
        (spaces.Dict({"a": spaces.Box(-1, 1, (2,)), "b": spaces.Discrete(3)}), {"a": np.zeros(2), "b": 1}),
        (spaces.Tuple((spaces.Box(-1, 1, (2,)), spaces.Discrete(3))), (np.zeros(2), 1)),
    ],
)
def test_every_kind_of_observation_can_be_acted_on(space: Any, sample: Any) -> None:
    agent = make_agent("ppo", SpacesOnly(space, spaces.Discrete(2)), seed=0)
    assert agent.act(sample) in (0, 1)


def test_dict_observations_train_end_to_end() -> None:
    class Wrapped(gym.ObservationWrapper):  # type: ignore[type-arg]
        def __init__(self) -> None:
            super().__init__(gym.make("CartPole-v1"))
            self.observation_space = spaces.Dict(
                {"x": self.env.observation_space, "phase": spaces.Discrete(2)}
            )

        def observation(self, observation: Any) -> Any:
            return {"x": observation, "phase": int(observation[0] > 0)}

    pipeline = VectorBatchPipeline([Wrapped] * 2, window_size=32, seed=0)
    agent = make_agent("ppo", pipeline, seed=0)
    pipeline.set_agent(agent)
    assert agent.learn(next(pipeline.episodes()))["n_updates"] == 10
    assert agent._actor[0].features == 6


def test_same_seed_same_weights_and_no_global_random_state_is_touched() -> None:
    env = gym.make("CartPole-v1")
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    one, two, three = (make_agent("ppo", env, seed=s) for s in (4, 4, 5))
    obs = np.zeros(4, np.float32)
    assert [one.act(obs) for _ in range(20)] == [two.act(obs) for _ in range(20)]
    assert torch.equal(one._actor[0].weight, two._actor[0].weight)
    assert not torch.equal(one._actor[0].weight, three._actor[0].weight)
    assert torch.equal(torch.random.get_rng_state(), before[0])
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])


def test_first_policy_is_nearly_uniform() -> None:
    agent = make_agent("ppo", gym.make("CartPole-v1"), seed=0)
    assert isinstance(agent, TorchPPOAgent)
    np.testing.assert_allclose(agent.action_probs(np.ones(4, np.float32)), 0.5, atol=0.05)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"algo": "ppoo"}, "algo must be one of"),
        ({"hyperparams": {"learning_rte": 1e-3}}, "'learning_rte'; the nearest known one is 'learning_rate'"),
        ({"hyperparams": {"gamma": 2.0}}, "gamma must be between"),
        ({"activation": "sigmoidal"}, "activation must be one of"),
        ({"norm": "group"}, "norm must be one of layer, rms, batch, batch_renorm or None, got 'group'"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1, got 1.0"),
        ({"backend": "numpy"}, "backend must be"),
        ({"device": "tpu0"}, "device"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_agent(**{"algo": "ppo", "env": gym.make("CartPole-v1"), **arguments})


def test_action_space_that_ppo_does_not_serve_is_refused() -> None:
    env = SpacesOnly(spaces.Box(-1, 1, (2,)), spaces.Text(3))
    with pytest.raises(ValueError, match="ppo needs a Discrete, MultiDiscrete, MultiBinary or Box action sp"):
        make_agent("ppo", env)


class Echo(gym.Env[Any, Any]):
    """Pays for each component of the action that equals 1 where the observation is 1, else 0."""

    def __init__(self, action_space: Any) -> None:
        self.action_space = action_space
        self.observation_space = spaces.Box(0, 1, action_space.shape, np.float32)

    def _shown(self) -> Any:
        self.target = self.np_random.integers(2, size=self.action_space.shape)
        return self.target.astype(np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self._shown(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action) and action.dtype == self.action_space.dtype
        reward = float((action == self.target).mean())
        self.steps += 1
        return self._shown(), reward, self.steps == 10, False, {}


@both_backends
@pytest.mark.parametrize(
    "space",
    [spaces.MultiBinary(4), spaces.MultiDiscrete([[2, 3], [4, 2]])],
    ids=str,
)
def test_ppo_learns_actions_of_many_components(space: Any, backend: str) -> None:
    pipeline = VectorBatchPipeline([lambda: Echo(space)] * 8, window_size=64, seed=0)
    agent = make_agent("ppo", pipeline, (32,), {"learning_rate": 1e-2}, seed=0, backend=backend)
    pipeline.set_agent(agent)
    for _, data in zip(range(8), pipeline.episodes(), strict=False):
        assert data.actions.shape == (512, *space.shape)
        agent.learn(data)
    assert evaluate_policy(agent, lambda: Echo(space), 10).return_mean > 9.0  # of 10; by chance 5 or less
    single = BatchPipeline(Echo(space), agent, 32, seed=0)
    assert agent.learn(next(single.episodes()))["n_updates"] > 0
    action = agent.act(Echo(space).reset(seed=0)[0])
    assert space.contains(action) and action.dtype == space.dtype


@pytest.mark.parametrize("algo", ["ppo", "sac", "td3", "tqc", "crossq"])
def test_actions_of_a_box_without_dimensions_are_floats(algo: str) -> None:
    env = SpacesOnly(spaces.Box(-1, 1, (3,)), spaces.Box(-2, 2, ()))
    observation = np.array([0.3, -0.2, 0.9], np.float32)
    acted = [
        make_agent(algo, env, (8,), seed=0, backend=backend, device="cpu").act(observation, deterministic)
        for backend in ("auto", "torch")
        for deterministic in (False, True)
    ]
    assert all(np.shape(action) == () and float(action) != int(action) for action in acted)
    np.testing.assert_allclose(acted[:2], acted[2:], rtol=1e-5)


@both_backends
def test_a_flag_may_be_one_or_zero(backend: str) -> None:
    pipeline = BatchPipeline(gym.make("CartPole-v1"), window_size=16, seed=0)
    params = {"double_q": 1, "batch_size": 4}
    agent = make_agent("dqn", pipeline, (8,), params, seed=0, backend=backend, device="cpu")
    pipeline.set_agent(agent)
    assert agent.learn(next(pipeline.episodes()))["n_updates"] > 0


@pytest.mark.parametrize("algo", ["dqn", "sac", "td3", "tqc", "crossq"])
def test_actions_of_many_components_are_for_ppo(algo: str) -> None:
    for space in (spaces.MultiBinary(3), spaces.MultiDiscrete([[2, 2]])):
        with pytest.raises(ValueError, match=f"{algo} needs a .* action space.*, got Multi"):
            make_agent(algo, Echo(space))


def test_normalizing_observations_that_are_not_boxes_is_refused() -> None:
    env = SpacesOnly(spaces.Discrete(3), spaces.Discrete(2))
    with pytest.raises(ValueError, match="normalize_observations needs Box"):
        make_agent("ppo", env, normalize_observations=True)


def test_something_without_spaces_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="env must have observation_space"):
        make_agent("ppo", "CartPole-v1")


def test_a_hyperparam_set_counts_as_its_params() -> None:
    agent = make_agent("ppo", gym.make("CartPole-v1"), hyperparams=HyperparamSet({"clip_ratio": 0.3}))
    assert agent.get_hyperparams().params["clip_ratio"] == 0.3
    with pytest.raises(ValueError, match="unknown hyperparameter 'lr'; it is called 'learning_rate' here"):
        make_agent("ppo", gym.make("CartPole-v1"), hyperparams=HyperparamSet({"lr": 0.3}))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"hidden_sizes": 64}, TypeError, r"hidden_sizes must be a sequence of widths .* got 64"),
        ({"hidden_sizes": (64, 0)}, ValueError, "hidden_sizes must be an integer of at least 1, got 0"),
        ({"hidden_sizes": (64.5,)}, ValueError, "hidden_sizes must be an integer of at least 1, got 64.5"),
        ({"seed": -1}, ValueError, "seed must be at least 0, or None, got -1"),
        ({"hyperparams": {"n_epochs": 2.5}}, ValueError, "n_epochs must be a whole number, got 2.5"),
    ],
)
def test_arguments_of_the_wrong_kind_are_named(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make_agent("ppo", gym.make("CartPole-v1"), **arguments)


def test_agents_know_the_observations_they_were_made_for() -> None:
    agent = make_agent("dqn", gym.make("CartPole-v1"), seed=0, backend="torch")
    with pytest.raises(ValueError, match=r"observation must have shape \[4\].* got \[3\]"):
        agent.act(np.zeros(3, np.float32))
