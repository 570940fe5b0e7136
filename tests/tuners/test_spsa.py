"""SPSA, call by call."""

from __future__ import annotations

import random

import pytest
from tuning import BOUNDS, history, params

from optix_fast.tuners import SPSAOptimizer


def test_cycle_by_hand() -> None:
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
def test_steps_do_not_depend_on_the_scale_of_the_scores(scale: float) -> None:
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


def test_keeps_integers_bounds_and_other_keys() -> None:
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


def test_begins_anew_from_hyperparameters_that_somebody_else_set() -> None:
    tuner = SPSAOptimizer({"x": (0.0, 1.0)}, seed=0)
    tuner.suggest(params(x=0.5), history(0.0))
    moved = tuner.suggest(params(x=0.2), history(0.0, 1.0))
    assert abs(moved.params["x"] - 0.2) == pytest.approx(0.05)
    assert tuner.is_probing
    # The first of two probes, not the second of the old ones.
    other = tuner.suggest(moved, history(0.0, 1.0, 2.0))
    assert other.params["x"] - 0.2 == pytest.approx(0.2 - moved.params["x"])
    assert tuner.is_probing


def test_perturbation_shrinks_at_improvements_and_grows_at_plateaus() -> None:
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
def test_leaves_a_bound_as_soon_as_the_scores_turn(start: float, bound: float, slope: float) -> None:
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


def test_begins_anew_when_one_of_several_hyperparameters_was_set() -> None:
    tuner = SPSAOptimizer({"x": (0.0, 1.0), "y": (0.0, 1.0)}, seed=0)
    probe = tuner.suggest(params(x=0.5, y=0.5), history(0.0))
    probe.params["y"] = 0.2
    moved = tuner.suggest(probe, history(0.0, 1.0))
    # A first probe from where the hyperparameters are, not the second one around 0.5.
    assert abs(moved.params["x"] - probe.params["x"]) == pytest.approx(0.05)
    assert abs(moved.params["y"] - 0.2) == pytest.approx(0.05)


@pytest.mark.parametrize("clip", [1.0, 0.5])
def test_gradient_is_clipped(clip: float) -> None:
    tuner = SPSAOptimizer({"x": (0.0, 1.0)}, learning_rate=0.1, gradient_clip=clip, seed=0)
    quiet = [0.0] * 18
    plus = tuner.suggest(params(x=0.5), history(*quiet))
    minus = tuner.suggest(plus, history(*quiet, 1.0))
    after = tuner.suggest(minus, history(*quiet, 1.0, 0.0))
    # S = √π/2 · 2/19, so that ĝ = 1 / (4·S) = 2.7 before it is clipped.
    assert abs(after.params["x"] - 0.5) == pytest.approx(0.1 * clip)


def test_probes_are_never_smaller_than_min_perturbation() -> None:
    tuner = SPSAOptimizer({"x": (0.0, 1.0)}, perturbation_scale=0.001, min_perturbation=0.02, seed=0)
    assert abs(tuner.suggest(params(x=0.5), history(0.0)).params["x"] - 0.5) == pytest.approx(0.02)


def test_comes_back_to_where_it_was_on_a_constant_score() -> None:
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


def test_steps_shrink_and_are_the_first_ones_again_after_a_plateau() -> None:
    tuner = SPSAOptimizer({"x": (0.0, 1.0)}, seed=0)
    first, second = spsa_step(tuner), spsa_step(tuner)
    assert second == pytest.approx(first * 1.1**-0.602)
    tuner.on_plateau(history(1.0))
    assert spsa_step(tuner) == pytest.approx(first)


def test_drops_the_cycle_under_way_at_a_plateau() -> None:
    tuner = SPSAOptimizer({"x": (0.0, 1.0)}, perturbation_scale=0.05, seed=0)
    probe = tuner.suggest(params(x=0.5), history(0.0))
    tuner.on_plateau(history(0.0))
    assert not tuner.is_probing
    # The new one begins where that one began.
    again = tuner.suggest(probe, history(0.0, 1.0))
    assert abs(again.params["x"] - 0.5) == pytest.approx(0.1)
