"""The SAC agent: when it learns, how it acts, what it refuses, saving and resuming."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from backends import both_backends
from gymnasium import spaces
from ppo_cases import assert_same
from torch import nn

from optix_fast import _native
from optix_fast.agents import TorchSACAgent
from optix_fast.networks import mlp
from optix_fast.pipelines import BatchPipeline, VectorBatchPipeline
from optix_fast.random import RandomStream
from optix_fast.types import EpisodeData, HyperparamSet, NonFiniteError, no_recording

BOX = spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([2.0, 10.0], np.float32))


def adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=1e-3)


def agent_of(
    params: dict[str, Any] | None = None,
    seed: int = 0,
    features: int = 3,
    width: int = 1,
    discrete: bool = False,
    **kwargs: Any,
) -> TorchSACAgent:
    """An agent of small networks; for Pendulum unless told otherwise."""
    generator = torch.Generator().manual_seed(seed)
    actor = mlp([features, 16, width if discrete else 2 * width], "tanh", 0.1, generator)
    sizes = [features, 16, width] if discrete else [features + width, 16, 1]
    critics = [mlp(sizes, "tanh", 1.0, generator) for _ in range(2)]
    given: dict[str, Any] = {
        "actor": actor, "critic1": critics[0], "critic2": critics[1], "action_dim": width,
        "actor_optimizer": adam(actor.parameters()),
        "critic_optimizer": adam([p for net in critics for p in net.parameters()]),
        "alpha_optimizer": adam([torch.zeros(1)]),
        "hyperparams": HyperparamSet({"batch_size": 16, "replay_capacity": 500, **(params or {})}),
        "device": "cpu", "seed": seed, "discrete": discrete,
    }  # fmt: skip
    return TorchSACAgent(**{**given, **kwargs})


def pipeline_of(agent: TorchSACAgent, window: int = 32, n_envs: int = 2) -> VectorBatchPipeline:
    return VectorBatchPipeline([lambda: gym.make("Pendulum-v1")] * n_envs, agent, window_size=window, seed=5)


def learn(agent: TorchSACAgent, pipeline: Any, windows: int) -> list[dict[str, Any]]:
    return [agent.learn(w) for _, w in zip(range(windows), pipeline.episodes(), strict=False)]


def window_of(n: int, width: int = 1, **fields: Any) -> EpisodeData:
    """Row t observes (t, 0, 0), does all-zero actions and gets reward t."""
    observations = np.zeros((n + 1, 3), np.float32)
    observations[:, 0] = np.arange(n + 1)
    given: dict[str, Any] = {
        "observations": observations[:-1], "actions": np.zeros((n, width), np.float32),
        "rewards": np.arange(n, dtype=np.float32), "terminated": np.zeros(n, np.bool_),
        "truncated": np.zeros(n, np.bool_), "infos": [{}] * n, "episode_id": 0,
        "next_observations": observations[-1:],
    }  # fmt: skip
    return EpisodeData(**{**given, **fields})


# --- acting -------------------------------------------------------------------------------------


def test_first_steps_are_uniform_within_the_bounds_then_the_policy_acts() -> None:
    agent = agent_of({"learning_starts": 2000}, width=2, action_space=BOX)
    actions = np.stack([agent.act(np.zeros(3, np.float32)) for _ in range(2000)])
    assert actions.dtype == np.float32 and actions.shape == (2000, 2)
    np.testing.assert_allclose(actions.mean(axis=0), [0.0, 5.0], atol=0.3)
    # Of a uniform number between ±1: 1/√3 = 0.577.
    np.testing.assert_allclose(actions.std(axis=0), [0.577 * 2, 0.577 * 5], rtol=0.05)
    with torch.no_grad():
        agent._actor[-1].bias.copy_(torch.tensor([3.0, -3.0, -5.0, -5.0]))  # type: ignore[index, operator]
    action = agent.act(np.zeros(3, np.float32))
    np.testing.assert_allclose(action, [2.0, 0.0], atol=0.1)


def test_uniform_actions_are_repeated_as_often_as_asked() -> None:
    agent = agent_of({"learning_starts": 12, "uniform_action_repeat": 4}, action_space=BOX, width=2)
    actions = np.stack([agent.act(np.zeros(3, np.float32)) for _ in range(12)])
    for begin in (0, 4, 8):
        np.testing.assert_array_equal(actions[begin : begin + 4], np.tile(actions[begin], (4, 1)))
    assert len(np.unique(actions, axis=0)) == 3


def test_a_repeated_action_goes_on_after_resuming() -> None:
    params = {"learning_starts": 12, "uniform_action_repeat": 4}
    agent, resumed = (agent_of(params, seed, action_space=BOX, width=2) for seed in (0, 1))
    before = [agent.act(np.zeros(3, np.float32)) for _ in range(2)]
    resumed.load_state_dict(agent.state_dict())
    after = [resumed.act(np.zeros(3, np.float32)) for _ in range(6)]
    np.testing.assert_array_equal(after[:2], before)
    np.testing.assert_array_equal(after, [agent.act(np.zeros(3, np.float32)) for _ in range(6)])


def test_a_repeated_action_gives_way_to_a_mask() -> None:
    agent = agent_of({"learning_starts": 300, "uniform_action_repeat": 300}, width=3, discrete=True)
    free, masks = np.ones((2, 3), np.bool_), np.array([[True, False, False], [True, True, True]])
    stream = RandomStream(0)
    first = agent._uniform.act(2, stream, free)
    second = agent._uniform.act(2, stream, masks)
    assert second[0] == 0 and second[1] == first[1]
    np.testing.assert_array_equal(agent._uniform.act(2, stream, free), second)


@both_backends
def test_each_environment_counts_among_the_uniform_steps(backend: str) -> None:
    agent = agent_of({"learning_starts": 20}, backend=backend)
    with torch.no_grad():
        agent._actor[-1].weight.zero_()  # type: ignore[index, operator]
        agent._actor[-1].bias.copy_(torch.tensor([0.5, -5.0]))  # type: ignore[index, operator]
    (window,) = [w for _, w in zip(range(1), pipeline_of(agent, 8, n_envs=4).episodes(), strict=False)]
    # Pendulum's actions are within ±2. Five rows of four environments are uniform, three are the policy's.
    is_policys = np.abs(window.grid("actions")[..., 0] - 2 * np.tanh(0.5)).max(axis=1) < 0.1
    assert is_policys.tolist() == [False] * 5 + [True] * 3


def test_evaluation_and_deterministic_actions_are_the_policys_from_the_start() -> None:
    agent = agent_of()
    with torch.no_grad():
        agent._actor[-1].weight.zero_()  # type: ignore[index, operator]
        agent._actor[-1].bias.copy_(torch.tensor([0.5, -5.0]))  # type: ignore[index, operator]
    observation = np.zeros(3, np.float32)
    assert agent.act(observation, deterministic=True) == pytest.approx(np.tanh(0.5), abs=1e-6)
    with no_recording():
        assert abs(agent.act(observation)[0] - np.tanh(0.5)) < 0.05
    assert np.abs(agent.act_batch(np.zeros((5, 3), np.float32)) - np.tanh(0.5)).max() < 0.05


def test_loaded_weights_act_at_once(tmp_path: Path) -> None:
    agent = agent_of({"learning_starts": 100})
    agent.save_weights(str(tmp_path))
    agent.load_weights(str(tmp_path))
    assert agent._uniform.steps == 0


@both_backends
def test_actions_are_stored_between_minus_one_and_one(backend: str) -> None:
    agent = agent_of({"learning_starts": 40}, backend=backend)
    learn(agent, pipeline_of(agent), 2)
    stored = agent._experience.buffer.replay.batch(np.arange(128)).actions
    assert np.abs(stored).max() <= 1.0 and 0.3 < stored[:40].std() < 0.8


# --- learning -----------------------------------------------------------------------------------


def test_each_transition_earns_its_updates_once_enough_are_stored() -> None:
    agent = agent_of({"learning_starts": 20, "updates_per_step": 0.5})
    assert [agent.learn(window_of(n))["n_updates"] for n in (13, 13, 13)] == [0, 3, 6]
    assert agent.updates == 9 and agent.env_steps == 39
    idle = agent_of().learn(window_of(4))
    assert idle["critic_loss"] == idle["actor_loss"] == 0.0 and idle["alpha"] == 1.0


@pytest.mark.native
@pytest.mark.parametrize("params", [{}, {"per_alpha": 0.6, "n_step": 3}], ids=["uniform", "per"])
def test_backends_learn_the_same(params: dict[str, Any]) -> None:
    native, in_torch = (agent_of(params, backend=b) for b in ("native", "torch"))
    diagnostics = [learn(agent, pipeline_of(agent), 2)[-1] for agent in (native, in_torch)]
    assert native.updates == in_torch.updates == 2 * 64 - 16
    for name in ("critic_loss", "actor_loss", "alpha", "entropy", "q_value"):
        assert diagnostics[0][name] == pytest.approx(diagnostics[1][name], rel=1e-3, abs=1e-4), name
    for ours, theirs in zip(
        native._model.modules().values(), in_torch._model.modules().values(), strict=True
    ):
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_the_same_seed_gives_the_same_bits_and_evaluation_changes_nothing() -> None:
    one, two = agent_of({"per_alpha": 0.5}), agent_of({"per_alpha": 0.5})
    learn(one, pipeline_of(one), 3)
    for _, window in zip(range(3), pipeline_of(two).episodes(), strict=False):
        two.learn(window)
        with no_recording():
            two.act(np.zeros(3, np.float32))
    ours, theirs = one.state_dict(), two.state_dict()
    ours["streams"].pop("evaluation")
    theirs["streams"].pop("evaluation")
    assert_same(ours, theirs)


def test_a_categorical_policy_learns_in_torch_and_says_so() -> None:
    agent = agent_of(features=4, width=2, discrete=True)
    pipeline = VectorBatchPipeline([lambda: gym.make("CartPole-v1")] * 2, agent, window_size=32, seed=0)
    assert learn(agent, pipeline, 2)[-1]["n_updates"] == 64
    assert isinstance(agent.act(np.zeros(4, np.float32)), int)
    assert agent.action_probs(np.zeros(4, np.float32)).sum() == pytest.approx(1.0)
    assert agent.backend == "torch"
    if _native.core is not None:
        assert "categorical policy is updated in torch" in agent.backend.reason


def test_dict_observations_reach_critics_as_a_tree() -> None:
    space = spaces.Dict({"a": spaces.Box(-1, 1, (2,)), "b": spaces.Box(-1, 1, (1,))})

    class Actor(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(3, 2)

        def forward(self, observations: Any) -> torch.Tensor:
            return self.net(torch.cat((observations["a"], observations["b"]), dim=-1))  # type: ignore[no-any-return]

    class Critic(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(4, 1)

        def forward(self, observations: Any, actions: torch.Tensor) -> torch.Tensor:
            return self.net(torch.cat((observations["a"], observations["b"], actions), dim=-1))  # type: ignore[no-any-return]

    class Env(gym.Env[Any, Any]):
        observation_space, action_space = space, spaces.Box(-1, 1, (1,))

        def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
            super().reset(seed=seed)
            return self.observation_space.sample(), {}

        def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
            return self.observation_space.sample(), 1.0, False, False, {}

    actor, critics = Actor(), [Critic(), Critic()]
    agent = agent_of(
        actor=actor, critic1=critics[0], critic2=critics[1], actor_optimizer=adam(actor.parameters()),
        critic_optimizer=adam([p for net in critics for p in net.parameters()]),
    )  # fmt: skip
    assert learn(agent, BatchPipeline(Env(), agent, window_size=40, seed=0), 1)[0]["n_updates"] == 24


# --- which backend ------------------------------------------------------------------------------


@pytest.mark.native
def test_hooks_and_their_removal_are_seen_from_one_window_to_the_next() -> None:
    agent = agent_of()
    pipeline = pipeline_of(agent)
    learn(agent, pipeline, 1)
    assert agent.backend == "native"
    called: list[int] = []
    handle = agent._model.critics[1].register_forward_hook(lambda *_: called.append(1))
    learn(agent, pipeline, 1)
    assert agent.backend == "torch" and "critic2" in agent.backend.reason and called
    with pytest.raises(RuntimeError, match="backend='native', but critic2"):
        agent_of(critic2=agent._model.critics[1], backend="native")
    handle.remove()
    called.clear()
    learn(agent, pipeline, 1)
    assert agent.backend == "native" and not called


def test_a_replaced_layer_gets_new_targets() -> None:
    agent = agent_of()
    pipeline = pipeline_of(agent)
    learn(agent, pipeline, 1)
    critics: Any = agent._model.critics
    critics[0][1] = nn.ReLU()
    learn(agent, pipeline, 1)
    assert isinstance(agent._model.targets[0][1], nn.ReLU)  # type: ignore[index]


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD])
def test_the_temperature_gets_an_optimizer_like_the_given_one(kind: Any) -> None:
    given = kind([torch.zeros(1)], lr=0.25, weight_decay=0.125)
    agent = agent_of(alpha_optimizer=given, params={"log_alpha_init": -1.0})
    own = agent._model.alpha_optimizer
    assert type(own) is kind and own is not given
    assert own.param_groups[0]["lr"] == 0.25 and own.param_groups[0]["weight_decay"] == 0.125
    assert own.param_groups[0]["params"] == [agent._model.log_alpha]
    assert agent.alpha == pytest.approx(np.exp(-1.0))
    assert learn(agent, pipeline_of(agent), 1)[0]["n_updates"] == 48


# --- bad input ----------------------------------------------------------------------------------


def test_a_nan_reward_is_named_and_nothing_is_stored() -> None:
    agent = agent_of()
    before = agent.state_dict()
    rewards = np.ones(8, np.float32)
    rewards[3] = np.nan
    with pytest.raises(NonFiniteError, match="reward"):
        agent.learn(window_of(8, rewards=rewards))
    assert_same(agent.state_dict(), before)


@pytest.mark.parametrize(
    ("fields", "quantity"),
    [
        ({"actions": np.full((8, 1), np.nan, np.float32)}, "action"),
        ({"observations": np.full((8, 3), np.inf, np.float32)}, "observation"),
        ({"next_observations": np.full((1, 3), np.nan, np.float32)}, "observation"),
    ],
    ids=["action", "observation", "newest"],
)
def test_what_would_spoil_later_updates_is_refused_and_nothing_is_stored(
    fields: dict[str, Any], quantity: str
) -> None:
    agent = agent_of()
    agent.learn(window_of(8))
    before = agent.state_dict()
    with pytest.raises(NonFiniteError, match=quantity):
        agent.learn(window_of(8, **fields))
    assert_same(agent.state_dict(), before)


def test_an_action_that_a_categorical_policy_has_not_is_refused() -> None:
    agent = agent_of(width=2, discrete=True)
    with pytest.raises(ValueError, match="actions must be among the model's 2, got 2 to 2"):
        agent.learn(window_of(8, actions=np.full(8, 2)))
    assert len(agent._experience) == 0


@pytest.mark.parametrize(("backend", "discrete"), [("auto", False), ("torch", False), ("torch", True)])
def test_what_follows_a_terminated_row_is_not_looked_at(backend: str, discrete: bool) -> None:
    learned = []
    for last in (0.0, np.nan):
        agent = agent_of(discrete=discrete, width=2 if discrete else 1, backend=backend)
        finals = np.full((1, 3), last, np.float32)
        actions = np.zeros(32, np.int64) if discrete else np.zeros((32, 1), np.float32)
        ended = {"terminated": np.arange(32) == 31, "final_rows": np.array([31])}
        shown = {"final_observations": finals, "next_observations": finals}
        agent.learn(window_of(32, actions=actions, **ended, **shown))
        learned.append(agent.learn(window_of(32, actions=actions)))
    assert learned[0] == learned[1] and np.isfinite(learned[1]["critic_loss"])


@both_backends
def test_a_failed_update_leaves_model_and_priorities(backend: str) -> None:
    agent = agent_of({"per_alpha": 0.6}, backend=backend)
    learn(agent, pipeline_of(agent), 1)
    with torch.no_grad():
        agent._model.targets[0][0].bias[0] = torch.inf  # type: ignore[index]
        agent._model.targets[0][2].weight.fill_(torch.inf)  # type: ignore[index]
    before = agent.state_dict()["model"]
    tree = agent._experience.buffer.tree.state_dict()["priorities"][:64]
    with pytest.raises(NonFiniteError, match="critic loss"):
        learn(agent, pipeline_of(agent), 1)
    assert_same(agent.state_dict()["model"], before)
    assert torch.equal(agent._experience.buffer.tree.state_dict()["priorities"][:64], tree)


def test_a_nan_actor_stops_at_acting() -> None:
    agent = agent_of({"learning_starts": 0})
    with torch.no_grad():
        agent._actor[0].weight.fill_(torch.nan)  # type: ignore[index, operator, union-attr]
    with pytest.raises(NonFiniteError):
        agent.act(np.zeros(3, np.float32))


def test_spaces_that_do_not_fit_are_named() -> None:
    for space, message in (
        (spaces.Discrete(3), "needs a Box action space"),
        (spaces.Box(-np.inf, np.inf, (1,)), "must have finite bounds"),
        (spaces.Box(-1, 1, (2,)), "action_dim=1 needs a Box"),
        (spaces.MultiDiscrete([2, 2]), "needs a Box action space"),
    ):
        with pytest.raises(ValueError, match=message):
            agent_of().bind_spaces(None, space)
    with pytest.raises(ValueError, match=r"n_actions is 2, but the action space is Discrete\(3\)"):
        agent_of(width=2, discrete=True).bind_spaces(None, spaces.Discrete(3))
    with pytest.raises(ValueError, match="needs a Discrete action space"):
        agent_of(width=2, discrete=True).bind_spaces(None, BOX)
    agent = agent_of()
    with pytest.raises(ValueError, match="actions must have 1 values"):
        agent.learn(window_of(4, width=2))
    with pytest.raises(ValueError, match="at least one row"):
        agent.learn(window_of(0))
    with pytest.raises(ValueError, match="action_probs needs a Discrete action space"):
        agent.action_probs(np.zeros(3, np.float32))


def test_unknown_keys_are_warned_about_and_values_out_of_range_refused() -> None:
    with pytest.warns(UserWarning, match="'taw'; the nearest known one is 'tau'"):
        agent_of({"taw": 0.1})
    agent = agent_of()
    before = agent.get_hyperparams().params
    for params, message in (
        ({"gamma": 1.5}, "gamma must be between"),
        ({"tau": -0.1}, "tau must be between"),
        ({"replay_capacity": 10}, "replay_capacity must be at least batch_size"),
        ({"per_eps": 0.0}, "per_eps must be above 0"),
        ({"max_grad_norm": -1.0}, "max_grad_norm must be between"),
        ({"target_entropy": float("nan")}, "target_entropy must be finite"),
        ({"log_alpha_init": float("inf")}, "log_alpha_init must be finite"),
    ):
        with pytest.raises(ValueError, match=message):
            agent.set_hyperparams(HyperparamSet(params))
        with pytest.raises(ValueError, match=message):
            agent_of(params)
    for wrong, kind in (({"tau": None}, "a number"), ({"learn_alpha": "no"}, "True or False")):
        with pytest.raises(TypeError, match=f"^{next(iter(wrong))} must be {kind}"):
            agent.set_hyperparams(HyperparamSet(wrong))
    with pytest.raises(ValueError, match="batch_size must be at most the replay's capacity = 500, got 501"):
        agent.set_hyperparams(HyperparamSet({"batch_size": 501}))
    assert agent.get_hyperparams().params == before


def test_constructor_names_the_argument_of_the_wrong_type() -> None:
    for name in ("actor", "critic1", "critic2", "actor_optimizer", "critic_optimizer", "alpha_optimizer"):
        with pytest.raises(TypeError, match=f"^{name} must be"):
            agent_of(**{name: 3})
    with pytest.raises(TypeError, match="^hyperparams must be"):
        agent_of(hyperparams={})
    for name, wrong in (("action_dim", 0), ("action_dim", True), ("device", "gpu"), ("backend", "cuda")):
        with pytest.raises(ValueError, match=f"^{name}"):
            agent_of(**{name: wrong})


# --- hyperparameters, saving and resuming -------------------------------------------------------


def test_a_learning_rate_is_written_to_all_three_optimizers() -> None:
    agent = agent_of()
    agent.set_hyperparams(HyperparamSet({"learning_rate": 0.01, "batch_size": 8}))
    assert [o.param_groups[0]["lr"] for o in agent._model.optimizers().values()] == [0.01] * 3
    assert agent.get_hyperparams().params["learning_rate"] == 0.01
    reported = agent_of().get_hyperparams().params
    assert {"per_alpha": 0.0, "per_beta": 0.4, "n_step": 1}.items() <= reported.items()


def straight_and_resumed(one: str, other: str) -> tuple[TorchSACAgent, TorchSACAgent]:
    """An agent, and another that was given its state half-way."""
    params = {"per_alpha": 0.6, "n_step": 2}
    straight, resumed = agent_of(params, backend=one), agent_of(params, seed=3, backend=other)
    learn(straight, pipeline_of(straight), 1)
    resumed.load_state_dict(straight.state_dict())
    assert_same(resumed.state_dict(), straight.state_dict())
    for agent in (straight, resumed):
        learn(agent, pipeline_of(agent), 1)
    return straight, resumed


@both_backends
def test_resumed_training_gives_the_same_bits(backend: str) -> None:
    straight, resumed = straight_and_resumed(backend, backend)
    assert_same(resumed.state_dict(), straight.state_dict())


@pytest.mark.native
@pytest.mark.parametrize("backends", [("native", "torch"), ("torch", "native")])
def test_one_backend_goes_on_from_the_state_of_the_other(backends: tuple[str, str]) -> None:
    straight, resumed = straight_and_resumed(*backends)
    ours, theirs = (agent.state_dict()["model"] for agent in (resumed, straight))
    torch.testing.assert_close(
        ours["parameters"]["log_alpha"], theirs["parameters"]["log_alpha"], rtol=1e-4, atol=1e-5
    )
    for name, net in ours["networks"].items():
        for key, value in net.items():
            torch.testing.assert_close(value, theirs["networks"][name][key], rtol=1e-3, atol=1e-4)


def test_a_state_that_does_not_fit_changes_nothing() -> None:
    agent, other = agent_of(), agent_of({"replay_capacity": 400}, seed=1)
    for each in (agent, other):
        each.learn(window_of(32))
    before = agent.state_dict()
    with pytest.raises(ValueError, match="the state is of capacity 400, the buffer's is 500"):
        agent.load_state_dict(other.state_dict())
    assert_same(agent.state_dict(), before)


def test_weights_round_trip_and_the_targets_become_copies(tmp_path: Path) -> None:
    agent, other = agent_of(seed=1), agent_of(seed=2)
    learn(agent, pipeline_of(agent), 2)
    agent.save_weights(str(tmp_path / "w"))
    files = sorted(p.name for p in (tmp_path / "w").iterdir())
    assert files == [f"{n}.safetensors" for n in ("actor", "critic1", "critic2", "log_alpha")]
    other.load_weights(str(tmp_path / "w"))
    ours, theirs = (a.state_dict()["model"] for a in (other, agent))
    for name in ("actor", "critic1", "critic2"):
        assert_same(ours["networks"][name], theirs["networks"][name], name)
    assert_same(ours["networks"]["target2"], theirs["networks"]["critic2"])
    assert ours["parameters"]["log_alpha"] == theirs["parameters"]["log_alpha"]
    with pytest.raises(RuntimeError, match="another architecture"):
        agent_of(width=2).load_weights(str(tmp_path / "w"))
    with pytest.raises(FileNotFoundError, match="actor"):
        other.load_weights(str(tmp_path / "nowhere"))


def test_files_of_an_older_run_load(tmp_path: Path) -> None:
    source, agent = agent_of(seed=5), agent_of(seed=6)
    for name in ("actor", "critic1", "critic2"):
        torch.save(source._model.modules()[name].state_dict(), tmp_path / f"{name}.pt")
    np.save(tmp_path / "log_alpha.npy", np.array([-0.5], np.float32))
    agent.load_weights(str(tmp_path))
    assert_same(agent.state_dict()["model"]["networks"], source.state_dict()["model"]["networks"])
    assert agent._model.log_alpha.item() == -0.5


def test_average_is_the_mean_and_perturbation_scales(tmp_path: Path) -> None:
    one, two, agent = agent_of({"log_alpha_init": 1.0}, seed=1), agent_of(seed=2), agent_of(seed=3)
    one.save_weights(str(tmp_path / "1"))
    two.save_weights(str(tmp_path / "2"))
    agent.average_weights([str(tmp_path / "1"), str(tmp_path / "2")])
    weights = [a.state_dict()["model"]["networks"]["critic1"]["0.weight"] for a in (one, two, agent)]
    torch.testing.assert_close(weights[2], (weights[0] + weights[1]) / 2)
    assert agent._model.log_alpha.item() == 0.5
    agent.perturb_weights(0.1)
    factor = agent.state_dict()["model"]["networks"]["target1"]["0.weight"] / weights[2] - 1
    assert 0.05 < factor.std() < 0.2


# --- what each optimizer may train --------------------------------------------------------------


def sac_of(actor: nn.Module, critics: list[nn.Module], by_actor: Any, by_critic: Any) -> TorchSACAgent:
    template = adam([nn.Parameter(torch.zeros(()))])
    return TorchSACAgent(actor, *critics, 1, by_actor, by_critic, template, HyperparamSet({}), "cpu", seed=0)  # type: ignore[misc]


def test_one_optimizer_over_actor_and_critics_is_refused() -> None:
    actor, critics = nn.Linear(3, 2), [nn.Linear(4, 1), nn.Linear(4, 1)]
    parameters = [p for net in (actor, *critics) for p in net.parameters()]
    of_critics = [p for net in critics for p in net.parameters()]
    both = adam(parameters)
    with pytest.raises(ValueError, match=r"actor_optimizer must not train.*give each its own optimizer"):
        sac_of(actor, critics, both, both)
    with pytest.raises(ValueError, match=r"holds critic1\.weight \(of 4\)"):
        sac_of(actor, critics, both, adam(of_critics))
    with pytest.raises(ValueError, match=r"critic_optimizer must not train.*holds actor\.weight"):
        sac_of(actor, critics, adam([nn.Parameter(torch.zeros(1))]), both)
    sac_of(actor, critics, adam(actor.parameters()), adam(of_critics))


def test_a_shared_encoder_is_the_critics_to_train() -> None:
    encoder = nn.Linear(3, 3)
    actor = nn.Sequential(encoder, nn.Linear(3, 2))
    critics = [nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1)) for _ in range(2)]
    critics[0].add_module("shared", encoder)
    of_critics = [p for net in critics for p in net.parameters()]
    with pytest.raises(ValueError, match="layers that actor and critics share belong to critic_optimizer"):
        sac_of(actor, critics, adam(actor.parameters()), adam(of_critics))
    sac_of(actor, critics, adam(actor[1].parameters()), adam(of_critics))
