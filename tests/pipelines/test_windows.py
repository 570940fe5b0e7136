"""What a window holds, and how a run of windows goes on and ends."""

from __future__ import annotations

import copy
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from optix_fast.pipelines import BatchPipeline, VectorBatchPipeline
from optix_fast.pipelines.rows import RowInfos
from tests.pipelines.conftest import Fixed, SpacesEnv, assert_same_window, cartpole_pipeline, windows

# --- flat fields and grid ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["observations", "actions", "rewards", "terminated", "truncated", "values"])
def test_grid_and_flat_field_are_the_same_memory_when_every_row_is_valid(pipeline, row_agent, name):
    (data,) = windows(pipeline("env_fns", row_agent, 5), 1)
    flat, grid = getattr(data, name), data.grid(name)
    assert flat.shape[0] == 15 and grid.shape[:2] == (5, 3)
    assert np.shares_memory(flat, grid)
    for t, n in np.ndindex(5, 3):
        np.testing.assert_array_equal(flat[t * 3 + n], grid[t, n])


def test_grid_of_a_window_with_invalid_rows_has_zeros_there(pipeline, row_agent):
    (data,) = windows(pipeline("sync-NextStep", row_agent, 4), 1)
    assert data.length == 8
    for name in ("observations", "rewards", "values"):
        grid = data.grid(name)
        assert not grid[~data.valid].any()
        np.testing.assert_array_equal(grid[data.valid], getattr(data, name))


@pytest.mark.parametrize("kind", ["sync-NextStep", "sync-SameStep"])
def test_grid_sees_rewards_that_were_changed_or_replaced(pipeline, scripted_agent, kind):
    (data,) = windows(pipeline(kind, scripted_agent, 4), 1)
    original = data.rewards.copy()
    data.rewards += 5.0
    np.testing.assert_array_equal(data.grid("rewards")[data.valid], original + 5)
    data.rewards[0] = -1.0
    assert data.grid("rewards")[0, 0] == -1.0
    data.rewards = [float(x) for x in range(data.length)]
    np.testing.assert_array_equal(data.grid("rewards")[data.valid], np.arange(data.length))
    data.rewards = data.rewards[:-1]
    with pytest.raises(ValueError, match="rewards must have"):
        data.grid("rewards")


def test_grid_refuses_a_field_that_is_not_there(pipeline, scripted_agent):
    (data,) = windows(pipeline("env_fns", scripted_agent, 4), 1)
    with pytest.raises(ValueError, match="log_probs is None"):
        data.grid("log_probs")


def test_single_environment_says_where_episodes_start_and_what_follows(pipeline, scripted_agent):
    # Environment 0: episodes of 3, 1, 4.
    first, second, third = windows(pipeline("single-0", scripted_agent, 4), 3)
    assert first.episode_starts == [0, 3]
    assert first.final_obs is None  # row 3 ended the episode of 1
    assert second.episode_starts == [0]
    assert second.final_obs is None
    assert third.episode_starts == [0, 3]
    assert third.final_obs is None
    (odd,) = windows(pipeline("single-0", scripted_agent, 5), 1)
    assert odd.episode_starts == [0, 3, 4]
    assert odd.final_obs.tolist() == [0, 2, 1]


def test_many_environments_leave_the_fields_of_one_alone(pipeline, scripted_agent):
    (data,) = windows(pipeline("env_fns", scripted_agent, 4), 1)
    assert data.episode_starts is None and data.final_obs is None


