"""ReplayBuffer: targets by hand, every row against a naive list, the windows of real pipelines."""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st
from replay_cases import NaiveBuffer, check_equal

from optix_fast import BatchPipeline, VectorBatchPipeline
from optix_fast.buffers import ReplayBuffer
from optix_fast.types import BaseAgent, EpisodeData, HyperparamSet, tree_map


def push_states(buffer: ReplayBuffer, states: list[float], rewards: list[float], end: str = "") -> None:
    """One episode through the given states, ending in 'terminated', 'truncated' or not at all."""
    for i, reward in enumerate(rewards):
        last = i == len(rewards) - 1
        buffer.push(
            np.array([states[i]], np.float64),
            i,
            reward,
            np.array([states[i + 1]], np.float64),
            last and end == "terminated",
            last and end == "truncated",
        )


# ---- numbers by hand ---------------------------------------------------------------------------------------


def test_one_step_targets():
    buffer = ReplayBuffer(8, gamma=0.5)
    push_states(buffer, [0, 1, 2], [10.0, 20.0], "terminated")
    batch = buffer.batch(np.array([0, 1]))
    assert batch.observations.tolist() == [[0], [1]]
    assert batch.next_observations.tolist() == [[1], [2]]
    assert batch.actions.tolist() == [0, 1]
    assert batch.rewards.tolist() == [10, 20]
    assert batch.discounts.tolist() == [0.5, 0]
    assert batch.terminated.tolist() == [False, True]
    assert batch.n_steps.tolist() == [1, 1]


def test_three_step_targets_across_termination_and_truncation():
    # Episode A: states 0 1 2 3, rewards 1 2 4, terminated. Episode B: 10 11 12, rewards 8 16, truncated.
    # Running episode C: 20 21 22, rewards 32 64. γ = ½.
    buffer = ReplayBuffer(16, n_step=3, gamma=0.5)
    push_states(buffer, [0, 1, 2, 3], [1, 2, 4], "terminated")
    push_states(buffer, [10, 11, 12], [8, 16], "truncated")
    push_states(buffer, [20, 21, 22], [32, 64])
    batch = buffer.batch(np.arange(7))
    assert batch.rewards.tolist() == [
        1 + 2 / 2 + 4 / 4,  # three rewards, then it is over
        2 + 4 / 2,
        4,
        8 + 16 / 2,  # two rewards, then the time limit: bootstraps from 12 with γ²
        16,
        32 + 64 / 2,  # two rewards so far: bootstraps from 22 with γ²
        64,
    ]
    assert batch.next_observations[:, 0].tolist() == [3, 3, 3, 12, 12, 22, 22]
    assert batch.discounts.tolist() == [0, 0, 0, 0.25, 0.5, 0.25, 0.5]
    assert batch.terminated.tolist() == [True, True, True, False, False, False, False]
    assert batch.n_steps.tolist() == [3, 2, 1, 2, 1, 2, 1]
    # What is learned with V(12) = 100: row 3 aims at 16 + ¼·100.
    assert batch.rewards[3] + batch.discounts[3] * 100 == 41


def test_the_newest_row_reaches_further_when_more_comes():
    buffer = ReplayBuffer(16, n_step=3, gamma=1.0)
    push_states(buffer, [0, 1], [1])
    assert buffer.batch(np.array([0])).rewards.tolist() == [1]
    push_states(buffer, [1, 2], [10])
    push_states(buffer, [2, 3], [100])
    push_states(buffer, [3, 4], [1000])
    batch = buffer.batch(np.array([0, 1]))
    assert batch.rewards.tolist() == [111, 1110]
    assert batch.next_observations[:, 0].tolist() == [3, 4]


def test_terminated_and_truncated_at_once_is_terminated():
    buffer = ReplayBuffer(4)
    buffer.push(np.zeros(1), 0, 1.0, np.ones(1), True, True)
    assert buffer.batch(np.array([0])).discounts.tolist() == [0]


def test_parameters_change_what_is_already_stored():
    buffer = ReplayBuffer(8, gamma=0.5)
    push_states(buffer, [0, 1, 2, 3], [1, 2, 4])
    buffer.set_params(n_step=2, gamma=0.25)
    batch = buffer.batch(np.arange(3))
    assert batch.rewards.tolist() == [1.5, 3, 4]
    assert batch.discounts.tolist() == [0.0625, 0.0625, 0.25]


