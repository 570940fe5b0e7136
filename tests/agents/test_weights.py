"""What weight files belong to, and agents from their files alone."""

from __future__ import annotations

import copy
import json
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from ppo_cases import OBS, assert_same, cartpole_window, discrete_agent, gaussian_agent
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from optix_fast.agents import (
    Agent,
    PPOAgent,
    TorchAgent,
    TorchDQNAgent,
    TorchGaussianPPOAgent,
    TorchPPOAgent,
    TorchSACAgent,
    make_agent,
)
from optix_fast.agents.files.cards import make_space, of_space
from optix_fast.envs.normalizers import ObsNormalizer, RewardNormalizer
from optix_fast.optimizers import RMSpropTF
from optix_fast.pipelines import VectorBatchPipeline
from optix_fast.types import HyperparamSet, no_recording

CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "ppo": ("ppo", "CartPole-v1", {}),
    "ppo with everything": (
        "ppo", "Pendulum-v1", {"normalize_observations": True, "normalize_rewards": True, "log_std": "free"}
    ),
    "ppo unsquashed": ("ppo", "Pendulum-v1", {"squash": False, "activation": "gelu"}),
    "dqn": ("dqn", "CartPole-v1", {"hyperparams": {"batch_size": 16, "per_alpha": 0.6}}),
    "ppo with norms": ("ppo", "CartPole-v1", {"norm": "layer", "residual": True}),
    "ppo on batches": ("ppo", "CartPole-v1", {"norm": "batch", "dropout": 0.1}),
    "dqn on batches": (
        "dqn", "CartPole-v1", {"norm": "batch_renorm", "dropout": 0.2, "hyperparams": {"batch_size": 16}}
    ),
    "dqn dueling": ("dqn", "CartPole-v1", {"dueling": True, "hyperparams": {"batch_size": 16}}),
    "sac": ("sac", "Pendulum-v1", {"hyperparams": {"batch_size": 16, "tau": 0.02}}),
    "td3": ("td3", "Pendulum-v1", {"hyperparams": {"batch_size": 16, "policy_delay": 3}}),
    "tqc": ("tqc", "Pendulum-v1", {"hyperparams": {"batch_size": 16, "n_critics": 3, "n_quantiles": 7}}),
    "crossq": ("crossq", "Pendulum-v1", {"hyperparams": {"batch_size": 16, "policy_delay": 2}}),
    "sac discrete": ("sac", "CartPole-v1", {"hyperparams": {"batch_size": 16}}),
}  # fmt: skip


