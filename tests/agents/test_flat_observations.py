"""Dict, Tuple and discrete observations: flat rows for the core, trees for torch, the same result."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from optix_fast import BatchPipeline, HyperparamSet, TorchDQNAgent, VectorBatchPipeline, make_agent
from optix_fast.learners.native.networks import UnsupportedError, stack_of
from optix_fast.networks.encoders import EncodedCritic, ObservationEncoder
from optix_fast.networks.flat_layout import FlatLayout, Leaf
from optix_fast.types import EpisodeData, NonFiniteError


def box(*shape: int, dtype: Any = np.float32) -> spaces.Box:
    return spaces.Box(-10, 10, shape, dtype)


SPACE = spaces.Dict(
    OrderedDict(
        position=box(2),
        phase=spaces.Discrete(4, start=-1),
        inner=spaces.Dict({"grid": box(2, 2), "flags": spaces.MultiBinary(3)}),
        pair=spaces.Tuple((spaces.MultiDiscrete([2, 3], start=[0, 5]), box(1, dtype=np.float64))),
        action_mask=spaces.MultiBinary(2),
    )
)


class Everything(gym.Env[Any, int]):
    """Every kind of observation; the action that the phase names is the better one."""

    observation_space, action_space = SPACE, spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.steps = 0
        return self._observe(), {}

    def step(self, action: int) -> Any:
        reward = float(action == int(self.phase > 0))
        self.steps += 1
        return self._observe(), reward, self.steps == 20, False, {}

    def _observe(self) -> Any:
        self.observation_space.seed(int(self.np_random.integers(2**31)))
        seen = self.observation_space.sample()
        seen["action_mask"] = np.ones(2, np.int8)
        self.phase = int(seen["phase"])
        return seen


# --- the layout ---------------------------------------------------------------------------------


def test_the_columns_of_every_kind_of_space() -> None:
    layout = FlatLayout.of(SPACE)
    # The inner Dict, made from a plain dict, is sorted by Gymnasium.
    assert layout.leaves == (
        Leaf(("position",), 0, (2,)),
        Leaf(("phase",), 2, (), (4,), (-1,), is_integer=True),
        Leaf(("inner", "flags"), 3, (3,), is_integer=True),
        Leaf(("inner", "grid"), 6, (2, 2)),
        Leaf(("pair", 0), 10, (2,), (2, 3), (0, 5), is_integer=True),
        Leaf(("pair", 1), 12, (1,)),
    )
    assert layout.features == 13


def test_rows_by_hand_and_back() -> None:
    space = spaces.Dict({"a": box(2), "b": spaces.Discrete(3, start=2), "c": spaces.Tuple((box(1),))})
    layout = FlatLayout.of(space)
    seen = {"a": np.array([[1.0, 2.0]], np.float32), "b": np.array([4]), "c": (np.array([[0.5]]),)}
    flat = layout.flatten(seen)
    assert flat.tolist() == [[1.0, 2.0, 4.0, 0.5]] and flat.dtype == np.float32
    back = layout.unflatten(torch.from_numpy(flat))
    assert back["a"].tolist() == [[1.0, 2.0]] and back["b"].tolist() == [4]
    assert back["b"].dtype == torch.int64 and isinstance(back["c"], tuple) and back["c"][0].item() == 0.5


@pytest.mark.parametrize(
    ("seen", "message"),
    [
        ({"a": np.zeros((1, 3)), "b": np.array([2])}, r"observation\['a'\] must have shape \[2\], got \[3\]"),
        ({"a": np.zeros((1, 2)), "b": np.zeros(2)}, r"observation\['b'\] must have shape"),
    ],
)
def test_observations_of_other_shapes_are_named(seen: Any, message: str) -> None:
    layout = FlatLayout.of(spaces.Dict({"a": box(2), "b": spaces.Discrete(3, start=2)}))
    with pytest.raises(ValueError, match=message):
        layout.flatten(seen)


def test_what_a_discrete_space_lacks_is_named() -> None:
    layout = FlatLayout.of(spaces.Dict({"b": spaces.Discrete(3, start=2)}))
    layout.check(np.array([[2.0], [4.0]], np.float32))
    for wrong in (1.0, 5.0, np.nan):
        with pytest.raises(ValueError, match=r"observation\['b'\] must be between 2 and 4, got"):
            layout.check(np.array([[wrong]], np.float32))


def test_images_stay_with_torch() -> None:
    with pytest.raises(UnsupportedError, match=r"the observations hold images \(uint8\), which torch reads"):
        FlatLayout.of(spaces.Dict({"camera": spaces.Box(0, 255, (4, 4), np.uint8)}))


# --- networks -----------------------------------------------------------------------------------


@pytest.mark.native
@pytest.mark.parametrize("space", [SPACE, spaces.Discrete(5), spaces.MultiDiscrete([3, 2]), box(3, 2)])
def test_an_encoder_declares_what_it_computes(space: Any) -> None:
    encoder = ObservationEncoder(space)
    net = nn.Sequential(encoder, nn.Linear(encoder.features, 3))
    stack = stack_of(net, "net")  # compares the declaration with forward
    assert stack.layout == FlatLayout.of(space)
    critic = EncodedCritic(encoder, nn.Sequential(nn.Linear(encoder.features + 2, 1)), 2)
    assert stack_of(critic, "critic").features == FlatLayout.of(space).features + 2


# --- agents -------------------------------------------------------------------------------------


def trained(algo: str, backend: str, env: Any, windows: int = 4, **params: Any) -> tuple[Any, list[Any]]:
    agent = make_agent(algo, env, (16, 16), params, seed=3, backend=backend)
    pipeline = VectorBatchPipeline([Everything] * 3, agent, window_size=32, seed=5)
    return agent, [
        agent.learn(window) for window, _ in zip(pipeline.episodes(), range(windows), strict=False)
    ]


@pytest.mark.native
def test_ppo_acts_and_learns_the_same_on_both_backends() -> None:
    (ours, told), (theirs, expected) = (
        trained("ppo", backend, Everything(), n_epochs=2, minibatch_size=32)
        for backend in ("native", "torch")
    )
    assert ours.backend == "native"
    for mine, other in zip(told, expected, strict=True):
        for key in ("policy_loss", "value_loss", "entropy"):
            assert mine[key] == pytest.approx(other[key], rel=1e-3, abs=1e-4)
    for mine, other in zip(ours.actor.parameters(), theirs.actor.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-4)


@pytest.mark.native
def test_one_observation_and_batches_of_them() -> None:
    env = Everything()
    agents = [make_agent("ppo", env, (16,), seed=1, backend=backend) for backend in ("native", "torch")]
    seen = [env.reset(seed=i)[0] for i in range(12)]
    batch = {
        "position": np.stack([o["position"] for o in seen]),
        "phase": np.array([o["phase"] for o in seen]),
        "inner": {k: np.stack([o["inner"][k] for o in seen]) for k in ("grid", "flags")},
        "pair": tuple(np.stack([o["pair"][i] for o in seen]) for i in range(2)),
        "action_mask": np.array([[1, 0]] * 6 + [[0, 1]] * 6, np.int8),
    }
    together = [agent.act_batch(batch, deterministic=True).tolist() for agent in agents]
    assert together[0] == together[1] == [0] * 6 + [1] * 6
    alone = [[agent.act(o, deterministic=True) for o in seen] for agent in agents]
    assert alone[0] == alone[1]
    masked = {**seen[0], "action_mask": np.array([0, 1], np.int8)}
    assert [agent.act(masked) for agent in agents] == [1, 1]


@pytest.mark.native
def test_observations_that_are_not_of_the_space_are_refused() -> None:
    env = Everything()
    agent = make_agent("ppo", env, (16,), seed=1)
    seen = env.reset(seed=0)[0]
    with pytest.raises(ValueError, match="observation must hold 'phase'"):
        agent.act({k: v for k, v in seen.items() if k != "phase"})
    with pytest.raises(
        (ValueError, NonFiniteError), match=r"observation\['phase'\] must be between -1 and 2"
    ):
        agent.act({**seen, "phase": np.int64(9)})


@pytest.mark.native
@pytest.mark.parametrize("env_id", ["FrozenLake-v1", "Blackjack-v1", "Taxi-v4"])
def test_environments_with_discrete_observations_run_native(env_id: str) -> None:
    try:
        env = gym.make(env_id)
    except gym.error.Error:
        env = gym.make("Taxi-v3")
    agent = make_agent("ppo", env, (16,), {"minibatch_size": 32}, seed=0, backend="native")
    pipeline = BatchPipeline(env, agent, window_size=64, seed=0)
    assert agent.learn(next(iter(pipeline.episodes())))["n_updates"] > 0


class Unmasked(gym.ObservationWrapper[Any, Any, Any]):
    """Everything, without the masks."""

    def __init__(self, actions: Any = None) -> None:
        super().__init__(Everything())
        parts = {key: sub for key, sub in SPACE.spaces.items() if key != "action_mask"}
        self.observation_space = spaces.Dict(OrderedDict(parts))
        self.action_space = actions or spaces.Discrete(2)

    def observation(self, observation: Any) -> Any:
        return {key: part for key, part in observation.items() if key != "action_mask"}

    def step(self, action: Any) -> Any:
        seen, reward, *rest = super().step(int(np.sum(action) > 0))
        return seen, reward, *rest


@pytest.mark.native
@pytest.mark.parametrize("algo", ["dqn", "sac", "td3", "tqc", "crossq"])
def test_off_policy_agents_learn_the_same_on_both_backends(algo: str) -> None:
    def make() -> Any:
        return Unmasked(None if algo == "dqn" else box(2))

    agents, told = [], []
    for backend in ("native", "torch"):
        agent = make_agent(
            algo,
            make(),
            (16, 16),
            {"batch_size": 16, "learning_starts": 40},
            seed=3,
            backend=backend,
        )
        pipeline = VectorBatchPipeline([make] * 2, agent, window_size=20, seed=5)
        windows = zip(pipeline.episodes(), range(2), strict=False)
        told.append([agent.learn(window) for window, _ in windows][-1])
        agents.append(agent)
    assert agents[0].backend == "native" and told[0]["n_updates"] > 0
    loss = next(key for key in told[0] if key.endswith("loss"))
    assert told[0][loss] == pytest.approx(told[1][loss], rel=1e-3)
    for mine, other in zip(*(agent._model.parameters() for agent in agents), strict=True):
        torch.testing.assert_close(mine, other, rtol=5e-3, atol=5e-4)


@pytest.mark.native
def test_stored_rows_survive_a_save_and_a_load(tmp_path: Any) -> None:
    agent = make_agent("dqn", Unmasked(), (16,), {"batch_size": 32, "learning_starts": 64}, seed=3)
    pipeline = BatchPipeline(Unmasked(), agent, window_size=80, seed=5)
    windows = iter(pipeline.episodes())
    agent.learn(next(windows))
    agent.save(str(tmp_path / "agent"), replay=True)
    twin = type(agent).load(str(tmp_path / "agent"))
    other = make_agent("dqn", Unmasked(), (16,), {"batch_size": 32, "learning_starts": 64}, seed=4)
    other.load_state_dict(agent.state_dict())
    window = next(windows)
    expected = agent.learn(window)
    assert other.learn(window) == expected and expected["n_updates"] > 0
    assert twin.backend == "native" and twin.learn(window) == expected


def dqn(network: nn.Module, space: Any = None) -> Any:
    params = HyperparamSet({"batch_size": 8, "learning_starts": 16})
    agent = TorchDQNAgent(network, 2, torch.optim.Adam(network.parameters()), params, seed=1)
    if space is not None:
        agent.bind_spaces(space, spaces.Discrete(2))
    return agent


def test_a_state_of_flat_rows_waits_for_the_space_and_others_stay_as_they_are() -> None:
    env = Unmasked()
    windows = iter(BatchPipeline(env, make_agent("dqn", env, (8,)), window_size=40, seed=5).episodes())
    first, second = next(windows), next(windows)

    def network() -> nn.Module:
        torch.manual_seed(0)
        encoder = ObservationEncoder(env.observation_space)
        return nn.Sequential(encoder, nn.Linear(encoder.features, 2))

    bound, free = dqn(network(), env.observation_space), dqn(network())
    for agent in (bound, free):
        agent.learn(first)
    late = dqn(network())
    late.load_state_dict(bound.state_dict())
    late.bind_spaces(env.observation_space, spaces.Discrete(2))
    early = dqn(network(), env.observation_space)
    early.load_state_dict(free.state_dict())
    for agent in (bound, free, late, early):
        assert agent.learn(second)["n_updates"] > 0


class Embedded(nn.Module):
    """Reads whole numbers as rows of an Embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(10, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert x.dtype == torch.int64
        return self.head(self.embedding(x).mean(dim=1))


def window_of(space: Any, n: int = 24) -> EpisodeData:
    space.seed(3)
    seen = np.stack([space.sample() for _ in range(n + 1)])
    none = np.zeros(n, np.bool_)
    return EpisodeData(
        seen[:-1], np.arange(n) % 2, np.ones(n, np.float32), none, none, [{}] * n, 0, final_obs=seen[-1]
    )


@pytest.mark.parametrize("space", [spaces.Box(0, 9, (3,), np.int64), spaces.MultiBinary(4)], ids=str)
def test_networks_are_given_whole_numbers_as_whole_numbers(space: Any) -> None:
    agent = dqn(Embedded(), space)
    assert agent.learn(window_of(space))["n_updates"] > 0


def test_numbers_that_float32_rounds_are_stored_as_they_are() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.seen = nn.Linear(1, 2), set()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.seen |= set((x % 2).flatten().tolist())
            return self.head((x % 2).float())

    space = spaces.Box(2**24, 2**24 + 1001, (1,), np.int64)
    with pytest.raises(
        UnsupportedError, match=r"observation may be greater than 2\^24, which float32 rounds"
    ):
        FlatLayout.of(space)
    with pytest.raises(UnsupportedError, match="may be greater"):
        FlatLayout.of(spaces.Dict({"far": spaces.Discrete(3, start=20_000_001)}))
    network = Odd()
    agent = dqn(network, space)
    network.seen.clear()
    assert agent.learn(window_of(space))["n_updates"] > 0
    assert network.seen == {0, 1}


def test_masks_deep_in_an_observation_reach_the_network() -> None:
    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(3, 2)

        def forward(self, x: Any) -> torch.Tensor:
            return self.head(torch.cat([x["p"]["v"], x["p"]["action_mask"].float()], dim=-1))

    inner = spaces.Dict({"v": box(1), "action_mask": spaces.MultiBinary(2)})
    agent = dqn(Deep(), spaces.Dict({"p": inner}))
    n = 24
    parts = {"v": np.ones((n + 1, 1), np.float32), "action_mask": np.ones((n + 1, 2), np.int8)}
    none = np.zeros(n, np.bool_)
    window = EpisodeData(
        {"p": {k: v[:-1] for k, v in parts.items()}}, np.arange(n) % 2, np.ones(n, np.float32), none, none,
        [{}] * n, 0, final_obs={"p": {k: v[-1] for k, v in parts.items()}},
    )  # fmt: skip
    assert agent.learn(window)["n_updates"] > 0


def test_a_window_that_lacks_a_part_is_refused_by_name() -> None:
    env = Unmasked()
    agent = make_agent("dqn", env, (8,), seed=0)
    window = next(iter(BatchPipeline(env, agent, window_size=8, seed=5).episodes()))
    window.observations.pop("phase")
    with pytest.raises(
        ValueError, match="the window's observations are not of the observation space: 'phase'"
    ):
        agent.learn(window)