def test_a_trajectory_goes_on_whatever_its_observations_look_like():
    # Each observation is normalized when it is seen, so the same state never has the same bytes twice.
    buffer = ReplayBuffer(8, n_step=3, gamma=0.5)
    for t in range(4):
        buffer.push(np.array([t + 0.25]), 0, 2.0**t, np.array([t + 1.5]), t == 3)
    batch = buffer.batch(np.arange(4))
    assert batch.rewards.tolist() == [1 + 2 / 2 + 4 / 4, 2 + 4 / 2 + 8 / 4, 4 + 8 / 2, 8]
    # What followed is what was pushed with the row, not what the next row begins with.
    assert batch.next_observations[:, 0].tolist() == [3.5, 4.5, 4.5, 4.5]
    assert batch.discounts.tolist() == [0.125, 0, 0, 0]
    buffer.set_params(n_step=1)
    assert buffer.batch(np.arange(4)).next_observations[:, 0].tolist() == [1.5, 2.5, 3.5, 4.5]


def test_interleaved_environments_go_on_apart():
    buffer = ReplayBuffer(16, n_step=3, gamma=1.0)
    for t in range(3):
        for env in (0, 2):
            # Both show the same states; only the number tells them apart.
            buffer.push(
                np.array([t]), env, 10.0**t * (env + 1), np.array([t + 1]), False, t == 2 and env == 2, env
            )
    batch = buffer.batch(np.arange(6))
    assert batch.rewards.tolist() == [111, 333, 110, 330, 100, 300]
    assert batch.n_steps.tolist() == [3, 3, 2, 2, 1, 1]
    buffer.push(np.array([3]), 0, 1000.0, np.array([4]), False, env=2)  # after the truncation: anew
    buffer.push(np.array([3]), 0, 1000.0, np.array([4]), False)
    assert buffer.batch(np.array([5, 4])).rewards.tolist() == [300, 1100]


def test_a_link_between_rows_of_other_bytes_ends_with_the_older_row():
    buffer = ReplayBuffer(3, n_step=3, gamma=1.0)
    for t in range(50):
        buffer.push(np.array([t + 0.25]), 0, 2.0 ** (t % 8), np.array([t + 0.5]), False)
        newest = [2.0 ** (k % 8) for k in range(max(0, t - 2), t + 1)]
        at = buffer.batch(np.array([(t - len(newest) + 1) % 3]))
        assert at.rewards.tolist() == [sum(newest)]
        assert at.next_observations.tolist() == [[t + 0.5]]
    assert len(buffer._ring._free) == 3  # no more extra rows than rows


@pytest.mark.parametrize(("env", "error"), [(-1, ValueError), (0.5, TypeError), (True, TypeError)])
def test_a_number_that_is_no_environments_is_refused(env, error):
    with pytest.raises(error, match="env must be"):
        ReplayBuffer(3).push(np.zeros(1), 0, 1.0, np.zeros(1), False, env=env)


def test_flush_episode_cuts_and_drops_nothing():
    buffer = ReplayBuffer(8, n_step=3, gamma=1.0)
    push_states(buffer, [0, 1, 2], [1, 2])
    buffer.flush_episode()
    push_states(buffer, [2, 3], [4])  # the same state, reached anew
    assert len(buffer) == 3
    assert buffer.batch(np.arange(3)).rewards.tolist() == [3, 2, 4]


def test_the_oldest_rows_leave_first():
    buffer = ReplayBuffer(3, n_step=2, gamma=1.0)
    push_states(buffer, [0, 1, 2, 3, 4], [1, 2, 4, 8])
    assert len(buffer) == 3
    assert buffer.pushed == 4
    batch = buffer.batch(np.arange(3))
    assert batch.observations[:, 0].tolist() == [3, 1, 2]  # row 0 was taken by the fourth
    assert batch.rewards.tolist() == [8, 6, 12]


# ---- what is stored ----------------------------------------------------------------------------------------


