"""The DQN agent: when it learns, what it explores, what it refuses, saving and resuming."""

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

from optix_fast.agents import TorchDQNAgent
from optix_fast.networks import DuelingQNetwork, mlp
from optix_fast.pipelines import BatchPipeline, VectorBatchPipeline
from optix_fast.types import EpisodeData, HyperparamSet, NonFiniteError, no_recording


def agent_of(params: dict[str, Any] | None = None, seed: int = 0, **kwargs: Any) -> TorchDQNAgent:
    network = kwargs.pop("network", None)
    n_actions = kwargs.pop("n_actions", 2)
    if network is None:
        network = mlp([4, 16, n_actions], "relu", 1.0, torch.Generator().manual_seed(seed))
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    hyperparams = HyperparamSet({"batch_size": 16, "replay_capacity": 500, **(params or {})})
    return TorchDQNAgent(network, n_actions, optimizer, hyperparams, device="cpu", seed=seed, **kwargs)


def networks_in(agent: TorchDQNAgent) -> dict[str, dict[str, torch.Tensor]]:
    """What the agent's state says of network and target network."""
    networks: dict[str, dict[str, torch.Tensor]] = agent.state_dict()["model"]["networks"]
    return networks


def pipeline_of(agent: TorchDQNAgent, window: int = 32, n_envs: int = 2) -> VectorBatchPipeline:
    return VectorBatchPipeline([lambda: gym.make("CartPole-v1")] * n_envs, agent, window_size=window, seed=5)


def learn(agent: TorchDQNAgent, pipeline: VectorBatchPipeline, windows: int) -> list[dict[str, Any]]:
    return [agent.learn(w) for _, w in zip(range(windows), pipeline.episodes(), strict=False)]


def window_of(
    n: int, ends: tuple[int, ...] = (), cuts: tuple[int, ...] = (), first: int = 0, **fields: Any
) -> EpisodeData:
    """Row t observes (first + t, 0, 0, 0), takes action t mod 2, gets reward first + t."""
    observations = np.zeros((n + 1, 4), np.float32)
    observations[:, 0] = np.arange(first, first + n + 1)
    flags = np.zeros((2, n), np.bool_)
    flags[0, list(ends)] = True
    flags[1, list(cuts)] = True
    final_rows = np.flatnonzero(flags.any(axis=0))
    finals = np.full((len(final_rows), 4), -1.0, np.float32)
    given: dict[str, Any] = {
        "observations": observations[:-1], "actions": np.arange(n) % 2, "terminated": flags[0],
        "rewards": np.arange(first, first + n, dtype=np.float32), "truncated": flags[1], "infos": [{}] * n,
        "episode_id": 0, "next_observations": observations[-1:], "final_rows": final_rows,
        "final_observations": finals,
    }  # fmt: skip
    return EpisodeData(**{**given, **fields})


# --- when it learns -----------------------------------------------------------------------------


def test_each_transition_earns_its_share_of_updates_once_enough_are_stored() -> None:
    agent = agent_of({"learning_starts": 20, "updates_per_step": 0.25})
    # 13, 26, 39, 49 stored: 0, 6, 13 and 10 of them count; quarters: 1.5, 3.25 + 0.5, 2.5 + 0.75.
    done = [agent.learn(window_of(n, first=100 * n))["n_updates"] for n in (13, 13, 13, 10)]
    assert done == [0, 1, 3, 3]
    assert agent.updates == 7 and agent.env_steps == 49


def test_no_update_before_a_batch_is_stored_and_several_for_one_step_where_asked() -> None:
    agent = agent_of({"batch_size": 16, "updates_per_step": 2.0})
    assert [agent.learn(window_of(n))["n_updates"] for n in (15, 1, 1)] == [0, 0, 2]


