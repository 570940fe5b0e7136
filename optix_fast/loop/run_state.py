"""What the loop counts and remembers during a run, and what it says at its end."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from optix_fast.loop.learning_signal import LearningSignal
from optix_fast.serialization import can_save
from optix_fast.types import EvalMetrics


@dataclass(frozen=True)
class RunSummary:
    """How a run ended.

    Args:
        stop_reason: "solved" (the target was reached and confirmed), "converged" (DORMANT),
            "no_signal" (DORMANT, and no score or return ever differed from the others),
            "budget", "stopped" (by stop() or a callback), "interrupted" (Ctrl-C) or "failed" (an exception).
        windows: windows collected and learned from.
        env_steps: environment steps in them.
        seconds: wall time.
        best_score: what the best policy is ranked by; NaN when no window gave a score.
        disk_seconds: of those seconds, spent on checkpoints.
        tuner: who changed hyperparameters during the run: what `make_tuner` calls it, or the name of a class.
        constant_return: what every episode returned (or every score was), when all were the same: there was
            no learning signal. None when there was one.
    """

    stop_reason: str
    windows: int
    env_steps: int
    seconds: float
    best_score: float
    disk_seconds: float
    tuner: str = "none"
    constant_return: float | None = None


class RunState:
    """The counters of one run.

    Attributes:
        windows, env_steps: done so far.
        last_evaluated: the last window that gave a score; −1 before the first.
        tuned_after: the last window after which the hyperparameters changed; −1 before the first.
        probed_until: the last window whose policy learned with a tuner's probe that is over.
        ended: "solved", "converged" or "no_signal" when the run is over for that reason; else None.
        restores: restores after non-finite updates, in a row.
        diagnostics: of the learn() that made the current policy.
        raws: the latest scores, for smoothing.
        history: every evaluation that gave a score.
        signal: whether returns or scores ever differed.
        lacks_signal: whether a warning has said that they did not.
    """

    def __init__(self, score_smoothing: int, solved_at: float | None = None) -> None:
        self.windows = 0
        self.env_steps = 0
        self.last_evaluated = -1
        self.tuned_after = -1
        self.probed_until = -1
        self.ended: str | None = None
        self.restores = 0
        self.diagnostics: dict[str, Any] = {}
        self.raws: deque[float] = deque(maxlen=score_smoothing)
        self.history: list[EvalMetrics] = []
        self.signal = LearningSignal(solved_at)
        self.lacks_signal = False

    def smoothed(self, raw: float) -> float:
        """The rolling mean, `raw` included."""
        self.raws.append(raw)
        return math.fsum(self.raws) / len(self.raws)

    def policy_restored(self, diagnostics: Mapping[str, Any]) -> None:
        """The current policy is an old one: the scores so far are not its own; `diagnostics` are."""
        self.raws.clear()
        self.diagnostics = dict(diagnostics)

    def state_dict(self) -> dict[str, Any]:
        """All of it; of the diagnostics, what can be saved."""
        return {
            "windows": self.windows,
            "env_steps": self.env_steps,
            "last_evaluated": self.last_evaluated,
            "tuned_after": self.tuned_after,
            "probed_until": self.probed_until,
            "ended": self.ended,
            "restores": self.restores,
            "diagnostics": {key: value for key, value in self.diagnostics.items() if can_save(value)},
            "raws": list(self.raws),
            "history": [asdict(metrics) for metrics in self.history],
            "signal": self.signal.state_dict(),
            "lacks_signal": self.lacks_signal,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        self.windows = int(state["windows"])
        self.env_steps = int(state["env_steps"])
        self.last_evaluated = int(state["last_evaluated"])
        self.tuned_after = int(state["tuned_after"])
        self.probed_until = int(state["probed_until"])
        self.ended = state.get("ended")
        self.restores = int(state["restores"])
        self.diagnostics = dict(state["diagnostics"])
        self.raws.clear()
        self.raws.extend(float(raw) for raw in state["raws"])
        self.history = [EvalMetrics(**metrics) for metrics in state["history"]]
        if "signal" in state:  # not in the states of older versions
            self.signal.load_state_dict(state["signal"])
            self.lacks_signal = bool(state["lacks_signal"])
