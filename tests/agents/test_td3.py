"""The TD3 agent: how it acts, when it learns, what it refuses, saving and resuming."""

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

from optix_fast.agents import Agent, TorchTD3Agent, make_agent
from optix_fast.networks import mlp
from optix_fast.pipelines import BatchPipeline, VectorBatchPipeline
from optix_fast.types import EpisodeData, HyperparamSet, NonFiniteError, no_recording

BOX = spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([2.0, 10.0], np.float32))
ORIGIN = np.zeros(3, np.float32)


def adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=1e-3)


def agent_of(
    params: dict[str, Any] | None = None,
    seed: int = 0,
    features: int = 3,
    width: int = 1,
    **kwargs: Any,
) -> TorchTD3Agent:
    """An agent of small networks; for Pendulum unless told otherwise."""
    generator = torch.Generator().manual_seed(seed)
    actor = mlp([features, 16, width], "tanh", 0.1, generator)
    critics = [mlp([features + width, 16, 1], "tanh", 1.0, generator) for _ in range(2)]
    given: dict[str, Any] = {
        "actor": actor, "critic1": critics[0], "critic2": critics[1], "action_dim": width,
        "actor_optimizer": adam(actor.parameters()),
        "critic_optimizer": adam([p for net in critics for p in net.parameters()]),
        "hyperparams": HyperparamSet({"batch_size": 16, "replay_capacity": 500, **(params or {})}),
        "device": "cpu", "seed": seed,
    }  # fmt: skip
    return TorchTD3Agent(**{**given, **kwargs})


def always(agent: TorchTD3Agent, *outputs: float) -> TorchTD3Agent:
    """The agent, whose actor returns these numbers before tanh, whatever it observes."""
    last: Any = agent.actor[-1]  # type: ignore[index]
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(torch.tensor(outputs))
    return agent


def pipeline_of(agent: TorchTD3Agent, window: int = 32, n_envs: int = 2) -> VectorBatchPipeline:
    return VectorBatchPipeline([lambda: gym.make("Pendulum-v1")] * n_envs, agent, window_size=window, seed=5)


def learn(agent: TorchTD3Agent, pipeline: Any, windows: int) -> list[dict[str, Any]]:
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


# --- making one ---------------------------------------------------------------------------------


def test_make_agent_gives_it_its_own_networks_and_hyperparameters() -> None:
    agent = make_agent("td3", gym.make("Pendulum-v1"), (32,), {"tau": 0.01}, seed=0)
    assert isinstance(agent, TorchTD3Agent)
    assert [type(layer).__name__ for layer in agent.actor] == ["Linear", "ReLU", "Linear"]  # type: ignore[attr-defined]
    assert agent.actor[-1].out_features == 1  # type: ignore[index]
    assert [net[0].in_features for net in agent.critics] == [4, 4]  # type: ignore[index]
    first, second = (net[0].weight for net in agent.critics)  # type: ignore[index]
    assert not torch.equal(first, second)
    params = agent.get_hyperparams().params
    assert {"learning_rate": 1e-3, "tau": 0.01, "policy_delay": 2}.items() <= params.items()
    assert abs(agent.act(ORIGIN)[0]) <= 2.0


@pytest.mark.parametrize(
    ("space", "arguments", "message"),
    [
        (spaces.Discrete(2), {}, "td3 needs a Box action space with finite bounds"),
        (spaces.MultiDiscrete([2, 2]), {}, "td3 needs a Box action space with finite bounds"),
        (spaces.Box(-np.inf, np.inf, (1,)), {}, "td3 needs a Box action space with finite bounds"),
        (spaces.Box(0, 5, (1,), np.int64), {}, "Box action space"),
        (spaces.Box(-1, 1, (1,)), {"normalize_observations": True}, "td3 .* no normalizers"),
        (spaces.Box(-1, 1, (1,)), {"hyperparams": {"taw": 0.1}}, "'taw'; the nearest known one is 'tau'"),
        (spaces.Box(-1, 1, (1,)), {"dueling": True}, "dueling is an option of dqn"),
    ],
    ids=str,
)
def test_what_td3_does_not_do_is_refused(space: Any, arguments: dict[str, Any], message: str) -> None:
    class Env(gym.Env[Any, Any]):
        observation_space, action_space = spaces.Box(-1, 1, (2,)), space

    with pytest.raises(ValueError, match=message):
        make_agent("td3", Env(), **arguments)