def test_n_step_targets_across_window_edges_termination_and_truncation() -> None:
    agent = agent_of({"n_step": 3, "gamma": 0.5, "learning_starts": 1000})
    # Rows 0 … 9, cut into windows of 4 and 6; row 2 terminates, row 6 is truncated, row 9 is the newest.
    agent.learn(window_of(4, ends=(2,)))
    agent.learn(window_of(6, cuts=(2,), first=4))
    batch = agent._experience.buffer.replay.batch(np.arange(10))
    # Row 0: 0 + 1/2 + 2/4; row 5: 5 + 6/2, cut; row 7: 7 + 8/2 + 9/4; row 8: 8 + 9/2, nothing newer.
    assert batch.rewards.tolist() == [1.0, 2.0, 2.0, 6.25, 8.0, 8.0, 6.0, 13.25, 12.5, 9.0]
    assert batch.discounts.tolist() == [0.0, 0.0, 0.0, 0.125, 0.125, 0.25, 0.5, 0.125, 0.25, 0.5]
    # After the cut the true final observation is valued, not the next episode's first.
    assert batch.next_observations[:, 0].tolist()[3:] == [6.0, -1.0, -1.0, -1.0, 10.0, 10.0, 10.0]


def test_a_cut_episode_is_valued_and_a_terminated_one_is_not() -> None:
    for ends, cuts, target in (((0,), (), 5.0), ((), (0,), 5.0 + 0.5 * 3.0)):
        network = nn.Linear(4, 2, bias=True)
        with torch.no_grad():
            network.weight.zero_()
            network.bias.copy_(torch.tensor([1.0, 3.0]))
        agent = agent_of(
            {"batch_size": 1, "gamma": 0.5, "updates_per_step": 1.0, "learning_starts": 0}, network=network
        )
        agent.learn(window_of(1, first=5, ends=ends, cuts=cuts))
        assert agent.learn(window_of(1, first=5, ends=ends, cuts=cuts))["td_error_mean"] == pytest.approx(
            target - 1.0, abs=2e-3
        )


def test_epsilon_falls_once_for_each_finished_episode() -> None:
    agent = agent_of({"epsilon": 0.8, "epsilon_decay": 0.5, "epsilon_min": 0.15})
    seen = [
        agent.learn(window_of(8, ends, cuts))["epsilon"]
        for ends, cuts in (((), ()), ((1, 5), ()), ((), (3,)))
    ]
    assert seen == [0.8, 0.2, 0.15]


def test_epsilon_falls_for_each_window_where_episodes_never_end() -> None:
    params = {"epsilon": 0.8, "epsilon_decay": 0.5, "epsilon_min": 0.15}
    endless = {"metadata": {"episodic": False}}
    agent = agent_of(params)
    assert [agent.learn(window_of(8, **endless))["epsilon"] for _ in range(3)] == [0.4, 0.2, 0.15]
    # A pipeline that knows of a time limit says that episodes end, however long they are.
    agent = agent_of(params)
    assert [agent.learn(window_of(8, metadata={"episodic": True}))["epsilon"] for _ in range(3)] == [0.8] * 3
    # A hand-made window says nothing; a second one without an end counts.
    agent = agent_of(params)
    assert [agent.learn(window_of(8))["epsilon"] for _ in range(3)] == [0.8, 0.4, 0.2]


def test_once_an_episode_has_ended_only_episodes_count_also_after_a_resume() -> None:
    params = {"epsilon": 0.8, "epsilon_decay": 0.5, "epsilon_min": 0.01}
    agent, other = agent_of(params), agent_of(params)
    endless = window_of(8, metadata={"episodic": False})
    ended = window_of(8, ends=(1,), metadata={"episodic": False})
    assert [agent.learn(w)["epsilon"] for w in (endless, ended, endless)] == [0.4, 0.2, 0.2]
    other.load_state_dict(agent.state_dict())
    assert other.learn(endless)["epsilon"] == 0.2
    # Where nothing has ended yet, a resumed agent goes on counting windows.
    agent, other = agent_of(params), agent_of(params)
    agent.learn(endless)
    other.load_state_dict(agent.state_dict())
    assert other.learn(endless)["epsilon"] == 0.2


def test_an_epsilon_below_its_minimum_stays() -> None:
    agent = agent_of({"epsilon": 0.01, "epsilon_min": 0.05})
    assert agent.learn(window_of(8, ends=(3,)))["epsilon"] == 0.01


def test_epsilon_falls_linearly_where_steps_are_given() -> None:
    agent = agent_of({"epsilon": 1.0, "epsilon_min": 0.1, "epsilon_decay_steps": 40})
    seen = [agent.learn(window_of(10, ends=(3,)))["epsilon"] for _ in range(5)]
    assert seen == pytest.approx([0.775, 0.55, 0.325, 0.1, 0.1])
    assert agent.get_hyperparams().params["epsilon"] == 1.0