class Spaces(gym.Env[Any, Any]):
    """An environment that is nothing but its spaces."""

    def __init__(self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> None:
        self.observation_space, self.action_space = observation_space, action_space


def trained(name: str, windows: int = 1) -> tuple[Agent, Any]:
    """An agent that has learned something, and the windows that follow."""
    algo, env_id, options = CASES[name]
    agent = make_agent(algo, gym.make(env_id), (16,), seed=0, **options)
    pipeline = VectorBatchPipeline([lambda: gym.make(env_id)] * 2, agent, window_size=32, seed=0)
    episodes = pipeline.episodes()
    for _ in range(windows):
        agent.learn(next(episodes))
    return agent, episodes


def observations_of(agent: Agent, n: int = 5) -> np.ndarray[Any, Any]:
    width = agent._acting.observation_space.shape[0]
    return np.random.default_rng(0).normal(size=(n, width)).astype(np.float32)


def unmark(file: Path) -> None:
    """Make a file one of an older version."""
    with safe_open(file, "pt") as opened:
        tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
        metadata = opened.metadata()
    del metadata["optix_fast.save"]
    save_file(tensors, file, metadata)


# --- what is refused --------------------------------------------------------------------------------


def assert_refused(source: Agent, target: Agent, path: Path, message: str) -> None:
    source.save_weights(str(path))
    before = target.state_dict()
    for load in (target.load_weights, lambda p: target.average_weights([p, p])):
        with pytest.raises(RuntimeError, match=message):
            load(str(path))
    assert_same(target.state_dict(), before)


def test_a_normalizer_on_one_side_only_is_refused(tmp_path: Path) -> None:
    plain, normalized = discrete_agent(), discrete_agent(obs_normalizer=ObsNormalizer((4,)))
    assert_refused(normalized, plain, tmp_path / "a", "the file has an obs_normalizer, this agent does not")
    assert_refused(plain, normalized, tmp_path / "b", "this agent has an obs_normalizer, the file does not")


def test_a_normalizer_without_a_card_is_refused_too(tmp_path: Path) -> None:
    source, plain = discrete_agent(obs_normalizer=ObsNormalizer((4,))), discrete_agent()
    source.save_weights(str(tmp_path))
    for name in ("actor", "critic"):
        (tmp_path / f"{name}.safetensors").unlink()
        torch.save(getattr(source, name).state_dict(), tmp_path / f"{name}.pt")
    unmark(tmp_path / "policy.safetensors")
    with pytest.raises(RuntimeError, match="the saved policy has obs_normalizer, this agent does not"):
        plain.load_weights(str(tmp_path))


def test_another_activation_is_refused(tmp_path: Path) -> None:
    env = gym.make("CartPole-v1")
    tanh, relu = (make_agent("ppo", env, (8,), seed=0, activation=name) for name in ("tanh", "relu"))
    assert_refused(tanh, relu, tmp_path, "actor.1 is Tanh in the file, ReLU here")


def test_another_algorithm_is_refused_by_its_name(tmp_path: Path) -> None:
    ppo, _ = trained("ppo", 0)
    dqn, _ = trained("dqn", 0)
    sac, _ = trained("sac discrete", 0)
    assert_refused(ppo, dqn, tmp_path / "a", "those of a ppo agent, this is a dqn agent")
    assert_refused(sac, ppo, tmp_path / "b", "those of a sac agent, this is a ppo agent")


def test_other_bounds_of_the_actions_are_refused(tmp_path: Path) -> None:
    narrow, wide = (gaussian_agent(action_space=spaces.Box(-b, b, (1,))) for b in (1.0, 2.0))
    assert_refused(narrow, wide, tmp_path, r"action_space is Box\(-1.* in the file, Box\(-2.* here")


def test_another_squashing_is_refused(tmp_path: Path) -> None:
    assert_refused(
        gaussian_agent(), gaussian_agent(squash=False), tmp_path, "squash is True in the file, False here"
    )


def test_a_first_action_of_another_number_is_refused(tmp_path: Path) -> None:
    one, other = discrete_agent(), discrete_agent()
    one.bind_spaces(None, spaces.Discrete(2))
    other.bind_spaces(None, spaces.Discrete(2, start=1))
    assert_refused(one, other, tmp_path, r"action_space is Discrete\(2\) in the file, Discrete\(2, start=1\)")


def test_bounds_of_observations_do_not_matter(tmp_path: Path) -> None:
    one, other = discrete_agent(seed=1), discrete_agent(seed=2)
    one.bind_spaces(spaces.Box(-1, 1, (4,)), spaces.Discrete(2))
    other.bind_spaces(spaces.Box(-2, 2, (4,)), spaces.Discrete(2))
    one.save_weights(str(tmp_path))
    other.load_weights(str(tmp_path))
    np.testing.assert_array_equal(one.action_probs(OBS), other.action_probs(OBS))


def test_networks_of_ones_own_are_compared_as_far_as_they_are_known(tmp_path: Path) -> None:
    class Net(nn.Module):
        def __init__(self, activation: nn.Module) -> None:
            super().__init__()
            self.body, self.activation, self.head = nn.Linear(4, 8), activation, nn.Linear(8, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.activation(self.body(x)))  # type: ignore[no-any-return]

    def agent_of(activation: nn.Module) -> TorchDQNAgent:
        net = Net(activation)
        return TorchDQNAgent(net, 2, torch.optim.Adam(net.parameters()), HyperparamSet({}), device="cpu")

    assert_refused(agent_of(nn.Tanh()), agent_of(nn.ReLU()), tmp_path, "q_network.activation is Tanh")
    agent_of(nn.Tanh()).load_weights(str(tmp_path))
    with pytest.raises(RuntimeError, match=r"how to build q_network \(Net\); construct the TorchDQNAgent"):
        TorchDQNAgent.load(str(tmp_path))


# --- agents from files ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_weights_alone_make_an_agent_that_acts_alike(name: str, tmp_path: Path) -> None:
    agent, _ = trained(name)
    agent.save_weights(str(tmp_path))
    loaded = Agent.load(str(tmp_path), device="cpu", seed=3)
    assert type(loaded) is type(agent)
    observations = observations_of(agent)
    np.testing.assert_array_equal(
        loaded.act_batch(observations, deterministic=True), agent.act_batch(observations, deterministic=True)
    )
    assert loaded.get_hyperparams().params == agent.get_hyperparams().params
    assert (loaded.backend, loaded.device) == (agent.backend, agent.device)
    assert loaded._policy.head.space == agent._policy.head.space


@pytest.mark.parametrize("name", CASES)
def test_a_saved_agent_goes_on_training_where_it_was(name: str, tmp_path: Path) -> None:
    agent, windows = trained(name)
    window = next(windows)
    agent.save(str(tmp_path), replay=True)
    loaded = type(agent).load(str(tmp_path), device="cpu")
    assert_same(loaded.learn(window), agent.learn(window))
    agent_state, loaded_state = agent.state_dict(), loaded.state_dict()
    assert_same(loaded_state, agent_state)
    # save_weights over it leaves the policy alone, without the state that is no longer its own.
    agent.save_weights(str(tmp_path))
    assert Agent.load(str(tmp_path), device="cpu").env_steps == 0


def test_random_state_of_torch_is_not_touched_by_loading(tmp_path: Path) -> None:
    agent, _ = trained("sac")
    agent.save_weights(str(tmp_path))
    before = torch.random.get_rng_state()
    Agent.load(str(tmp_path), device="cpu")
    assert torch.equal(torch.random.get_rng_state(), before)


def test_rates_of_groups_and_fractions_of_counts_come_back(tmp_path: Path) -> None:
    actor, critic = nn.Linear(4, 2), nn.Linear(4, 1)
    optimizer = torch.optim.AdamW(
        [{"params": actor.parameters(), "lr": 1e-4}, {"params": critic.parameters(), "lr": 1e-3}],
        weight_decay=0.2,
    )
    agent = TorchPPOAgent(actor, critic, optimizer, HyperparamSet({}), device="cpu")
    agent.set_hyperparams(HyperparamSet({"n_epochs": 3.4, "learning_rate": 2e-4}))
    agent.save_weights(str(tmp_path))
    loaded = TorchPPOAgent.load(str(tmp_path), device="cpu")
    assert type(loaded._optimizer) is torch.optim.AdamW
    assert [(g["lr"], g["weight_decay"]) for g in loaded._groups()] == [(2e-4, 0.2), (2e-3, 0.2)]
    assert loaded.get_hyperparams().params["n_epochs"] == 3.4


def test_the_packages_own_optimizer_comes_back(tmp_path: Path) -> None:
    agent, windows = trained("sac")
    window = next(windows)
    rest: dict[str, Any] = {"lr": 2e-4, "alpha": 0.9, "eps": 1e-5, "momentum": 0.3, "centered": True}
    agent._model.actor_optimizer = RMSpropTF(agent.actor.parameters(), **rest)
    agent.learn(window)
    agent.save(str(tmp_path), replay=True)
    loaded: Any = Agent.load(str(tmp_path), device="cpu")
    own = loaded._model.actor_optimizer
    assert type(own) is RMSpropTF and {key: own.param_groups[0][key] for key in rest} == rest
    assert_same(loaded.learn(window), agent.learn(window))
    assert_same(loaded.state_dict(), agent.state_dict())


def test_an_optimizer_that_cannot_be_built_is_named(tmp_path: Path) -> None:
    class Mine(torch.optim.SGD):
        pass

    agent, _ = trained("sac")
    agent._model.actor_optimizer = Mine(agent.actor.parameters(), lr=0.1)
    agent.save_weights(str(tmp_path))
    with pytest.raises(RuntimeError, match="does not say how to build its actor optimizer; construct the"):
        Agent.load(str(tmp_path), device="cpu")


def test_the_generic_agent_loads_and_its_loss_function_cannot(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.LeakyReLU(0.2), nn.Linear(8, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    agent = TorchAgent(model, optimizer, HyperparamSet({"gamma": 0.5}), device="cpu")
    agent.save_weights(str(tmp_path / "a"))
    loaded = TorchAgent.load(str(tmp_path / "a"), device="cpu")
    np.testing.assert_array_equal(loaded.action_probs(OBS), agent.action_probs(OBS))
    assert loaded.get_hyperparams().params["gamma"] == 0.5
    own = TorchAgent(model, optimizer, HyperparamSet({}), lambda m, d, t: t.sum(), device="cpu")
    own.save_weights(str(tmp_path / "b"))
    with pytest.raises(RuntimeError, match="how to build its compute_loss_fn; construct the TorchAgent"):
        TorchAgent.load(str(tmp_path / "b"))


def test_the_class_decides_what_it_loads(tmp_path: Path) -> None:
    class Mine(TorchPPOAgent):
        pass

    base = discrete_agent()
    base.save_weights(str(tmp_path / "theirs"))
    mine = Mine(base.actor, base.critic, base._optimizer, HyperparamSet({}), device="cpu")
    mine.save_weights(str(tmp_path / "mine"))
    assert type(Mine.load(str(tmp_path / "mine"), device="cpu")) is Mine
    assert type(PPOAgent.load(str(tmp_path / "theirs"), device="cpu")) is TorchPPOAgent
    for kind, folder, message in (
        (Agent, "mine", "holds a .*Mine; call Mine.load"),
        (TorchDQNAgent, "theirs", "holds a TorchPPOAgent; call TorchPPOAgent.load"),
        (TorchGaussianPPOAgent, "theirs", "holds a TorchPPOAgent"),
    ):
        with pytest.raises(RuntimeError, match=message):
            kind.load(str(tmp_path / folder))


def test_networks_that_share_layers_are_not_rebuilt_apart(tmp_path: Path) -> None:
    trunk = nn.Linear(4, 8)
    actor, critic = nn.Sequential(trunk, nn.Linear(8, 2)), nn.Sequential(trunk, nn.Linear(8, 1))
    optimizer = torch.optim.Adam([*actor.parameters(), *critic[1].parameters()])
    TorchPPOAgent(actor, critic, optimizer, HyperparamSet({}), device="cpu").save_weights(str(tmp_path))
    with pytest.raises(RuntimeError, match="how to build networks that share parameters"):
        Agent.load(str(tmp_path))


def test_directories_that_say_nothing_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        Agent.load(str(tmp_path / "nowhere"))
    torch.save(discrete_agent().actor.state_dict(), tmp_path / "actor.pt")
    with pytest.raises(ValueError, match="does not say what its weights belong to; construct the agent"):
        Agent.load(str(tmp_path))


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(-1, 1, (2, 3)),
        spaces.Box(np.array([-1.5, -np.inf]), np.array([2.0, np.inf]), dtype=np.float64),
        spaces.Box(0, 255, (4, 4), np.uint8),
        spaces.Discrete(5, start=-2),
        spaces.MultiDiscrete([3, 4]),
        spaces.MultiBinary(3),
        spaces.Dict({"a": spaces.Box(-1, 1, (2,)), "b": spaces.Tuple((spaces.Discrete(3),))}),
    ],
    ids=str,
)
def test_spaces_survive_their_description(space: spaces.Space[Any]) -> None:
    described = json.loads(json.dumps(of_space(space), allow_nan=False))
    assert make_space(described) == space


def test_observations_of_several_kinds_come_back_with_their_encoder(tmp_path: Path) -> None:
    class Env(gym.Env[Any, Any]):
        observation_space = spaces.Dict({"a": spaces.Box(-1, 1, (2,)), "b": spaces.Discrete(3)})
        action_space = spaces.Box(-3, 3, (2,))

    agent = make_agent("sac", Env(), (8,), seed=0)
    agent.save_weights(str(tmp_path))
    loaded = TorchSACAgent.load(str(tmp_path), device="cpu")
    observation = {"a": np.ones(2, np.float32), "b": np.array(2)}
    np.testing.assert_array_equal(agent.predict(observation)[0], loaded.predict(observation)[0])


# --- copies and pickles -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("how", [copy.deepcopy, lambda agent: pickle.loads(pickle.dumps(agent))])
def test_copies_go_on_alike_and_apart(name: str, how: Any) -> None:
    agent, windows = trained(name)
    other = how(agent)
    assert_same(other.state_dict(), agent.state_dict())
    window, before = next(windows), agent.state_dict()
    learned = other.learn(window)
    assert_same(agent.state_dict(), before)
    assert_same(agent.learn(window), learned)
    assert other.backend == agent.backend


def test_the_files_of_several_agents_in_one_directory_are_told_apart(tmp_path: Path) -> None:
    ppo, dqn = trained("ppo")[0], trained("dqn")[0]
    for agent in (ppo, dqn):
        agent.save_weights(str(tmp_path))
    fresh = trained("dqn", 0)[0]
    fresh.load_weights(str(tmp_path))
    assert_same(fresh.q_network.state_dict(), dqn.q_network.state_dict())  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=r"several agents \(dqn, ppo\); keep those of one"):
        Agent.load(str(tmp_path))