def test_spaces_that_do_not_fit_are_named() -> None:
    for space, message in (
        (spaces.Discrete(3), "needs a Box action space"),
        (spaces.Box(-np.inf, np.inf, (1,)), "must have finite bounds"),
        (spaces.Box(-1, 1, (2,)), "action_dim=1 needs a Box"),
        (spaces.MultiDiscrete([2, 2]), "needs a Box action space"),
    ):
        with pytest.raises(ValueError, match=message):
            agent_of().bind_spaces(None, space)
    agent = agent_of()
    with pytest.raises(ValueError, match="actions must have 1 values"):
        agent.learn(window_of(4, width=2))
    with pytest.raises(ValueError, match="at least one row"):
        agent.learn(window_of(0))
    with pytest.raises(ValueError, match="action_probs needs a Discrete action space"):
        agent.action_probs(ORIGIN)


# --- acting -------------------------------------------------------------------------------------


@both_backends
def test_first_steps_are_uniform_within_the_bounds_then_the_policy_acts(backend: str) -> None:
    params = {"learning_starts": 2000, "exploration_noise": 0.0}
    agent = always(agent_of(params, width=2, action_space=BOX, backend=backend), 0.5, -0.5)
    actions = np.stack([agent.act(ORIGIN) for _ in range(2000)])
    assert actions.dtype == np.float32 and actions.shape == (2000, 2)
    np.testing.assert_allclose(actions.mean(axis=0), [0.0, 5.0], atol=0.3)
    # Of a uniform number between ±1: 1/√3 = 0.577.
    np.testing.assert_allclose(actions.std(axis=0), [0.577 * 2, 0.577 * 5], rtol=0.05)
    # tanh(½) = 0.462117.
    np.testing.assert_allclose(agent.act(ORIGIN), [2 * 0.462117, 5 - 5 * 0.462117], rtol=1e-5)


def test_uniform_actions_are_repeated_as_often_as_asked() -> None:
    agent = agent_of({"learning_starts": 12, "uniform_action_repeat": 4}, action_space=BOX, width=2)
    actions = np.stack([agent.act(ORIGIN) for _ in range(12)])
    for begin in (0, 4, 8):
        np.testing.assert_array_equal(actions[begin : begin + 4], np.tile(actions[begin], (4, 1)))
    assert len(np.unique(actions, axis=0)) == 3


def test_a_repeated_action_goes_on_after_resuming() -> None:
    params = {"learning_starts": 12, "uniform_action_repeat": 4}
    agent, resumed = (agent_of(params, seed, action_space=BOX, width=2) for seed in (0, 1))
    before = [agent.act(ORIGIN) for _ in range(2)]
    resumed.load_state_dict(agent.state_dict())
    after = [resumed.act(ORIGIN) for _ in range(6)]
    np.testing.assert_array_equal(after[:2], before)
    np.testing.assert_array_equal(after, [agent.act(ORIGIN) for _ in range(6)])


@both_backends
def test_each_environment_counts_among_the_uniform_steps(backend: str) -> None:
    agent = always(agent_of({"learning_starts": 20, "exploration_noise": 0.0}, backend=backend), 0.5)
    (window,) = [w for _, w in zip(range(1), pipeline_of(agent, 8, n_envs=4).episodes(), strict=False)]
    # Pendulum's actions are within ±2. Five rows of four environments are uniform, three are the policy's.
    is_policys = np.abs(window.grid("actions")[..., 0] - 2 * np.tanh(0.5)).max(axis=1) < 1e-5
    assert is_policys.tolist() == [False] * 5 + [True] * 3


def drawn(agent: TorchTD3Agent, how: str) -> np.ndarray[Any, Any]:
    """2000 actions at the origin, [2000, A]."""
    if how == "act":
        return np.stack([agent.act(ORIGIN) for _ in range(2000)])
    return agent.act_batch(np.zeros((2000, 3), np.float32))


