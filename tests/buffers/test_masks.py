"""Action masks in the replay: stored with the observations that they belong to, given back with both."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from optix_fast import _native
from optix_fast.buffers import PrioritizedReplayBuffer, ReplayBuffer, ring
from optix_fast.pipelines import BatchPipeline, VectorBatchPipeline
from optix_fast.reference import replay as reference
from optix_fast.types import EpisodeData

IMPLEMENTATIONS = [reference.Replay] + ([] if _native.core is None else [_native.core.Replay])


@pytest.fixture(params=IMPLEMENTATIONS, ids=lambda kind: kind.__module__.split(".")[-1], autouse=True)
def implementation(request: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ring, "_Replay", request.param)


def mask_at(state: int) -> list[bool]:
    """Another one for each of seven states, none of them empty."""
    return [bool((state % 7 + 1) >> bit & 1) for bit in range(3)]


def window(first: int, **changes: Any) -> EpisodeData:
    """States first … first + 3 of one environment, which goes on."""
    states = np.arange(first, first + 4)
    fields: dict[str, Any] = {
        "observations": states[:, None].astype(np.float32),
        "actions": states % 3,
        "rewards": np.ones(4, np.float32),
        "terminated": np.zeros(4, np.bool_),
        "truncated": np.zeros(4, np.bool_),
        "infos": [{}] * 4,
        "episode_id": 0,
        "next_observations": np.array([[first + 4.0]], np.float32),
        "action_masks": np.array([mask_at(s) for s in states]),
        "next_action_masks": np.array([mask_at(first + 4)]),
    }
    return EpisodeData(**(fields | changes))


def test_masks_come_back_with_their_observations() -> None:
    buffer = ReplayBuffer(8)
    buffer.push_window(window(0))
    batch = buffer.batch(np.arange(4))
    assert batch.action_masks is not None and batch.next_action_masks is not None
    assert batch.action_masks.tolist() == [mask_at(s) for s in range(4)]
    assert batch.next_action_masks.tolist() == [mask_at(s + 1) for s in range(4)]
    buffer.set_params(n_step=3)
    following = buffer.batch(np.arange(4)).next_action_masks
    assert following is not None and following.tolist() == [mask_at(s) for s in (3, 4, 4, 4)]


def test_without_masks_there_are_none_and_rows_are_no_longer() -> None:
    buffer = ReplayBuffer(8)
    buffer.push_window(window(0, action_masks=None, next_action_masks=None))
    batch = buffer.batch(np.arange(4))
    assert batch.action_masks is None and batch.next_action_masks is None
    assert buffer.view().mask_extra is None
    assert buffer._ring is not None and buffer._ring.layout.masks is None


def test_masks_that_appear_late_find_everything_allowed_before() -> None:
    buffer = ReplayBuffer(16, n_step=2, gamma=1.0)
    buffer.push_window(window(0, action_masks=None, next_action_masks=None))
    buffer.push_window(window(4))
    buffer.push_window(window(8, action_masks=None, next_action_masks=None))
    batch = buffer.batch(np.arange(12))
    assert batch.action_masks is not None and batch.next_action_masks is not None
    assert batch.action_masks.tolist() == [
        *[[True] * 3] * 4, *(mask_at(s) for s in range(4, 8)), *[[True] * 3] * 4
    ]  # fmt: skip
    # Rows are linked across the change: row 3 goes on with row 4, whose mask it then has.
    assert batch.rewards.tolist() == [2.0] * 11 + [1.0]
    assert batch.next_action_masks[3].tolist() == mask_at(5)
    assert batch.next_action_masks[2].tolist() == mask_at(4)


def test_the_mask_of_a_cut_episode_is_that_of_its_final_observation() -> None:
    cut = np.array([False, True, False, True])
    buffer = ReplayBuffer(8)
    buffer.push_window(
        window(
            0,
            truncated=cut,
            final_rows=np.array([1, 3]),
            final_observations=np.array([[70.0], [80.0]], np.float32),
            final_action_masks=np.array([[0, 0, 1], [0, 1, 1]], np.bool_),
        )
    )
    batch = buffer.batch(np.arange(4))
    assert batch.next_observations[:, 0].tolist() == [1, 70, 3, 80]
    assert batch.next_action_masks is not None
    assert batch.next_action_masks[[1, 3]].tolist() == [[False, False, True], [False, True, True]]


def test_the_key_of_a_dict_observation_is_a_mask_too() -> None:
    def seen(states: Any) -> dict[str, Any]:
        return {
            "x": np.array(states, np.float32)[:, None],
            "action_mask": np.array([mask_at(s) for s in states], np.int8),
        }

    buffer = ReplayBuffer(8)
    plain = window(0, observations=seen(range(4)), next_observations=seen([4]))
    plain.action_masks = plain.next_action_masks = None
    buffer.push_window(plain)
    batch = buffer.batch(np.arange(4))
    assert batch.next_action_masks is not None
    assert batch.next_action_masks.tolist() == [mask_at(s + 1) for s in range(4)]


def test_a_row_that_allows_nothing_is_named_and_nothing_is_stored() -> None:
    buffer = ReplayBuffer(8)
    masks = np.ones((4, 3), np.bool_)
    masks[2] = False
    with pytest.raises(ValueError, match="action_masks: row 2 allows no action"):
        buffer.push_window(window(0, action_masks=masks))
    with pytest.raises(ValueError, match="action_masks: the mask after row 3 allows no action"):
        buffer.push_window(window(0, next_action_masks=np.zeros((1, 3), np.bool_)))
    assert len(buffer) == 0
    # After the end of an episode nothing is chosen any more.
    over = np.array([False, False, False, True])
    final = {
        "final_rows": np.array([3]),
        "final_observations": np.array([[9.0]], np.float32),
        "final_action_masks": np.zeros((1, 3), np.bool_),
    }
    buffer.push_window(window(0, terminated=over, **final))
    following = buffer.batch(np.array([3])).next_action_masks
    assert following is not None and following.tolist() == [[True] * 3]
    with pytest.raises(ValueError, match="the mask after row 3 allows no action"):
        buffer.push_window(window(4, truncated=over, **final))


def test_masks_of_another_width_are_refused() -> None:
    buffer = ReplayBuffer(8)
    buffer.push_window(window(0))
    with pytest.raises(ValueError, match=r"action_masks must be bool \[N, …\] = \[4, 3\], got bool \[4, 2\]"):
        buffer.push_window(window(4, action_masks=np.ones((4, 2), np.bool_), next_action_masks=None))
    with pytest.raises(ValueError, match=r"must be \[N, K\] with one K, got rows of \[\(2,\), \(3,\)\]"):
        buffer.push_window(window(4, action_masks=np.ones((4, 2), np.bool_)))


def test_transitions_may_be_pushed_with_masks() -> None:
    buffer = PrioritizedReplayBuffer(8, alpha=0.6, n_step=2, seed=0)
    for t in range(3):
        buffer.push(
            np.array([t]), 0, 1.0, np.array([t + 1]), False,
            action_mask=mask_at(t), next_action_mask=mask_at(t + 1),
        )  # fmt: skip
    batch = buffer.sample(3)
    assert batch.action_masks is not None and batch.next_action_masks is not None
    for i in range(3):
        assert batch.action_masks[i].tolist() == mask_at(int(batch.observations[i, 0]))
        assert batch.next_action_masks[i].tolist() == mask_at(int(batch.next_observations[i, 0]))
    assert len(batch) == 8  # callers take it apart


def test_masks_of_one_side_only_are_refused_where_an_episode_goes_on() -> None:
    rows = {"observations": np.zeros((2, 1), np.float32), "actions": [0, 0], "rewards": [1.0, 1.0]}
    masks = np.array([mask_at(0), mask_at(1)])
    buffer = ReplayBuffer(8)
    with pytest.raises(ValueError, match="action_masks without next_action_masks"):
        buffer.push_rows(
            **rows, next_observations=rows["observations"], terminated=[True, False], action_masks=masks
        )
    assert len(buffer) == 0
    buffer.push_rows(
        **rows, next_observations=rows["observations"], terminated=[True, True], action_masks=masks
    )
    batch = buffer.batch(np.arange(2))
    assert batch.action_masks is not None and batch.action_masks.tolist() == masks.tolist()


def test_a_state_holds_the_masks_and_an_older_one_loads_without() -> None:
    buffer, copy = ReplayBuffer(6, n_step=2), ReplayBuffer(6, n_step=2)
    for first in (0, 4):
        buffer.push_window(window(first % 7))
    copy.load_state_dict(buffer.state_dict())
    for one, other in ((copy, buffer),):
        a, b = one.batch(np.arange(6)), other.batch(np.arange(6))
        np.testing.assert_array_equal(a.action_masks, b.action_masks)
        np.testing.assert_array_equal(a.next_action_masks, b.next_action_masks)
    older = buffer.state_dict()
    del older["rows"]["masks"], older["rows"]["successor"]
    copy.load_state_dict(older)
    assert copy.batch(np.arange(6)).action_masks is None
    copy.push_window(window(0))
    assert copy.batch(np.arange(6)).action_masks is not None


class Maze(gym.Env[Any, Any]):
    """Shows its number and step; the mask of a state is mask_at(step). Episodes of 3 steps, cut or ended."""

    action_space = spaces.Discrete(3)
    observation_space = spaces.Box(-1, 99, (2,), np.float32)

    def __init__(self, who: int, cut: bool) -> None:
        self.who, self.cut, self.t = who, cut, 0

    def shown(self) -> tuple[Any, dict[str, Any]]:
        return np.array([self.who, self.t], np.float32), {"action_mask": np.array(mask_at(self.t), np.int8)}

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self.t = 0
        return self.shown()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t += 1
        over = self.t == 3
        shown, info = self.shown()
        return shown, 0.0, over and not self.cut, over and self.cut, info


class Idler:
    def act(self, observation: Any) -> int:
        return 0


@pytest.mark.parametrize("mode", ["single", "NEXT_STEP", "SAME_STEP", "DISABLED"])
@pytest.mark.parametrize("size", [1, 2, 5])
def test_windows_carry_the_masks_of_what_follows(size: int, mode: str) -> None:
    if mode == "single":
        pipeline: Any = BatchPipeline(Maze(0, True), Idler(), window_size=size, seed=0)
    else:
        makers = [lambda who=who: Maze(who, who == 0) for who in range(2)]
        vector = SyncVectorEnv(makers, autoreset_mode=AutoresetMode[mode])
        pipeline = VectorBatchPipeline(vector_env=vector, agent=Idler(), window_size=size, seed=0)
    buffer = ReplayBuffer(1000)
    for _, data in zip(range(30 // size), pipeline.episodes(), strict=False):
        buffer.push_window(data)
    batch = buffer.batch(np.arange(len(buffer)))
    assert batch.action_masks is not None and batch.next_action_masks is not None
    for i in range(len(buffer)):
        assert batch.action_masks[i].tolist() == mask_at(int(batch.observations[i, 1]))
        wanted = [True] * 3 if batch.terminated[i] else mask_at(int(batch.next_observations[i, 1]))
        assert batch.next_action_masks[i].tolist() == wanted
    pipeline.teardown()