def test_a_new_temperature_counts_beside_an_older_one(tmp_path: Path) -> None:
    agent = trained("sac", 0)[0]
    np.save(tmp_path / "log_alpha.npy", np.float32(3.0))
    agent.save_weights(str(tmp_path))
    agent.load_weights(str(tmp_path))
    assert agent.alpha == pytest.approx(1.0)  # type: ignore[attr-defined]


def test_infinite_settings_are_written_and_read(tmp_path: Path) -> None:
    actor = nn.Sequential(nn.Linear(4, 8), nn.PReLU(), nn.Hardtanh(-2.0, 3.0), nn.Linear(8, 2))
    critic = nn.Sequential(nn.Linear(4, 8), nn.CELU(0.5), nn.Linear(8, 1))
    agent = TorchPPOAgent(
        actor, critic, torch.optim.Adam([*actor.parameters(), *critic.parameters()]),
        HyperparamSet({"max_grad_norm": float("inf")}), "cpu", RewardNormalizer(clip=float("inf")),
        obs_normalizer=ObsNormalizer((4,), clip=float("inf")), action_space=spaces.Discrete(2),
    )  # fmt: skip
    agent.save(str(tmp_path))
    loaded = TorchPPOAgent.load(str(tmp_path))
    assert loaded.get_hyperparams().params["max_grad_norm"] == float("inf")
    assert loaded.obs_normalizer is not None and loaded.obs_normalizer.clip == float("inf")
    assert str(loaded.actor) == str(actor) and str(loaded.critic) == str(critic)
    np.testing.assert_array_equal(loaded.action_probs(OBS), agent.action_probs(OBS))