@both_backends
@pytest.mark.parametrize("how", ["act", "act_batch"])
def test_noise_has_the_deviation_asked_for_where_actions_span_two(backend: str, how: str) -> None:
    params = {"learning_starts": 0, "exploration_noise": 0.1}
    actions = drawn(always(agent_of(params, width=2, action_space=BOX, backend=backend), 0.5, -0.5), how)
    assert actions.dtype == np.float32 and actions.shape == (2000, 2)
    # The half-widths of the box are 2 and 5.
    np.testing.assert_allclose(actions.mean(axis=0), [2 * 0.462117, 5 - 5 * 0.462117], atol=0.05)
    np.testing.assert_allclose(actions.std(axis=0), [0.2, 0.5], rtol=0.06)
    assert abs(np.corrcoef(actions.T)[0, 1]) < 0.07


@both_backends
def test_noise_in_windows_has_the_deviation_asked_for(backend: str) -> None:
    agent = always(agent_of({"learning_starts": 0, "exploration_noise": 0.1}, backend=backend), 0.5)
    (window,) = [w for _, w in zip(range(1), pipeline_of(agent, 500, n_envs=4).episodes(), strict=False)]
    actions = np.asarray(window.actions)
    assert actions.mean() == pytest.approx(2 * 0.462117, abs=0.02)
    assert actions.std() == pytest.approx(0.2, rel=0.06)


@both_backends
@pytest.mark.parametrize("how", ["act", "act_batch"])
def test_noise_does_not_leave_the_bounds(backend: str, how: str) -> None:
    params = {"learning_starts": 0, "exploration_noise": 2.0}
    actions = drawn(always(agent_of(params, width=2, action_space=BOX, backend=backend), 1.0, -1.0), how)
    assert (actions >= BOX.low).all() and (actions <= BOX.high).all()
    # Of tanh(1) = 0.76 ± 2, 45 % are above 1 and 19 % below −1.
    assert (actions[:, 0] == 2.0).mean() == pytest.approx(0.452, abs=0.04)
    assert (actions[:, 0] == -2.0).mean() == pytest.approx(0.189, abs=0.04)


def test_noise_is_as_wide_as_the_hyperparameters_say_now() -> None:
    agent = always(agent_of({"learning_starts": 0}, action_space=spaces.Box(-1, 1, (1,))), 0.0)
    agent.set_hyperparams(HyperparamSet({"exploration_noise": 0.3}))
    assert drawn(agent, "act_batch").std() == pytest.approx(0.3, rel=0.06)
    agent.set_hyperparams(HyperparamSet({"exploration_noise": 0.0}))
    assert np.unique(drawn(agent, "act_batch")).tolist() == [0.0]


@both_backends
def test_deterministic_actions_are_the_policys_from_the_start_and_draw_nothing(backend: str) -> None:
    agent = always(
        agent_of({"exploration_noise": 0.5}, backend=backend, action_space=spaces.Box(-1, 1, (1,))), 0.5
    )
    before = agent.state_dict()
    for _ in range(3):
        assert agent.act(ORIGIN, deterministic=True) == pytest.approx(np.tanh(0.5), abs=1e-6)
    np.testing.assert_allclose(agent.act_batch(np.zeros((5, 3), np.float32), True), np.tanh(0.5), atol=1e-6)
    np.testing.assert_allclose(agent.predict(ORIGIN)[0], np.tanh(0.5), atol=1e-6)
    assert_same(agent.state_dict(), before)
    assert agent._uniform.steps == 16


@both_backends
def test_outside_the_rollout_nothing_is_uniform_and_the_rollout_s_numbers_stay(backend: str) -> None:
    agent = always(agent_of({"exploration_noise": 0.01}, backend=backend), 0.5)
    before = agent.state_dict()
    with no_recording():
        actions = [agent.act(ORIGIN)[0] for _ in range(20)]
    assert np.abs(np.array(actions) - np.tanh(0.5)).max() < 0.05
    after = agent.state_dict()
    before["streams"].pop("evaluation")
    after["streams"].pop("evaluation")
    assert_same(after, before)


