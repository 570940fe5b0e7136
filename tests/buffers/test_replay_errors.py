"""ReplayBuffer: what is refused, in which words, and that nothing has changed then; state on disk."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from gymnasium import spaces
from replay_cases import NaiveBuffer, assert_same_state, check_equal

from optix_fast.buffers import ReplayBuffer, layout


def filled(capacity=8, rows=5, **options):
    buffer = ReplayBuffer(capacity, seed=0, **options)
    for i in range(rows):
        buffer.push(np.array([i, 0.0]), [0.5], float(i), np.array([i + 1, 0.0]), i % 4 == 3)
    return buffer


@pytest.mark.parametrize("capacity", [0, -1])
def test_capacity_below_one(capacity):
    with pytest.raises(ValueError, match=f"capacity must be 1 or more, got {capacity}"):
        ReplayBuffer(capacity)


@pytest.mark.parametrize("capacity", [1.5, "8", None, True])
def test_capacity_of_another_type(capacity):
    with pytest.raises(TypeError, match="capacity must be an integer, got"):
        ReplayBuffer(capacity)


def test_capacity_beyond_memory():
    with pytest.raises(MemoryError, match=r"capacity 1000000000000 needs up to .* GB, .* GB are available"):
        ReplayBuffer(10**12)
    image = spaces.Box(0, 255, (10**4, 10**4, 3), np.uint8)
    with pytest.raises(MemoryError, match=r"capacity 100000 needs up to .* GB"):
        ReplayBuffer(10**5, observation_space=image, action_space=spaces.Discrete(2))


def test_capacity_beyond_memory_is_found_at_the_first_push(monkeypatch):
    monkeypatch.setattr(layout, "available_memory", lambda: 10**6)
    buffer = ReplayBuffer(10**4)
    # A record: header 16, action 8, observation 400, rounded to 7 lines; another observation and 8 beside it.
    with pytest.raises(MemoryError, match=r"capacity 10000 needs up to 0.00856 GB, 0.001 GB are available"):
        buffer.push(np.zeros(100), 0, 1.0, np.zeros(100), False)
    assert len(buffer) == 0
    buffer.push(np.zeros(1), 0, 1.0, np.zeros(1), False)  # of another shape: the first one left no trace


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_step": 0}, "n_step must be 1 or more, got 0"),
        ({"gamma": 1.5}, r"gamma must be in \[0, 1\], got 1.5"),
        ({"gamma": float("nan")}, r"gamma must be in \[0, 1\], got nan"),
        ({"action_space": spaces.Discrete(2)}, "must be given together"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        ReplayBuffer(8, **options)


def test_set_params_changes_all_or_nothing():
    buffer = filled()
    with pytest.raises(ValueError, match="gamma"):
        buffer.set_params(n_step=3, gamma=2.0)
    assert (buffer.n_step, buffer.gamma) == (1, 0.99)


OBSERVATION, ACTION = np.zeros(2), [0.5]
WRONG = {
    "shape of the observation": (
        (np.zeros(3), ACTION, 1.0, OBSERVATION, False),
        r"observations must be float32 \[N, …\] = \[1, 2\], got float64 \[1, 3\]",
    ),
    "shape of the next observation": (
        (OBSERVATION, ACTION, 1.0, np.zeros(1), False),
        r"next_observations must be float32 \[N, …\] = \[1, 2\], got float64 \[1, 1\]",
    ),
    "shape of the action": (
        (OBSERVATION, [0.5, 0.5], 1.0, OBSERVATION, False),
        r"actions must be float32 \[N, …\] = \[1, 1\], got float64 \[1, 2\]",
    ),
    "a dict": (({"a": OBSERVATION}, ACTION, 1.0, OBSERVATION, False), "observations must be"),
    "NaN": (
        (OBSERVATION, ACTION, float("nan"), OBSERVATION, False),
        "rewards must be finite, got nan at position 0",
    ),
    "infinity": (
        (OBSERVATION, ACTION, -float("inf"), OBSERVATION, False),
        "rewards must be finite, got -inf",
    ),
    "beyond float32": ((OBSERVATION, ACTION, 1e300, OBSERVATION, False), "rewards must be finite, got inf"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_push_changes_nothing(case):
    arguments, message = WRONG[case]
    buffer = filled()
    before = buffer.state_dict()
    with pytest.raises(ValueError, match=message):
        buffer.push(*arguments)
    assert_same_state(buffer.state_dict(), before)


def test_wrong_first_push_leaves_the_buffer_open():
    buffer = ReplayBuffer(4)
    with pytest.raises(ValueError, match="rewards must be finite"):
        buffer.push(np.zeros(3), 0, float("nan"), np.zeros(3), False)
    buffer.push(np.zeros(2), 0, 1.0, np.zeros(2), False)
    assert len(buffer) == 1


def test_wrong_reward_among_many_names_its_position():
    buffer = filled(rows=0)
    rewards = [1.0, 2.0, float("nan")]
    with pytest.raises(ValueError, match="got nan at position 2"):
        buffer.push_rows(np.zeros((3, 2)), np.zeros((3, 1)), rewards, np.zeros((3, 2)), [False] * 3)
    assert len(buffer) == 0


def test_columns_of_different_lengths():
    buffer = filled()
    with pytest.raises(ValueError, match=r"terminated must be bool \[N\] = \[3\], got \[2\]"):
        buffer.push_rows(np.zeros((3, 2)), np.zeros((3, 1)), [1.0] * 3, np.zeros((3, 2)), [False] * 2)


def test_dict_with_other_keys():
    buffer = ReplayBuffer(4)
    buffer.push({"a": 1.0, "b": 2.0}, 0, 1.0, {"a": 1.0, "b": 2.0}, False)
    with pytest.raises(ValueError, match="observations must be a dict with the keys a, b"):
        buffer.push({"a": 1.0, "c": 2.0}, 0, 1.0, {"a": 1.0, "b": 2.0}, False)


def test_things_that_are_no_numbers():
    with pytest.raises(TypeError, match="observations must be numbers, got <U1"):
        ReplayBuffer(4).push("a", 0, 1.0, "b", False)


def test_draw_of_more_than_there_is():
    buffer = filled(rows=5)
    with pytest.raises(ValueError, match=r"n must be in \[0, len\] = \[0, 5\], got 6"):
        buffer.sample(6)
    with pytest.raises(ValueError, match=r"n must be in \[0, len\] = \[0, 0\], got 1"):
        ReplayBuffer(4).sample(1)


@pytest.mark.parametrize("index", [-1, 5, 2**62])
def test_index_outside(index):
    with pytest.raises(
        ValueError, match=rf"indices must be in \[0, size\) = \[0, 5\), got {index} at position 1"
    ):
        filled(rows=5).batch(np.array([0, index]))


def test_indices_of_another_type():
    with pytest.raises(ValueError, match=r"indices must be int64 \[B\], got float64 \[2\]"):
        filled().batch(np.zeros(2))


def test_view_of_what_is_not_one_float_array():
    buffer = ReplayBuffer(4)
    with pytest.raises(ValueError, match="nothing has been pushed yet"):
        buffer.view()
    buffer.push(np.zeros(2, np.uint8), 0, 1.0, np.zeros(2, np.uint8), False)
    with pytest.raises(ValueError, match="only observations of one float array can be viewed"):
        buffer.view()


# ---- state -------------------------------------------------------------------------------------------------


def push_both(buffer, naive, rng, rows):
    """Random walks of three environments over four states."""
    for _ in range(rows):
        start, end = rng.integers(0, 4, (3, 1)), rng.integers(0, 4, (3, 1))
        flags = rng.random((2, 3)) < 0.2
        columns = ({"s": start}, rng.integers(0, 5, 3), rng.random(3).astype(np.float32), {"s": end}, *flags)
        buffer.push_rows(*columns)
        for env in range(3):
            naive.push(env, *({"s": c["s"][env]} if isinstance(c, dict) else c[env] for c in columns))


@pytest.mark.parametrize("rows", [0, 3, 40])
@pytest.mark.parametrize("on_disk", [False, True])
def test_a_loaded_buffer_goes_on_as_the_saved_one(tmp_path, rows, on_disk):
    buffer, naive = ReplayBuffer(50, n_step=3, gamma=0.9, seed=3), NaiveBuffer(50)
    push_both(buffer, naive, np.random.default_rng(0), rows)
    if rows:
        buffer.sample(3)
    other = ReplayBuffer(50, seed=9)
    if on_disk:
        buffer.save(tmp_path / "replay")
        other.load(tmp_path / "replay")
    else:
        other.load_state_dict(buffer.state_dict())
    check_equal(other, naive)
    assert_same_state(other.state_dict(), buffer.state_dict())
    push_both(buffer, naive, np.random.default_rng(1), 30)
    push_both(other, NaiveBuffer(50), np.random.default_rng(1), 30)
    check_equal(other, naive)
    assert_same_state(other.state_dict(), buffer.state_dict())
    assert other.sample(40).indices.tolist() == buffer.sample(40).indices.tolist()


def test_a_state_is_a_copy():
    buffer = filled()
    state = buffer.state_dict()
    before = copy.deepcopy(state)
    buffer.push(OBSERVATION, ACTION, 9.0, OBSERVATION, True)
    assert_same_state(state, before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("stream"), "the state has no 'stream'"),
        (lambda s: s.update(capacity=9), "the state is of capacity 9, the buffer's is 8"),
        (lambda s: s["rows"].pop("extra"), "the state has no 'extra'"),
        (lambda s: s["rows"]["next"].__setitem__(0, 7), "links lead nowhere"),
        (lambda s: s["rows"]["next"].__setitem__(1, 0), "links lead nowhere"),
        (
            lambda s: s["rows"].update(rewards=np.zeros(3)),
            r"rewards must be float32 \[N\] = \[5\], got \[3\]",
        ),
        (lambda s: s["rows"].update(actions=np.zeros((5, 4))), "the state holds .* the buffer"),
    ],
)
def test_a_wrong_state_changes_nothing(change, message):
    buffer = filled()
    state = buffer.state_dict()
    change(state)
    before = buffer.state_dict()
    with pytest.raises(ValueError, match=message):
        buffer.load_state_dict(state)
    assert_same_state(buffer.state_dict(), before)
    assert buffer.sample(2).actions.tolist() == [[0.5], [0.5]]


def test_a_damaged_file(tmp_path):
    buffer = filled()
    buffer.save(tmp_path)
    path = tmp_path / "replay.safetensors"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ValueError, match="is not an intact state file"):
        filled().load(tmp_path)
    with pytest.raises(FileNotFoundError):
        buffer.load(tmp_path / "nowhere")