# --- predict and public networks --------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_predict_answers_one_and_many_and_leaves_training_alone(name: str) -> None:
    agent, _ = trained(name)
    undisturbed = copy.deepcopy(agent)
    observations = observations_of(agent)
    one, state = agent.predict(observations[0], state="passed on")
    many, _ = agent.predict(observations, episode_start=np.ones(5, bool))
    assert state == "passed on" and len(many) == 5
    np.testing.assert_allclose(many[0], one, rtol=1e-5)
    with no_recording():
        np.testing.assert_array_equal(one, undisturbed.act(observations[0], deterministic=True))
    agent.predict(observations[0], deterministic=False)
    streams = agent.state_dict()["streams"]
    assert streams["rollout"] == undisturbed.state_dict()["streams"]["rollout"]
    assert streams["evaluation"] != undisturbed.state_dict()["streams"]["evaluation"]


def test_predict_asks_an_act_of_ones_own() -> None:
    class Always(TorchPPOAgent):
        def act(self, observation: Any, deterministic: bool = False) -> int:
            return 1

    base = discrete_agent()
    agent = Always(base.actor, base.critic, base._optimizer, HyperparamSet({}), device="cpu")
    assert agent.predict(OBS)[0] == 1
    assert agent.predict(np.stack([OBS] * 3))[0].tolist() == [1, 1, 1]


