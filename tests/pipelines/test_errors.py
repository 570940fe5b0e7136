"""What is refused at construction, and what happens when an environment fails."""

from __future__ import annotations

import threading
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from optix_fast.pipelines import BatchPipeline, VectorBatchPipeline
from optix_fast.types import NonFiniteError
from tests.pipelines.conftest import Fixed, SpacesEnv, windows

# --- construction -----------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0, -1, 2.5, "8", True])
def test_window_size_must_be_a_positive_integer(scripted, value):
    with pytest.raises(ValueError, match="window_size must be an integer of at least 1"):
        BatchPipeline(scripted(0), window_size=value)


def test_max_steps_must_be_a_positive_integer(scripted):
    with pytest.raises(ValueError, match="max_steps must be an integer of at least 1, got 0"):
        BatchPipeline(scripted(0), max_steps=0)


def test_seed_must_be_an_integer(scripted):
    with pytest.raises(TypeError):
        BatchPipeline(scripted(0), seed=1.5)  # type: ignore[arg-type]
    for seed in (-1, True):
        with pytest.raises(ValueError, match=f"seed must be an integer of at least 0, got {seed}"):
            BatchPipeline(scripted(0), seed=seed)
    assert windows(BatchPipeline(scripted(0), Fixed(), 2, seed=np.int64(3)), 1)


def test_batch_pipeline_refuses_what_is_not_an_environment(scripted):
    with pytest.raises(TypeError, match="env must be a gymnasium.Env, got str"):
        BatchPipeline("CartPole-v1")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"got SyncVectorEnv; use VectorBatchPipeline\(vector_env=…\)"):
        BatchPipeline(SyncVectorEnv([lambda: scripted(0)]))  # type: ignore[arg-type]


def test_vector_pipeline_wants_exactly_one_source(scripted):
    env = SyncVectorEnv([lambda: scripted(0)])
    with pytest.raises(ValueError, match="exactly one of env_fns and vector_env"):
        VectorBatchPipeline()
    with pytest.raises(ValueError, match="exactly one of env_fns and vector_env"):
        VectorBatchPipeline([lambda: scripted(0)], vector_env=env)
    with pytest.raises(ValueError, match="at least one function"):
        VectorBatchPipeline([])
    with pytest.raises(TypeError, match=r"env_fns\[1\] must be a function, got int"):
        VectorBatchPipeline([lambda: scripted(0), 5])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="env_fns must be a sequence of functions, got function"):
        VectorBatchPipeline(lambda: scripted(0))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="env_fns must be a sequence of functions, got str"):
        VectorBatchPipeline("CartPole-v1")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="got SyncVectorEnv; pass it as vector_env"):
        VectorBatchPipeline(env)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"env_fns\[1\] must return a gymnasium.Env, got int"):
        VectorBatchPipeline([lambda: scripted(0), lambda: 5]).setup()  # type: ignore[list-item, return-value]
    with pytest.raises(TypeError, match="vector_env must be a gymnasium.vector.VectorEnv, got ScriptedEnv"):
        VectorBatchPipeline(vector_env=scripted(0))
    with pytest.raises(ValueError, match="async_envs has no effect"):
        VectorBatchPipeline(vector_env=env, async_envs=True)
    with pytest.raises(ValueError, match="autoreset_mode belongs to vector_env"):
        VectorBatchPipeline([lambda: scripted(0)], autoreset_mode="SameStep")


@pytest.mark.parametrize("wrapped", [False, True])
def test_environments_that_are_one_object_are_refused(scripted, wrapped):
    shared = scripted(0)

    def make() -> Any:
        return gym.wrappers.TimeLimit(shared, 9) if wrapped else shared

    message = "environments 1 and 2 are the same ScriptedEnv object; each function must make an environment"
    pipeline = VectorBatchPipeline([lambda: scripted(0), make, make], Fixed(), 4)
    with pytest.raises(ValueError, match=message):
        windows(pipeline, 1)
    ready = SyncVectorEnv([lambda: scripted(0), make, make])
    with pytest.raises(ValueError, match=message):
        VectorBatchPipeline(vector_env=ready)


def test_processes_have_copies_of_a_shared_object(scripted):
    shared = scripted(1)
    pipeline = VectorBatchPipeline([lambda: shared] * 2, Fixed(), 8, async_envs=True)
    (data,) = windows(pipeline, 1)
    pipeline.teardown()
    assert (data.grid("observations")[:, 0] == data.grid("observations")[:, 1]).all()
    assert data.grid("observations")[:4, 0, 1].tolist() == [0, 0, 1, 1]  # its episodes, in their order


def test_vector_environment_that_does_not_say_its_mode_is_refused_unless_told(pipeline, scripted_agent):
    env = pipeline("own", scripted_agent, 4).stepper.env
    env.metadata = {}
    with pytest.raises(ValueError, match="autoreset_mode: OwnVectorEnv does not say"):
        VectorBatchPipeline(vector_env=env)
    told = VectorBatchPipeline(agent=scripted_agent, window_size=4, vector_env=env, autoreset_mode="NextStep")
    assert windows(told, 1)[0].length == 8
    with pytest.raises(ValueError, match="autoreset_mode must be one of 'NextStep', 'SameStep', 'Disabled'"):
        VectorBatchPipeline(vector_env=env, autoreset_mode="sometimes")


