"""What a policy is worth: its window's score, its validation, the user's score functions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from optix_fast.loop import checks
from optix_fast.types import EpisodeData, EvalMetrics, NonFiniteError, no_recording

ScoreFn = Callable[[Any], float]

_ENDED = object()


class PolicyScorer:
    """Scores the current policy in every way the loop needs.

    Whatever acts for a score (validation, score functions) does so inside `no_recording()`, and
    `acted_outside` tells that something did.

    Args:
        agent: whose policy it is.
        evaluator: a BaseEvaluator.
        val_pipeline: held-out windows; None for none.
        checkpoint_score_fn, target_confirm_fn: (agent) → score; None for none.

    Raises:
        TypeError: an argument cannot do what it should.
    """

    def __init__(
        self,
        agent: Any,
        evaluator: Any,
        val_pipeline: Any = None,
        checkpoint_score_fn: ScoreFn | None = None,
        target_confirm_fn: ScoreFn | None = None,
    ) -> None:
        self.agent = agent
        self.evaluator = checks.has_methods("evaluator", evaluator, checks.EVALUATOR)
        self.val_pipeline = val_pipeline
        if val_pipeline is not None:
            checks.has_methods("val_pipeline", val_pipeline, checks.PIPELINE)
        self.checkpoint_score_fn = checks.function("checkpoint_score_fn", checkpoint_score_fn)
        self.target_confirm_fn = checks.function("target_confirm_fn", target_confirm_fn)
        self.acted_outside = False

    @property
    def stateful_parts(self) -> dict[str, Any]:
        """What may have a state of its own, by argument name."""
        return {
            "val_pipeline": self.val_pipeline,
            "checkpoint_score_fn": self.checkpoint_score_fn,
            "target_confirm_fn": self.target_confirm_fn,
        }

    def setup(self) -> None:
        """Begin a run."""
        if self.val_pipeline is not None:
            self.val_pipeline.setup()
            self._val_windows: Iterator[Any] = iter(self.val_pipeline.episodes())

    def teardown(self) -> None:
        """End a run."""
        if self.val_pipeline is not None:
            self.val_pipeline.teardown()

    def window_score(self, data: EpisodeData, diagnostics: dict[str, Any]) -> EvalMetrics:
        """The score of a training window.

        Raises:
            NonFiniteError: a reward in it is NaN or infinite; the window is named.
        """
        try:
            metrics = checks.metrics(
                "evaluator.score", self.evaluator.score(data.without_bonus(), diagnostics)
            )
        except NonFiniteError as error:
            raise NonFiniteError(f"{error.quantity} in window {data.episode_id}") from error
        metrics.episode_id = data.episode_id
        return metrics

    def validated(self, train: EvalMetrics) -> EvalMetrics:
        """`train` combined with the score of a held-out window; `train` itself without a
        val_pipeline.

        Raises:
            RuntimeError: the val_pipeline has ended.
        """
        if self.val_pipeline is None:
            return train
        self.acted_outside = True
        with no_recording():
            found = next(self._val_windows, _ENDED)
        if found is _ENDED:
            raise RuntimeError("val_pipeline ended; it must yield a window at every evaluation")
        data = checks.window("val_pipeline", found)
        data.episode_id = train.episode_id
        val = checks.metrics("evaluator.score_validation", self.evaluator.score_validation(data))
        metrics = checks.metrics("evaluator.combine", self.evaluator.combine(train, val))
        metrics.episode_id = train.episode_id
        return metrics

    def confirmed(self, score: float) -> float:
        """target_confirm_fn(agent); `score` itself without one."""
        return self._call("target_confirm_fn", self.target_confirm_fn, score)

    def for_checkpoint(self, score: float) -> float:
        """checkpoint_score_fn(agent); `score` itself without one."""
        return self._call("checkpoint_score_fn", self.checkpoint_score_fn, score)

    def _call(self, name: str, score_fn: ScoreFn | None, default: float) -> float:
        if score_fn is None:
            return default
        self.acted_outside = True
        with no_recording():
            score = score_fn(self.agent)
        return checks.score(f"{name} must return a number", score)