def test_networks_are_public() -> None:
    ppo, dqn, sac = (trained(name, 0)[0] for name in ("ppo", "dqn", "sac"))
    assert isinstance(ppo, TorchPPOAgent) and isinstance(dqn, TorchDQNAgent)
    assert isinstance(sac, TorchSACAgent) and len(sac.critics) == 2
    for network in (ppo.actor, ppo.critic, dqn.q_network, sac.actor, *sac.critics):
        assert isinstance(network, nn.Module)


def test_predict_takes_the_mask_out_of_the_observations() -> None:
    space = spaces.Dict({"seen": spaces.Box(-1, 1, (3,)), "action_mask": spaces.MultiBinary(4)})
    agent = make_agent("ppo", Spaces(space, spaces.Discrete(4)), seed=0)
    mask = np.array([0, 0, 1, 0], np.int8)
    many = {"seen": np.zeros((20, 3), np.float32), "action_mask": np.tile(mask, (20, 1))}
    one = {"seen": np.zeros(3, np.float32), "action_mask": mask}
    assert agent.predict(one, deterministic=False)[0] == 2
    assert agent.predict(many, deterministic=False)[0].tolist() == [2] * 20
    assert agent.act_batch(many).tolist() == [2] * 20


@pytest.mark.parametrize(
    "space", [spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(3), spaces.Box(-1, 1, (2,))]
)
def test_probabilities_are_of_discrete_actions_only(space: spaces.Space[Any]) -> None:
    agent = make_agent("ppo", Spaces(spaces.Box(-1, 1, (3,)), space), seed=0)
    with pytest.raises(ValueError, match=f"needs a Discrete action space, got {type(space).__name__}"):
        agent.action_probs(np.zeros(3, np.float32))  # type: ignore[attr-defined]