@pytest.mark.native
@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_backends_act_alike(noise: float) -> None:
    params = {"learning_starts": 0, "exploration_noise": noise}
    native, in_torch = (
        agent_of(params, width=2, action_space=BOX, backend=backend) for backend in ("native", "torch")
    )
    observations = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    for deterministic in (True, False):
        np.testing.assert_allclose(
            native.act_batch(observations, deterministic), in_torch.act_batch(observations, deterministic),
            rtol=1e-5, atol=1e-5,
        )  # fmt: skip
        for row in observations:
            np.testing.assert_allclose(
                native.act(row, deterministic), in_torch.act(row, deterministic), rtol=1e-5, atol=1e-5
            )
    assert native.backend == "native" and in_torch.backend == "torch"


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


def test_learn_says_what_it_did() -> None:
    idle = agent_of().learn(window_of(4))
    assert idle == {
        "critic_loss": 0.0, "actor_loss": 0.0, "q_value": 0.0, "n_updates": 0, "buffer_size": 4,
        "episode_reward": 6.0, "learning_rate": 1e-3,
    }  # fmt: skip


@both_backends
def test_the_actor_s_loss_is_the_mean_over_the_updates_of_the_actor(backend: str) -> None:
    agent = agent_of({"policy_delay": 3}, backend=backend)
    agent.learn(window_of(16))
    # A row earns one update: windows of one row say what each of them did.
    seen = [agent.learn(window_of(1)) for _ in range(6)]
    assert [each["actor_loss"] != 0.0 for each in seen] == [False, False, True] * 2
    # Critics that say 2 and do not learn: −Q_1 is −2 in each of the two updates of the actor out of seven.
    with torch.no_grad():
        for net in agent.critics:
            net[-1].weight.zero_()  # type: ignore[index, operator, union-attr]
            net[-1].bias.fill_(2.0)  # type: ignore[index, operator, union-attr]
    agent._model.critic_optimizer.param_groups[0]["lr"] = 0.0
    done = agent.learn(window_of(7))
    assert done["n_updates"] == 7 and done["actor_loss"] == pytest.approx(-2.0)
    assert done["q_value"] == pytest.approx(2.0)


@both_backends
def test_the_delay_is_counted_over_windows(backend: str) -> None:
    agent = agent_of({"policy_delay": 3}, backend=backend)
    agent.learn(window_of(16))
    moved = []
    for _ in range(7):
        before = agent.actor[0].weight.clone()  # type: ignore[index, operator]
        agent.learn(window_of(1))
        moved.append(not torch.equal(agent.actor[0].weight, before))  # type: ignore[index, arg-type]
    assert moved == [False, False, True, False, False, True, False]


def test_updates_in_pieces_are_those_of_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, pieces = agent_of({"policy_delay": 2}), agent_of({"policy_delay": 2})
    for agent in (whole, pieces):
        agent.learn(window_of(16))
    expected = whole.learn(window_of(9))
    monkeypatch.setattr("optix_fast.learners.experience._CHUNK_BYTES", 3 * 16 * (8 + 4))  # three updates each
    done = pieces.learn(window_of(9))
    assert done["n_updates"] == expected["n_updates"] == 9 and pieces.updates == 9
    assert_same(pieces.state_dict()["model"], whole.state_dict()["model"])
    for name in ("critic_loss", "actor_loss", "q_value"):
        assert done[name] == pytest.approx(expected[name], rel=1e-6), name