def test_element_types():
    buffer = ReplayBuffer(4)
    image, wide = np.full((2, 2), 200, np.uint8), np.array([0.1, 0.2])
    buffer.push(
        {"image": image, "wide": wide, "count": 7}, [0.5], 1.0, {"image": image, "wide": wide, "count": 8}, 0
    )
    batch = buffer.sample(1)
    types = tree_map(lambda leaf: (leaf.dtype.name, leaf.shape), batch.observations)
    assert types == {"image": ("uint8", (1, 2, 2)), "wide": ("float32", (1, 2)), "count": ("int64", (1,))}
    assert batch.actions.dtype == np.float32
    assert batch.next_observations["count"].tolist() == [8]
    assert batch.observations["image"].tolist() == [[[200, 200], [200, 200]]]


def test_dict_keys_may_come_in_any_order():
    buffer = ReplayBuffer(4, n_step=2, gamma=1.0)
    buffer.push({"a": 1.0, "b": 2.0}, 0, 1.0, {"b": 4.0, "a": 3.0}, False)
    buffer.push({"b": 4.0, "a": 3.0}, 0, 1.0, {"a": 5.0, "b": 6.0}, False)
    batch = buffer.batch(np.array([0]))
    assert batch.rewards.tolist() == [2]
    assert (batch.next_observations["a"].tolist(), batch.next_observations["b"].tolist()) == ([5], [6])


def test_an_observation_is_stored_once():
    buffer = ReplayBuffer(1000)
    push_states(buffer, list(range(1001)), [1.0] * 1000, "terminated")
    view = buffer.view()
    assert int((view.next < 0).sum()) == 1
    assert len(view.extra) < 10


def test_view_shares_the_memory():
    buffer = ReplayBuffer(4)
    push_states(buffer, [0, 1, 2], [1, 2])
    view = buffer.view()
    assert view.size == 2
    assert view.observations.shape == (4, 1)
    assert view.observations[:2, 0].tolist() == [0, 1]
    assert view.next.tolist()[0] == 1
    assert view.extra[~view.next[1]].tolist() == [2]
    view.rewards[0] = 7.0
    assert buffer.batch(np.array([0])).rewards.tolist() == [7]


def test_spaces_allocate_at_once():
    buffer = ReplayBuffer(
        4, observation_space=spaces.Box(0, 255, (3,), np.uint8), action_space=spaces.Discrete(2)
    )
    assert len(buffer) == 0
    with pytest.raises(
        ValueError, match=r"observations must be uint8 \[N, …\] = \[1, 3\], got float64 \[1, 3\]"
    ):
        buffer.push(np.zeros(3), 0, 1.0, np.zeros(3), False)


# ---- drawing -----------------------------------------------------------------------------------------------


def test_draws_repeat_with_the_seed():
    drawn = []
    for seed in (1, 1, 2):
        buffer = ReplayBuffer(100, seed=seed)
        push_states(buffer, list(range(51)), [0.0] * 50)
        drawn.append(np.concatenate([buffer.sample_indices(40), buffer.sample(50).indices]).tolist())
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]


def test_draws_are_uniform_over_the_live_rows():
    buffer = ReplayBuffer(100, seed=0)
    push_states(buffer, list(range(11)), [0.0] * 10)
    counts = np.bincount(np.concatenate([buffer.sample_indices(10) for _ in range(2000)]), minlength=10)
    assert len(counts) == 10
    # 20 000 draws: 2000 each, standard deviation 42.
    assert np.abs(counts - 2000).max() < 5 * math.sqrt(20000 * 0.1 * 0.9)


# ---- every row against a naive list ------------------------------------------------------------------------

# Few states, so that rows of other episodes and environments have equal observations now and then.
state = st.integers(0, 3)
one_step = st.tuples(
    state, st.integers(-4, 4), st.sampled_from(["", "", "", "terminated", "truncated"]), st.booleans()
)
steps = st.lists(
    st.one_of(st.lists(one_step, min_size=1, max_size=4), st.just("flush")), min_size=1, max_size=60
)


def as_observation(kind: str, value: int) -> Any:
    if kind == "dict":
        return {"a": np.float32(value), "b": np.array([value, 1], np.uint8)}
    return np.array([value, 3 - value], {"float": np.float64, "image": np.uint8, "int": np.int32}[kind])