def test_the_target_is_copied_every_so_many_updates_not_windows() -> None:
    agent = agent_of({"target_update_freq": 10, "updates_per_step": 0.5, "learning_starts": 16})
    copied = [agent.learn(window_of(16, first=16 * i))["target_updated"] for i in range(6)]
    # 0, 8, 16, 24, 32, 40 updates.
    assert copied == [0, 0, 1, 1, 1, 1]


@pytest.mark.native
def test_backends_learn_the_same() -> None:
    for params in ({}, {"per_alpha": 0.6, "n_step": 3, "tau": 0.01}):
        native, in_torch = (agent_of(params, backend=b) for b in ("native", "torch"))
        for agent in (native, in_torch):
            learn(agent, pipeline_of(agent), 8)
        assert native.updates == in_torch.updates > 100
        torch.testing.assert_close(networks_in(native), networks_in(in_torch), rtol=1e-4, atol=1e-5)
        assert_same(native.state_dict()["streams"], in_torch.state_dict()["streams"])
        assert native.epsilon == in_torch.epsilon


def test_the_same_seed_gives_the_same_bits_and_evaluation_changes_nothing() -> None:
    one, two = agent_of({"per_alpha": 0.5}), agent_of({"per_alpha": 0.5})
    learn(one, pipeline_of(one), 6)
    pipeline = pipeline_of(two)
    for _, window in zip(range(6), pipeline.episodes(), strict=False):
        two.learn(window)
        with no_recording():
            two.act(np.zeros(4, np.float32))
            two.act_batch(np.zeros((3, 4), np.float32))
    ours, theirs = one.state_dict(), two.state_dict()
    ours["streams"].pop("evaluation")
    theirs["streams"].pop("evaluation")
    assert_same(ours, theirs)


# --- which backend ------------------------------------------------------------------------------


@pytest.mark.native
def test_a_dueling_network_runs_native() -> None:
    agent = agent_of(network=DuelingQNetwork(4, 2, (16,)), backend="native")
    assert agent.backend == "native"
    assert learn(agent, pipeline_of(agent), 3)[-1]["n_updates"] > 0


@pytest.mark.native
def test_hooks_and_their_removal_are_seen_from_one_window_to_the_next() -> None:
    agent = agent_of()
    pipeline = pipeline_of(agent)
    learn(agent, pipeline, 2)
    assert agent.backend == "native"
    called: list[int] = []
    handle = agent._q_network.register_forward_hook(lambda *_: called.append(1))
    learn(agent, pipeline, 1)
    assert agent.backend == "torch" and called
    handle.remove()
    called.clear()
    learn(agent, pipeline, 1)
    assert agent.backend == "native" and not called


def test_a_replaced_layer_gets_a_new_target() -> None:
    agent = agent_of()
    pipeline = pipeline_of(agent)
    learn(agent, pipeline, 2)
    network: Any = agent._q_network
    network[1] = nn.Tanh()
    network[2] = nn.Linear(16, 2)
    agent._model.optimizer.param_groups[0]["params"] = list(network.parameters())
    learn(agent, pipeline, 1)
    assert isinstance(agent._model.target[1], nn.Tanh)  # type: ignore[index]
    assert not any(p.requires_grad for p in agent._model.target.parameters())


@pytest.mark.parametrize(
    ("space", "network"),
    [
        (spaces.Box(0, 255, (2, 3), np.uint8), nn.Sequential(nn.Flatten(), nn.Linear(6, 2))),
        (spaces.Box(-1, 1, (2, 3)), nn.Sequential(nn.Flatten(), nn.Linear(6, 2))),
    ],
)
def test_images_and_arrays_of_any_rank_are_learned_from(space: Any, network: nn.Module) -> None:
    class Env(gym.Env[Any, Any]):
        observation_space, action_space = space, spaces.Discrete(2)
        t = 0

        def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
            super().reset(seed=seed)
            self.t = 0
            return self.observation_space.sample(), {}

        def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
            self.t += 1
            return self.observation_space.sample(), 1.0, self.t == 7, False, {}

    agent = agent_of(network=network)
    pipeline = BatchPipeline(Env(), agent, window_size=64, seed=0)
    assert agent.learn(next(pipeline.episodes()))["n_updates"] == 12