@pytest.mark.parametrize("time_limit", [None, 50])
@pytest.mark.parametrize("kind", ["single", "sync", "async"])
def test_metadata_tells_episodic_environments_from_endless_ones(kind, time_limit):
    space = spaces.Box(-1, 1, (2,), np.float32)

    class Endless(SpacesEnv):
        def step(self, action: Any) -> Any:
            observation, reward, _, _, info = super().step(action)
            return observation, reward, False, False, info

    def make() -> Any:
        env = Endless(space)
        return env if time_limit is None else gym.wrappers.TimeLimit(env, time_limit)

    if kind == "single":
        pipe: Any = BatchPipeline(make(), Fixed(), 4)
    else:
        pipe = VectorBatchPipeline([make, make], Fixed(), 4, async_envs=kind == "async")
    assert [data.metadata["episodic"] for data in windows(pipe, 2)] == [time_limit is not None] * 2
    pipe.teardown()


def test_metadata_holds_what_the_registration_calls_solved():
    def make() -> Any:
        return gym.make("CartPole-v1")

    for pipe, threshold in (
        (BatchPipeline(make(), Fixed(), 4), 475.0),
        (VectorBatchPipeline([make, make], Fixed(), 4), 475.0),
        (VectorBatchPipeline(vector_env=gym.make_vec("CartPole-v1", 2), agent=Fixed(), window_size=4), 475.0),
        (BatchPipeline(gym.make("Pendulum-v1"), Fixed([0.0]), 4), None),
        (BatchPipeline(SpacesEnv(spaces.Box(-1, 1, (2,), np.float32)), Fixed(), 4), None),
    ):
        (data,) = windows(pipe, 1)
        assert data.metadata["reward_threshold"] == threshold
        pipe.teardown()


def test_vectorised_cartpole_is_episodic_from_the_start():
    env = gym.make_vec("CartPole-v1", 2, "vector_entry_point")
    (data,) = windows(VectorBatchPipeline(agent=Fixed(), window_size=2, vector_env=env), 1)
    assert data.metadata["episodic"] is True


def test_an_episode_that_ends_makes_an_environment_episodic(pipeline, scripted_agent):
    pipe = pipeline("single-0", scripted_agent, 2)
    assert [data.metadata["episodic"] for data in windows(pipe, 3)] == [False, True, True]


# --- infos ------------------------------------------------------------------------------------------


class InfoEnv(SpacesEnv):
    """Speaks of its number in one step of two; says more in its last step and at its reset."""

    def __init__(self, who: int) -> None:
        super().__init__(spaces.Discrete(5))
        self.who, self.told = who, {}

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return super().reset()[0], {"reset": True}

    def step(self, action: Any) -> Any:
        observation, reward, terminated, truncated, _ = super().step(action)
        self.told.clear()  # one dict for all steps
        if self.steps % 2 == self.who % 2:
            self.told |= {"who": self.who, "nested": {"steps": self.steps, "name": f"env {self.who}"}}
        if terminated:
            self.told["episode"] = {"l": self.steps}
        return observation, reward, terminated, truncated, self.told


@pytest.mark.parametrize("kind", ["single", *AutoresetMode])
def test_info_of_a_row_is_what_its_own_step_told(kind):
    if kind == "single":
        pipe: Any = BatchPipeline(InfoEnv(0), Fixed(), 6)
    else:
        fns = [lambda who=who: InfoEnv(who) for who in range(2)]
        env = SyncVectorEnv(fns, autoreset_mode=kind)
        pipe = VectorBatchPipeline(agent=Fixed(), window_size=7, vector_env=env)
    (data,) = windows(pipe, 1)
    for position, info in zip(np.flatnonzero(data.valid), data.infos, strict=True):
        who = int(position) % data.n_envs
        steps = int(data.observations[np.flatnonzero(data.valid).tolist().index(position)]) + 1
        expected: dict[str, Any] = {}
        if steps % 2 == who % 2:
            expected = {"who": who, "nested": {"steps": steps, "name": f"env {who}"}}
        if steps == 3:
            expected["episode"] = {"l": 3}
        assert dict(info) == expected


