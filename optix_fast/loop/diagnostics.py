"""Rules that notice a training that goes wrong, and mend its hyperparameters. Off unless asked for."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np

from optix_fast.loop import checks
from optix_fast.tuners.search_space import is_same
from optix_fast.types import HyperparamSet

logger = logging.getLogger(__name__)

Firing = tuple[str, str]

# A value that a rule has changed goes half of the way back after so many windows without its firing.
_QUIET = 10
_LOWEST_RATE = 0.1  # of the rate before the first firing
_HIGHEST_ENTROPY_COEF = 0.5
_MAX_RESETS = 3
_GAUSSIAN = 0.5 * math.log(2.0 * math.pi * math.e)  # entropy of a normal distribution with σ = 1


class DiagnosticController:
    """Looks at the diagnostics of every learn() and changes hyperparameters when one says so.

    | rule | fires when | does |
    |---|---|---|
    | LOSS_SPIKE | the loss exceeds loss_spike_factor times the mean of the earlier ones | learning_rate / 2 |
    | KL_TOO_HIGH | approx_kl exceeds twice target_kl | learning_rate / 2 |
    | ENTROPY_COLLAPSE | the policy is all but deterministic | entropy_coef · 2, to 0.5 at most |
    | EPSILON_STUCK | epsilon at its minimum, no better score for epsilon_patience windows | epsilon reset |

    The learning rate never falls below a tenth of what it was, and learning rate and entropy_coef return:
    half of the (logarithmic) way after every ten windows in which their rules were silent. Epsilon is reset
    three times at most, each time after twice the patience. If the user or a tuner sets the
    hyperparameter meanwhile, that is the value to return to.

    **Entropy.** For discrete actions it is compared with `entropy_floor` nats. A continuous policy's
    differential entropy has no such zero (a healthy Gaussian's is often negative): there it is collapsed
    when it is below that of a Gaussian whose σ is entropy_floor in each of the agent's
    `continuous_dimensions`.

    Args:
        loss_spike_factor, loss_window: of LOSS_SPIKE; at least three losses must be known.
        entropy_floor: None switches ENTROPY_COLLAPSE off.
        target_kl: None switches KL_TOO_HIGH off.
        epsilon_patience: 0 switches EPSILON_STUCK off.
        epsilon_reset_value: what epsilon becomes.
        epsilon_score_threshold: a score from this on is good enough not to reset; None for none.
        min_episodes: windows before any rule.

    Raises:
        TypeError, ValueError: an argument is wrong; it is named.
    """

    def __init__(
        self,
        loss_spike_factor: float = 5.0,
        loss_window: int = 10,
        entropy_floor: float | None = 0.05,
        target_kl: float | None = 0.02,
        epsilon_patience: int = 20,
        epsilon_reset_value: float = 0.3,
        epsilon_score_threshold: float | None = None,
        min_episodes: int = 5,
    ) -> None:
        self.loss_spike_factor = checks.number("loss_spike_factor", loss_spike_factor, 1.0)
        self.loss_window = max(checks.whole("loss_window", loss_window) or 1, 3)
        self.entropy_floor = entropy_floor and checks.number("entropy_floor", entropy_floor, 0.0)
        self.target_kl = target_kl and checks.number("target_kl", target_kl, 0.0)
        self.epsilon_patience = int(checks.number("epsilon_patience", epsilon_patience, 0.0))
        self.epsilon_reset_value = checks.number("epsilon_reset_value", epsilon_reset_value, 0.0)
        self.epsilon_score_threshold = epsilon_score_threshold
        self.min_episodes = int(checks.number("min_episodes", min_episodes, 0.0))
        self.firings: list[tuple[int, str, str]] = []
        self._calls = 0
        self._losses: deque[float] = deque(maxlen=self.loss_window)
        self._usual: dict[str, float] = {}  # the value to return to
        self._set: dict[str, float] = {}  # the value that was set here
        self._silent: dict[str, int] = {}  # windows without firing
        self._at_floor = 0
        self._best_score = -math.inf
        self._resets = 0

    def step(
        self, episode_id: int, agent: Any, diagnostics: Mapping[str, Any], score: float | None = None
    ) -> list[Firing]:
        """Look at one learn(); returns the rules that fired, with what they did.

        Args:
            episode_id: the window.
            agent: whose hyperparameters are changed.
            diagnostics: what learn() returned.
            score: the window's, if it was evaluated.
        """
        self._calls += 1
        params = dict(agent.get_hyperparams().params)
        before = dict(params)
        self._adopt(params)
        spike, kl = self._loss_spikes(diagnostics), self._kl_is_high(diagnostics)
        fired: list[Firing] = []
        if self._calls > self.min_episodes:
            reasons = [("LOSS_SPIKE", spike), ("KL_TOO_HIGH", kl)]
            wrong = [(rule, reason) for rule, reason in reasons if reason]
            fired += self._scale(params, "learning_rate", 0.5, wrong)
            collapse = self._entropy_collapses(agent, diagnostics)
            fired += self._scale(
                params, "entropy_coef", 2.0, [("ENTROPY_COLLAPSE", collapse)] if collapse else []
            )
            fired += self._epsilon(params, diagnostics, score)
        if params != before:
            agent.set_hyperparams(HyperparamSet(params, episode_id))
        for rule, text in fired:
            self.firings.append((episode_id, rule, text))
            logger.info("window %d: %s: %s", episode_id, rule, text)
        return fired

    # --- the rules ------------------------------------------------------------------------------

    def _loss_spikes(self, diagnostics: Mapping[str, Any]) -> str:
        names = ("loss", "value_loss", "critic_loss", "actor_loss")
        loss = next((diagnostics[name] for name in names if diagnostics.get(name)), None)
        if loss is None or not math.isfinite(loss) or loss <= 0.0:
            return ""
        earlier = list(self._losses)
        self._losses.append(float(loss))
        if len(earlier) < 3 or loss <= self.loss_spike_factor * sum(earlier) / len(earlier):
            return ""
        return f"loss {loss:g} after a mean of {sum(earlier) / len(earlier):g}"

    def _kl_is_high(self, diagnostics: Mapping[str, Any]) -> str:
        kl = diagnostics.get("approx_kl", diagnostics.get("kl_div"))
        if self.target_kl is None or kl is None or not kl > 2.0 * self.target_kl:
            return ""
        return f"KL {kl:g}, target {self.target_kl:g}"

    def _entropy_collapses(self, agent: Any, diagnostics: Mapping[str, Any]) -> str:
        entropy = diagnostics.get("entropy")
        if not self.entropy_floor or entropy is None:
            return ""
        dimensions = int(getattr(agent, "continuous_dimensions", 0))
        floor = self.entropy_floor
        if dimensions:
            floor = dimensions * (_GAUSSIAN + math.log(self.entropy_floor))
        return f"entropy {entropy:g}, floor {floor:g}" if entropy < floor else ""

    def _epsilon(
        self, params: dict[str, Any], diagnostics: Mapping[str, Any], score: float | None
    ) -> list[Firing]:
        epsilon = diagnostics.get("epsilon", params.get("epsilon"))
        if self.epsilon_patience == 0 or epsilon is None or "epsilon" not in params:
            return []
        if score is not None and math.isfinite(score) and score > self._best_score:
            self._best_score, self._at_floor = score, 0
        good = self.epsilon_score_threshold is not None and self._best_score >= self.epsilon_score_threshold
        if good or epsilon > params.get("epsilon_min", 0.05) + 1e-6:
            self._at_floor = 0
            return []
        self._at_floor += 1
        patience = self.epsilon_patience * 2**self._resets
        if self._at_floor < patience or self._resets >= _MAX_RESETS:
            return []
        self._at_floor = 0
        self._resets += 1
        params["epsilon"] = self.epsilon_reset_value
        return [("EPSILON_STUCK", f"no better score in {patience} windows; epsilon {epsilon:g} → "
                                  f"{self.epsilon_reset_value:g}")]  # fmt: skip

    # --- changing and returning -----------------------------------------------------------------

    def _adopt(self, params: Mapping[str, Any]) -> None:
        for name in [name for name, value in self._set.items() if not is_same(params.get(name), value)]:
            del self._set[name], self._usual[name]

    def _scale(self, params: dict[str, Any], name: str, factor: float, wrong: list[Firing]) -> list[Firing]:
        found = params.get(name)
        if not isinstance(found, float | np.floating) or found <= 0.0:
            return []
        value = float(found)
        usual = self._usual.get(name, value)
        if wrong:
            self._silent[name] = 0
            low, high = usual * _LOWEST_RATE, max(usual, _HIGHEST_ENTROPY_COEF)
            new = min(max(value * factor, low), high)
        else:
            self._silent[name] = self._silent.get(name, 0) + 1
            returns = name in self._usual and self._silent[name] % _QUIET == 0
            new = math.sqrt(value * usual) if returns else value
            if abs(new / usual - 1.0) < 0.05:
                new = usual
        if new != value:
            params[name] = self._set[name] = new
            self._usual[name] = usual
        if new == usual:
            self._set.pop(name, None)
            self._usual.pop(name, None)
        return [(rule, f"{reason}; {name} {value:g} → {new:g}") for rule, reason in wrong]

    # --- state ----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything that `load_state_dict` needs to go on exactly here (not the arguments)."""
        return {
            "firings": [list(firing) for firing in self.firings],
            "calls": self._calls,
            "losses": list(self._losses),
            "usual": dict(self._usual),
            "set": dict(self._set),
            "silent": dict(self._silent),
            "epsilon": [self._at_floor, self._best_score, self._resets],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self.firings = [(int(window), str(rule), str(text)) for window, rule, text in state["firings"]]
        self._calls = int(state["calls"])
        self._losses.clear()
        self._losses.extend(float(loss) for loss in state["losses"])
        self._usual, self._set = dict(state["usual"]), dict(state["set"])
        self._silent = dict(state["silent"])
        self._at_floor, self._best_score, self._resets = state["epsilon"]
