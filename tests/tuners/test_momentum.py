"""Adam on finite differences, call by call."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
from tuning import BOUNDS, history, params

from optix_fast.tuners import MomentumOptimizer

# Eighteen equal scores before two others: S = √π/2 · (|a| + |b|)/19 for steps a and b.
QUIET = [0.0] * 18


def step(tuner: MomentumOptimizer, x: float, difference: float) -> tuple[float, float]:
    """The probe from x, and where x goes when the probe scores so much more."""
    probe = tuner.suggest(params(x=x), history(*QUIET, 0.0))
    assert tuner.is_probing
    after = tuner.suggest(probe, history(*QUIET, 0.0, difference))
    assert not tuner.is_probing
    assert after.episode_id == 7
    return probe.params["x"], after.params["x"]


@pytest.mark.parametrize("difference", [3.0, -3.0])
def test_the_first_step_is_alpha_long_from_where_the_parameter_was(difference: float) -> None:
    tuner = MomentumOptimizer({"x": (0.0, 1.0)}, alpha=0.03, probe_scale=0.05, seed=0)
    probe, after = step(tuner, 0.5, difference)
    assert abs(probe - 0.5) == pytest.approx(0.05)
    # m̂ = g and √v̂ = |g|, whatever g is; from 0.5, not from the probe.
    assert after == pytest.approx(0.5 + math.copysign(0.03, difference * (probe - 0.5)))


def test_two_steps_by_hand() -> None:
    tuner = MomentumOptimizer({"x": (0.0, 1.0)}, alpha=0.1, beta1=0.5, beta2=0.75, seed=0)
    probe, _ = step(tuner, 0.5, 1.0)
    # The differences are far above the noise, S = √π/2 / 19, so that g is clipped to 1.
    g1 = math.copysign(1.0, probe - 0.5)
    probe = tuner.suggest(params(x=0.2), history(*QUIET, 0.0)).params["x"]
    quiet = [0.0, 1.0] * 9
    after = tuner.suggest(params(x=probe), history(*quiet, 0.0, 0.5)).params["x"]
    # Now S = √π/2 · (18·1 + 0.5)/19 of its 19 steps, and g = ± 0.5 / (4·S).
    spread = 0.5 * math.sqrt(math.pi) * 18.5 / 19.0
    g2 = math.copysign(0.5 / (4.0 * spread), probe - 0.2)
    m = (0.5 * (0.5 * g1) + 0.5 * g2) / (1.0 - 0.25)
    v = (0.75 * (0.25 * g1 * g1) + 0.25 * g2 * g2) / (1.0 - 0.75**2)
    assert after == pytest.approx(0.2 + 0.1 * m / math.sqrt(v))


def test_each_parameter_has_its_own_moments() -> None:
    tuner = MomentumOptimizer({"x": (0.0, 1.0), "y": (0.0, 1.0)}, alpha=0.03, seed=0)
    current = params(x=0.5, y=0.5)
    for name in ("x", "y"):
        probe = tuner.suggest(current, history(*QUIET, 0.0))
        side = math.copysign(1.0, probe.params[name] - 0.5)
        current = tuner.suggest(probe, history(*QUIET, 0.0, 2.0))
        assert current.params[name] == pytest.approx(0.5 + 0.03 * side)


def test_equal_scores_move_nothing() -> None:
    tuner = MomentumOptimizer({"x": (0.0, 1.0)}, seed=0)
    current = params(x=0.5)
    for _ in range(60):
        current = tuner.suggest(current, history(*[3.0] * 10))
    assert current.params["x"] == pytest.approx(0.5)


def test_noise_alone_drives_to_no_bound() -> None:
    ends = []
    for seed in range(20):
        tuner, rng = MomentumOptimizer({"x": (0.0, 1.0)}, seed=seed), random.Random(seed)
        current, scores = params(x=0.5), [0.0]
        for _ in range(40):
            current = tuner.suggest(current, history(*scores))
            scores.append(rng.gauss(0.0, 1.0))
        ends.append(current.params["x"])
    # An unbiased walk of 20 steps of at most 0.05: its mean over 20 walks stays near where it began.
    assert abs(sum(ends) / len(ends) - 0.5) < 0.1


def test_a_whole_number_remembers_what_lies_between() -> None:
    # Half of a whole number at each step, since x = (n − 1)/4: rounding alone would forget them all.
    tuner = MomentumOptimizer({"n": (1, 5)}, alpha=0.1, beta1=0.0, beta2=0.0, probe_scale=0.25, seed=0)
    current, found = params(n=3), []
    for _ in range(3):
        probe = tuner.suggest(current, history(*QUIET, 0.0))
        better = 1.0 if probe.params["n"] > current.params["n"] else -1.0
        current = tuner.suggest(probe, history(*QUIET, 0.0, better))
        assert type(current.params["n"]) is int
        found.append(current.params["n"])
    assert found == [3, 4, 4]  # places 0.6, 0.7 and 0.8 are 3.4, 3.8 and 4.2


def test_every_probe_of_a_whole_number_is_another_one() -> None:
    # The place of 0.95 is the whole number 5 already: only the other side is a probe.
    for seed in range(8):
        tuner = MomentumOptimizer({"n": (1, 5)}, alpha=0.2, beta1=0.0, beta2=0.0, probe_scale=0.25, seed=seed)
        current = params(n=4)
        for _ in range(4):
            probe = tuner.suggest(current, history(*QUIET, 0.0))
            assert probe.params["n"] != current.params["n"]
            better = 1.0 if probe.params["n"] > current.params["n"] else -1.0
            current = tuner.suggest(probe, history(*QUIET, 0.0, better))


def test_a_plateau_begins_with_the_first_parameter_and_keeps_the_moments() -> None:
    tuner = MomentumOptimizer({"x": (0.0, 1.0), "y": (0.0, 1.0)}, seed=0)
    current = tuner.suggest(params(x=0.5, y=0.5), history(*QUIET, 0.0))
    current = tuner.suggest(current, history(*QUIET, 0.0, 2.0))
    current = tuner.suggest(current, history(*QUIET, 0.0))  # y's probe
    before = tuner.state_dict()["moments"]
    tuner.on_plateau(history(0.0))
    assert not tuner.is_probing
    after = tuner.suggest(current, history(*QUIET, 0.0))
    assert after.params["x"] != current.params["x"] and after.params["y"] == 0.5  # the probe is taken back
    assert tuner.state_dict()["moments"] == before != {}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("alpha", 0.0), ("beta1", 1.0), ("beta1", -0.1), ("beta2", "0.9"), ("beta2", float("nan")),
        ("eps", -1.0), ("probe_scale", float("inf")), ("min_delta", True), ("beta1", False),
    ],
)  # fmt: skip
def test_wrong_numbers_are_named(name: str, value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=name):
        MomentumOptimizer(BOUNDS, **{name: value})