def test_infos_are_a_sequence_and_know_keys_without_a_mask():
    told = {
        "x": np.array([1.0, 2.0]),
        "_x": np.array([True, False]),
        "all": np.array([5, 6]),
        "version": "v1",
    }
    infos = RowInfos([told, told], np.array([0, 1, 3]), 2, batched=True)
    assert len(infos) == 3
    assert infos[0] == {"x": 1.0, "all": 5, "version": "v1"}
    assert infos[-1] == {"all": 6, "version": "v1"}
    assert infos[1:] == [infos[1], infos[2]]
    assert list(infos) == infos[:]
    with pytest.raises(IndexError):
        infos[3]


# --- a run of windows -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["single-0", "own", "sync-NextStep", "sync-SameStep", "sync-Disabled"])
def test_yielded_windows_are_never_written_again(pipeline, row_agent, kind):
    iterator = pipeline(kind, row_agent, 5).episodes()
    kept = [next(iterator) for _ in range(3)]
    copies = copy.deepcopy(kept)
    for _ in range(4):
        next(iterator)
    for data, before in zip(kept, copies, strict=True):
        assert_same_window(data, before)


def test_agent_and_environment_cannot_write_into_a_window():
    box = spaces.Box(-1, 1, (2,), np.float32)
    (data,) = windows(BatchPipeline(SpacesEnv(box, box), Fixed([0.5, 0.25]), 3), 1)
    assert data.observations.tolist() == [[0, 0], [1, 1], [2, 2]]
    assert data.actions.tolist() == [[0.5, 0.25]] * 3


@pytest.mark.parametrize(
    ("window_size", "max_steps", "lengths"), [(4, 10, [4, 4, 2]), (4, 8, [4, 4]), (5, 3, [3])]
)
def test_max_steps_is_exact(pipeline, scripted_agent, window_size, max_steps, lengths):
    pipe = pipeline("single-0", scripted_agent, window_size, max_steps=max_steps)
    assert [data.length for data in pipe.episodes()] == lengths
    assert pipe.total_steps == max_steps
    assert list(pipe.episodes()) == []


@pytest.mark.parametrize("kind", ["env_fns", "sync-NextStep"])
def test_max_steps_counts_real_steps_and_is_not_exceeded(pipeline, scripted_agent, kind):
    pipe = pipeline(kind, scripted_agent, 4, max_steps=50)
    total = sum(int(data.valid.sum()) for data in pipe.episodes())
    assert total == pipe.total_steps
    assert 48 <= total <= 50


def test_max_steps_below_what_was_used_already_ends_at_once(pipeline, scripted_agent):
    pipe = pipeline("single-0", scripted_agent, 4)
    windows(pipe, 3)
    pipe.max_steps = 5
    assert list(pipe.episodes()) == []


def test_max_steps_below_one_step_of_each_environment_is_refused(pipeline, scripted_agent):
    with pytest.raises(ValueError, match="at least one step of each of the 3 environments, got 2"):
        windows(pipeline("env_fns", scripted_agent, 4, max_steps=2), 1)


def test_second_call_of_episodes_goes_on(pipeline, scripted_agent):
    whole = windows(pipeline("env_fns", scripted_agent, 4), 4)
    pipe = pipeline("env_fns", scripted_agent, 4)
    halves = [*windows(pipe, 2), *windows(pipe, 2)]
    for a, b in zip(whole, halves, strict=True):
        assert_same_window(a, b)


@pytest.mark.parametrize("kind", ["single", "vector"])
def test_seed_repeats_a_run_through_teardowns(kind):
    def run(seed: int) -> list[Any]:
        pipe = cartpole_pipeline(kind, seed)
        collected = windows(pipe, 2)
        pipe.teardown()
        collected += windows(pipe, 2)
        pipe.teardown()
        return collected

    first, again, other = run(5), run(5), run(6)
    for a, b in zip(first, again, strict=True):
        assert_same_window(a, b)
    assert not np.array_equal(first[0].observations, other[0].observations)
    # The seed is not used twice: after the teardown come new episodes.
    assert not np.array_equal(first[0].observations, first[2].observations)


