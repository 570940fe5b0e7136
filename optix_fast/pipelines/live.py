"""Windows from a source that runs in real time."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from gymnasium import spaces

from optix_fast.pipelines.acting import batched
from optix_fast.pipelines.feed import Arrival, DataSource, Ended, Feed, Lost, Message, Woken
from optix_fast.pipelines.finite import non_finite
from optix_fast.pipelines.live_window import LiveRow, LiveWindow, space_like
from optix_fast.pipelines.masks import mask_of
from optix_fast.pipelines.rows import WindowRows, allocate, fitted, own_dtypes, read, write
from optix_fast.pipelines.window import checked_agent, positive
from optix_fast.types import BasePipeline, EpisodeBoundaryFn, EpisodeData, NonFiniteError, Tree, tree_map

logger = logging.getLogger(__name__)


class LivePipeline(BasePipeline):
    """Acts on a source that runs in real time, and yields what came of it (seed 003).

    A thread reads `data_source.stream()` (see DataSource) into a buffer; the agent's action for each
    observation goes to `data_source.send_action`, where the source has that. The reward, the flags
    and the info that arrive with the next observation belong to that action, and make one row.

    A window ends where an episode ends or `episode_boundary_fn` says so, whichever comes first; and,
    as it stands, when the source is silent for `silence_timeout` seconds, the connection is lost, or
    the pipeline is torn down or interrupted. An action that is still unanswered then opens the next
    window, unless the connection was lost: then its row is dropped, and the row before it is
    truncated, with the last observation seen as its final one. Such a cut is no end of an episode
    in `metadata["episode_returns"]`. `metadata` also has `disconnects` and `lag_seconds`, the
    longest that an observation of the window waited for the agent.

    Args:
        data_source: see DataSource. With `observation_space` and `action_space` of its own the agent
            is told them, and acts by `act_rows` where it has that; else by `act`.
        agent: who acts; may be set later with `set_agent`.
        episode_boundary_fn: (rows in the window, seconds since its first action, last observation)
            → whether the window ends, asked after each row; `every_n_steps`, `every_n_seconds` or
            `on_done_signal()`, the default.
        buffer_size: items read ahead at most. When the buffer is full the source has to wait; that
            is no reason to reconnect.
        reconnect_on_disconnect: connect again when the stream ends or raises; False ends the windows.
        span_episodes: windows do not end where an episode ends (or the connection is lost).
        silence_timeout: seconds, see above.
        reconnect_delay, max_reconnect_delay: seconds before the first attempt after a failure, and
            at most; it doubles with each attempt that brings no data.
        max_attempts: attempts in a row that bring no data, then ConnectionError; None goes on for ever.

    Raises:
        TypeError: data_source has no stream(), the agent cannot act, or the boundary cannot be called.
        ValueError: a number is out of range, span_episodes has no other boundary, or options of
            reconnecting contradict each other; they are named.
    """

    def __init__(
        self,
        data_source: DataSource,
        agent: Any = None,
        episode_boundary_fn: EpisodeBoundaryFn | None = None,
        buffer_size: int = 1000,
        reconnect_on_disconnect: bool = True,
        *,
        span_episodes: bool = False,
        silence_timeout: float = 30.0,
        reconnect_delay: float = 1.0,
        max_reconnect_delay: float = 60.0,
        max_attempts: int | None = None,
    ) -> None:
        if isinstance(data_source, type) or not callable(getattr(data_source, "stream", None)):
            kind = data_source.__name__ if isinstance(data_source, type) else type(data_source).__name__
            raise TypeError(f"data_source must be an object with a stream() method, got {kind}")
        boundary = self.on_done_signal() if episode_boundary_fn is None else episode_boundary_fn
        if not callable(boundary):
            raise TypeError(f"episode_boundary_fn must be a function, got {boundary!r}")
        if span_episodes and isinstance(boundary, _OnDone):
            raise ValueError("span_episodes=True needs an episode_boundary_fn: no window would ever end")
        if max_attempts is not None and not reconnect_on_disconnect:
            raise ValueError("max_attempts has no meaning with reconnect_on_disconnect=False")
        delays = (
            _seconds("reconnect_delay", reconnect_delay),
            _seconds("max_reconnect_delay", max_reconnect_delay),
        )
        if delays[0] > delays[1]:
            raise ValueError(
                f"reconnect_delay ({reconnect_delay}) must not exceed "
                f"max_reconnect_delay ({max_reconnect_delay})"
            )
        self.data_source, self.episode_boundary_fn = data_source, boundary
        self.buffer_size = positive("buffer_size", buffer_size)
        self.span_episodes = bool(span_episodes)
        self.silence_timeout = _seconds("silence_timeout", silence_timeout)
        self._connect = partial(
            Feed,
            data_source,
            self.buffer_size,
            bool(reconnect_on_disconnect),
            *delays,
            None if max_attempts is None else positive("max_attempts", max_attempts),
        )
        self.total_steps = 0
        self.agent: Any = None
        self._feed: Feed | None = None
        self._observation_space: Any = getattr(data_source, "observation_space", None)
        self._action_space: Any = getattr(data_source, "action_space", None)
        self._tells_spaces = self._observation_space is not None and self._action_space is not None
        self._window = LiveWindow()
        self._windows = 0
        # The observation to be acted on, with its info and arrival, and the row whose reward is awaited.
        self._shown: tuple[Tree, Mapping[str, Any], float] | None = None
        self._open: LiveRow | None = None
        self._running_return, self._running_length = 0.0, 0
        self._episode_finished = False
        if agent is not None:
            self.set_agent(agent)

    # --- boundaries -----------------------------------------------------------------------------

    @staticmethod
    def every_n_steps(n: int) -> EpisodeBoundaryFn:
        """Windows of n rows."""
        n = positive("n", n)
        return lambda steps, elapsed, observation: steps >= n

    @staticmethod
    def every_n_seconds(seconds: float) -> EpisodeBoundaryFn:
        """Windows of that many seconds, also when nothing arrives meanwhile."""
        return _EverySeconds(_seconds("seconds", seconds))

    @staticmethod
    def on_done_signal() -> EpisodeBoundaryFn:
        """One window per episode."""
        return _OnDone()

    # --- the contract ---------------------------------------------------------------------------

    @property
    def is_live(self) -> bool:
        """True: the source does not wait for the agent."""
        return True

    @property
    def observation_space(self) -> Any:
        """The source's; without one, that of what arrived first (None before)."""
        return self._observation_space

    @property
    def action_space(self) -> Any:
        """The source's; without one, that of the first action (None before)."""
        return self._action_space

    def set_agent(self, agent: Any) -> None:
        """Let `agent` act, and tell it the source's spaces if it wants to know (`bind_spaces`)."""
        bind = getattr(checked_agent(agent), "bind_spaces", None)
        if bind is not None and self._tells_spaces:
            bind(self._observation_space, self._action_space)
        self.agent = agent

    def setup(self) -> None:
        """Connect."""
        if self._feed is None:
            self._lose_track()
            self._feed = self._connect()

    def teardown(self) -> None:
        """Disconnect and end the thread. What was read ahead is forgotten; the window in the making is
        yielded to the caller that waits for it."""
        if self._feed is not None:
            feed, self._feed = self._feed, None
            feed.close()

    def interrupt(self) -> None:
        """Make whoever waits for the next window get it as it stands, or the end of the windows when it
        is empty; from any thread."""
        if self._feed is not None:
            self._feed.wake()

    def episodes(self) -> Iterator[EpisodeData]:
        """Windows, until the source ends for good. A second call goes on where the first stopped.

        Raises:
            RuntimeError: no agent is set; or the source has a fault that connecting again would not
                mend (a TypeError in stream(), for example).
            ConnectionError: max_attempts attempts in a row brought nothing.
            ValueError: an observation or action is not like the first one or not of its space.
            NonFiniteError: a reward is NaN or infinite, or an observation other than the last one of an
                episode that terminated.
        """
        if self.agent is None:
            raise RuntimeError("LivePipeline: set an agent before asking for episodes")
        self.setup()
        feed = self._feed
        assert feed is not None
        while True:
            is_full, message = self._advance(feed)
            has_rows = bool(self._window.rows)
            if is_full and has_rows:
                yield self._close_window()
            if isinstance(message, Ended):
                if message.error is not None:
                    raise message.error
                return
            if isinstance(message, Woken) and not has_rows:
                return

    # --- collecting -----------------------------------------------------------------------------

    def _advance(self, feed: Feed) -> tuple[bool, Message | None]:
        """Act on what is shown, and handle the next message; whether the window is full."""
        if self._shown is not None and self._act():
            return True, None
        message = feed.get(self._patience())
        if isinstance(message, Arrival):
            return self._take(message), message
        if isinstance(message, Lost | Ended):
            return self._lose_track() or isinstance(message, Ended), message
        if message is None and not self._window.rows:
            logger.warning("%s: nothing has arrived for %g s", self._name, self.silence_timeout)
        return True, message  # woken, silence, or the window's time is up

    def _patience(self) -> float:
        boundary = self.episode_boundary_fn
        if not isinstance(boundary, _EverySeconds) or not self._window.rows:
            return self.silence_timeout
        return min(self.silence_timeout, boundary.seconds - self._window.elapsed())

    def _act(self) -> bool:
        """Answer the observation that is shown; whether the window is full, because the connection was
        lost in doing so."""
        assert self._shown is not None
        observation, info, arrived_at = self._shown
        self._shown = None
        self._window.note_action(arrived_at)
        mask = mask_of(observation, info)
        row = LiveRow(observation, None, {}, None if mask is None else np.array(mask, np.bool_))
        act_rows = batched(self.agent, "act_rows")
        if self._tells_spaces and act_rows is not None:
            action = self._act_by_rows(act_rows, row)
        else:
            action = self.agent.act(tree_map(np.copy, observation))
            row.action = self._stored(action)
        self._open = row
        send_action = getattr(self.data_source, "send_action", None)
        if not callable(send_action):
            return False
        try:
            send_action(action)
        except (OSError, EOFError) as error:
            logger.warning("%s.send_action: %s: %s", self._name, type(error).__name__, error)
            return self._lose_track()
        return False

    def _act_by_rows(self, act_rows: Any, row: LiveRow) -> Tree:
        rows = WindowRows(1, 1, self._observation_space, self._action_space)
        write(rows.observations, (0, 0), row.observation)
        if row.mask is not None:
            rows.action_masks = row.mask[None, None]
        action = read(act_rows(read(rows.observations, 0), rows, 0), 0)
        row.action = tree_map(np.copy, action)
        row.columns = {name: column[0, 0] for name, column in rows.columns.items()}
        if isinstance(self._action_space, spaces.Discrete):
            return int(action)
        return tree_map(np.array, action, own_dtypes(self._action_space))

    def _stored(self, action: Any) -> Tree:
        try:
            if self._action_space is None:
                self._action_space = space_like(tree_map(np.asarray, action))
            return tree_map(np.copy, fitted(action, self._action_space))
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{type(self.agent).__name__}.act returned {action!r}, which does not fit the action "
                f"space {self._action_space}: {error}"
            ) from error

    def _take(self, arrival: Arrival) -> bool:
        """Complete the open row with what arrived, and show it; whether the window is full."""
        observation, reward, terminated, truncated, info = arrival.item
        observation = self._observed(observation)
        is_over = terminated or truncated
        fault = None if terminated else non_finite(observation)
        if fault is not None:
            raise NonFiniteError(
                f"{fault.name} ({fault.value}) from data source {self._name}, step {self.total_steps}"
            )
        row, self._open = self._open, None
        self._shown = None if is_over else (observation, info, arrival.at)
        if row is None:
            return False  # an episode begins
        if not math.isfinite(reward):
            raise NonFiniteError(f"reward ({reward}) from data source {self._name}, step {self.total_steps}")
        row.reward, row.terminated, row.truncated, row.info = reward, terminated, truncated, info
        if is_over:
            row.final_observation, row.final_mask = observation, mask_of(observation, info)
        self._window.rows.append(row)
        self._account(row)
        n_rows, elapsed = len(self._window.rows), self._window.elapsed()
        is_full = bool(self.episode_boundary_fn(n_rows, elapsed, observation))
        return is_full or (is_over and not self.span_episodes)

    def _observed(self, observation: Any) -> Tree:
        """A copy, as it will be stored."""
        try:
            if self._observation_space is None:
                self._observation_space = space_like(observation)
            space = self._observation_space
            stored = allocate(space, ())
            write(stored, ..., fitted(observation, space))
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"data source {self._name}: observation {observation!r} does not fit the space "
                f"{self._observation_space}: {error}"
            ) from error
        return stored

    def _account(self, row: LiveRow) -> None:
        self.total_steps += 1
        self._running_return += row.reward
        self._running_length += 1
        if row.is_over:
            self._window.returns.append(self._running_return)
            self._window.lengths.append(self._running_length)
            self._running_return, self._running_length = 0.0, 0
            self._episode_finished = True

    def _lose_track(self) -> bool:
        """Cut what is going on: the next observation begins an episode. Whether the window is full."""
        last, mask = self._latest()
        self._open = self._shown = None
        self._running_return, self._running_length = 0.0, 0
        if last is None:
            return False  # between two episodes
        self._window.cut(last, mask)
        return not self.span_episodes

    def _latest(self) -> tuple[Tree, Any]:
        """The observation that came last, with its action mask; None between two episodes."""
        if self._open is not None:
            return self._open.observation, self._open.mask
        return (None, None) if self._shown is None else (self._shown[0], mask_of(*self._shown[:2]))

    def _close_window(self) -> EpisodeData:
        next_observation, next_mask = self._latest()
        window, self._window = self._window, LiveWindow()
        if self._open is not None:
            self._window.began = time.monotonic()
        data = window.to_episode_data(
            self._observation_space,
            self._action_space,
            self._windows,
            next_observation,
            self._episode_finished,
            next_mask,
        )
        self._windows += 1
        return data

    @property
    def _name(self) -> str:
        return type(self.data_source).__name__

    # --- state ----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The counters. What a live source was doing cannot be gone back to."""
        return {
            "window": self._windows,
            "total_steps": self.total_steps,
            "episode_finished": self._episode_finished,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Count on from where `state_dict` was taken."""
        self._windows = int(state["window"])
        self.total_steps = int(state["total_steps"])
        self._episode_finished = bool(state["episode_finished"])


@dataclass(frozen=True)
class _EverySeconds:
    seconds: float

    def __call__(self, steps: int, elapsed: float, observation: Any) -> bool:
        return elapsed >= self.seconds


class _OnDone:
    def __call__(self, steps: int, elapsed: float, observation: Any) -> bool:
        return False


def _seconds(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        raise TypeError(f"{name} must be a number of seconds, got {value!r}")
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be a positive number of seconds, got {value!r}")
    return float(value)