# --- bad input ----------------------------------------------------------------------------------


def test_a_nan_reward_is_named_and_nothing_is_stored() -> None:
    agent = agent_of()
    before = agent.state_dict()
    rewards = np.ones(8, np.float32)
    rewards[3] = np.nan
    with pytest.raises(NonFiniteError, match="reward"):
        agent.learn(window_of(8, rewards=rewards))
    assert_same(agent.state_dict(), before)


def with_nan(shape: tuple[int, ...], row: int) -> np.ndarray:
    observations = np.zeros(shape, np.float32)
    observations[row, 2] = np.nan
    return observations


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"actions": np.full(8, 2)}, ValueError, "actions must be among the model's 2, got 2 to 2"),
        ({"actions": np.full(8, -1)}, ValueError, "actions must be among the model's 2"),
        ({"actions": np.full(8, 0.5)}, ValueError, r"actions must be integers \[8\], got float64"),
        ({"observations": with_nan((8, 4), 3)}, NonFiniteError, "observation"),
        ({"observations": np.full((8, 4), 1e300)}, NonFiniteError, "observation"),
        ({"next_observations": with_nan((1, 4), 0)}, NonFiniteError, "observation"),
        ({"cuts": (5,), "final_observations": with_nan((1, 4), 0)}, NonFiniteError, "observation"),
        ({"rewards": np.full(8, 1e300)}, NonFiniteError, "reward"),
    ],
    ids=["action-2", "action--1", "fraction", "nan", "too-great", "newest", "cut", "reward"],
)
def test_what_would_spoil_later_updates_is_refused_and_nothing_is_stored(
    fields: dict[str, Any], error: type[Exception], message: str
) -> None:
    agent = agent_of()
    agent.learn(window_of(8))
    before = agent.state_dict()
    with pytest.raises(error, match=message):
        agent.learn(window_of(8, **fields))
    assert_same(agent.state_dict(), before)


@both_backends
@pytest.mark.parametrize("n_step", [1, 3])
def test_what_follows_a_terminated_row_is_not_looked_at(backend: str, n_step: int) -> None:
    learned = []
    for last in (0.0, np.nan):
        agent = agent_of({"n_step": n_step}, backend=backend)
        finals = np.full((1, 4), last, np.float32)
        agent.learn(window_of(32, ends=(31,), final_observations=finals, next_observations=finals))
        learned.append(agent.learn(window_of(32)))
    assert learned[0] == learned[1] and np.isfinite(learned[1]["loss"])


@both_backends
def test_a_failed_update_leaves_networks_optimizer_and_priorities(backend: str) -> None:
    agent = agent_of({"per_alpha": 0.6}, backend=backend)
    learn(agent, pipeline_of(agent), 2)
    with torch.no_grad():
        agent._model.target[0].bias[0] = torch.inf  # type: ignore[index]
    before = agent.state_dict()
    tree = agent._experience.buffer.tree.state_dict()["priorities"][:64]
    with pytest.raises(NonFiniteError, match="target"):
        learn(agent, pipeline_of(agent), 1)
    after = agent.state_dict()
    for key in ("model", "updates"):
        assert_same(after[key], before[key], key)
    assert torch.equal(agent._experience.buffer.tree.state_dict()["priorities"][:64], tree)


def test_a_nan_network_stops_at_acting() -> None:
    agent = agent_of()
    with torch.no_grad():
        agent._q_network[0].weight.fill_(torch.nan)  # type: ignore[index, operator, union-attr]
    with pytest.raises(NonFiniteError):
        agent.act(np.zeros(4, np.float32))


def test_spaces_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match="a Q-network needs a Discrete action space"):
        BatchPipeline(gym.make("Pendulum-v1"), agent_of())
    with pytest.raises(ValueError, match="n_actions is 2, but the action space is Discrete\\(3\\)"):
        BatchPipeline(gym.make("Acrobot-v1"), agent_of())
    agent = agent_of()
    agent.learn(window_of(4))
    with pytest.raises(ValueError, match="observations must be float32"):
        agent.learn(window_of(4, observations=np.zeros((4, 3), np.float32)))
    assert agent.env_steps == 4
    with pytest.raises(ValueError, match="at least one row"):
        agent.learn(window_of(0))


