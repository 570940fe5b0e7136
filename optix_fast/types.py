"""The data that travels between the parts, and the contracts the parts fulfil.

A pipeline steps environments and yields windows (`EpisodeData`); an agent acts and learns from
windows; an evaluator turns a window into a score (`EvalMetrics`); the loop decides. Nothing here
imports any other part of the package.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
# An observation or a batch of them: an array, or a dict/tuple of such trees (Dict and Tuple spaces).
Tree = Any
EpisodeBoundaryFn = Callable[[int, float, Any], bool]


class LoopState(Enum):
    """Where the loop stands: learning, backing off, converged. WATCHDOG is reserved."""

    ACTIVE = 1
    COOLING = 2
    DORMANT = 3
    WATCHDOG = 4


class NonFiniteError(RuntimeError):
    """A NaN or infinity appeared in a loss, gradient, reward or observation.

    The update that met it has been undone. `quantity` names what was not finite.
    """

    def __init__(self, quantity: str) -> None:
        super().__init__(f"non-finite {quantity}")
        self.quantity = quantity


class StopTraining(Exception):  # noqa: N818 (a request, not an error)
    """Raised in a callback's hook: end the run after the window under way, with stop_reason "stopped"."""


@runtime_checkable
class Stateful(Protocol):
    """An object whose whole state is one nested dict of arrays, tensors, numbers and strings."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


# --- acting without recording -------------------------------------------------------------------

_recording: ContextVar[bool] = ContextVar("optix_fast_recording", default=True)


@contextmanager
def no_recording() -> Iterator[None]:
    """Act outside the rollout: agents record nothing and draw from their evaluation stream.

    Evaluation, validation and score functions run inside this context, so that whatever they do
    leaves the rollout that is being collected, and its random numbers, as they were.
    """
    token = _recording.set(False)
    try:
        yield
    finally:
        _recording.reset(token)


def is_recording() -> bool:
    """False inside `no_recording()`."""
    return _recording.get()


# --- trees --------------------------------------------------------------------------------------


def tree_map(fn: Callable[..., Any], tree: Tree, *others: Tree) -> Tree:
    """Apply `fn` leaf by leaf to trees (dicts and tuples of arrays) of one structure."""
    if isinstance(tree, Mapping):
        return {key: tree_map(fn, tree[key], *(o[key] for o in others)) for key in tree}
    if isinstance(tree, tuple):
        return tuple(tree_map(fn, *parts) for parts in zip(tree, *others, strict=True))
    return fn(tree, *others)


def tree_leaves(tree: Tree) -> list[Any]:
    """The leaves of a tree, in the order `tree_map` visits them."""
    leaves: list[Any] = []
    tree_map(leaves.append, tree)
    return leaves


# --- windows ------------------------------------------------------------------------------------


@dataclass(eq=False)
class EpisodeData:
    """One window of experience: T steps of N environments.

    The public fields are flat: one row per environment step, step-major (all environments of step
    0, then of step 1, …), and only rows that were real steps (`valid`). R is their number; R = T·N
    when every row is valid, and then the fields are views of the storage, not copies.

    `grid(name)` gives a field as [T, N, …], which is what agents learn from. Rows where `valid` is
    False hold zeros there and must not be learned from.

    Args:
        observations: [R, *obs_shape], or a dict/tuple of such arrays.
        actions: [R] integers or [R, A]; what the environment received.
        rewards: [R].
        terminated, truncated: [R] bool.
        infos: R dicts; built on access by the pipelines of this package.
        episode_id: number of the window within its run.
        values: [R], V of each observation when it was acted on, if the agent gave it.
        log_probs: [R], log-probability of each action under the policy that chose it.
        timestamp: seconds since the epoch.
        metadata: free; pipelines put `episode_returns` and `episode_lengths` here: the episodes
            that ended in this window, counted from their true beginning.
        episode_starts: rows at which an episode begins, 0 included (one environment only).
        final_obs: the observation after the last row, None when that row ended an episode
            (one environment only).
        n_envs: N.
        valid: [T, N] bool; None means that all rows are valid.
        pre_tanh: [R, A], the Gaussian sample before squashing and scaling.
        action_masks: [R, K] bool, the actions that were allowed.
        final_values: [T, N], V of the true final observation where truncated. Optional: agents
            compute it from `final_observations` when it is None.
        final_rows: [F], positions t·N + n in the grid of the rows that ended an episode.
        final_observations: [F, *obs_shape], the true last observations of those episodes.
        next_observations: [N, *obs_shape], what each environment shows after the last row.
        final_action_masks: [F, K] bool, the actions that final_observations allow; None: not known.
        next_action_masks: [N, K] bool, those that next_observations allow; None: not known.
        extrinsic_rewards: [R], the environment's rewards, where `rewards` hold an exploration bonus
            too; None: `rewards` are the environment's.
    """

    observations: Tree
    actions: Any
    rewards: Any
    terminated: Any
    truncated: Any
    infos: Sequence[Mapping[str, Any]]
    episode_id: int
    values: Any = None
    log_probs: Any = None
    timestamp: float = field(default_factory=time.time)
    metadata: dict[str, Any] = field(default_factory=dict)
    episode_starts: list[int] | None = None
    final_obs: Tree = None
    n_envs: int = 1
    valid: Array | None = None
    pre_tanh: Any = None
    action_masks: Any = None
    final_values: Any = None
    final_rows: Array | None = None
    final_observations: Tree = None
    next_observations: Tree = None
    extrinsic_rewards: Any = None
    final_action_masks: Any = None
    next_action_masks: Any = None

    def without_bonus(self) -> EpisodeData:
        """The window as it is to be scored: with the environment's rewards, and those only."""
        if self.extrinsic_rewards is None:
            return self
        return replace(self, rewards=self.extrinsic_rewards, extrinsic_rewards=None)

    @property
    def dones(self) -> Any:
        """terminated or truncated, row by row."""
        if isinstance(self.terminated, np.ndarray):
            return np.logical_or(self.terminated, self.truncated)
        return [bool(a or b) for a, b in zip(self.terminated, self.truncated, strict=True)]

    @property
    def total_reward(self) -> float:
        """Sum of all rewards."""
        return float(np.sum(np.asarray(self.rewards, dtype=np.float64)))

    @property
    def length(self) -> int:
        """Number of rows."""
        return len(self.rewards)

    @property
    def n_steps(self) -> int:
        """T, the number of grid rows."""
        if self.valid is not None:
            return int(self.valid.shape[0])
        return self.length // self.n_envs

    def grid(self, name: str) -> Any:
        """Field `name` as [T, N, …] (a dict/tuple of such arrays for tree observations).

        Raises:
            ValueError: the field is None, or its rows do not fill T·N.
        """
        flat = self.dones if name == "dones" else getattr(self, name)
        if flat is None:
            raise ValueError(f"EpisodeData.grid: {name} is None in this window")
        return tree_map(lambda leaf: self._layout(name, np.asarray(leaf)), flat)

    def _layout(self, name: str, rows: Array) -> Array:
        if self.valid is None or bool(self.valid.all()):
            steps = self.n_steps
            if rows.shape[0] != steps * self.n_envs:
                raise ValueError(
                    f"EpisodeData.grid: {name} must have T·N = {steps}·{self.n_envs} rows, "
                    f"got {rows.shape[0]}"
                )
            return rows.reshape(steps, self.n_envs, *rows.shape[1:])
        count = int(self.valid.sum())
        if rows.shape[0] != count:
            raise ValueError(f"EpisodeData.grid: {name} must have {count} rows, got {rows.shape[0]}")
        out = np.zeros((*self.valid.shape, *rows.shape[1:]), rows.dtype)
        out[self.valid] = rows
        return out


