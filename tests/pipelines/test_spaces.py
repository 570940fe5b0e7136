"""Observations and actions of every kind of space."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from optix_fast.pipelines import BatchPipeline, VectorBatchPipeline
from optix_fast.pipelines.rows import idle_actions
from optix_fast.types import tree_map
from tests.pipelines.conftest import Fixed, SpacesEnv, windows

NESTED = spaces.Dict(
    {
        "image": spaces.Box(0, 255, (2, 3, 1), np.uint8),
        "pair": spaces.Tuple((spaces.Discrete(9, start=-2), spaces.MultiDiscrete([5, 6]))),
        "position": spaces.Box(-9, 9, (2,), np.float64),
        "bits": spaces.MultiBinary(4),
        "count": spaces.Box(0, 9, (), np.int32),
    }
)
HYBRID = spaces.Dict(
    {
        "move": spaces.Discrete(3, start=1),
        "force": spaces.Box(-1, 1, (2,), np.float32),
        "more": spaces.Tuple((spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(2))),
    }
)
HYBRID_ACTION = {"move": 3, "force": [0.25, -0.5], "more": ([1, 2], [0, 1])}


@pytest.mark.parametrize("mode", [None, *AutoresetMode])
def test_nested_observations_keep_structure_and_kind_and_are_right(mode):
    if mode is None:
        pipe: Any = BatchPipeline(SpacesEnv(NESTED), Fixed(), 8)
    else:
        env = SyncVectorEnv([lambda: SpacesEnv(NESTED)] * 2, autoreset_mode=mode)
        pipe = VectorBatchPipeline(agent=Fixed(), window_size=8, vector_env=env)
    (data,) = windows(pipe, 1)
    seen = data.observations
    steps = [0, 1, 2, 0, 1, 2] if mode is AutoresetMode.NEXT_STEP else [0, 1, 2, 0, 1, 2, 0, 1]
    expected = np.repeat(steps, 1 if mode is None else 2)
    assert seen["image"].dtype == np.uint8 and seen["image"].shape == (len(expected), 2, 3, 1)
    assert seen["position"].dtype == np.float32
    assert seen["count"].dtype == np.int32 and seen["count"].shape == (len(expected),)
    assert seen["bits"].dtype == np.int8
    assert isinstance(seen["pair"], tuple)
    assert seen["pair"][0].dtype == np.int64 and seen["pair"][1].dtype == np.int64
    assert seen["pair"][0].tolist() == (expected - 2).tolist()
    for leaf in (seen["image"], seen["pair"][1], seen["position"], seen["bits"], seen["count"]):
        assert leaf.reshape(len(expected), -1)[:, -1].tolist() == expected.tolist()
    assert data.final_observations["image"].shape[1:] == (2, 3, 1)
    assert data.final_observations["image"].dtype == np.uint8
    assert set(data.final_observations["pair"][0].tolist()) == {1}
    assert data.grid("observations")["pair"][1].shape == (8, data.n_envs, 2)


@pytest.mark.parametrize("n_envs", [1, 2])
def test_hybrid_actions_arrive_and_are_stored(n_envs):
    envs = [SpacesEnv(spaces.Discrete(5), HYBRID) for _ in range(n_envs)]
    agent = Fixed(HYBRID_ACTION)
    if n_envs == 1:
        pipe: Any = BatchPipeline(envs[0], agent, 4)
    else:
        pipe = VectorBatchPipeline([lambda env=env: env for env in envs], agent, 4)
    (data,) = windows(pipe, 1)
    for env in envs:
        for received in env.received:
            assert HYBRID.contains(received)
            assert int(received["move"]) == 3
            assert received["force"].tolist() == [0.25, -0.5]
            assert received["more"][0].tolist() == [1, 2]
            assert received["more"][1].tolist() == [0, 1]
    # The environment has overwritten what it was given, the window has not changed.
    assert data.actions["move"].tolist() == [3] * 4 * n_envs
    assert data.actions["force"].tolist() == [[0.25, -0.5]] * 4 * n_envs
    assert data.actions["more"][0].tolist() == [[1, 2]] * 4 * n_envs


def test_discrete_action_of_a_single_environment_is_a_python_int():
    env = SpacesEnv(spaces.Discrete(5))
    windows(BatchPipeline(env, Fixed(np.int64(1)), 4), 1)
    assert [type(action) for action in env.received] == [int] * 4


@pytest.mark.parametrize("n_envs", [1, 2])
@pytest.mark.parametrize(
    "space",
    [spaces.MultiBinary(3), spaces.MultiBinary((2, 2)), spaces.MultiDiscrete([[2], [3]], dtype=np.int32)],
    ids=str,
)
def test_environment_gets_actions_of_its_own_dtype(space, n_envs):
    envs = [SpacesEnv(spaces.Discrete(5), space) for _ in range(n_envs)]
    ones = np.ones(space.shape, np.int64)
    if n_envs == 1:
        pipe: Any = BatchPipeline(envs[0], Fixed(ones), 4)
    else:
        pipe = VectorBatchPipeline([lambda env=env: env for env in envs], Fixed(ones), 4)
    (data,) = windows(pipe, 1)
    assert data.actions.shape == (4 * n_envs, *space.shape) and (data.actions == 1).all()
    for env in envs:
        assert all(space.contains(action) and action.dtype == space.dtype for action in env.received)


def test_action_on_the_bound_of_a_float64_box_stays_inside():
    box = spaces.Box(-0.1, 0.1, (1,), np.float64)
    env = SpacesEnv(spaces.Discrete(5), box)
    (data,) = windows(BatchPipeline(env, Fixed(box.high), 4), 1)
    assert all(box.contains(action) for action in env.received)
    assert data.actions.dtype == np.float64


def test_idle_actions_are_valid_actions():
    space = spaces.Dict({"a": HYBRID, "b": spaces.Box(2, 5, (2,), np.float32)})
    action = tree_map(lambda leaf: leaf[0], idle_actions(space, (1,)))
    assert space.contains(action)
    assert action["b"].tolist() == [2, 2]


@pytest.mark.parametrize(
    ("space", "action", "message"),
    [
        (spaces.Discrete(3), 3, "it is out of range"),
        (spaces.Discrete(3, start=1), 0, "it is out of range"),
        (spaces.Discrete(3), 0.5, "its dtype is float64, not int64"),
        (spaces.Discrete(3), np.array([1]), r"its shape is \[1\], not \[\]"),
        (spaces.Discrete(3), None, "its dtype is object"),
        (spaces.Discrete(3), "left", "its dtype is <U4"),
        (spaces.MultiDiscrete([2, 3]), [1, 3], "it is out of range"),
        (spaces.MultiBinary(2), [1, 2], "it is not of zeros and ones"),
        (spaces.Box(-1, 1, (3,)), 0.5, r"its shape is \[\], not \[3\]"),
        (spaces.Box(-1, 1, (3,)), [0.5], r"its shape is \[1\], not \[3\]"),
        (HYBRID, {"move": 1, "force": [0.0, 0.0]}, "it is not a dict with the keys force, more, move"),
        (HYBRID, HYBRID_ACTION | {"more": ([1, 2],)}, "it is not a tuple of 2"),
    ],
)
def test_action_that_does_not_fit_is_refused_in_words(space, action, message):
    pipe = BatchPipeline(SpacesEnv(spaces.Discrete(5), space), Fixed(action), 4)
    with pytest.raises(
        ValueError, match=f"Fixed.act returned .* does not fit the action space .*: {message}"
    ):
        windows(pipe, 1)


def test_space_that_windows_cannot_hold_is_refused():
    with pytest.raises(TypeError, match="got Text"):
        BatchPipeline(SpacesEnv(spaces.Text(5)), Fixed(), 4).setup()