@pytest.mark.native
@pytest.mark.parametrize(
    "params", [{}, {"per_alpha": 0.6, "n_step": 3}, {"policy_delay": 3}], ids=["uniform", "per", "delay"]
)
def test_backends_learn_the_same(params: dict[str, Any]) -> None:
    native, in_torch = (agent_of(params, backend=b) for b in ("native", "torch"))
    diagnostics = [learn(agent, pipeline_of(agent), 2)[-1] for agent in (native, in_torch)]
    assert native.updates == in_torch.updates == 2 * 64 - 16
    for name in ("critic_loss", "actor_loss", "q_value"):
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
            two.act(ORIGIN)
            two.act_batch(np.zeros((3, 3), np.float32))
    ours, theirs = one.state_dict(), two.state_dict()
    ours["streams"].pop("evaluation")
    theirs["streams"].pop("evaluation")
    assert_same(ours, theirs)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Dict({"a": spaces.Box(-1, 1, (2,)), "b": spaces.Discrete(3)}),
        spaces.Box(0, 255, (6,), np.uint8),
        spaces.Box(-1, 1, (2, 3)),
    ],
    ids=str,
)
def test_observations_of_other_spaces_reach_critics_apart_from_actions(space: spaces.Space[Any]) -> None:
    class Env(gym.Env[Any, Any]):
        observation_space, action_space = space, spaces.Box(-3, 3, (2,))

        def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
            super().reset(seed=seed)
            return self.observation_space.sample(), {}

        def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
            return self.observation_space.sample(), 1.0, False, False, {}

    pipeline = BatchPipeline(Env(), window_size=24, seed=0)
    agent = make_agent("td3", pipeline, (16,), {"batch_size": 16}, seed=0)
    pipeline.set_agent(agent)
    assert agent.learn(next(pipeline.episodes()))["n_updates"] == 8


# --- which backend ------------------------------------------------------------------------------


@pytest.mark.native
def test_hooks_and_their_removal_are_seen_from_one_window_to_the_next() -> None:
    agent = agent_of()
    pipeline = pipeline_of(agent)
    learn(agent, pipeline, 1)
    assert agent.backend == "native"
    called: list[int] = []
    handle = agent.critics[1].register_forward_hook(lambda *_: called.append(1))
    learn(agent, pipeline, 1)
    assert agent.backend == "torch" and "critic2" in agent.backend.reason and called
    with pytest.raises(RuntimeError, match="backend='native', but critic2"):
        agent_of(critic2=agent.critics[1], backend="native")
    handle.remove()
    called.clear()
    learn(agent, pipeline, 1)
    assert agent.backend == "native" and not called


@pytest.mark.parametrize("name", ["actor", "critic1"])
def test_a_replaced_layer_gets_new_targets(name: str) -> None:
    agent = agent_of()
    pipeline = pipeline_of(agent)
    learn(agent, pipeline, 1)
    getattr(agent._model, name)[1] = nn.ReLU()
    learn(agent, pipeline, 1)
    target = {"actor": "target_actor", "critic1": "target1"}[name]
    assert isinstance(getattr(agent._model, target)[1], nn.ReLU)


# --- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "quantity"),
    [
        ({"rewards": np.array([1, 1, 1, np.nan, 1, 1, 1, 1], np.float32)}, "reward"),
        ({"actions": np.full((8, 1), np.nan, np.float32)}, "action"),
        ({"observations": np.full((8, 3), np.inf, np.float32)}, "observation"),
        ({"next_observations": np.full((1, 3), np.nan, np.float32)}, "observation"),
    ],
    ids=["reward", "action", "observation", "newest"],
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


@both_backends
def test_what_follows_a_terminated_row_is_not_looked_at(backend: str) -> None:
    learned = []
    for last in (0.0, np.nan):
        agent = agent_of(backend=backend)
        finals = np.full((1, 3), last, np.float32)
        ended = {"terminated": np.arange(32) == 31, "final_rows": np.array([31])}
        agent.learn(window_of(32, **ended, final_observations=finals, next_observations=finals))
        learned.append(agent.learn(window_of(32)))
    assert learned[0] == learned[1] and np.isfinite(learned[1]["critic_loss"])


@both_backends
@pytest.mark.parametrize("quantity", ["critic loss", "actor loss"])
def test_a_failed_update_leaves_model_and_priorities(backend: str, quantity: str) -> None:
    agent = agent_of({"per_alpha": 0.6}, backend=backend)
    learn(agent, pipeline_of(agent), 1)
    window = next(iter(pipeline_of(agent).episodes()))
    with torch.no_grad():
        if quantity == "critic loss":
            agent._model.target1[0].bias[0] = torch.inf  # type: ignore[index]
            agent._model.target1[2].weight.fill_(torch.inf)  # type: ignore[index]
            agent._model.target2[2].weight.fill_(-torch.inf)  # type: ignore[index]
        else:
            agent.actor[2].weight.fill_(torch.inf)  # type: ignore[index, operator, union-attr]
            agent.actor[2].weight[:, ::2] = -torch.inf  # type: ignore[index, operator, union-attr]
    before = agent.state_dict()["model"]
    rows = torch.arange(64)
    priorities = agent._experience.buffer.tree.priorities(rows)
    with pytest.raises(NonFiniteError, match=quantity):
        agent.learn(window)
    assert_same(agent.state_dict()["model"], before)
    assert torch.equal(agent._experience.buffer.tree.priorities(rows), priorities)


