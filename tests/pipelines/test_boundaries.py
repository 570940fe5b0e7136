"""Every way of stepping gives the same valid rows, and every row knows its boundaries."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import pytest

from optix_fast.pipelines import BatchPipeline, VectorBatchPipeline
from tests.pipelines.conftest import MODES

WINDOW_SIZES = (1, 2, 3, 7)
SYNC = [*(f"sync-{mode}" for mode in MODES), "env_fns"]
# Windows are cut in one place for all vector modes, and each asynchronous test starts three processes.
ASYNC = [(f"async-{mode}", 2) for mode in MODES]
every_vector_mode = pytest.mark.parametrize(
    ("vector_kind", "window_size"), [*[(kind, size) for kind in SYNC for size in WINDOW_SIZES], *ASYNC]
)


class Row(NamedTuple):
    observation: tuple[float, ...]
    action: int
    reward: float
    terminated: bool
    truncated: bool
    final: tuple[float, ...] | None
    note: str


def rows_by_hand(env: Any, agent: Any, count: int) -> list[Row]:
    rows = []
    observation, _ = env.reset()
    for _ in range(count):
        action = agent.act(observation)
        following, reward, terminated, truncated, info = env.step(action)
        final = tuple(following.tolist()) if terminated or truncated else None
        seen = tuple(observation.tolist())
        rows.append(Row(seen, action, reward, terminated, truncated, final, info["note"]))
        observation = following if final is None else env.reset()[0]
    return rows


def rows_of(windows: list[Any]) -> list[list[Row]]:
    """The valid rows of each environment, read from the flat fields."""
    found: list[list[Row]] = [[] for _ in range(windows[0].n_envs)]
    for data in windows:
        finals = dict(zip(data.final_rows.tolist(), data.final_observations, strict=True))
        for row, position in enumerate(np.flatnonzero(data.valid)):
            final = finals.pop(int(position), None)
            found[position % data.n_envs].append(
                Row(
                    tuple(data.observations[row].tolist()),
                    int(data.actions[row]),
                    float(data.rewards[row]),
                    bool(data.terminated[row]),
                    bool(data.truncated[row]),
                    None if final is None else tuple(final.tolist()),
                    data.infos[row]["note"],
                )
            )
        assert not finals
    return found


def collect(pipeline: Any, rows_per_env: int) -> list[Any]:
    windows, counts = [], np.zeros(pipeline.n_envs, int)
    for data in pipeline.episodes():
        windows.append(data)
        counts += data.valid.sum(axis=0)
        if counts.min() >= rows_per_env:
            return windows
    raise AssertionError("episodes() ended")


def test_first_rows_of_the_scripted_environment_are_as_written_here(pipeline, scripted_agent):
    (data,) = collect(pipeline("single-1", scripted_agent, 8), 8)
    # Environment 1: an episode of 2 that terminates, of 5 that is truncated, of 1 that is both.
    assert data.observations.tolist() == [
        [1, 0, 0], [1, 0, 1], [1, 1, 0], [1, 1, 1], [1, 1, 2], [1, 1, 3], [1, 1, 4], [1, 2, 0],
    ]  # fmt: skip
    assert data.actions.tolist() == [1, 2, 2, 0, 1, 2, 0, 0]
    assert data.rewards.tolist() == [101.5, 202, 211.5, 12, 112.5, 213, 13.5, 21.5]
    assert data.terminated.tolist() == [False, True, False, False, False, False, False, True]
    assert data.truncated.tolist() == [False, False, False, False, False, False, True, True]
    assert data.dones.tolist() == [False, True, False, False, False, False, True, True]
    assert data.final_rows.tolist() == [1, 6, 7]
    assert data.final_observations.tolist() == [[1, 0, 2], [1, 1, 5], [1, 2, 1]]
    assert data.next_observations.tolist() == [[1, 3, 0]]
    assert data.metadata["episode_returns"] == [303.5, 562.5, 21.5]
    assert data.metadata["episode_lengths"] == [2, 5, 1]


@pytest.mark.parametrize("window_size", WINDOW_SIZES)
@pytest.mark.parametrize("who", range(3))
def test_single_environment_gives_the_rows_of_a_hand_written_loop(
    pipeline, scripted, scripted_agent, who, window_size
):
    expected = rows_by_hand(scripted(who), scripted_agent, 30)
    (rows,) = rows_of(collect(pipeline(f"single-{who}", scripted_agent, window_size), 30))
    assert rows[:30] == expected


@every_vector_mode
@pytest.mark.parametrize("agent_name", ["scripted_agent", "row_agent"])
def test_every_vector_mode_gives_the_rows_of_a_hand_written_loop(
    request, pipeline, scripted, scripted_agent, vector_kind, agent_name, window_size
):
    agent = request.getfixturevalue(agent_name)
    rows = rows_of(collect(pipeline(vector_kind, agent, window_size), 30))
    for who in range(3):
        assert rows[who][:30] == rows_by_hand(scripted(who), scripted_agent, 30)


@pytest.mark.parametrize("window_size", WINDOW_SIZES)
def test_own_vector_environment_gives_the_rows_of_a_hand_written_loop(
    pipeline, scripted, scripted_agent, window_size
):
    rows = rows_of(collect(pipeline("own", scripted_agent, window_size), 30))
    for who in range(3):
        assert rows[who][:30] == rows_by_hand(scripted(who), scripted_agent, 30)


@every_vector_mode
def test_agent_is_not_asked_about_observations_whose_episode_is_over(
    pipeline, scripted, scripted_agent, vector_kind, window_size
):
    windows = collect(pipeline(vector_kind, scripted_agent, window_size), 10)
    seen = [tuple(observation.tolist()) for observation in scripted_agent.seen]
    valid = [tuple(row.tolist()) for data in windows for row in data.observations]
    assert seen == valid


@pytest.mark.parametrize("window_size", WINDOW_SIZES)
def test_next_observations_are_what_the_next_window_begins_with(pipeline, scripted_agent, window_size):
    windows = collect(pipeline("sync-SameStep", scripted_agent, window_size), 30)
    for data, following in pairwise(windows):
        np.testing.assert_array_equal(data.next_observations, following.grid("observations")[0])


def test_reset_rows_are_invalid_and_belong_to_nobody(pipeline, scripted_agent):
    (data,) = collect(pipeline("sync-NextStep", scripted_agent, 4), 1)
    # Episodes of 3, 2 and 1 steps, each followed by a reset row.
    assert data.valid.tolist() == [
        [True, True, True],
        [True, True, False],
        [True, False, True],
        [False, True, False],
    ]
    assert data.length == 8
    assert data.final_rows.tolist() == [2, 4, 6, 8]
    assert data.grid("terminated")[3].tolist() == [False, False, False]
    assert data.grid("rewards")[1, 2] == 0.0
    assert data.metadata["episode_lengths"] == [1, 2, 3, 1]


@every_vector_mode
def test_episode_returns_and_lengths_are_counted_across_windows(
    pipeline, scripted_agent, vector_kind, window_size
):
    pipe = pipeline(vector_kind, scripted_agent, window_size)
    open_return, open_length = np.zeros(3), np.zeros(3, int)
    for data in collect(pipe, 20):
        returns, lengths = [], []
        rewards, dones, valid = data.grid("rewards"), data.grid("dones"), data.valid
        for t, n in np.argwhere(valid):
            open_return[n] += rewards[t, n]
            open_length[n] += 1
            if dones[t, n]:
                returns.append(open_return[n])
                lengths.append(open_length[n])
                open_return[n], open_length[n] = 0.0, 0
        assert data.metadata["episode_returns"] == returns
        assert data.metadata["episode_lengths"] == lengths


def test_window_of_resets_only_is_not_yielded(pipeline, scripted_agent):
    env = gym.vector.SyncVectorEnv([lambda: pipeline("single-2", None, 1).env])  # episodes of 1, 1, 6
    pipe = VectorBatchPipeline(agent=scripted_agent, window_size=1, vector_env=env)
    windows = collect(pipe, 8)
    assert [data.length for data in windows] == [1] * 8
    assert [data.episode_id for data in windows] == list(range(8))
    assert [int(data.dones[0]) for data in windows] == [1, 1, 0, 0, 0, 0, 0, 1]


# --- masks --------------------------------------------------------------------------------------


@pytest.mark.parametrize("masks", ["info", "key"])
@pytest.mark.parametrize(
    ("kind", "window_size"),
    [*[(kind, size) for kind in (*SYNC, "single-0", "single-1", "single-2") for size in (1, 3)], *ASYNC],
)
def test_masks_belong_to_the_observation_acted_on(pipeline, scripted_agent, kind, masks, window_size):
    for data in collect(pipeline(kind, scripted_agent, window_size, masks), 15):
        x = data.observations["x"] if masks == "key" else data.observations
        assert data.action_masks.dtype == np.bool_
        for row, mask in zip(x.astype(int), data.action_masks, strict=True):
            allowed = [True, True, True]
            allowed[sum(row) % 3] = False
            assert mask.tolist() == allowed


def test_every_action_is_allowed_where_the_next_step_resets(pipeline, scripted_agent):
    pipe = pipeline("sync-NextStep", scripted_agent, 3, "info")
    (data,) = collect(pipe, 1)
    assert not data.valid.all()
    seen_by_agents = pipe.stepper.action_masks[pipe.stepper.pending]
    assert seen_by_agents.shape == (2, 3) and seen_by_agents.all()


class TalkativeOnce(gym.Env[Any, Any]):
    """Gives a mask at the reset only."""

    observation_space = gym.spaces.Box(0, 1, (1,), np.float32)
    action_space = gym.spaces.Discrete(3)

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        self.steps = 0
        return np.zeros(1, np.float32), {"action_mask": [0, 1, 0]}

    def step(self, action: Any) -> Any:
        self.steps += 1
        return np.ones(1, np.float32), 0.0, self.steps == 2, False, {}


class Always1:
    def act(self, observation: Any) -> int:
        return 1


@pytest.mark.parametrize("mode", ["SameStep", "Disabled", "single"])
def test_everything_is_allowed_where_no_mask_was_told(mode):
    if mode == "single":
        pipe: Any = BatchPipeline(TalkativeOnce(), Always1(), 4)
    else:
        env = gym.vector.SyncVectorEnv([TalkativeOnce], autoreset_mode=mode)
        pipe = VectorBatchPipeline(agent=Always1(), window_size=4, vector_env=env)
    (data,) = collect(pipe, 4)
    told, untold = [False, True, False], [True, True, True]
    assert data.action_masks.tolist() == [told, untold, told, untold]


def test_mask_of_a_wrong_length_is_refused():
    class Wrong(TalkativeOnce):
        def reset(self, *, seed: Any = None, options: Any = None) -> Any:
            return super().reset()[0], {"action_mask": np.ones(4, np.int8)}

    with pytest.raises(
        ValueError, match=r"environment Wrong: action_mask must have 3 entries, got shape \[4\]"
    ):
        next(BatchPipeline(Wrong(), Always1(), 4).episodes())


# --- Gymnasium's own vector environment ---------------------------------------------------------


class Leaning:
    """Pushes to the side to which the pole falls; environment-independent and deterministic."""

    def act(self, observation: Any) -> int:
        return int(observation[2] + observation[3] > 0.3 * observation[0])


def test_vectorised_cartpole_moves_as_single_cartpoles_do():
    env = gym.make_vec(
        "CartPole-v1", num_envs=3, vectorization_mode="vector_entry_point", max_episode_steps=40
    )
    pipe = VectorBatchPipeline(agent=Leaning(), window_size=25, vector_env=env, seed=3)
    single = gym.make("CartPole-v1").unwrapped
    single.reset(seed=0)
    following: list[Any] = [None] * 3
    ends = 0
    for data in collect(pipe, 300):
        finals = dict(zip(data.final_rows.tolist(), data.final_observations, strict=True))
        observations, actions = data.grid("observations"), data.grid("actions")
        for t, n in np.argwhere(data.valid):
            if following[n] is not None:
                np.testing.assert_allclose(observations[t, n], following[n], rtol=1e-6, atol=1e-6)
            single.state, single.steps_beyond_terminated = observations[t, n].astype(np.float64), None
            following[n], _, terminated, _, _ = single.step(int(actions[t, n]))
            position = int(t * 3 + n)
            assert terminated == data.grid("terminated")[t, n]
            if position in finals:
                np.testing.assert_allclose(finals[position], following[n], rtol=1e-6, atol=1e-6)
                following[n] = None
                ends += 1
            # The reward of a reset row is not counted.
            assert data.grid("rewards")[t, n] == 1.0
        assert (np.abs(data.observations[:, 2]) < 0.2095).all()
    assert ends >= 15
    pipe.teardown()
