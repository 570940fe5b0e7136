"""The one random stream: Philox4x32-10, keyed by (seed, name), the same bits with and without the core.

Nothing in this package touches the global random state of numpy, torch or Python; whatever needs randomness
takes a :class:`RandomStream`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from optix_fast import _native
from optix_fast.locks import CallLock
from optix_fast.reference import random as _reference

# The core and the reference have the same calls: each fills an array and says how far the stream moved.
_impl: Any = _native.core if _native.backend() == "native" else _reference

Shape = int | tuple[int, ...]

_WORD = 2**64
_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1


def _key_from(*parts: str | int) -> int:
    """64 well-mixed bits from a few names and numbers; 1 and "1" differ."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


class RandomStream:
    """Random numbers that two integers describe: a key, and how many blocks of it are used up.

    Two streams of the same seed and name give the same numbers; other names (or :meth:`spawn`) give
    independent ones. Numbers do not depend on how a machine is equipped: uniforms, integers and permutations
    have the same bits with the core and without it, normals agree to 1e-6 · max(1, |x|). Threads may share a
    stream: no number is given to two of them, and which of them gets which is a matter of chance.

    Args:
        seed: any integer; None takes one from the operating system.
        name: what the stream is for, a word or a number.
    """

    __slots__ = ("_key", "_lock", "_offset")

    def __init__(self, seed: int | None, name: str | int = 0) -> None:
        if seed is None:
            seed = int.from_bytes(os.urandom(8), "little")
        if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
            raise TypeError(f"RandomStream: seed must be an integer or None, got {type(seed).__name__}")
        self._key = _key_from(int(seed), name)
        self._offset = 0
        self._lock = CallLock()

    @classmethod
    def seed_from_os(cls, name: str | int = 0) -> RandomStream:
        """A stream that only its own state_dict can repeat."""
        return cls(None, name)

    @classmethod
    def from_generator(cls, generator: torch.Generator, name: str | int = 0) -> RandomStream:
        """A stream seeded by one draw from ``generator`` (which moves on by that draw)."""
        draw = torch.randint(2**63 - 1, (), generator=generator, device=generator.device)
        return cls(int(draw.item()), name)

    def spawn(self, name: str | int) -> RandomStream:
        """The child stream of that name: independent of this one, and the same at every call and offset."""
        child = RandomStream.__new__(RandomStream)
        child._key = _key_from(self._key, "child", name)
        child._offset = 0
        child._lock = CallLock()
        return child

    def uniform(self, shape: Shape = ()) -> npt.NDArray[np.float32]:
        """float32 in [0, 1), multiples of 2⁻²⁴."""
        out = np.empty(shape, np.float32)
        with self._lock:
            self._offset += _impl.random_uniform(self._key, self._offset, out)
        return out

    def normal(self, shape: Shape = ()) -> npt.NDArray[np.float32]:
        """float32 from N(0, 1), by Box-Muller; |x| < 6.8."""
        out = np.empty(shape, np.float32)
        with self._lock:
            self._offset += _impl.random_normal(self._key, self._offset, out)
        return out

    def integers(self, low: int, high: int, shape: Shape = ()) -> npt.NDArray[np.int64]:
        """int64 in [low, high), each equally likely to within 2⁻⁶⁴·(high − low)."""
        if not _INT64_MIN <= low < high <= _INT64_MAX:
            raise ValueError(
                f"RandomStream.integers: low must be below high, both int64, got low={low}, high={high}"
            )
        out = np.empty(shape, np.int64)
        with self._lock:
            self._offset += _impl.random_integers(self._key, self._offset, low, high, out)
        return out

    def permutation(self, n: int) -> npt.NDArray[np.int64]:
        """The numbers 0 … n − 1 in random order, int64 [n]."""
        if n < 0:
            raise ValueError(f"RandomStream.permutation: n must be 0 or more, got {n}")
        out = np.empty(n, np.int64)
        with self._lock:
            self._offset += _impl.random_permutation(self._key, self._offset, out)
        return out

    @property
    def key(self) -> int:
        """What the numbers are made from, with `offset`."""
        return self._key

    @property
    def offset(self) -> int:
        """Blocks used up."""
        return self._offset

    def position(self) -> tuple[int, int]:
        """`key` and `offset`, in one call."""
        return self._key, self._offset

    def advance(self, blocks: int) -> None:
        """Moves on by so many blocks, which a kernel has taken from `position()` on. Its caller sees to it
        that no other thread draws in between; `draw` does so itself."""
        self._offset += blocks

    def draw(self, kernel: Callable[[int, int], int]) -> None:
        """Lets ``kernel(key, offset)`` make the next numbers itself; it returns how many blocks it consumed.

        If it raises, the stream does not move.
        """
        with self._lock:
            self._offset += kernel(self._key, self._offset)

    def state_dict(self) -> dict[str, int]:
        """Two integers: ``key`` and ``offset``."""
        with self._lock:
            return {"key": self._key, "offset": self._offset}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Continues exactly where that state was taken."""
        if set(state) != {"key", "offset"}:
            raise ValueError(f"RandomStream: state must have exactly key and offset, got {sorted(state)}")
        for name, value in state.items():
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < _WORD:
                raise ValueError(f"RandomStream: {name} must be an integer in [0, 2**64), got {value!r}")
        with self._lock:
            self._key = state["key"]
            self._offset = state["offset"]

    def __repr__(self) -> str:
        return f"RandomStream(key={self._key:#018x}, offset={self._offset})"


_default: RandomStream | None = None


def default_stream() -> RandomStream:
    """The process-wide stream that an op uses when it is given none; seeded by the operating system."""
    global _default
    if _default is None:
        _default = RandomStream.seed_from_os("default")
    return _default


def seed_default_stream(seed: int) -> None:
    """Makes :func:`default_stream` repeatable."""
    default_stream().load_state_dict(RandomStream(seed, "default").state_dict())


def _forget_default_stream() -> None:
    global _default
    _default = None


if hasattr(os, "register_at_fork"):
    # A forked process would otherwise draw the same "random" numbers as its parent.
    os.register_at_fork(after_in_child=_forget_default_stream)
