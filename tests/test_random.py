"""The random stream: published vectors, core against reference, state, statistics, errors."""

from __future__ import annotations

import copy
import pickle
import random
from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from in_threads import in_threads

from optix_fast import _native
from optix_fast.random import RandomStream, default_stream, seed_default_stream
from optix_fast.reference import random as reference

CORE = _native.core
IMPLEMENTATIONS = [reference] if CORE is None else [reference, CORE]
both = pytest.mark.parametrize("impl", IMPLEMENTATIONS, ids=lambda m: m.__name__)

SIZES = [0, 1, 2, 3, 4, 5, 7, 8, 31, 63, 64, 65, 127, 128, 129, 1000, 40_001]
KEY, OFFSET = 0x0123_4567_89AB_CDEF, 2**32 - 3  # the offset's carry into its high half is part of every case


def filled(impl, name, n, dtype, *arguments, key=KEY, offset=OFFSET):
    out = np.empty(n, dtype)
    used = getattr(impl, f"random_{name}")(key, offset, *arguments, out)
    return out, used


# ---- published numbers --------------------------------------------------------------------------------

# Known answers of the Random123 distribution for philox4x32 with ten rounds: counter, key, result.
KNOWN_ANSWERS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def words(text):
    return [int(word, 16) for word in text.split()]


@pytest.mark.parametrize(("counter", "key", "result"), KNOWN_ANSWERS)
def test_reference_gives_the_published_vectors(counter, key, result):
    key0, key1 = words(key)
    got = reference.philox_rounds(np.array([words(counter)], np.uint32), (key0, key1))
    assert got[0].tolist() == words(result)


@pytest.mark.native
@pytest.mark.parametrize(("counter", "key", "result"), KNOWN_ANSWERS)
def test_core_gives_the_published_vectors(counter, key, result):
    assert list(CORE.philox(words(counter), words(key))) == words(result)


@both
def test_numbers_of_the_first_block(impl):
    # Block 0 of key 0 is the first known answer; the numbers follow from its words by hand.
    w = words("6627e8d5 e169c58d bc57ac4c 9b00dbd8")
    uniform, used = filled(impl, "uniform", 4, np.float32, key=0, offset=0)
    assert uniform.tolist() == [(x >> 8) / 2**24 for x in w]
    assert used == 1
    # The 64-bit words are e169c58d6627e8d5 and 9b00dbd8bc57ac4c; a die shows ⌊6·W/2⁶⁴⌋ + 1.
    dice, used = filled(impl, "integers", 2, np.int64, 1, 7, key=0, offset=0)
    assert dice.tolist() == [(6 * 0xE169C58D6627E8D5 >> 64) + 1, (6 * 0x9B00DBD8BC57AC4C >> 64) + 1] == [6, 4]
    assert used == 1
    # The second word is the smaller one, so it comes first.
    assert filled(impl, "permutation", 2, np.int64, key=0, offset=0)[0].tolist() == [1, 0]
    # u = (0x6627e8d5 + ½)/2³² = 0.39904647, t = 0xe169c5/2²⁴ = 0.88052016:  √(−2 ln u) = 1.35549061,
    # cos 2πt = 0.73120203, sin 2πt = −0.68216097.
    normal, _ = filled(impl, "normal", 2, np.float32, key=0, offset=0)
    assert normal.tolist() == pytest.approx([0.99113749, -0.92466279], abs=2e-7)


# ---- parity -------------------------------------------------------------------------------------------


@pytest.mark.native
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize(
    ("name", "dtype"), [("words", np.uint32), ("uniform", np.float32), ("permutation", np.int64)]
)
def test_parity_is_bit_for_bit(name, dtype, n):
    got, used = filled(CORE, name, n, dtype)
    expected, used_by_reference = filled(reference, name, n, dtype)
    assert np.array_equal(got, expected)
    assert used == used_by_reference


@pytest.mark.native
@pytest.mark.parametrize("n", [0, 1, 5, 1000])
@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (-5, 7), (0, 2**40 + 123), (-(2**63), 2**63 - 1), (2**62, 2**63 - 1)]
)
def test_parity_of_integers_is_bit_for_bit(low, high, n):
    got, used = filled(CORE, "integers", n, np.int64, low, high)
    expected, used_by_reference = filled(reference, "integers", n, np.int64, low, high)
    assert np.array_equal(got, expected)
    assert used == used_by_reference
    assert ((got >= low) & (got < high)).all()