@pytest.mark.parametrize("kind", ["float", "image", "int", "dict"])
@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.integers(1, 5), st.sampled_from([0.0, 0.5, 1.0]), steps)
def test_any_sequence_of_pushes_is_what_a_list_makes_of_it(kind, capacity, n_step, gamma, script):
    buffer, naive = ReplayBuffer(capacity, n_step=n_step, gamma=gamma), NaiveBuffer(capacity)
    position: dict[int, int] = {}
    for entry in script:
        if entry == "flush":
            buffer.flush_episode()
            naive.flush()
            continue
        rows = []
        for env, (target, reward, end, jumps) in enumerate(entry):
            start = position.get(env, 0) if not jumps else (target + 1) % 4
            position[env] = target if end == "" else 0
            fields = (as_observation(kind, abs(start)), env, float(reward), as_observation(kind, target))
            rows.append((*fields, end == "terminated", end == "truncated"))
            naive.push(env, *rows[-1])
        columns = [tree_map(lambda *leaves: np.stack(leaves), *column) for column in zip(*rows, strict=True)]
        if len(rows) == 1:
            buffer.push(*rows[0])
        else:
            buffer.push_rows(*columns)
        check_equal(buffer, naive)


# ---- windows -----------------------------------------------------------------------------------------------


class LoggingEnv(gym.Env[Any, Any]):
    """Shows [who, episode, step]; writes down every true transition. Episodes end in every way."""

    action_space = spaces.Discrete(5)

    def __init__(self, who: int, log: list[Any], tree: bool) -> None:
        box = spaces.Box(-np.inf, np.inf, (3,), np.float32)
        self.observation_space = spaces.Dict({"x": box, "who": spaces.Discrete(9)}) if tree else box
        self.who, self.log, self.tree = who, log, tree
        self.episode, self.t = -1, 0

    def _shown(self) -> Any:
        x = np.array([self.who, self.episode, self.t], np.float32)
        return {"x": x, "who": self.who} if self.tree else x

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.episode, self.t = self.episode + 1, 0
        return self._shown(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        before = self._shown()
        self.t += 1
        reward = float(self.who + 2 * self.episode + self.t / 4)
        over = self.t == 1 + (self.who + self.episode) % 4
        terminated, truncated = over and self.episode % 2 == 0, over and self.episode % 2 == 1
        after = self._shown()
        self.log.append((self.who, before, int(action), reward, after, terminated, truncated))
        return after, reward, terminated, truncated, {}


class CountingAgent(BaseAgent):
    def __init__(self) -> None:
        self.acted = 0

    def act(self, observation: Any) -> int:
        self.acted += 1
        return self.acted % 5

    def learn(self, episode_data: EpisodeData) -> dict[str, Any]:
        return {}

    def get_hyperparams(self) -> HyperparamSet:
        return HyperparamSet({})

    def set_hyperparams(self, hyperparams: HyperparamSet) -> None: ...

    def save_weights(self, path: str) -> None: ...

    def load_weights(self, path: str) -> None: ...


def pipeline_of(n_envs: int, mode: str, log: list[Any], tree: bool, size: int) -> Any:
    if mode == "single":
        return BatchPipeline(LoggingEnv(0, log, tree), CountingAgent(), window_size=size, seed=0)
    makers = [lambda who=who: LoggingEnv(who, log, tree) for who in range(n_envs)]
    vector = SyncVectorEnv(makers, autoreset_mode=AutoresetMode[mode])
    return VectorBatchPipeline(vector_env=vector, agent=CountingAgent(), window_size=size, seed=0)


@pytest.mark.parametrize("tree", [False, True], ids=["box", "dict"])
@pytest.mark.parametrize("mode", ["single", "NEXT_STEP", "SAME_STEP", "DISABLED"])
@pytest.mark.parametrize("size", [1, 2, 7])
@pytest.mark.parametrize("capacity", [5, 1000])
def test_windows_store_what_happened_in_the_environments(capacity, size, mode, tree):
    n_envs, log = (1 if mode == "single" else 3), []
    buffer = ReplayBuffer(capacity, n_step=3, gamma=0.9, seed=0)
    pipeline = pipeline_of(n_envs, mode, log, tree, size)
    windows = pipeline.episodes()
    for _ in range(max(3, 30 // size)):
        assert buffer.push_window(window := next(windows)) == window.length
    naive = NaiveBuffer(10**6)
    for env, *fields in log:
        naive.push(env, *fields)
    by_start = {tuple(np.ravel(t.observation["x"] if tree else t.observation)): t for t in naive.all}
    assert buffer.pushed == len(log)
    assert len(buffer) == min(capacity, len(log))
    batch = buffer.batch(np.arange(len(buffer)))
    starts = batch.observations["x"] if tree else batch.observations
    assert len({tuple(s) for s in starts.tolist()}) == len(buffer)
    for i in range(len(buffer)):
        row = by_start[tuple(starts[i])]
        reward, following, discount, m = naive.target(row, 3, 0.9)
        assert batch.actions[i] == row.action
        assert np.array_equal(
            (batch.next_observations["x"] if tree else batch.next_observations)[i],
            following["x"] if tree else following,
        )
        assert batch.rewards[i] == pytest.approx(reward, rel=1e-6)
        assert batch.discounts[i] == pytest.approx(discount, rel=1e-6)
        assert batch.n_steps[i] == m


def old_window(**changes: Any) -> EpisodeData:
    """As the seed's pipeline made them: truncated at row 1, terminated at row 2, cut after row 3."""
    fields: dict[str, Any] = {
        "observations": np.arange(4.0)[:, None],
        "actions": np.arange(4),
        "rewards": [1.0, 2.0, 4.0, 8.0],
        "terminated": [False, False, True, False],
        "truncated": [False, True, False, False],
        "infos": [{}] * 4,
        "episode_id": 0,
    }
    return EpisodeData(**(fields | changes))


def test_hand_made_window_leaves_out_what_it_does_not_know():
    buffer = ReplayBuffer(8, n_step=2, gamma=0.5)
    assert buffer.push_window(old_window()) == 2
    batch = buffer.batch(np.arange(2))
    # Row 0 goes on to state 1, whose own row is not known to lead anywhere; row 2 terminated.
    assert batch.observations[:, 0].tolist() == [0, 2]
    assert batch.next_observations[0].tolist() == [1]
    assert batch.rewards.tolist() == [1, 4]
    assert batch.discounts.tolist() == [0.5, 0]
    assert buffer.push_window(old_window(final_obs=np.array([9.0]))) == 3
    assert buffer.batch(np.array([4])).next_observations.tolist() == [[9]]


def test_final_obs_is_what_follows_a_cut_last_row():
    buffer = ReplayBuffer(8)
    flags = {"terminated": [False] * 4, "truncated": [False, False, False, True]}
    assert buffer.push_window(old_window(**flags)) == 3  # what followed row 3 is not known
    assert buffer.push_window(old_window(**flags, final_obs=np.array([9.0]))) == 4
    batch = buffer.batch(np.array([6]))
    assert batch.next_observations.tolist() == [[9]]
    assert batch.discounts.tolist() == pytest.approx([0.99])
    # The reset's observation, which such a window may show beside, is not it.
    buffer = ReplayBuffer(8)
    buffer.push_window(old_window(**flags, final_obs=np.array([9.0]), next_observations=np.array([[0.0]])))
    assert buffer.batch(np.array([3])).next_observations.tolist() == [[9]]


def test_rows_on_both_sides_of_one_that_is_left_out_are_not_linked():
    # Every state looks alike, so that their bytes cannot tell that row 1 is missing.
    buffer = ReplayBuffer(8, n_step=3, gamma=1.0)
    flags = {"terminated": [False] * 4, "truncated": [False, True, False, False]}
    window = old_window(observations=np.zeros((4, 1)), **flags, final_obs=np.zeros(1))
    assert buffer.push_window(window) == 3
    assert buffer.batch(np.arange(3)).rewards.tolist() == [1, 12, 8]


def test_window_actions_can_be_the_agents_own():
    buffer = ReplayBuffer(8)
    own = np.array([[0.1], [0.2], [0.3], [0.4]], np.float32)
    buffer.push_window(old_window(), actions=own)
    assert buffer.batch(np.arange(2)).actions.tolist() == own[[0, 2]].tolist()
    with pytest.raises(ValueError, match=r"actions must have one row for each of the window's 4, got 3"):
        buffer.push_window(old_window(), actions=own[:3])


def test_window_of_no_rows():
    assert (
        ReplayBuffer(8).push_window(
            old_window(
                observations=np.zeros((0, 1)), actions=[], rewards=[], terminated=[], truncated=[], infos=[]
            )
        )
        == 0
    )
