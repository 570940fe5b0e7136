"""Backoff, call by call."""

from __future__ import annotations

import pytest
from tuning import BOUNDS, history, params

from optix_fast.tuners import BackoffOptimizer


def two_calls(tuner: BackoffOptimizer, start: float, gain: float) -> tuple[float, float]:
    probe = tuner.suggest(params(x=start), history(0.0, 0.1, 0.0))
    assert tuner.is_probing
    after = tuner.suggest(probe, history(0.0, 0.1, 0.0, gain))
    assert not tuner.is_probing
    return probe.params["x"], after.params["x"]


def test_keeps_a_better_probe_and_goes_to_the_other_side_of_a_worse_one() -> None:
    probe, after = two_calls(BackoffOptimizer({"x": (0.0, 1.0)}, seed=0), 0.5, 9.0)
    assert after == probe
    assert abs(probe - 0.5) == pytest.approx(0.05)
    probe, after = two_calls(BackoffOptimizer({"x": (0.0, 1.0)}, seed=0), 0.5, -9.0)
    assert after == pytest.approx(1.0 - probe)


@pytest.mark.parametrize("start", [0.0, 1.0])
def test_stays_at_a_bound_when_leaving_it_is_worse(start: float) -> None:
    for seed in range(8):  # whatever side would be drawn elsewhere
        probe, after = two_calls(BackoffOptimizer({"x": (0.0, 1.0)}, seed=seed), start, -9.0)
        assert probe == pytest.approx(abs(start - 0.05))
        assert after == start


def test_keeps_a_better_probe_of_an_integer() -> None:
    tuner = BackoffOptimizer({"n": (1, 100)}, perturbation_scale=0.001, seed=0)
    probe = tuner.suggest(params(n=50), history(0.0, 0.1, 0.0))
    assert abs(probe.params["n"] - 50) == 1
    assert tuner.suggest(probe, history(0.0, 0.1, 0.0, 9.0)).params == probe.params


def test_probes_are_never_smaller_than_min_delta() -> None:
    tuner = BackoffOptimizer({"x": (0.0, 1.0)}, perturbation_scale=0.001, min_delta=0.02, seed=0)
    assert abs(tuner.suggest(params(x=0.5), history(0.0)).params["x"] - 0.5) == pytest.approx(0.02)


@pytest.mark.parametrize("gain", [6.25, -6.25])
def test_takes_no_difference_up_to_the_threshold_for_one(gain: float) -> None:
    quiet = [0.0] * 18
    for threshold, moves in ((100.0, False), (99.0, True)):  # times δ: 6.25 and 6.1875
        tuner = BackoffOptimizer(
            {"x": (0.0, 1.0)}, perturbation_scale=0.0625, gradient_threshold=threshold, seed=0
        )
        probe = tuner.suggest(params(x=0.5), history(*quiet))
        assert (tuner.suggest(probe, history(*quiet, gain)).params["x"] != 0.5) == moves


def test_does_not_move_on_a_constant_score() -> None:
    tuner = BackoffOptimizer({"x": (0.0, 1.0)}, seed=0)
    current = params(x=0.5)
    for _ in range(60):
        current = tuner.suggest(current, history(*[3.0] * 10))
    assert current.params["x"] == pytest.approx(0.5)


def test_takes_the_parameters_in_turn() -> None:
    tuner = BackoffOptimizer({"x": (0.0, 1.0), "y": (0.0, 1.0)}, seed=0)
    current, changed = params(x=0.5, y=0.5), []
    for _ in range(8):
        before = dict(current.params)
        current = tuner.suggest(current, history(0.0, 0.0))
        changed.append([key for key in before if before[key] != current.params[key]])
    assert changed == [["x"], ["x"], ["y"], ["y"], ["x"], ["x"], ["y"], ["y"]]


def test_begins_with_the_first_parameter_again_after_a_plateau() -> None:
    tuner = BackoffOptimizer({"x": (0.0, 1.0), "y": (0.0, 1.0)}, seed=0)
    current = params(x=0.5, y=0.5)
    for _ in range(3):
        current = tuner.suggest(current, history(0.0, 0.0))
    assert current.params["y"] != 0.5  # a probe
    tuner.on_plateau(history(0.0))
    assert not tuner.is_probing
    after = tuner.suggest(current, history(0.0, 0.0))
    assert after.params["y"] == 0.5  # the probe is taken back
    assert abs(after.params["x"] - current.params["x"]) == pytest.approx(0.1)


def test_probes_anew_from_hyperparameters_that_somebody_else_set() -> None:
    tuner = BackoffOptimizer({"x": (0.0, 1.0)}, seed=0)
    tuner.suggest(params(x=0.5), history(0.0))
    moved = tuner.suggest(params(x=0.2), history(0.0, 9.0))
    assert abs(moved.params["x"] - 0.2) == pytest.approx(0.05)
    assert tuner.is_probing
    # The new probe is worse than the 9 of those hyperparameters, though not than the 0 of the old ones.
    after = tuner.suggest(moved, history(0.0, 9.0, 0.0))
    assert after.params["x"] == pytest.approx(0.4 - moved.params["x"])


def test_perturbation_grows_to_its_limits_and_never_shrinks() -> None:
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