@dataclass
class EvalMetrics:
    """The score of one window. NaN means that the window gave no evidence."""

    primary_score: float
    metrics: dict[str, float]
    episode_id: int
    timestamp: float = field(default_factory=time.time)

    def beats(self, other: EvalMetrics, margin: float = 0.0) -> bool:
        """Strictly better than `other` by more than `margin`."""
        return self.primary_score > other.primary_score + margin

    @property
    def generalization_gap(self) -> float | None:
        """train_score − val_score, or None when either is unknown."""
        train, val = self.metrics.get("train_score"), self.metrics.get("val_score")
        return None if train is None or val is None else float(train) - float(val)


@dataclass
class HyperparamSet:
    """An open dict of hyperparameters and the window they belong to."""

    params: dict[str, Any]
    episode_id: int = 0
    timestamp: float = field(default_factory=time.time)

    def copy(self) -> HyperparamSet:
        """A new set with its own params dict."""
        return HyperparamSet(dict(self.params), self.episode_id, self.timestamp)


@dataclass
class PolicySnapshot:
    """A checkpointed policy: its score, its hyperparameters, where its weights lie, and the diagnostics of
    the learn() that made it."""

    snapshot_id: str
    eval_metrics: EvalMetrics
    hyperparams: HyperparamSet
    weights_path: str
    episode_id: int
    timestamp: float = field(default_factory=time.time)
    diagnostics: dict[str, Any] = field(default_factory=dict)


# --- contracts ----------------------------------------------------------------------------------


