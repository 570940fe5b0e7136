"""Which policy a run ends with, judged by deterministic episodes instead of noisy training windows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from optix_fast.agents import Agent
from optix_fast.loop import EvaluationResult, RLOptimizer, evaluate_policy

EnvFn = Callable[[], gym.Env[Any, Any]]
Returns = npt.NDArray[np.float64]

# Enough to reject a policy that is far from its target without playing all confirming episodes.
_FIRST_LOOK = 20
# Episodes of each candidate at the end of a run, and those that the ones still in question play on; all
# candidates face the same ones.
_FIRST_ROUND, _SECOND_ROUND = 10, 40
# Environment seeds: apart from training's and from those that `optix-fast eval` uses.
_CONFIRM_SEED, _SELECTION_SEED = 1_000_000, 2_000_000


def lower_bound(result: EvaluationResult) -> float:
    """Mean return less two standard errors: luck alone does not reach a target twice."""
    return result.return_mean - 2.0 * result.return_std / math.sqrt(result.episodes)


class Confirmation:
    """A score function for RLOptimizer's target_confirm_fn: the lower bound over `episodes`
    deterministic episodes, fresh ones at every call; the plain mean of a first few where that is
    already below the target."""

    def __init__(self, make_env: EnvFn, episodes: int, target_score: float) -> None:
        self._make_env, self._episodes, self._target = make_env, episodes, target_score
        self._played = 0

    def __call__(self, agent: Any) -> float:
        """The score of the agent's policy."""
        if self._episodes > _FIRST_LOOK:
            look = self._play(agent, _FIRST_LOOK)
            if look.return_mean < self._target:
                return look.return_mean
        return lower_bound(self._play(agent, self._episodes))

    def _play(self, agent: Any, episodes: int) -> EvaluationResult:
        seed = _CONFIRM_SEED + 100 * self._played % (_SELECTION_SEED - _CONFIRM_SEED)
        self._played += 1
        return evaluate_policy(agent, self._make_env, episodes, seed=seed)

    def state_dict(self) -> dict[str, Any]:
        """How often it has played."""
        return {"played": self._played}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the seeds after those."""
        self._played = int(state["played"])


def choose_policy(
    agent: Agent, optimizer: RLOptimizer, last: dict[str, Any], make_env: EnvFn
) -> tuple[str, float]:
    """Load into `agent` the best of a run's checkpoints and its last policy.

    A window's score is the mean of a few episodes, so the highest of many is mostly luck; here every
    candidate plays the same deterministic episodes: a few first, and those not clearly worse than the
    leader play on.

    Args:
        last: the agent's state at the end of training.

    Returns:
        The winner's name (a snapshot's directory, or "last") and its mean return. A last policy that no
        checkpoint stands against wins without playing (NaN).
    """
    candidates: dict[str, Callable[[], None]] = {
        str(entry["snapshot_dir"]): _loader(agent, optimizer, entry["snapshot_dir"])
        for entry in optimizer.registry.entries()
    }
    candidates["last"] = lambda: agent.load_state_dict(last)
    if len(candidates) == 1:
        agent.load_state_dict(last)
        return "last", math.nan

    def play(names: Iterable[str], episodes: int, seed: int) -> dict[str, Returns]:
        returns = {}
        for name in names:
            candidates[name]()
            returns[name] = evaluate_policy(agent, make_env, episodes, seed=seed).returns
        return returns

    returns = play(candidates, _FIRST_ROUND, _SELECTION_SEED)
    in_question = _not_clearly_worse(returns)
    if len(in_question) > 1:
        more = play(in_question, _SECOND_ROUND, _SELECTION_SEED + _FIRST_ROUND)
        returns = {name: np.concatenate([returns[name], more[name]]) for name in in_question}
    means = {name: float(returns[name].mean()) for name in in_question}
    winner = max(means, key=lambda name: means[name])
    candidates[winner]()
    return winner, means[winner]


def _not_clearly_worse(returns: Mapping[str, Returns]) -> list[str]:
    """The leader, and who is at most two standard errors of the difference behind it, episode by episode."""
    leader = max(returns.values(), key=lambda of_one: float(of_one.mean()))
    behind = {name: leader - of_one for name, of_one in returns.items()}
    return [
        name for name, lead in behind.items() if lead.mean() <= 2.0 * lead.std(ddof=1) / math.sqrt(lead.size)
    ]


def _loader(agent: Agent, optimizer: RLOptimizer, folder: str) -> Callable[[], None]:
    weights = Path(optimizer.registry.checkpoint_dir) / folder / "weights"
    return lambda: agent.load_weights(str(weights))
