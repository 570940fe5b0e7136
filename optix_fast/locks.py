"""One lock per object: what it does at one time, one thread does."""

from __future__ import annotations

import _thread
from collections.abc import Callable
from functools import wraps
from typing import Any, Protocol, TypeVar, cast


class CallLock(_thread.RLock):  # type: ignore[misc]  # final in typeshed only
    """A reentrant lock. A copy, or what is unpickled, is a new and free one, so that owners can be copied."""

    __slots__ = ()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()


class Locked(Protocol):
    """What `exclusive` methods belong to."""

    _lock: CallLock


Method = TypeVar("Method", bound=Callable[..., Any])


def exclusive(method: Method) -> Method:
    """The method under its object's `_lock`: other threads wait until it returns. It may call other ones."""

    @wraps(method)
    def locked(self: Locked, *args: Any, **kwargs: Any) -> Any:
        with self._lock:
            return method(self, *args, **kwargs)

    return cast(Method, locked)
