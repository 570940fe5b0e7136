"""The numbers of a random stream, in numpy: the specification of the core's ``random_*`` calls.

Same names, signatures and bits as in ``optix_fast._C`` (normals agree to a few units in the last place).
Every call fills ``out`` and returns the number of blocks it consumed.

Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_LOW_32 = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)


def philox_rounds(counter: npt.NDArray[np.uint32], key: tuple[int, int]) -> npt.NDArray[np.uint32]:
    """Philox4x32-10 of counters [n, 4] under a key of two 32-bit words."""
    c0, c1, c2, c3 = (counter[:, i].astype(np.uint64) for i in range(4))
    key0, key1 = key
    for _ in range(10):
        product0 = np.uint64(0xD2511F53) * c0
        product1 = np.uint64(0xCD9E8D57) * c2
        c0, c1, c2, c3 = (
            (product1 >> _32) ^ c1 ^ np.uint64(key0),
            product1 & _LOW_32,
            (product0 >> _32) ^ c3 ^ np.uint64(key1),
            product0 & _LOW_32,
        )
        key0 = (key0 + 0x9E3779B9) & 0xFFFFFFFF
        key1 = (key1 + 0xBB67AE85) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], axis=1).astype(np.uint32)


def _words(key: int, offset: int, n: int) -> npt.NDArray[np.uint32]:
    blocks = (n + 3) // 4
    offsets = np.uint64(offset) + np.arange(blocks, dtype=np.uint64)
    counter = np.zeros((blocks, 4), dtype=np.uint32)
    counter[:, 0] = (offsets & _LOW_32).astype(np.uint32)
    counter[:, 1] = (offsets >> _32).astype(np.uint32)
    return philox_rounds(counter, (key & 0xFFFFFFFF, key >> 32)).reshape(-1)[:n]


def _wide_words(key: int, offset: int, n: int) -> npt.NDArray[np.uint64]:
    pairs = _words(key, offset, 2 * n).reshape(n, 2).astype(np.uint64)
    wide: npt.NDArray[np.uint64] = pairs[:, 0] | (pairs[:, 1] << _32)
    return wide


def _blocks(words: int) -> int:
    return (words + 3) // 4


def random_words(key: int, offset: int, out: npt.NDArray[np.uint32]) -> int:
    out.reshape(-1)[:] = _words(key, offset, out.size)
    return _blocks(out.size)


def random_uniform(key: int, offset: int, out: npt.NDArray[np.float32]) -> int:
    words = _words(key, offset, out.size)
    out.reshape(-1)[:] = (words >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)
    return _blocks(out.size)


def random_normal(key: int, offset: int, out: npt.NDArray[np.float32]) -> int:
    n_words = out.size + out.size % 2
    pairs = _words(key, offset, n_words).reshape(-1, 2)
    u = pairs[:, 0].astype(np.float32) * np.float32(2.0**-32) + np.float32(2.0**-33)
    turn = (pairs[:, 1] >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)
    radius = np.sqrt(np.float32(-2.0) * np.log(u))
    angle = 2.0 * np.pi * turn.astype(np.float64)
    both = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    out.reshape(-1)[:] = both.reshape(-1)[: out.size]
    return _blocks(n_words)


def random_integers(key: int, offset: int, low: int, high: int, out: npt.NDArray[np.int64]) -> int:
    words = _wide_words(key, offset, out.size)
    # The high half of word · span, by halves: numpy has no 128-bit product.
    span_low, span_high = np.uint64((high - low) & 0xFFFFFFFF), np.uint64((high - low) >> 32)
    word_low, word_high = words & _LOW_32, words >> _32
    middle = word_high * span_low + ((word_low * span_low) >> _32)
    lower_middle = word_low * span_high + (middle & _LOW_32)
    scaled = word_high * span_high + (middle >> _32) + (lower_middle >> _32)
    out.reshape(-1)[:] = (scaled + np.uint64(low % 2**64)).astype(np.int64)
    return _blocks(2 * out.size)


def random_permutation(key: int, offset: int, out: npt.NDArray[np.int64]) -> int:
    out[:] = np.argsort(_wide_words(key, offset, out.size), kind="stable")
    return _blocks(2 * out.size)