class BaseAgent(ABC):
    """Anything that acts and learns. The loop calls these six methods and nothing else.

    An agent may also offer `act_rows(observations, rows, t)` (see pipelines.rows.WindowRows) to act
    for all environments in one call, `state_dict`/`load_state_dict` to be resumed exactly, and
    `action_probs(observation)`.

    Where it has a state_dict, a rollback restores all of it (optimizer moments, normalizers), not the
    weights alone, save what `kept_on_rollback` names.
    """

    # Keys of state_dict() that go on as they are when the policy is rolled back: random streams (the
    # same numbers would lead to the same collapse) and counters.
    kept_on_rollback: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def act(self, observation: Any) -> Any:
        """The action for one observation."""

    @abstractmethod
    def learn(self, episode_data: EpisodeData) -> dict[str, Any]:
        """Learn from one window; returns diagnostics."""

    @abstractmethod
    def get_hyperparams(self) -> HyperparamSet:
        """A copy of the current hyperparameters."""

    @abstractmethod
    def set_hyperparams(self, hyperparams: HyperparamSet) -> None:
        """Replace the hyperparameters."""

    @abstractmethod
    def save_weights(self, path: str) -> None:
        """Write the policy into the directory `path`, which is created."""

    @abstractmethod
    def load_weights(self, path: str) -> None:
        """Read what `save_weights` wrote."""

    @property
    def is_on_policy(self) -> bool:
        """Whether learn() needs data of the current policy. Off-policy agents are not rolled back."""
        return True

    def average_weights(self, paths: Sequence[str]) -> None:  # noqa: B027 (optional by contract)
        """Load the element-wise mean of the saved weights in `paths`. Optional."""

    def perturb_weights(self, noise_scale: float) -> None:  # noqa: B027
        """Multiply each parameter by 1 + noise_scale·N(0, 1). Optional."""

    def teardown(self) -> None:  # noqa: B027
        """Release device memory. Optional."""


class BaseEvaluator(ABC):
    """Turns windows into scores."""

    @abstractmethod
    def score(self, episode_data: EpisodeData, train_diagnostics: dict[str, Any]) -> EvalMetrics:
        """Score a window; the diagnostics are those of the learn() that made its policy."""

    def score_validation(self, episode_data: EpisodeData) -> EvalMetrics:
        """Score a held-out window."""
        return self.score(episode_data, {})

    def combine(self, train: EvalMetrics, val: EvalMetrics) -> EvalMetrics:
        """The validation score decides; both sets of metrics stay visible under prefixes."""
        metrics = {f"train_{k}": v for k, v in train.metrics.items()}
        metrics |= {f"val_{k}": v for k, v in val.metrics.items()}
        metrics["train_score"] = train.primary_score
        metrics["val_score"] = val.primary_score
        metrics["generalization_gap"] = train.primary_score - val.primary_score
        return EvalMetrics(val.primary_score, metrics, train.episode_id)

    def compare(self, candidate: EvalMetrics, baseline: EvalMetrics) -> bool:
        """Whether `candidate` is better than `baseline`."""
        return candidate.beats(baseline)


class BaseOptimizer(ABC):
    """Suggests hyperparameters while a run goes on."""

    @abstractmethod
    def suggest(
        self, current_hyperparams: HyperparamSet, metrics_history: Sequence[EvalMetrics]
    ) -> HyperparamSet:
        """The hyperparameters for the next windows. The last metrics are those that
        `current_hyperparams` earned."""

    def on_improvement(self, metrics: EvalMetrics) -> None:  # noqa: B027
        """A new best was found."""

    def on_plateau(self, metrics_history: Sequence[EvalMetrics]) -> None:  # noqa: B027
        """Improvement stopped."""

    @property
    def is_probing(self) -> bool:
        """Whether the current hyperparameters are a trial whose drop in score is its own doing."""
        return False


class BasePipeline(ABC):
    """Yields windows, endlessly. `set_agent(agent)` is optional and used when present."""

    @abstractmethod
    def setup(self) -> None:
        """Prepare the source."""

    @abstractmethod
    def episodes(self) -> Iterator[EpisodeData]:
        """Windows, one after the other; a second call goes on where the first stopped."""

    @abstractmethod
    def teardown(self) -> None:
        """Release the source."""

    @property
    @abstractmethod
    def is_live(self) -> bool:
        """Whether the source runs in real time."""


class LoopCallback:
    """Hooks into the loop; every one does nothing unless overridden.

    A hook that raises `StopTraining` ends the run after the window under way. `optuna.TrialPruned` does too,
    and `run()` passes it on when everything is wound up. Any other exception is logged and does not end the
    run.
    """

    def on_loop_start(self) -> None:
        """Before the first window."""

    def on_training_end(self) -> None:
        """After the last window, however the run ended; the agent still holds its last policy."""

    def on_loop_stop(self) -> None:
        """After the last window, the best policy loaded."""

    def on_episode_end(self, episode_id: int, eval_metrics: EvalMetrics | None) -> None:
        """After each window; None when its score was not looked at."""

    def on_improvement(self, snapshot: PolicySnapshot) -> None:
        """A new best policy was found."""

    def on_plateau(self, episode_id: int, state: LoopState) -> None:
        """An evaluation in state COOLING brought no improvement."""

    def on_dormant(self, episode_id: int) -> None:
        """The loop considers training done."""

    def on_degradation(self, episode_id: int, eval_metrics: EvalMetrics) -> None:
        """The score fell below the best by more than the threshold."""

    def on_hyperparam_update(self, old_params: dict[str, Any], new_params: dict[str, Any]) -> None:
        """The tuner changed the hyperparameters."""