def test_environments_of_a_vector_get_seeds_of_their_own():
    (data,) = windows(cartpole_pipeline("vector", 5), 1)
    starts = data.grid("observations")[0]
    for i in range(2):
        np.testing.assert_array_equal(starts[i], gym.make("CartPole-v1").reset(seed=5 + i)[0])


def test_no_seed_gives_new_episodes():
    a, b = (windows(cartpole_pipeline("single", None), 1)[0] for _ in range(2))
    assert not np.array_equal(a.observations, b.observations)


@pytest.mark.parametrize("kind", ["single-1", "env_fns", "sync-Disabled"])
def test_pipeline_begins_anew_after_teardown(pipeline, scripted_agent, kind):
    pipe = pipeline(kind, scripted_agent, 3)
    windows(pipe, 1)
    pipe.teardown()
    pipe.teardown()
    pipe.setup()
    (data,) = windows(pipe, 1)
    assert data.episode_id == 1
    assert (data.grid("observations")[0][:, 2] == 0).all()
    assert min(data.metadata["episode_lengths"], default=1) >= 1
    assert not pipe.is_live


def test_async_pipeline_builds_new_processes_after_teardown(scripted, scripted_agent):
    pipe = VectorBatchPipeline([lambda: scripted(0)] * 2, scripted_agent, 3, async_envs=True)
    for _ in range(2):
        assert isinstance(pipe.stepper.env, gym.vector.AsyncVectorEnv)
        assert windows(pipe, 1)[0].length == 6
        pipe.teardown()


# --- agents -----------------------------------------------------------------------------------------


def test_set_agent_binds_the_spaces_where_it_can(scripted):
    class Binding(Fixed):
        def bind_spaces(self, observation_space: Any, action_space: Any) -> None:
            self.bound = observation_space, action_space

    agent = Binding()
    pipe = VectorBatchPipeline([lambda: scripted(0)], window_size=2)
    pipe.set_agent(agent)
    assert agent.bound == (scripted.observation_space, scripted.action_space)
    assert pipe.agent is agent


def test_agent_whose_binding_fails_is_not_set(scripted):
    class Unfit(Fixed):
        def bind_spaces(self, observation_space: Any, action_space: Any) -> None:
            raise ValueError("unfit")

    pipe = BatchPipeline(scripted(0), window_size=2)
    with pytest.raises(ValueError, match="unfit"):
        pipe.set_agent(Unfit())
    assert pipe.agent is None


@pytest.mark.parametrize("agent", [5, object(), Fixed])
def test_agent_must_be_an_object_that_can_act(scripted, agent):
    with pytest.raises(TypeError, match=r"agent must be an object with an act\(observation\) method"):
        BatchPipeline(scripted(0), agent)


def test_episodes_without_an_agent_is_an_error(scripted):
    with pytest.raises(RuntimeError, match="set an agent before"):
        windows(BatchPipeline(scripted(0)), 1)


def test_agent_can_be_replaced_between_windows(scripted):
    pipe = BatchPipeline(scripted(0), Fixed(1), 2)
    iterator = pipe.episodes()
    assert next(iterator).actions.tolist() == [1, 1]
    pipe.set_agent(Fixed(2))
    assert next(iterator).actions.tolist() == [2, 2]


def test_environment_can_be_named_instead_of_given():
    named = BatchPipeline(env_id="CartPole-v1", n_steps=30, seed=3)
    given = BatchPipeline(gym.make("CartPole-v1"), window_size=30, seed=3)

    class Zero:
        def act(self, observation):
            return 0

    for pipe in (named, given):
        pipe.set_agent(Zero())
    a, b = next(named.episodes()), next(given.episodes())
    assert a.length == named.n_steps == 30
    np.testing.assert_array_equal(a.observations, b.observations)
    first = named.env
    named.teardown()
    assert named.env is not first  # a fresh one, not the closed one
    assert next(named.episodes()).episode_id == 1
    named.teardown()
    given.teardown()
