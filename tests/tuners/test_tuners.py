"""What all tuners have in common, and their convergence through the whole loop."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tuning import BOUNDS, NoisyParabola, QuadraticAgent, history, params

from optix_fast.loop import BackoffScheduler, CheckpointRegistry, LoopController, RLOptimizer, TorchEvaluator
from optix_fast.tuners import (
    BackoffOptimizer,
    FixedHyperparams,
    MomentumOptimizer,
    PBTOptimizer,
    SPSAOptimizer,
    fill_bounds,
    make_tuner,
    tuner_name,
)

TUNERS = [SPSAOptimizer, BackoffOptimizer, MomentumOptimizer, PBTOptimizer]


def logarithmic(kind: Any, bounds: Any, seed: int) -> Any:
    """A tuner that searches lr on a logarithmic scale."""
    return kind(bounds, seed=seed, **{"log_scale_params" if kind is PBTOptimizer else "log_params": ["lr"]})


@pytest.mark.parametrize("kind", TUNERS)
def test_nothing_to_tune_changes_nothing(kind: Any) -> None:
    for tuner in (kind(), kind({"absent": (0.0, 1.0)})):
        assert tuner.suggest(params(x=0.5), history(1.0)).params == {"x": 0.5}
        assert not tuner.is_probing
    assert kind(BOUNDS).suggest(params(x=0.5), []).params == {"x": 0.5}


@pytest.mark.parametrize("kind", TUNERS)
def test_agent_that_keeps_hyperparameters_in_float32_is_tuned_like_any_other(kind: Any) -> None:
    rng = random.Random(3)
    scores = [rng.gauss(0.0, 1.0) for _ in range(40)]
    found = []
    for rounded in (float, np.float32):
        tuner = logarithmic(kind, {"x": (0.0, 1.0), "lr": (1e-4, 1e-2)}, seed=5)
        current, probing, path = params(x=0.3, lr=1e-3), [], []
        for i in range(1, 40):
            suggested = tuner.suggest(current, history(*scores[:i]))
            probing.append(tuner.is_probing)
            path += [suggested.params["x"], suggested.params["lr"]]
            current = params(**{key: float(rounded(value)) for key, value in suggested.params.items()})
        found.append((probing, path))
    assert found[0][0] == found[1][0]
    assert found[0][1] == pytest.approx(found[1][1], rel=1e-5)


@pytest.mark.parametrize("kind", TUNERS)
@pytest.mark.parametrize("cut", [1, 2, 3, 7])
def test_restored_tuner_goes_on_identically(kind: Any, cut: int) -> None:
    rng = random.Random(1)
    scores = [rng.gauss(0.0, 1.0) for _ in range(20)]
    whole = logarithmic(kind, BOUNDS, seed=5)
    current, copies = params(x=0.5, n=7, lr=1e-3), []
    for i in range(20):
        if i == cut:
            other, resumed = logarithmic(kind, BOUNDS, seed=99), current.copy()
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


@pytest.mark.parametrize("kind", [SPSAOptimizer, BackoffOptimizer, MomentumOptimizer])
def test_plateaus_of_equal_scores_move_nothing(kind: Any) -> None:
    tuner, current, probed = kind({"x": (0.0, 1.0)}, seed=0), params(x=0.5), False
    for i in range(40):
        if i % 4 == 3:  # in the middle of a probe, now and then
            probed = probed or tuner.is_probing
            tuner.on_plateau(history(3.0))
        current = tuner.suggest(current, history(*[3.0] * 10))
    while tuner.is_probing:
        current = tuner.suggest(current, history(*[3.0] * 10))
    assert probed
    assert current.params["x"] == pytest.approx(0.5)


def test_scales_that_a_tuner_was_given_stay_where_the_bounds_are_the_agents() -> None:
    class Rated(QuadraticAgent):
        default_param_bounds = {"learning_rate": (1e-4, 1e-2), "x": (0.1, 1.0)}  # noqa: RUF012

    found = [
        PBTOptimizer(),
        PBTOptimizer(log_scale_params=["x"]),
        SPSAOptimizer(log_params=["x"]),
        SPSAOptimizer(),
    ]
    for tuner in found:
        fill_bounds(tuner, Rated(0.5))
        assert tuner.space.bounds.keys() == {"learning_rate", "x"}
    assert [set(tuner.space.log_params) for tuner in found] == [{"learning_rate"}, {"x"}, {"x"}, set()]


# --- through the loop ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TUNERS)
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
    for name, kind in zip(("spsa", "backoff", "momentum", "pbt"), TUNERS, strict=True):
        assert type(make_tuner(name, agent)) is kind
    with pytest.raises(ValueError, match="'genetic'"):
        make_tuner("genetic", agent)


def test_tuners_are_named_as_they_are_asked_for() -> None:
    for name in ("none", "spsa", "backoff", "momentum", "pbt"):
        assert tuner_name(make_tuner(name, object())) == name
    assert tuner_name(None) == "none"

    class Mine(SPSAOptimizer):
        pass

    assert tuner_name(Mine()) == "Mine"