@pytest.mark.native
@pytest.mark.parametrize("n", SIZES)
def test_parity_of_normals(n):
    # Logarithm, sine and cosine each round once or twice: four units in the last place of a number up to 6.8.
    got, used = filled(CORE, "normal", n, np.float32)
    expected, used_by_reference = filled(reference, "normal", n, np.float32)
    assert used == used_by_reference
    np.testing.assert_allclose(got, expected, rtol=5e-7, atol=5e-7)


# ---- properties ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["uniform", "normal"])
def test_shapes(name):
    stream = RandomStream(1)
    draw = getattr(stream, name)
    assert draw().shape == ()
    assert draw(3).shape == (3,)
    assert draw((2, 3)).shape == (2, 3)
    assert draw((0, 3)).shape == (0, 3)
    assert draw(3).dtype == np.float32
    assert stream.integers(0, 9, (2, 3)).shape == (2, 3)
    assert stream.integers(0, 9, 2).dtype == stream.permutation(4).dtype == np.int64


@settings(max_examples=50, deadline=None)
@given(n=st.integers(0, 3000), seed=st.integers(0, 2**64))
def test_a_permutation_has_every_number_once(n, seed):
    assert np.array_equal(np.sort(RandomStream(seed).permutation(n)), np.arange(n))


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(-(2**70), 2**70), calls=st.lists(st.integers(0, 40), max_size=8))
def test_a_saved_state_continues_exactly(seed, calls):
    stream = RandomStream(seed, "test")
    for n in calls:
        stream.normal(n)
    state = stream.state_dict()
    assert set(state) == {"key", "offset"}
    copy = RandomStream(0)
    copy.load_state_dict(state)
    assert np.array_equal(copy.uniform(9), stream.uniform(9))
    assert copy.state_dict() == stream.state_dict()


def test_same_seed_and_name_same_numbers():
    a, b = RandomStream(7, "x"), RandomStream(7, "x")
    assert np.array_equal(a.uniform(100), b.uniform(100))


def test_seed_and_name_tell_streams_apart():
    keys = {
        RandomStream(seed, name).state_dict()["key"]
        for seed in (0, 1, -1, 2**64)
        for name in (0, 1, "0", "x")
    }
    assert len(keys) == 16


def test_children_do_not_depend_on_what_was_drawn():
    parent = RandomStream(7)
    first = parent.spawn("child").uniform(4)
    parent.uniform(1000)
    assert np.array_equal(parent.spawn("child").uniform(4), first)
    assert not np.array_equal(parent.spawn("other").uniform(4), first)
    assert not np.array_equal(parent.spawn("child").spawn("child").uniform(4), first)


def test_without_a_seed_streams_differ():
    assert RandomStream(None).state_dict() != RandomStream(None).state_dict()
    assert RandomStream.seed_from_os("a").state_dict() != RandomStream.seed_from_os("a").state_dict()


def test_generator_seeds_a_stream():
    streams = [RandomStream.from_generator(torch.Generator().manual_seed(s)) for s in (3, 3, 4)]
    keys = [stream.state_dict()["key"] for stream in streams]
    assert keys[0] == keys[1] != keys[2]


def test_default_stream_can_be_seeded():
    before = default_stream().state_dict()
    try:
        seed_default_stream(5)
        first = default_stream().uniform(3)
        seed_default_stream(5)
        assert np.array_equal(default_stream().uniform(3), first)
    finally:
        default_stream().load_state_dict(before)


def test_no_global_generator_is_touched():
    def states():
        legacy = np.random.get_state()
        return random.getstate(), legacy[1].tobytes(), torch.get_rng_state().numpy().tobytes()

    before = states()
    stream = RandomStream(None)
    stream.uniform(5), stream.normal(5), stream.integers(0, 5, 5), stream.permutation(5), stream.spawn(1)
    assert states() == before