BACKENDS = ["auto", "torch", pytest.param("native", marks=pytest.mark.native)]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("bound", [True, False])
def test_observations_of_another_shape_are_named(backend: str, bound: bool) -> None:
    agent = discrete_agent(backend=backend, reward_normalizer=RewardNormalizer())
    if bound:
        agent.bind_spaces(gym.make("CartPole-v1").observation_space, spaces.Discrete(2))
    assert agent.act(OBS.tolist()) in (0, 1)
    if backend != "native":
        assert agent.act([0, 1, 0, -1]) in (0, 1)
    for wrong, shape in ((OBS[:3], r"\[3\]"), (np.stack([OBS] * 2), r"\[2, 4\]" if bound else "")):
        if shape:
            with pytest.raises(ValueError, match=rf"observation must have shape \[4\].* got {shape}"):
                agent.act(wrong)
    if bound:
        with pytest.raises(TypeError, match="observation must be one array, got a dict"):
            agent.act({"x": OBS})
        with pytest.raises(ValueError, match=r"observation must have shape \[4\].* got \[3\]"):
            agent.act_batch(np.zeros((2, 3), np.float32))
    assert agent.learn(cartpole_window(agent))["n_updates"] > 0


# --- one save -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ppo with everything", "dqn", "sac", "td3"])
def test_a_write_that_fails_leaves_the_files_of_the_earlier_save(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent, episodes = trained(name)
    agent.save(str(tmp_path))
    saved = agent.state_dict(replay=False)
    old = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    agent.learn(next(episodes))
    sync = os.fsync

    def full_disk(room: Iterator[int], handle: int) -> None:
        if next(room, None) is None:
            raise OSError(28, "No space left on device")
        sync(handle)

    with monkeypatch.context() as patched:
        for files in range(len(old)):
            patched.setattr(os, "fsync", partial(full_disk, iter(range(files))))
            with pytest.raises(OSError, match="No space"):
                agent.save(str(tmp_path))
            assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == old
    loaded = Agent.load(str(tmp_path), device="cpu")
    assert_same(loaded.state_dict(replay=False), saved)


def test_a_state_that_is_not_there_is_named(tmp_path: Path) -> None:
    agent, _ = trained("ppo")
    agent.save(str(tmp_path))
    (tmp_path / "state.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"state\.safetensors"):
        Agent.load(str(tmp_path), device="cpu")


def test_networks_of_two_saves_are_refused_by_their_names(tmp_path: Path) -> None:
    agent, _ = trained("ppo")
    one, other = tmp_path / "one", tmp_path / "other"
    agent.save_weights(str(one))
    agent.save_weights(str(other))
    shutil.copy(other / "critic.safetensors", one)
    before = agent.state_dict()
    message = r"mixes the files of 2 saves: actor\.safetensors \| critic\.safetensors"
    loads: list[Callable[[str], Any]] = [
        agent.load_weights, Agent.load, lambda path: agent.average_weights([str(other), path])
    ]  # fmt: skip
    for load in loads:
        with pytest.raises(ValueError, match=message):
            load(str(one))
    assert_same(agent.state_dict(), before)
    unmark(one / "critic.safetensors")  # a new save over one of an older version
    with pytest.raises(ValueError, match=message):
        agent.load_weights(str(one))


@pytest.mark.parametrize("file", ["policy", "state"])
def test_a_normalizer_or_a_state_of_another_save_is_refused(file: str, tmp_path: Path) -> None:
    agent, _ = trained("ppo with everything")
    one, other = tmp_path / "one", tmp_path / "other"
    agent.save(str(one))
    agent.save(str(other))
    shutil.copy(other / f"{file}.safetensors", one)
    with pytest.raises(ValueError, match=rf"mixes the files of 2 saves: .*{file}\.safetensors"):
        Agent.load(str(one))


def test_a_killed_process_leaves_files_that_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent, _ = trained("dqn")
    agent.save(str(tmp_path))
    rename = os.replace
    renamed = []

    def killed(source: Path, target: Path) -> None:
        if renamed:
            raise KeyboardInterrupt
        rename(source, target)
        renamed.append(target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        agent.save(str(tmp_path))
    with pytest.raises(ValueError, match="mixes the files of 2 saves"):
        Agent.load(str(tmp_path))
    assert {file.suffix for file in tmp_path.iterdir()} == {".safetensors"}


def test_files_of_an_older_version_have_no_mark_and_load(tmp_path: Path) -> None:
    agent, _ = trained("ppo with everything")
    agent.save(str(tmp_path))
    for file in tmp_path.iterdir():
        unmark(file)
    assert_same(Agent.load(str(tmp_path), device="cpu").state_dict(), agent.state_dict())
