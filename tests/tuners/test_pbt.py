"""Exploit and explore, call by call."""

from __future__ import annotations

import math
from typing import Any

import pytest
from tuning import BOUNDS, history, params

from optix_fast.tuners import PBTOptimizer


def told(tuner: PBTOptimizer, *pairs: tuple[float, float]) -> None:
    """Let it remember values of x and their scores."""
    for x, score in pairs:
        tuner.suggest(params(x=x), history(score))


def next_of(x: float, score: float, *before: tuple[float, float], seed: int, **kwargs: Any) -> float:
    """What it suggests after x has scored that, and others before it."""
    tuner = PBTOptimizer({"x": (0.0, 1.0)}, seed=seed, **kwargs)
    told(tuner, *before)
    return float(tuner.suggest(params(x=x), history(score)).params["x"])


def test_explores_around_the_current_ones_while_it_knows_few_and_after_good_scores() -> None:
    few = [next_of(0.5, 1.0, (0.1, 9.0), seed=seed) for seed in range(200)]
    good = [next_of(0.5, 5.0, (0.1, 9.0), (0.2, 1.0), seed=seed) for seed in range(200)]
    for found in (few, good):
        assert 0.4 <= min(found) < 0.41 and 0.59 < max(found) <= 0.6  # uniform in 0.5 ± explore_scale
        assert sum(found) / len(found) == pytest.approx(0.5, abs=0.02)


def test_exploits_the_best_after_a_low_score() -> None:
    found = [next_of(0.5, 0.0, (0.1, 9.0), (0.2, 1.0), seed=seed) for seed in range(200)]
    assert 0.05 <= min(found) < 0.06 and 0.14 < max(found) <= 0.15  # uniform in 0.1 ± exploit_scale


def test_percentiles_say_what_is_low_and_what_is_good() -> None:
    # Ten scores 0 … 9 with x = score/10; half of them are low, and the upper three are good.
    before = [(score / 10, float(score)) for score in range(10) if score != 4]
    kwargs = {"exploit_percentile": 0.5, "top_percentile": 0.3, "exploit_scale": 0.01}
    found = {round(10 * next_of(0.4, 4.0, *before, seed=seed, **kwargs)) for seed in range(60)}
    assert found == {7, 8, 9}
    before = [(score / 10, float(score)) for score in range(10) if score != 5]
    found = {
        round(10 * next_of(0.5, 5.0, *before, seed=seed, explore_scale=0.01, **kwargs)) for seed in range(60)
    }
    assert found == {5}


def test_perturbs_logarithmic_scales_by_a_factor() -> None:
    low, high = 1e-5, 1e-1
    rates = []
    for seed in range(300):
        tuner = PBTOptimizer({"learning_rate": (low, high)}, seed=seed)
        rates.append(tuner.suggest(params(learning_rate=1e-3), history(0.0)).params["learning_rate"])
    # 1e-3·exp(U(−d, d)) with d = 0.1·ln 1e4.
    d = 0.1 * math.log(1e4)
    logs = [math.log(rate / 1e-3) for rate in rates]
    assert -d <= min(logs) < -0.95 * d and 0.95 * d < max(logs) <= d
    assert sum(logs) / len(logs) == pytest.approx(0.0, abs=0.1)


@pytest.mark.parametrize(("given", "logarithmic"), [(None, {"lr"}), (["x"], {"x"}), ([], set())])
def test_rates_are_searched_logarithmically_unless_others_are_named(
    given: Any, logarithmic: set[str]
) -> None:
    bounds = {"lr": (1e-4, 1e-2), "epsilon": (0.0, 1.0), "x": (0.1, 1.0)}
    assert PBTOptimizer(bounds, log_scale_params=given).space.log_params == logarithmic


def test_forgets_the_oldest_and_at_a_plateau_all() -> None:
    tuner = PBTOptimizer({"x": (0.0, 1.0)}, history_size=3, seed=0)
    told(tuner, (0.9, 99.0), (0.1, 5.0), (0.2, 3.0))
    low = tuner.suggest(params(x=0.5), history(0.0))  # the 99 is forgotten: the best is 0.1
    assert abs(low.params["x"] - 0.1) <= 0.05
    tuner.on_plateau(history(0.0))
    assert abs(tuner.suggest(params(x=0.5), history(-9.0)).params["x"] - 0.5) <= 0.1


def test_never_probes() -> None:
    tuner = PBTOptimizer({"x": (0.0, 1.0)}, seed=0)
    told(tuner, (0.1, 1.0), (0.2, 2.0))
    assert not tuner.is_probing


def test_keeps_integers_bounds_and_other_keys() -> None:
    tuner = PBTOptimizer(BOUNDS, log_scale_params=["lr"], explore_scale=0.5, seed=2)
    current = params(x=1.0, n=3, lr=1e-3, name="ppo", flag=True, other=5)
    for i in range(60):
        current = tuner.suggest(current, history(float(i % 7)))
        assert 0.0 <= current.params["x"] <= 1.0
        assert type(current.params["n"]) is int and 1 <= current.params["n"] <= 100
        assert 1e-4 <= current.params["lr"] <= 1e-2
        assert (current.params["name"], current.params["flag"], current.params["other"]) == ("ppo", True, 5)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("history_size", 2), ("history_size", 2.5), ("history_size", True), ("exploit_percentile", 0.0),
        ("exploit_percentile", 1.0), ("top_percentile", -0.1), ("top_percentile", "0.2"),
        ("explore_scale", 0.0), ("exploit_scale", float("nan")),
    ],
)  # fmt: skip
def test_wrong_arguments_are_named(name: str, value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=name):
        PBTOptimizer(BOUNDS, **{name: value})


def test_nonsensical_bounds_are_named() -> None:
    with pytest.raises((TypeError, ValueError), match="lr"):
        PBTOptimizer({"lr": ("a", "b")})  # type: ignore[dict-item]