def test_statistics():
    stream = RandomStream(11)
    n = 200_000
    uniform, normal = stream.uniform(n).astype(np.float64), stream.normal(n).astype(np.float64)
    # Four standard errors each, at a fixed seed.
    assert abs(uniform.mean() - 0.5) < 4 * np.sqrt(1 / 12 / n)
    assert uniform.min() >= 0.0
    assert uniform.max() < 1.0
    assert abs(normal.mean()) < 4 / np.sqrt(n)
    assert abs(normal.var() - 1.0) < 4 * np.sqrt(2 / n)
    assert abs((normal**3).mean()) < 4 * np.sqrt(15 / n)
    assert abs((normal**4).mean() - 3.0) < 4 * np.sqrt(96 / n)
    assert abs(np.corrcoef(normal[::2], normal[1::2])[0, 1]) < 4 / np.sqrt(n / 2)
    counts = np.bincount(stream.integers(0, 10, n), minlength=10)
    # Chi-square with nine degrees of freedom: 27.9 is its 0.1 % point.
    assert ((counts - n / 10) ** 2 / (n / 10)).sum() < 27.9


# ---- threads ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["uniform", "normal", "integers", "permutation", "draw"])
def test_threads_that_share_a_stream_get_each_number_once(kind):
    def draw(stream):
        if kind == "draw":
            taken = []
            stream.draw(lambda key, offset: taken.append(offset) or 3)
            return taken
        return {
            "uniform": lambda: stream.uniform(7),
            "normal": lambda: stream.normal(7),
            "integers": lambda: stream.integers(0, 2**60, 7),
            "permutation": lambda: stream.permutation(40),
        }[kind]()

    shared, alone = RandomStream(5), RandomStream(5)
    expected = sorted(tuple(draw(alone)) for _ in range(4 * 300))
    drawn = in_threads(*[lambda: [tuple(draw(shared)) for _ in range(300)]] * 4)
    assert sorted(chain.from_iterable(drawn)) == expected
    assert shared.state_dict() == alone.state_dict()


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))])
def test_a_copy_goes_on_by_itself(copied):
    stream = RandomStream(3)
    stream.uniform(9)
    other = copied(stream)
    np.testing.assert_array_equal(stream.uniform(20), other.uniform(20))
    stream.uniform(4)
    assert stream.offset == other.offset + 1


# ---- errors -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "state",
    [{}, {"key": 1}, {"key": 1, "offset": 2, "more": 3}, {"key": -1, "offset": 0},
     {"key": 0, "offset": 2**64}, {"key": 1.0, "offset": 0}, {"key": True, "offset": 0}],
)  # fmt: skip
def test_state_of_another_kind(state):
    stream = RandomStream(1)
    before = stream.state_dict()
    with pytest.raises(ValueError, match="RandomStream: "):
        stream.load_state_dict(state)
    assert stream.state_dict() == before


@pytest.mark.parametrize("seed", [1.5, "7", True])
def test_seed_of_another_kind(seed):
    with pytest.raises(TypeError, match="RandomStream: seed must be an integer or None"):
        RandomStream(seed)


@pytest.mark.parametrize(("low", "high"), [(3, 3), (4, 3), (0, 2**63), (-(2**64), 0)])
def test_integers_out_of_an_empty_or_too_wide_interval(low, high):
    with pytest.raises(ValueError, match="low must be below high"):
        RandomStream(1).integers(low, high)


def test_permutation_of_a_negative_number():
    with pytest.raises(ValueError, match="n must be 0 or more, got -1"):
        RandomStream(1).permutation(-1)


@pytest.mark.native
@pytest.mark.parametrize(
    ("out", "error", "message"),
    [
        (np.empty(4, np.float64), ValueError, "out must be float32, got an array of format 'd'"),
        (np.empty((4, 4), np.float32).T[1:], ValueError, "out must be a contiguous writable array"),
        (np.empty(8, np.float32)[::2], ValueError, "out must be a contiguous writable array"),
        (b"read-only", ValueError, "out must be a contiguous writable array"),
        ([1.0, 2.0], TypeError, "out must be an array of float32, got list"),
    ],
)
def test_core_checks_the_array_it_fills(out, error, message):
    with pytest.raises(error, match=f"random_uniform: {message}"):
        CORE.random_uniform(1, 2, out)
