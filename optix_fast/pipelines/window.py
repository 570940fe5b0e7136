"""The collecting loop that BatchPipeline and VectorBatchPipeline share."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from optix_fast.pipelines.acting import batched
from optix_fast.pipelines.finite import non_finite
from optix_fast.pipelines.masks import check_masks
from optix_fast.pipelines.rows import WindowRows, fitted, read, write
from optix_fast.pipelines.steppers import Stepper
from optix_fast.types import Array, BasePipeline, EpisodeData, NonFiniteError, Tree, tree_map


class WindowPipeline(BasePipeline):
    """Steps environments without a break and yields windows of `window_size` steps of each.

    Episodes run on across windows; environments are reset only where an episode ends. An agent
    with `act_rows(observations, rows, t)` is asked once for all environments; any other agent's
    `act(observation)` is asked for each environment in turn.

    Args:
        make_stepper: builds what is stepped; called by the first `setup()` after construction or
            teardown.
        agent: who acts; may be set later with `set_agent`.
        window_size: T, steps per environment and window.
        seed: of the first reset, and source of the seeds of later beginnings (after a teardown or an error);
            None draws from the operating system.
        max_steps: end after this many environment steps (rows with valid=True) in all, the last
            window being shorter; a vector environment stops before it would exceed the number.
    """

    def __init__(
        self,
        make_stepper: Callable[[], Stepper],
        agent: Any,
        window_size: int,
        seed: int | None,
        max_steps: int | None,
    ) -> None:
        self.window_size = positive("window_size", window_size)
        self.max_steps = None if max_steps is None else positive("max_steps", max_steps)
        self.total_steps = 0
        self.agent: Any = None
        self._seed = None if seed is None else _checked_seed(seed)
        self._beginnings = 0
        self._make_stepper = make_stepper
        self._stepper: Stepper | None = None
        self._started = False
        self._episode_finished = False
        self._window = 0
        # Of the episodes that go on at the end of the last window.
        self._running_return: Array = np.zeros(0)
        self._running_length: Array = np.zeros(0, np.int64)
        if agent is not None:
            self.set_agent(agent)

    # --- the contract ---------------------------------------------------------------------------

    @property
    def is_live(self) -> bool:
        """False: the environments wait for the agent."""
        return False

    @property
    def stepper(self) -> Stepper:
        """What is stepped, built when first needed."""
        if self._stepper is None:
            self._stepper = self._make_stepper()
        return self._stepper

    @property
    def n_envs(self) -> int:
        """N, environments stepped together."""
        return self.stepper.n_envs

    @property
    def n_steps(self) -> int:
        """Rows of a full window, T·N."""
        return self.window_size * self.n_envs

    @property
    def observation_space(self) -> Any:
        """Of a single environment."""
        return self.stepper.observation_space

    @property
    def action_space(self) -> Any:
        """Of a single environment."""
        return self.stepper.action_space

    def set_agent(self, agent: Any) -> None:
        """Let `agent` act, and tell it the spaces if it wants to know (`bind_spaces`)."""
        bind = getattr(checked_agent(agent), "bind_spaces", None)
        if bind is not None:
            bind(self.observation_space, self.action_space)
        self.agent = agent

    def setup(self) -> None:
        """Make ready to step; builds the environments if they are not there."""
        _ = self.stepper

    def teardown(self) -> None:
        """Close the environments. The next `setup()` or window begins with a reset."""
        if self._stepper is not None:
            self._stepper.close()
            self._stepper = None
            self._started = False

    def episodes(self) -> Iterator[EpisodeData]:
        """Windows, until `max_steps` is used up (endless without). A second call goes on where
        the first stopped.

        Raises:
            RuntimeError: no agent is set, or an environment raised (its name is in the message).
            ValueError: max_steps is less than one step of each environment, or the agent's action or the
                environment's action mask does not fit the action space.
            NonFiniteError: an environment returned a reward that is NaN or infinite, or an observation other
                than the last one of an episode that terminated.
        """
        if self.agent is None:
            raise RuntimeError(f"{type(self).__name__}: set an agent before asking for episodes")
        if self.max_steps is not None and self.max_steps < self.n_envs:
            raise ValueError(
                f"max_steps must be at least one step of each of the {self.n_envs} environments, "
                f"got {self.max_steps}"
            )
        while (steps := self._steps_left()) > 0:
            data = self._collect(steps)
            # A short window may consist of nothing but resets.
            if data.length > 0:
                self._window += 1
                yield data

    # --- collecting -----------------------------------------------------------------------------

    def _steps_left(self) -> int:
        if self.max_steps is None:
            return self.window_size
        return min(self.window_size, (self.max_steps - self.total_steps) // self.n_envs)

    def _collect(self, n_steps: int) -> EpisodeData:
        stepper = self.stepper
        rows = WindowRows(n_steps, stepper.n_envs, stepper.observation_space, stepper.action_space)
        act_rows = batched(self.agent, "act_rows") or self._act_one_by_one
        was_started, self._started = self._started, False
        if not was_started:
            self._begin()
        columns = rows.observations
        for t in range(n_steps):
            if type(columns) is np.ndarray:
                seen = columns[t]
                seen[...] = stepper.observations
            else:
                write(columns, t, stepper.observations)
                seen = read(columns, t)
            if stepper.action_masks is not None:
                self._note_masks(rows, t, stepper.action_masks)
            if stepper.any_pending:
                seen = self._without_pending(seen, rows, t)
            try:
                actions = read(rows.actions, t) if seen is None else act_rows(seen, rows, t)
            except Exception as error:
                shown = np.flatnonzero(rows.valid[t])
                before = (t - 1) * rows.n_envs + shown
                self._check_finite(read(read(rows.observations, t), shown), before, error)
                raise
            try:
                stepper.step(actions, rows, t)
            except Exception as error:
                raise self._crash(f"step {t} of window {self._window}", error) from error
        data = self._finish(rows)
        # Only now: after an error the environments may be mid-step, and half a window is worth nothing, so
        # the next window starts from a reset.
        self._started = True
        return data

    def _begin(self) -> None:
        seed = self._seed
        if seed is not None and self._beginnings > 0:
            seed = int(np.random.SeedSequence((seed, self._beginnings)).generate_state(1)[0])
        self._beginnings += 1
        try:
            self.stepper.reset(seed)
        except Exception as error:
            raise self._crash("reset", error) from error
        self._running_return = np.zeros(self.n_envs)
        self._running_length = np.zeros(self.n_envs, np.int64)

    def _crash(self, when: str, error: Exception) -> RuntimeError:
        return RuntimeError(
            f"environment {self.stepper.name} failed in {when}: {type(error).__name__}: {error}"
        )

    def _note_masks(self, rows: WindowRows, t: int, masks: Array) -> None:
        if rows.action_masks is None:
            check_masks(masks, self.action_space, self.stepper.name)
            rows.action_masks = np.ones((rows.n_steps, *masks.shape), np.bool_)
        rows.action_masks[t] = masks

    def _without_pending(self, observations: Tree, rows: WindowRows, t: int) -> Tree | None:
        """The observations of row t, that of a pending environment replaced by another's: it shows the end of
        an episode, which may be anything, and its action is ignored. None where all are pending."""
        pending = self.stepper.pending
        rows.valid[t] = ~pending
        if pending.all():
            return None
        index = np.where(pending, pending.argmin(), np.arange(rows.n_envs))
        return read(observations, index)

    def _act_one_by_one(self, observations: Tree, rows: WindowRows, t: int) -> Tree:
        for n in range(rows.n_envs):
            if self.stepper.pending[n]:
                continue  # the action would be ignored, and the agent must not remember it
            # A copy: what an agent does to its observation must not reach the window.
            action = self.agent.act(tree_map(lambda leaf, n=n: leaf[n].copy(), observations))
            try:
                write(rows.actions, (t, n), fitted(action, self.action_space))
            except (TypeError, ValueError, RuntimeError) as error:
                raise ValueError(
                    f"{type(self.agent).__name__}.act returned {action!r}, which does not fit the action "
                    f"space {self.action_space}: {error}"
                ) from error
        return read(rows.actions, t)

    def _finish(self, rows: WindowRows) -> EpisodeData:
        stepper = self.stepper
        if not np.isfinite(rows.rewards).all():
            t, n = (int(i) for i in np.argwhere(~np.isfinite(rows.rewards))[0])
            raise NonFiniteError(
                f"reward ({rows.rewards[t, n]}) from environment {stepper.name}, number {n}, "
                f"in step {t} of window {self._window}"
            )
        data = rows.to_episode_data(
            self._window,
            tree_map(np.array, stepper.observations),
            self._account(rows),
            stepper.batched_infos,
            stepper.action_masks,
        )
        self._check_observations(data)
        self.total_steps += data.length
        if stepper.n_envs == 1:
            add_single_environment_fields(data)
        return data

    def _check_observations(self, data: EpisodeData) -> None:
        """Every observation that something is made of: all but the last ones of episodes that terminated."""
        n_envs, last = data.n_envs, data.n_steps - 1
        assert data.valid is not None
        assert data.final_rows is not None
        self._check_finite(data.observations, np.flatnonzero(data.valid) - n_envs)
        cut = ~data.grid("terminated").reshape(-1)[data.final_rows]
        self._check_finite(read(data.final_observations, cut), data.final_rows[cut])
        going_on = np.flatnonzero(~self.stepper.pending)
        self._check_finite(read(data.next_observations, going_on), last * n_envs + going_on)

    def _check_finite(self, observations: Tree, positions: Array, cause: Exception | None = None) -> None:
        """Raise NonFiniteError, from `cause`, where one of the observations [R, …] is not finite.

        Args:
            positions: t·N + n [R] of step t and environment n that returned each. A negative t is a reset's,
                or of the window before.
        """
        fault = non_finite(observations)
        if fault is None:
            return
        t, n = divmod(int(positions[fault.at[0]]), self.n_envs)
        when = f"in step {t}" if t >= 0 else "at the beginning"
        raise NonFiniteError(
            f"{fault.name} ({fault.value}) from environment {self.stepper.name}, number {n}, "
            f"{when} of window {self._window}"
        ) from cause

    def _account(self, rows: WindowRows) -> dict[str, Any]:
        """Returns and lengths of the episodes that ended in the window, in the order they ended."""
        n_envs = rows.n_envs
        returns: list[float] = []
        lengths: list[int] = []
        cumulative = np.cumsum(np.where(rows.valid, rows.rewards, 0.0), axis=0, dtype=np.float64)
        steps = np.cumsum(rows.valid, axis=0)
        done_return, done_length = np.zeros(n_envs), np.zeros(n_envs, np.int64)
        for position in rows.final_rows:
            t, n = divmod(position, n_envs)
            returns.append(float(self._running_return[n] + cumulative[t, n] - done_return[n]))
            lengths.append(int(self._running_length[n] + steps[t, n] - done_length[n]))
            self._running_return[n], self._running_length[n] = 0.0, 0
            done_return[n], done_length[n] = cumulative[t, n], steps[t, n]
        self._running_return += cumulative[-1] - done_return
        self._running_length += steps[-1] - done_length
        self._episode_finished |= bool(rows.final_rows)
        return {
            "episode_returns": returns,
            "episode_lengths": lengths,
            "episodic": self._episode_finished or self.stepper.has_time_limit,
            "reward_threshold": self.stepper.reward_threshold,
        }

    # --- state ----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Counters, running episodes, and the environments' state where they can give it."""
        state: dict[str, Any] = {
            "window": self._window,
            "total_steps": self.total_steps,
            "episode_finished": self._episode_finished,
            "beginnings": self._beginnings,
            "environment": self.stepper.get_state() if self._started else None,
        }
        if state["environment"] is not None:
            masks = self.stepper.action_masks
            state["observations"] = tree_map(np.array, self.stepper.observations)
            state["action_masks"] = None if masks is None else masks.copy()
            state["running_return"] = self._running_return.copy()
            state["running_length"] = self._running_length.copy()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on exactly where `state_dict` was taken; from a reset where the environments could not give
        their state.

        Raises:
            ValueError: the state is of other environments; the next window then begins with a reset.
        """
        self._window = int(state["window"])
        self.total_steps = int(state["total_steps"])
        self._episode_finished = bool(state["episode_finished"])
        self._beginnings = int(state["beginnings"])
        self._started = False
        if state["environment"] is None:
            return
        if len(state["running_return"]) != self.n_envs:
            raise ValueError(
                f"the state is of {len(state['running_return'])} environments, not {self.n_envs}"
            )
        stepper = self.stepper
        stepper.reset()
        stepper.set_state(state["environment"])
        write(stepper.observations, slice(None), state["observations"])
        masks = state["action_masks"]
        stepper.action_masks = None if masks is None else np.array(masks, np.bool_)
        self._running_return = np.array(state["running_return"], np.float64)
        self._running_length = np.array(state["running_length"], np.int64)
        self._started = True


def add_single_environment_fields(data: EpisodeData) -> None:
    """episode_starts and final_obs, which have a meaning for one environment only."""
    ends = np.flatnonzero(data.dones)
    data.episode_starts = [0, *(int(i) + 1 for i in ends if i + 1 < data.length)]
    if not (len(ends) and ends[-1] == data.length - 1):
        data.final_obs = tree_map(lambda leaf: leaf[0], data.next_observations)


def positive(name: str, value: Any) -> int:
    """`value`, an integer of at least 1; ValueError otherwise."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")
    return int(value)


def _checked_seed(seed: Any) -> int:
    if isinstance(seed, bool) or operator.index(seed) < 0:
        raise ValueError(f"seed must be an integer of at least 0, got {seed!r}")
    return operator.index(seed)


def checked_agent(agent: Any) -> Any:
    """`agent`, an object that can act; TypeError otherwise."""
    if isinstance(agent, type) or not callable(getattr(agent, "act", None)):
        kind = f"the class {agent.__name__}" if isinstance(agent, type) else type(agent).__name__
        raise TypeError(f"agent must be an object with an act(observation) method, got {kind}")
    return agent