def test_unknown_keys_are_warned_about_once_and_values_out_of_range_refused() -> None:
    with pytest.warns(UserWarning, match="'epsilon_dacay'; the nearest known one is 'epsilon_decay'"):
        agent = agent_of({"epsilon_dacay": 0.9})
    before = agent.get_hyperparams().params
    for params, message in (
        ({"gamma": 1.5}, "gamma must be between"),
        ({"epsilon": -0.1}, "epsilon must be between"),
        ({"loss": "l1"}, "loss must be"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"replay_capacity": 10}, "replay_capacity must be at least batch_size"),
        ({"target_update_freq": float("nan")}, "target_update_freq must be at least 1"),
        ({"per_eps": 0.0}, "per_eps must be above 0"),
        ({"max_grad_norm": -1.0}, "max_grad_norm must be between"),
        ({"max_grad_norm": float("nan")}, "max_grad_norm must be between"),
        ({"learning_rate": float("inf")}, "learning_rate must be between"),
    ):
        with pytest.raises(ValueError, match=message):
            agent.set_hyperparams(HyperparamSet(params))
        with pytest.raises(ValueError, match=message):
            agent_of(params)
    for wrong, kind in (
        ({"epsilon": None}, "a number"),
        ({"n_step": "3"}, "a number"),
        ({"double_q": "no"}, "T"),
    ):
        with pytest.raises(TypeError, match=f"^{next(iter(wrong))} must be {kind}"):
            agent.set_hyperparams(HyperparamSet(wrong))
    with pytest.raises(ValueError, match="batch_size must be at most the replay's capacity = 500, got 501"):
        agent.set_hyperparams(HyperparamSet({"batch_size": 501}))
    assert agent.get_hyperparams().params == before


def test_constructor_names_the_argument_of_the_wrong_type() -> None:
    network = nn.Linear(4, 2)
    good: dict[str, Any] = {
        "q_network": network, "n_actions": 2, "optimizer": torch.optim.Adam(network.parameters()),
        "hyperparams": HyperparamSet({}), "device": "cpu",
    }  # fmt: skip
    for name, wrong in (("q_network", 3), ("optimizer", "adam"), ("hyperparams", {})):
        with pytest.raises(TypeError, match=f"^{name} must be"):
            TorchDQNAgent(**{**good, name: wrong})
    for name, wrong in (("n_actions", 0), ("n_actions", True), ("device", "gpu"), ("backend", "cuda")):
        with pytest.raises(ValueError, match=f"^{name}"):
            TorchDQNAgent(**{**good, name: wrong})


# --- hyperparameters, saving and resuming -------------------------------------------------------


def test_set_hyperparams_writes_rate_and_epsilon_and_switches_the_replay() -> None:
    agent = agent_of()
    pipeline = pipeline_of(agent)
    learn(agent, pipeline, 2)
    params = {"learning_rate": 0.01, "epsilon": 0.3, "per_alpha": 0.6, "n_step": 3, "batch_size": 16.4}
    agent.set_hyperparams(HyperparamSet({**params, "replay_capacity": 500}))
    assert agent._model.optimizer.param_groups[0]["lr"] == 0.01 and agent.epsilon == 0.3
    assert learn(agent, pipeline, 1)[0]["n_updates"] == 16
    assert agent._experience.buffer.alpha == 0.6 and agent._experience.buffer.n_step == 3
    assert len(set(agent._experience.buffer.tree.state_dict()["priorities"][:128].tolist())) > 20
    reported = agent_of().get_hyperparams().params
    assert {"per_alpha": 0.0, "per_beta": 0.4, "n_step": 1}.items() <= reported.items()


@both_backends
def test_a_new_per_eps_is_in_the_next_priorities(backend: str) -> None:
    agent = agent_of({"per_alpha": 1.0, "updates_per_step": 1.0}, backend=backend)
    agent.learn(window_of(32))
    agent.set_hyperparams(HyperparamSet({"batch_size": 16, "per_alpha": 1.0, "per_eps": 1e6}))
    agent.learn(window_of(32))
    priorities = agent._experience.buffer.tree.priorities(torch.arange(64))
    assert float(priorities.max()) > 1e6


