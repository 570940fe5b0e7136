"""A data source read in a thread of its own, with reconnects and back-pressure."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

logger = logging.getLogger(__name__)

# Item = (observation, reward, terminated, truncated, info)
Item = tuple[Any, float, bool, bool, dict[str, Any]]

# A connection does not raise these; connecting again would not help.
_BUGS = (ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, NameError, TypeError)
_JOIN_SECONDS = 5.0


class DataSource(Protocol):
    """What LivePipeline reads from.

    `stream()` connects and yields (observation, reward, terminated, truncated, info) until the
    connection ends; it is called again to reconnect. An observation that comes with terminated
    or truncated is the last of its episode; what comes first, or next after it, begins an episode,
    and its reward belongs to no action.

    Optional: `send_action(action)`, called with the agent's answer to each observation that is not
    an episode's last, in the order of the observations and from another thread than `stream()`;
    `close()`, called at teardown, makes a `stream()` that is waiting end; `observation_space` and
    `action_space` (Gymnasium spaces).
    """

    def stream(self) -> Iterator[Item]: ...


class Arrival(NamedTuple):
    """An item, and when it came (time.monotonic)."""

    item: Item
    at: float


class Lost(NamedTuple):
    """The connection ended; another one is being made."""

    why: str


class Ended(NamedTuple):
    """Nothing more will come. `error` is what has to be raised, if anything."""

    why: str
    error: Exception | None = None


class Woken(NamedTuple):
    """Somebody called wake()."""


Message = Arrival | Lost | Ended | Woken


class Feed:
    """Reads a DataSource in a daemon thread into a bounded buffer.

    A full buffer makes the thread wait, however long: a reader that is busy is no reason to give up
    a connection. When `stream()` ends or raises, it is called again: at once after a clean end that
    had brought data, else after delay·2ⁿ seconds, n counting the failures in a row. Before that, the
    reader must have seen everything that the last connection brought, where it answers.

    Args:
        source: see DataSource.
        capacity: items buffered at most.
        reconnect: False ends with the first connection.
        delay, max_delay: seconds between attempts, the first and the longest.
        max_attempts: attempts in a row that bring no data before it gives up; None never does.
    """

    def __init__(
        self,
        source: DataSource,
        capacity: int,
        reconnect: bool,
        delay: float,
        max_delay: float,
        max_attempts: int | None,
    ) -> None:
        self._source, self._capacity, self._reconnect = source, capacity, reconnect
        self._delay, self._max_delay, self._max_attempts = delay, max_delay, max_attempts
        self._buffer: deque[Message] = deque()
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._woken = False
        self._thread = threading.Thread(target=self._run, name="LivePipeline-producer", daemon=True)
        self._thread.start()

    def get(self, timeout: float) -> Message | None:
        """The next message, or None after `timeout` seconds without one."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._buffer or self._closing.is_set() or self._woken, max(0.0, timeout)
            )
            if self._closing.is_set():
                return Ended("closed")
            if self._woken:
                self._woken = False
                return Woken()
            if not self._buffer:
                return None
            message = self._buffer[0]
            if not isinstance(message, Ended):  # that one stays true
                self._buffer.popleft()
                self._changed.notify_all()
            return message

    def wake(self) -> None:
        """Make the reader's present or next get() return Woken."""
        with self._changed:
            self._woken = True
            self._changed.notify_all()

    def close(self) -> None:
        """End the thread; a reader that is waiting gets Ended."""
        with self._changed:
            self._closing.set()
            self._changed.notify_all()
        _close(self._source)
        if self._thread is not threading.current_thread():
            self._thread.join(_JOIN_SECONDS)
        if self._thread.is_alive():
            logger.warning(
                "%s.stream is still waiting for data; give the source a close() that ends it",
                type(self._source).__name__,
            )

    # --- the thread -----------------------------------------------------------------------------

    def _run(self) -> None:
        failures = 0
        while not self._closing.is_set():
            arrived, error = self._read_one_connection()
            if self._closing.is_set():
                return
            why = "the stream ended" if error is None else f"{type(error).__name__}: {error}"
            name = type(self._source).__name__
            if isinstance(error, _BUGS):
                failure = RuntimeError(f"data source {name} failed: {why}")
                failure.__cause__ = error
                self._put(Ended(why, failure))
                return
            if not self._reconnect:
                logger.log(logging.INFO if error is None else logging.WARNING, "%s: %s", name, why)
                self._put(Ended(why))
                return
            failures = 0 if arrived else failures + 1
            if self._max_attempts is not None and failures >= self._max_attempts:
                given_up = ConnectionError(
                    f"data source {name} brought nothing in {failures} attempts: {why}"
                )
                given_up.__cause__ = error
                self._put(Ended(why, given_up))
                return
            if arrived:
                self._put(Lost(why))
                self._wait_for_the_reader()
            pause = 0.0
            if error is not None or not arrived:
                pause = min(self._max_delay, self._delay * 2.0 ** min(max(failures - 1, 0), 60))
            logger.warning("%s: %s; connecting again in %g s", name, why, pause)
            with self._changed:
                self._changed.wait_for(self._closing.is_set, pause)

    def _wait_for_the_reader(self) -> None:
        """An answer to an observation of the lost connection must not be sent over the next one."""
        if callable(getattr(self._source, "send_action", None)):
            with self._changed:
                self._changed.wait_for(lambda: self._closing.is_set() or not self._buffer)

    def _read_one_connection(self) -> tuple[int, Exception | None]:
        """How many items came, and what ended them."""
        arrived = 0
        stream: Any = None
        try:
            stream = iter(self._source.stream())
            for item in stream:
                self._put(Arrival(_checked(item), time.monotonic()))
                arrived += 1
                if self._closing.is_set():
                    break
        except Exception as error:
            return arrived, error
        finally:
            _close(stream)  # a generator's own clean-up (its socket) happens now, not when it is collected
        return arrived, None

    def _put(self, message: Message) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._closing.is_set() or len(self._buffer) < self._capacity)
            self._buffer.append(message)
            self._changed.notify_all()


def _close(thing: Any) -> None:
    close = getattr(thing, "close", None)
    if callable(close):
        try:
            close()
        except Exception:
            logger.warning("%s.close raised", type(thing).__name__, exc_info=True)


def _checked(item: Any) -> Item:
    if not isinstance(item, tuple | list) or len(item) != 5:
        raise TypeError(
            f"stream() must yield (observation, reward, terminated, truncated, info), got {item!r}"
        )
    observation, reward, terminated, truncated, info = item
    try:
        return observation, float(reward), bool(terminated), bool(truncated), dict(info or {})
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"stream() must yield a number as reward, two flags and a dict as info, got {item[1:]!r}: {error}"
        ) from error
