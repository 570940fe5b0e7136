"""SPSA and Backoff call by call, and their convergence through the whole loop."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optix_fast.loop import BackoffScheduler, CheckpointRegistry, LoopController, RLOptimizer, TorchEvaluator
from optix_fast.tuners import BackoffOptimizer, FixedHyperparams, SPSAOptimizer, make_tuner, tuner_name
from optix_fast.types import BaseAgent, BasePipeline, EpisodeData, EvalMetrics, HyperparamSet

BOUNDS = {"x": (0.0, 1.0), "n": (1, 100), "lr": (1e-4, 1e-2)}


def history(*scores: float) -> list[EvalMetrics]:
    return [EvalMetrics(score, {}, i) for i, score in enumerate(scores)]


def params(**values: Any) -> HyperparamSet:
    return HyperparamSet(dict(values), episode_id=7)


# --- SPSA ---------------------------------------------------------------------------------------


def test_spsa_cycle_by_hand() -> None:
    tuner = SPSAOptimizer({"x": (0.0, 1.0)}, perturbation_scale=0.05, learning_rate=0.1, seed=0)
    plus = tuner.suggest(params(x=0.5), history(0.0))
    sign = round((plus.params["x"] - 0.5) / 0.05)
    assert sign in (-1, 1)
    assert plus.params["x"] == pytest.approx(0.5 + 0.05 * sign)
    assert tuner.is_probing
    minus = tuner.suggest(plus, history(0.0, 4.0))
    assert minus.params["x"] == pytest.approx(0.5 - 0.05 * sign)
    assert tuner.is_probing
    # f⁺ − f⁻ = 4 − 2; S = √π/2 · (4 + 2)/2; ĝ = 2 / (4·S·Δ); x' = 0.5 + 0.1·ĝ.
    after = tuner.suggest(minus, history(0.0, 4.0, 2.0))
    spread = 0.5 * 3.141592653589793**0.5 * 3.0
    assert after.params["x"] == pytest.approx(0.5 + 0.1 * 2.0 / (4.0 * spread) * sign)
    assert not tuner.is_probing
    assert after.episode_id == 7


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_spsa_steps_do_not_depend_on_the_scale_of_the_scores(scale: float) -> None:
    tuner = SPSAOptimizer({"x": (0.0, 1.0)}, seed=1)
    current, scores = params(x=0.3), [0.0]
    for score in (1.0, 0.5, 0.2, 0.9, 0.1):
        current = tuner.suggest(current, history(*(scale * s for s in scores)))
        scores.append(score)
    reference = SPSAOptimizer({"x": (0.0, 1.0)}, seed=1)
    expected, scores = params(x=0.3), [0.0]
    for score in (1.0, 0.5, 0.2, 0.9, 0.1):
        expected = reference.suggest(expected, history(*scores))
        scores.append(score)
    assert current.params["x"] == pytest.approx(expected.params["x"], rel=1e-9)


def test_spsa_keeps_integers_bounds_and_other_keys() -> None:
    tuner = SPSAOptimizer(BOUNDS, log_params=["lr"], seed=2)
    current = params(x=1.0, n=3, lr=1e-3, name="ppo", flag=True, other=5)
    rng = random.Random(0)
    scores = [0.0]
    for _ in range(60):
        current = tuner.suggest(current, history(*scores))
        scores.append(rng.gauss(0.0, 1.0))
        assert 0.0 <= current.params["x"] <= 1.0
        assert isinstance(current.params["n"], int) and 1 <= current.params["n"] <= 100
        assert 1e-4 <= current.params["lr"] <= 1e-2
        assert (current.params["name"], current.params["flag"], current.params["other"]) == ("ppo", True, 5)


def test_spsa_begins_anew_from_hyperparameters_that_somebody_else_set() -> None:
    tuner = SPSAOptimizer({"x": (0.0, 1.0)}, seed=0)
    tuner.suggest(params(x=0.5), history(0.0))
    moved = tuner.suggest(params(x=0.2), history(0.0, 1.0))
    assert abs(moved.params["x"] - 0.2) == pytest.approx(0.05)
    assert tuner.is_probing
    # The first of two probes, not the second of the old ones.
    other = tuner.suggest(moved, history(0.0, 1.0, 2.0))
    assert other.params["x"] - 0.2 == pytest.approx(0.2 - moved.params["x"])
    assert tuner.is_probing


def test_spsa_perturbation_shrinks_at_improvements_and_grows_at_plateaus() -> None:
    tuner = SPSAOptimizer(BOUNDS, perturbation_scale=0.05, min_perturbation=0.03)
    found = []
    for _ in range(4):
        tuner.on_improvement(history(1.0)[0])
        found.append(tuner.perturbation_scale)
    assert found == pytest.approx([0.04, 0.032, 0.03, 0.03])
    for _ in range(4):
        tuner.on_plateau(history(1.0))
    assert tuner.perturbation_scale == 0.2


@pytest.mark.parametrize(("start", "bound", "slope"), [(0.9, 1.0, 1.0), (0.1, 0.0, -1.0)])
def test_spsa_leaves_a_bound_as_soon_as_the_scores_turn(start: float, bound: float, slope: float) -> None:
    tuner = SPSAOptimizer({"x": (0.0, 1.0)}, learning_rate=0.5, seed=0)
    current, scores = params(x=start), [slope * start]

    def cycles(count: int, slope: float) -> float:
        nonlocal current
        for _ in range(3 * count):
            current = tuner.suggest(current, history(*scores))
            scores.append(slope * current.params["x"])
        return float(current.params["x"])

    assert cycles(4, slope) == bound
    assert cycles(3, -slope) != bound


def test_spsa_begins_anew_when_one_of_several_hyperparameters_was_set() -> None:
    tuner = SPSAOptimizer({"x": (0.0, 1.0), "y": (0.0, 1.0)}, seed=0)
    probe = tuner.suggest(params(x=0.5, y=0.5), history(0.0))
    probe.params["y"] = 0.2
    moved = tuner.suggest(probe, history(0.0, 1.0))
    # A first probe from where the hyperparameters are, not the second one around 0.5.
    assert abs(moved.params["x"] - probe.params["x"]) == pytest.approx(0.05)
    assert abs(moved.params["y"] - 0.2) == pytest.approx(0.05)


@pytest.mark.parametrize("clip", [1.0, 0.5])
def test_spsa_gradient_is_clipped(clip: float) -> None:
    tuner = SPSAOptimizer({"x": (0.0, 1.0)}, learning_rate=0.1, gradient_clip=clip, seed=0)
    quiet = [0.0] * 18
    plus = tuner.suggest(params(x=0.5), history(*quiet))
    minus = tuner.suggest(plus, history(*quiet, 1.0))
    after = tuner.suggest(minus, history(*quiet, 1.0, 0.0))
    # S = √π/2 · 2/19, so that ĝ = 1 / (4·S) = 2.7 before it is clipped.
    assert abs(after.params["x"] - 0.5) == pytest.approx(0.1 * clip)


def test_spsa_probes_are_never_smaller_than_min_perturbation() -> None:
    tuner = SPSAOptimizer({"x": (0.0, 1.0)}, perturbation_scale=0.001, min_perturbation=0.02, seed=0)
    assert abs(tuner.suggest(params(x=0.5), history(0.0)).params["x"] - 0.5) == pytest.approx(0.02)


def test_spsa_comes_back_to_where_it_was_on_a_constant_score() -> None:
    tuner = SPSAOptimizer({"x": (0.0, 1.0)}, seed=0)
    current = params(x=0.5)
    for _ in range(3):
        current = tuner.suggest(current, history(*[3.0] * 10))
    assert current.params["x"] == pytest.approx(0.5)


def spsa_step(tuner: SPSAOptimizer) -> float:
    """How far one cycle from 0.5 goes when its scores are 4 and 2."""
    plus = tuner.suggest(params(x=0.5), history(0.0))
    minus = tuner.suggest(plus, history(0.0, 4.0))
    return abs(tuner.suggest(minus, history(0.0, 4.0, 2.0)).params["x"] - 0.5)


def test_spsa_steps_shrink_and_are_the_first_ones_again_after_a_plateau() -> None:
    tuner = SPSAOptimizer({"x": (0.0, 1.0)}, seed=0)
    first, second = spsa_step(tuner), spsa_step(tuner)
    assert second == pytest.approx(first * 1.1**-0.602)
    tuner.on_plateau(history(1.0))
    assert spsa_step(tuner) == pytest.approx(first)


def test_spsa_drops_the_cycle_under_way_at_a_plateau() -> None:
    tuner = SPSAOptimizer({"x": (0.0, 1.0)}, perturbation_scale=0.05, seed=0)
    probe = tuner.suggest(params(x=0.5), history(0.0))
    tuner.on_plateau(history(0.0))
    assert not tuner.is_probing
    # The new one begins where the hyperparameters are.
    again = tuner.suggest(probe, history(0.0, 1.0))
    assert abs(again.params["x"] - probe.params["x"]) == pytest.approx(0.1)


# --- Backoff ------------------------------------------------------------------------------------


def two_calls(tuner: BackoffOptimizer, start: float, gain: float) -> tuple[float, float]:
    probe = tuner.suggest(params(x=start), history(0.0, 0.1, 0.0))
    assert tuner.is_probing
    after = tuner.suggest(probe, history(0.0, 0.1, 0.0, gain))
    assert not tuner.is_probing
    return probe.params["x"], after.params["x"]


def test_backoff_keeps_a_better_probe_and_goes_to_the_other_side_of_a_worse_one() -> None:
    probe, after = two_calls(BackoffOptimizer({"x": (0.0, 1.0)}, seed=0), 0.5, 9.0)
    assert after == probe
    assert abs(probe - 0.5) == pytest.approx(0.05)
    probe, after = two_calls(BackoffOptimizer({"x": (0.0, 1.0)}, seed=0), 0.5, -9.0)
    assert after == pytest.approx(1.0 - probe)


@pytest.mark.parametrize("start", [0.0, 1.0])
def test_backoff_stays_at_a_bound_when_leaving_it_is_worse(start: float) -> None:
    for seed in range(8):  # whatever side would be drawn elsewhere
        probe, after = two_calls(BackoffOptimizer({"x": (0.0, 1.0)}, seed=seed), start, -9.0)
        assert probe == pytest.approx(abs(start - 0.05))
        assert after == start


def test_backoff_keeps_a_better_probe_of_an_integer() -> None:
    tuner = BackoffOptimizer({"n": (1, 100)}, perturbation_scale=0.001, seed=0)
    probe = tuner.suggest(params(n=50), history(0.0, 0.1, 0.0))
    assert abs(probe.params["n"] - 50) == 1
    assert tuner.suggest(probe, history(0.0, 0.1, 0.0, 9.0)).params == probe.params


def test_backoff_probes_are_never_smaller_than_min_delta() -> None:
    tuner = BackoffOptimizer({"x": (0.0, 1.0)}, perturbation_scale=0.001, min_delta=0.02, seed=0)
    assert abs(tuner.suggest(params(x=0.5), history(0.0)).params["x"] - 0.5) == pytest.approx(0.02)


@pytest.mark.parametrize("gain", [6.25, -6.25])
def test_backoff_takes_no_difference_up_to_the_threshold_for_one(gain: float) -> None:
    quiet = [0.0] * 18
    for threshold, moves in ((100.0, False), (99.0, True)):  # times δ: 6.25 and 6.1875
        tuner = BackoffOptimizer(
            {"x": (0.0, 1.0)}, perturbation_scale=0.0625, gradient_threshold=threshold, seed=0
        )
        probe = tuner.suggest(params(x=0.5), history(*quiet))
        assert (tuner.suggest(probe, history(*quiet, gain)).params["x"] != 0.5) == moves


def test_backoff_does_not_move_on_a_constant_score() -> None:
    tuner = BackoffOptimizer({"x": (0.0, 1.0)}, seed=0)
    current = params(x=0.5)
    for _ in range(60):
        current = tuner.suggest(current, history(*[3.0] * 10))
    assert current.params["x"] == pytest.approx(0.5)


def test_backoff_takes_the_parameters_in_turn() -> None:
    tuner = BackoffOptimizer({"x": (0.0, 1.0), "y": (0.0, 1.0)}, seed=0)
    current, changed = params(x=0.5, y=0.5), []
    for _ in range(8):
        before = dict(current.params)
        current = tuner.suggest(current, history(0.0, 0.0))
        changed.append([key for key in before if before[key] != current.params[key]])
    assert changed == [["x"], ["x"], ["y"], ["y"], ["x"], ["x"], ["y"], ["y"]]


def test_backoff_begins_with_the_first_parameter_again_after_a_plateau() -> None:
    tuner = BackoffOptimizer({"x": (0.0, 1.0), "y": (0.0, 1.0)}, seed=0)
    current = params(x=0.5, y=0.5)
    for _ in range(3):
        current = tuner.suggest(current, history(0.0, 0.0))
    assert current.params["y"] != 0.5  # a probe
    tuner.on_plateau(history(0.0))
    assert not tuner.is_probing
    after = tuner.suggest(current, history(0.0, 0.0))
    assert after.params["y"] == current.params["y"]
    assert abs(after.params["x"] - current.params["x"]) == pytest.approx(0.1)


def test_backoff_probes_anew_from_hyperparameters_that_somebody_else_set() -> None:
    tuner = BackoffOptimizer({"x": (0.0, 1.0)}, seed=0)
    tuner.suggest(params(x=0.5), history(0.0))
    moved = tuner.suggest(params(x=0.2), history(0.0, 9.0))
    assert abs(moved.params["x"] - 0.2) == pytest.approx(0.05)
    assert tuner.is_probing
    # The new probe is worse than the 9 of those hyperparameters, though not than the 0 of the old ones.
    after = tuner.suggest(moved, history(0.0, 9.0, 0.0))
    assert after.params["x"] == pytest.approx(0.4 - moved.params["x"])


def test_backoff_perturbation_grows_to_its_limits_and_never_shrinks() -> None:
    tuner = BackoffOptimizer(BOUNDS, perturbation_scale=0.2)
    found = []
    for _ in range(4):
        tuner.on_improvement(history(1.0)[0])
        found.append(tuner.perturbation_scale)
    assert found == pytest.approx([0.24, 0.288, 0.3, 0.3])
    tuner.on_plateau(history(1.0))
    assert tuner.perturbation_scale == 0.5
    tuner.on_improvement(history(1.0)[0])
    assert tuner.perturbation_scale == 0.5


# --- both ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [SPSAOptimizer, BackoffOptimizer])
def test_nothing_to_tune_changes_nothing(kind: Any) -> None:
    for tuner in (kind(), kind({"absent": (0.0, 1.0)})):
        assert tuner.suggest(params(x=0.5), history(1.0)).params == {"x": 0.5}
        assert not tuner.is_probing
    assert kind(BOUNDS).suggest(params(x=0.5), []).params == {"x": 0.5}


@pytest.mark.parametrize("kind", [SPSAOptimizer, BackoffOptimizer])
def test_agent_that_keeps_hyperparameters_in_float32_is_tuned_like_any_other(kind: Any) -> None:
    rng = random.Random(3)
    scores = [rng.gauss(0.0, 1.0) for _ in range(40)]
    found = []
    for rounded in (float, np.float32):
        tuner = kind({"x": (0.0, 1.0), "lr": (1e-4, 1e-2)}, log_params=["lr"], seed=5)
        current, probing, path = params(x=0.3, lr=1e-3), [], []
        for i in range(1, 40):
            suggested = tuner.suggest(current, history(*scores[:i]))
            probing.append(tuner.is_probing)
            path += [suggested.params["x"], suggested.params["lr"]]
            current = params(**{key: float(rounded(value)) for key, value in suggested.params.items()})
        found.append((probing, path))
    assert found[0][0] == found[1][0]
    assert found[0][1] == pytest.approx(found[1][1], rel=1e-5)


@pytest.mark.parametrize("kind", [SPSAOptimizer, BackoffOptimizer])
@pytest.mark.parametrize("cut", [1, 2, 3, 7])
def test_restored_tuner_goes_on_identically(kind: Any, cut: int) -> None:
    rng = random.Random(1)
    scores = [rng.gauss(0.0, 1.0) for _ in range(20)]
    whole = kind(BOUNDS, log_params=["lr"], seed=5)
    current, copies = params(x=0.5, n=7, lr=1e-3), []
    for i in range(20):
        if i == cut:
            other, resumed = kind(BOUNDS, log_params=["lr"], seed=99), current.copy()
            other.load_state_dict(whole.state_dict())
            copies = [other]
        current = whole.suggest(current, history(*scores[: i + 1]))
        for copy in copies:
            resumed = copy.suggest(resumed, history(*scores[: i + 1]))
            assert resumed.params == current.params


@pytest.mark.parametrize("kind", [SPSAOptimizer, BackoffOptimizer])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), "0.1", True])
def test_wrong_scale_is_named(kind: Any, value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="perturbation_scale"):
        kind(BOUNDS, perturbation_scale=value)


# --- through the loop ---------------------------------------------------------------------------


class QuadraticAgent(BaseAgent):
    """Its score is a parabola of the x that it learned with last, best at 0.6."""

    default_param_bounds = {"x": (0.0, 1.0)}  # noqa: RUF012

    def __init__(self, start: float) -> None:
        self.params: dict[str, Any] = {"x": start}
        self.used = start
        self.path: list[float] = []

    def act(self, observation: Any) -> int:
        return 0

    def learn(self, episode_data: EpisodeData) -> dict[str, Any]:
        self.used = self.params["x"]
        self.path.append(self.used)
        return {}

    def get_hyperparams(self) -> HyperparamSet:
        return HyperparamSet(dict(self.params))

    def set_hyperparams(self, hyperparams: HyperparamSet) -> None:
        self.params = dict(hyperparams.params)

    def save_weights(self, path: str) -> None:
        Path(path).mkdir(parents=True)

    def load_weights(self, path: str) -> None:
        """Nothing to load."""


class NoisyParabola(BasePipeline):
    is_live = False

    def __init__(self, seed: int, sigma: float) -> None:
        self._rng, self._sigma = random.Random(seed), sigma

    def set_agent(self, agent: QuadraticAgent) -> None:
        self._agent = agent

    def setup(self) -> None:
        """Nothing to prepare."""

    def teardown(self) -> None:
        """Nothing to release."""

    def episodes(self) -> Iterator[EpisodeData]:
        while True:
            score = 1000.0 - 400.0 * (self._agent.used - 0.6) ** 2 + self._sigma * self._rng.gauss(0.0, 1.0)
            yield EpisodeData([0], [0], [score], [True], [False], [{}], 0)


@pytest.mark.parametrize("kind", [SPSAOptimizer, BackoffOptimizer])
@pytest.mark.parametrize("interval", [1, 3])
@pytest.mark.parametrize("start", [0.05, 0.95])
def test_tuner_finds_the_top_of_a_noisy_parabola_through_the_loop(
    tmp_path: Path, kind: Any, interval: int, start: float
) -> None:
    ends = []
    for seed in range(3):
        agent = QuadraticAgent(start)
        controller = LoopController(
            agent,
            TorchEvaluator(),
            kind({"x": (0.0, 1.0)}, seed=seed),
            NoisyParabola(seed, sigma=4.0),
            CheckpointRegistry(tmp_path / str(seed), write_interval=1e9),
            BackoffScheduler(base_interval=interval, max_interval_episodes=interval, dormant_threshold=10**6),
            max_episodes=300 * interval,
        )
        controller.run()
        last = agent.path[-len(agent.path) // 4 :]
        ends.append(sum(last) / len(last))
    assert all(abs(end - 0.6) < 0.2 for end in ends), ends
    assert abs(sum(ends) / len(ends) - 0.6) < 0.1, ends


def test_rloptimizer_tunes_by_spsa_within_the_agents_bounds_by_default(tmp_path: Path) -> None:
    def build(optimizer: Any) -> Any:
        agent = QuadraticAgent(0.5)
        return RLOptimizer(agent, NoisyParabola(0, 1.0), optimizer=optimizer, checkpoint_dir=tmp_path / "c")

    default = build(None).controller.tuner
    assert isinstance(default, SPSAOptimizer)
    assert default.space.bounds == {"x": (0.0, 1.0)}
    assert build(BackoffOptimizer()).controller.tuner.space.bounds == {"x": (0.0, 1.0)}
    own = build(SPSAOptimizer({"x": (0.2, 0.8)})).controller.tuner
    assert own.space.bounds == {"x": (0.2, 0.8)}
    fixed = build(FixedHyperparams())
    fixed.controller.max_episodes = 20
    fixed.run()
    assert set(fixed.controller.agent.path) == {0.5}


def test_tuners_by_name() -> None:
    agent = QuadraticAgent(0.5)
    assert isinstance(make_tuner("none", agent), FixedHyperparams)
    assert isinstance(make_tuner("spsa", agent), SPSAOptimizer)
    assert isinstance(make_tuner("backoff", agent), BackoffOptimizer)
    with pytest.raises(ValueError, match="'genetic'"):
        make_tuner("genetic", agent)


def test_tuners_are_named_as_they_are_asked_for() -> None:
    for name in ("none", "spsa", "backoff"):
        assert tuner_name(make_tuner(name, object())) == name
    assert tuner_name(None) == "none"

    class Mine(SPSAOptimizer):
        pass

    assert tuner_name(Mine()) == "Mine"