def straight_and_resumed(one: str, other: str) -> tuple[TorchDQNAgent, TorchDQNAgent]:
    """An agent, and another that was given its state half-way."""
    params = {"per_alpha": 0.6, "n_step": 2, "target_update_freq": 13}
    straight, resumed = agent_of(params, backend=one), agent_of(params, seed=3, backend=other)
    learn(straight, pipeline_of(straight), 4)
    resumed.load_state_dict(straight.state_dict())
    assert_same(resumed.state_dict(), straight.state_dict())
    for agent in (straight, resumed):
        learn(agent, pipeline_of(agent), 3)
    return straight, resumed


@both_backends
def test_resumed_training_gives_the_same_bits(backend: str) -> None:
    straight, resumed = straight_and_resumed(backend, backend)
    assert_same(resumed.state_dict(), straight.state_dict())


@pytest.mark.native
@pytest.mark.parametrize("backends", [("native", "torch"), ("torch", "native")])
def test_one_backend_goes_on_from_the_state_of_the_other(backends: tuple[str, str]) -> None:
    straight, resumed = straight_and_resumed(*backends)
    assert resumed.updates == straight.updates
    torch.testing.assert_close(networks_in(resumed), networks_in(straight), rtol=1e-4, atol=1e-5)


def test_a_state_that_does_not_fit_changes_nothing() -> None:
    agent, other = agent_of(), agent_of({"replay_capacity": 400}, seed=1)
    for each in (agent, other):
        each.learn(window_of(32))
    before = agent.state_dict()
    with pytest.raises(ValueError, match="the state is of capacity 400, the buffer's is 500"):
        agent.load_state_dict(other.state_dict())
    assert_same(agent.state_dict(), before)


def test_state_without_replay_leaves_the_stored_transitions() -> None:
    agent = agent_of()
    learn(agent, pipeline_of(agent), 2)
    state = agent.state_dict(replay=False)
    assert "buffer" not in state["experience"]
    learn(agent, pipeline_of(agent), 1)
    agent.load_state_dict(state)
    assert len(agent._experience) == 192 and agent.env_steps == 128


def test_weights_round_trip_and_the_target_becomes_a_copy(tmp_path: Path) -> None:
    agent, other = agent_of(seed=1), agent_of(seed=2)
    learn(agent, pipeline_of(agent), 3)
    agent.save_weights(str(tmp_path / "w"))
    assert [p.name for p in (tmp_path / "w").iterdir()] == ["q_network.safetensors"]
    other.load_weights(str(tmp_path / "w"))
    for net in ("q_network", "target"):
        assert_same(networks_in(other)[net], networks_in(agent)["q_network"], net)
    torch.save(agent_of(seed=5)._q_network.state_dict(), tmp_path / "q_network.pt")
    other.load_weights(str(tmp_path))
    assert_same(networks_in(other)["target"], networks_in(agent_of(seed=5))["q_network"])
    wide = agent_of(network=nn.Linear(4, 2))
    with pytest.raises(RuntimeError, match="another architecture"):
        wide.load_weights(str(tmp_path))
    with pytest.raises(FileNotFoundError, match="q_network"):
        other.load_weights(str(tmp_path / "nowhere"))


def test_average_is_the_mean_and_perturbation_scales(tmp_path: Path) -> None:
    one, two, agent = agent_of(seed=1), agent_of(seed=2), agent_of(seed=3)
    one.save_weights(str(tmp_path / "1"))
    two.save_weights(str(tmp_path / "2"))
    agent.average_weights([str(tmp_path / "1"), str(tmp_path / "2")])
    states = [networks_in(a)["q_network"]["0.weight"] for a in (one, two, agent)]
    torch.testing.assert_close(states[2], (states[0] + states[1]) / 2)
    agent.perturb_weights(0.1)
    factor = networks_in(agent)["target"]["0.weight"] / states[2] - 1
    assert 0.05 < factor.std() < 0.2


def test_action_probs_are_those_of_epsilon_greedy() -> None:
    network = nn.Linear(4, 3)
    with torch.no_grad():
        network.weight.zero_()
        network.bias.copy_(torch.tensor([0.0, 2.0, 1.0]))
    agent = agent_of({"epsilon": 0.3}, network=network, n_actions=3)
    np.testing.assert_allclose(agent.action_probs(np.zeros(4, np.float32)), [0.1, 0.8, 0.1], rtol=1e-6)