@both_backends
def test_a_nan_actor_stops_at_acting(backend: str) -> None:
    agent = agent_of({"learning_starts": 0}, backend=backend)
    with torch.no_grad():
        agent.actor[0].weight.fill_(torch.nan)  # type: ignore[index, operator, union-attr]
    for deterministic in (False, True):
        with pytest.raises(NonFiniteError):
            agent.act(ORIGIN, deterministic)
        with pytest.raises(NonFiniteError):
            agent.act_batch(ORIGIN[None], deterministic)


def test_action_masks_are_refused() -> None:
    agent = agent_of({"learning_starts": 0})
    with pytest.raises(ValueError, match="mask"):
        agent.act_batch(ORIGIN[None], action_masks=np.ones((1, 1), np.bool_))


def test_unknown_keys_are_warned_about_and_values_out_of_range_refused() -> None:
    with pytest.warns(UserWarning, match="'taw'; the nearest known one is 'tau'"):
        agent_of({"taw": 0.1})
    agent = agent_of()
    before = agent.get_hyperparams().params
    for params, message in (
        ({"gamma": 1.5}, "gamma must be between"),
        ({"tau": -0.1}, "tau must be between"),
        ({"policy_delay": 0}, "policy_delay must be at least 1"),
        ({"exploration_noise": -0.1}, "exploration_noise must be between"),
        ({"target_noise": float("nan")}, "target_noise must be between"),
        ({"target_noise_clip": -0.1}, "target_noise_clip must be between"),
        ({"replay_capacity": 10}, "replay_capacity must be at least batch_size"),
    ):
        with pytest.raises(ValueError, match=message):
            agent.set_hyperparams(HyperparamSet(params))
        with pytest.raises(ValueError, match=message):
            agent_of(params)
    with pytest.raises(TypeError, match="^tau must be a number"):
        agent.set_hyperparams(HyperparamSet({"tau": None}))
    with pytest.raises(ValueError, match="batch_size must be at most the replay's capacity = 500, got 501"):
        agent.set_hyperparams(HyperparamSet({"batch_size": 501}))
    assert agent.get_hyperparams().params == before


def test_constructor_names_the_argument_of_the_wrong_type() -> None:
    for name in ("actor", "critic1", "critic2", "actor_optimizer", "critic_optimizer"):
        with pytest.raises(TypeError, match=f"^{name} must be"):
            agent_of(**{name: 3})
    with pytest.raises(TypeError, match="^hyperparams must be"):
        agent_of(hyperparams={})
    for name, wrong in (("action_dim", 0), ("action_dim", True), ("device", "gpu"), ("backend", "cuda")):
        with pytest.raises(ValueError, match=f"^{name}"):
            agent_of(**{name: wrong})


def test_an_actor_with_other_outputs_than_actions_is_named() -> None:
    agent = agent_of(
        {"learning_starts": 0}, actor=nn.Linear(3, 2), actor_optimizer=adam([nn.Parameter(torch.zeros(1))])
    )
    with pytest.raises(ValueError, match=r"actor must return \[B, 1\], got \[1, 2\]"):
        agent.act(ORIGIN)


def test_one_optimizer_over_actor_and_critics_is_refused() -> None:
    agent = agent_of()
    parameters = [p for net in (agent.actor, *agent.critics) for p in net.parameters()]
    given = {"actor": agent.actor, "critic1": agent.critics[0], "critic2": agent.critics[1]}
    with pytest.raises(ValueError, match=r"actor_optimizer must not train.*give each its own optimizer"):
        agent_of(**given, actor_optimizer=adam(parameters), critic_optimizer=adam(parameters))