def test_mode_that_contradicts_the_vector_environment_is_refused(scripted):
    env = SyncVectorEnv([lambda: scripted(0)])
    with pytest.raises(
        ValueError, match=r"autoreset_mode is 'SameStep', but SyncVectorEnv of .* says 'NextStep'"
    ):
        VectorBatchPipeline(vector_env=env, autoreset_mode="SameStep")


def test_functions_that_cannot_be_pickled_are_stepped_here_with_a_warning(scripted, scripted_agent):
    lock = threading.Lock()

    def make() -> Any:
        assert lock is not None
        return scripted(0)

    pipe = VectorBatchPipeline([lambda: scripted(0), make], scripted_agent, 3, async_envs=True)
    with pytest.warns(RuntimeWarning, match=r"env_fns\[1\] cannot be sent to a process"):
        pipe.setup()
    assert isinstance(pipe.stepper.env, SyncVectorEnv)
    assert windows(pipe, 1)[0].length == 6


# --- environments that fail -------------------------------------------------------------------------


class Failing(SpacesEnv):
    """Raises, or returns a given reward, in its third step."""

    def __init__(self, reward: float | None = None, at_reset: bool = False) -> None:
        super().__init__(spaces.Discrete(5))
        self.reward, self.at_reset, self.calls = reward, at_reset, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        if self.at_reset:
            raise OSError("no display")
        return super().reset()

    def step(self, action: Any) -> Any:
        self.calls += 1
        observation, reward, *rest = super().step(action)
        if self.calls == 3:
            if self.reward is None:
                raise ZeroDivisionError("the pole is made of glass")
            reward = self.reward
        return observation, reward, *rest


@pytest.mark.filterwarnings("ignore::UserWarning")  # Gymnasium's way to log a worker's traceback
@pytest.mark.parametrize("kind", ["single", "sync", "async"])
def test_crash_of_an_environment_is_an_error_that_names_it(kind):
    if kind == "single":
        pipe: Any = BatchPipeline(Failing(), Fixed(), 2)
    else:
        pipe = VectorBatchPipeline([Failing, Failing], Fixed(), 2, async_envs=kind == "async")
    iterator = pipe.episodes()
    next(iterator)
    with pytest.raises(
        RuntimeError,
        match="environment .*Failing.* failed in step 0 of window 1: ZeroDivisionError: the pole is made",
    ):
        next(iterator)
    pipe.teardown()


def test_crash_in_the_first_reset_is_an_error_that_names_the_environment():
    with pytest.raises(RuntimeError, match="environment Failing failed in reset: OSError: no display"):
        windows(BatchPipeline(Failing(at_reset=True), Fixed(), 2), 1)


def test_environment_is_named_by_its_id_where_it_has_one():
    pipe = BatchPipeline(gym.make("CartPole-v1"), Fixed(), 2)
    pipe.setup()
    assert pipe.stepper.name == "CartPole-v1"
    vector = VectorBatchPipeline([lambda: gym.make("CartPole-v1")] * 2)
    vector.setup()
    assert "CartPole-v1" in vector.stepper.name
    entry_point = VectorBatchPipeline(vector_env=gym.make_vec("CartPole-v1", 2, "vector_entry_point"))
    assert entry_point.stepper.name == "CartPole-v1"


def test_pipeline_begins_anew_after_a_crash():
    pipe = BatchPipeline(Failing(), Fixed(), 2)
    windows(pipe, 1)
    with pytest.raises(RuntimeError):
        windows(pipe, 1)
    (data,) = windows(pipe, 1)
    assert data.observations.tolist() == [0, 1]
    assert (data.episode_id, pipe.total_steps) == (1, 4)


@pytest.mark.parametrize("reward", [float("nan"), float("inf"), -float("inf")])
def test_reward_that_is_not_finite_names_the_environment(reward):
    pipe = BatchPipeline(Failing(reward), Fixed(), 4)
    with pytest.raises(
        NonFiniteError,
        match=rf"reward \({reward}\) from environment Failing, number 0, in step 2 of window 0",
    ):
        windows(pipe, 1)
    vector = VectorBatchPipeline([lambda: SpacesEnv(spaces.Discrete(5)), lambda: Failing(reward)], Fixed(), 4)
    with pytest.raises(NonFiniteError, match="number 1, in step 2"):
        windows(vector, 1)


def test_same_step_environment_without_final_observations_is_an_error(pipeline, scripted_agent):
    env = pipeline("own", scripted_agent, 4).stepper.env
    env.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}
    pipe = VectorBatchPipeline(agent=scripted_agent, window_size=4, vector_env=env)
    with pytest.raises(RuntimeError, match=r"promises info\['final_obs'\] for environment 2"):
        windows(pipe, 1)


def test_environment_is_given_or_named_never_both():
    with pytest.raises(ValueError, match="give exactly one of env and env_id"):
        BatchPipeline()
    with pytest.raises(ValueError, match="give exactly one of env and env_id"):
        BatchPipeline(Failing(), env_id="CartPole-v1")
    with pytest.raises(ValueError, match="window_size and n_steps are the same"):
        BatchPipeline(Failing(), window_size=4, n_steps=4)
    with pytest.raises(ValueError, match="window_size must be an integer of at least 1, got 0"):
        BatchPipeline(env_id="CartPole-v1", n_steps=0)
    with pytest.raises(TypeError, match="env_id must be a string, got int"):
        BatchPipeline(env_id=3)
    with pytest.raises(gym.error.NameNotFound, match="NoSuchThing"):
        BatchPipeline(env_id="NoSuchThing-v0").setup()
