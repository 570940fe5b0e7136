"""The best policy of a run: recognised, checkpointed, put back."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

from optix_fast.loop.callbacks import CallbackList
from optix_fast.loop.checkpoints import CheckpointRegistry
from optix_fast.loop.run_state import RunState
from optix_fast.loop.scoring import PolicyScorer
from optix_fast.loop.snapshots import Rank, rank_of
from optix_fast.loop.training_state import TrainingState
from optix_fast.types import EvalMetrics, NonFiniteError

logger = logging.getLogger(__name__)


class BestPolicy:
    """Decides which policies are checkpointed, and restores the best.

    Args:
        agent: whose policies.
        scorer: asked for the scores that confirm a target or choose a checkpoint.
        registry: where they go.
        callbacks: told of improvements.
        improvement_margin: smallest gain that is checkpointed.
        target_score: a policy that reaches it, and is confirmed, solves the task; None for no target.
    """

    def __init__(
        self,
        agent: Any,
        scorer: PolicyScorer,
        registry: CheckpointRegistry,
        callbacks: CallbackList,
        improvement_margin: float,
        target_score: float | None,
    ) -> None:
        self.agent, self.scorer, self.registry = agent, scorer, registry
        self.improvement_margin, self.target_score = improvement_margin, target_score
        self.training: TrainingState | None = None
        self._callbacks = callbacks
        self._rank: Rank | None = None

    def begin(self) -> None:
        """Begin a run, with the best that the registry knows."""
        self.registry.begin_run()
        self._rank = self._known_rank()

    @property
    def score(self) -> float:
        """What the best is ranked by; NaN before the first."""
        return math.nan if self._rank is None else self._rank[1]

    def reaches_target(self, metrics: EvalMetrics) -> bool:
        """Whether the score does, confirmed or not."""
        return self.target_score is not None and metrics.primary_score >= self.target_score

    def judge(self, metrics: EvalMetrics, diagnostics: Mapping[str, Any]) -> bool:
        """Checkpoint the agent's policy if it is the best; whether it is confirmed to solve the task.

        Args:
            metrics: the policy's.
            diagnostics: of the learn() that made the policy; they are kept with the checkpoint.
        """
        score = metrics.primary_score
        if not math.isfinite(score):
            return False
        if self.target_score is not None and self.reaches_target(metrics):
            confirmed = self.scorer.confirmed(score)
            if confirmed >= self.target_score:
                metrics.metrics["confirmed_score"] = confirmed
                self._checkpoint(metrics, diagnostics)
                return True
            logger.info(
                "window %d: score %g, but %g in the confirmation", metrics.episode_id, score, confirmed
            )
        if self.scorer.checkpoint_score_fn is not None:
            metrics.metrics["checkpoint_score"] = self.scorer.for_checkpoint(score)
        _, score = rank_of(metrics)
        if math.isfinite(score) and self._is_beaten_by(score):
            self._checkpoint(metrics, diagnostics)
        return False

    def restore(self, run: RunState) -> bool:
        """Load the best policy, with the training state that it was made with where that is known, and tell
        the run; False before there is a best one."""
        snapshot = self.registry.load_best(self.agent)
        if snapshot is None:
            return False
        if self.training is not None:
            self.training.restore(self.agent, snapshot.snapshot_id)
        run.policy_restored(snapshot.diagnostics)
        return True

    def _known_rank(self) -> Rank | None:
        best = self.registry.best
        return None if best is None else rank_of(best.eval_metrics)

    def _is_beaten_by(self, score: float) -> bool:
        if self._rank is None:
            return True
        is_confirmed, best = self._rank
        return not is_confirmed and score > best + self.improvement_margin

    def _checkpoint(self, metrics: EvalMetrics, diagnostics: Mapping[str, Any]) -> None:
        is_first = self._rank is None
        try:
            snapshot = self.registry.save(self.agent, metrics, self.agent.get_hyperparams(), diagnostics)
        except NonFiniteError as error:
            logger.warning("window %d: %s: this policy is not checkpointed", metrics.episode_id, error)
            return
        except BaseException:
            self._rank = self._known_rank()  # it may be in memory though the disk is full
            raise
        self._rank = rank_of(metrics)
        self.training = TrainingState.of(self.agent, snapshot.snapshot_id)
        if not is_first:
            self._callbacks.call("on_improvement", snapshot)