# --- hyperparameters, saving and resuming -------------------------------------------------------


def test_a_learning_rate_is_written_to_both_optimizers() -> None:
    agent = agent_of()
    agent.set_hyperparams(HyperparamSet({"learning_rate": 0.01, "batch_size": 8}))
    assert [o.param_groups[0]["lr"] for o in agent._model.optimizers().values()] == [0.01] * 2
    assert agent.get_hyperparams().params["learning_rate"] == 0.01


def straight_and_resumed(one: str, other: str) -> tuple[TorchTD3Agent, TorchTD3Agent]:
    """An agent, and another that was given its state half-way, after an odd number of updates."""
    params = {"per_alpha": 0.6, "n_step": 2, "learning_starts": 17, "policy_delay": 2}
    straight, resumed = agent_of(params, backend=one), agent_of(params, seed=3, backend=other)
    learn(straight, pipeline_of(straight), 1)
    assert straight.updates % 2
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
    spoiled = agent.state_dict()
    spoiled["uniform_start"] = {**spoiled["uniform_start"], "held_action": "left"}
    with pytest.raises(ValueError, match="held_action must be numbers"):
        agent.load_state_dict(spoiled)
    assert_same(agent.state_dict(), before)


def test_an_agent_from_its_files_acts_and_learns_alike(tmp_path: Path) -> None:
    agent = make_agent("td3", gym.make("Pendulum-v1"), (16,), {"batch_size": 16, "policy_delay": 3}, seed=0)
    pipeline = VectorBatchPipeline([lambda: gym.make("Pendulum-v1")] * 2, agent, window_size=32, seed=5)
    learn(agent, pipeline, 2)  # type: ignore[arg-type]
    agent.save(str(tmp_path))
    observations = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    for kind in (Agent, TorchTD3Agent):
        loaded = kind.load(str(tmp_path), device="cpu")
        assert isinstance(loaded, TorchTD3Agent)
        assert loaded.get_hyperparams().params == agent.get_hyperparams().params
        np.testing.assert_array_equal(
            loaded.act_batch(observations, deterministic=True),
            agent.act_batch(observations, deterministic=True),
        )
        assert loaded._uniform.steps == 0
        assert learn(loaded, pipeline_of(loaded), 1)[0]["n_updates"] == 64


def test_weights_round_trip_and_the_targets_become_copies(tmp_path: Path) -> None:
    agent, other = agent_of(seed=1), agent_of(seed=2)
    learn(agent, pipeline_of(agent), 2)
    agent.save_weights(str(tmp_path / "w"))
    files = sorted(p.name for p in (tmp_path / "w").iterdir())
    assert files == [f"{n}.safetensors" for n in ("actor", "critic1", "critic2")]
    other.load_weights(str(tmp_path / "w"))
    ours, theirs = (a.state_dict()["model"]["networks"] for a in (other, agent))
    for target, name in (("target_actor", "actor"), ("target1", "critic1"), ("target2", "critic2")):
        assert_same(ours[name], theirs[name], name)
        assert_same(ours[target], theirs[name], target)
    with pytest.raises(RuntimeError, match="another architecture"):
        agent_of(width=2).load_weights(str(tmp_path / "w"))
    with pytest.raises(FileNotFoundError, match="actor"):
        other.load_weights(str(tmp_path / "nowhere"))


def test_average_is_the_mean_and_perturbation_scales(tmp_path: Path) -> None:
    one, two, agent = agent_of(seed=1), agent_of(seed=2), agent_of(seed=3)
    one.save_weights(str(tmp_path / "1"))
    two.save_weights(str(tmp_path / "2"))
    agent.average_weights([str(tmp_path / "1"), str(tmp_path / "2")])
    weights = [a.state_dict()["model"]["networks"]["critic1"]["0.weight"] for a in (one, two, agent)]
    torch.testing.assert_close(weights[2], (weights[0] + weights[1]) / 2)
    agent.perturb_weights(0.1)
    networks = agent.state_dict()["model"]["networks"]
    factor = networks["critic1"]["0.weight"] / weights[2] - 1
    assert 0.05 < factor.std() < 0.2
    assert_same(networks["target_actor"], networks["actor"])
