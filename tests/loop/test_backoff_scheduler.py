"""The scheduler as a state machine, and its statistics on synthetic scores."""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optix_fast.loop import BackoffScheduler
from optix_fast.types import LoopState

ACTIVE, COOLING, DORMANT = LoopState.ACTIVE, LoopState.COOLING, LoopState.DORMANT


def simulate(score: Callable[[int], float], windows: int, **options: Any) -> tuple[int | None, list[int]]:
    """Drive a scheduler as the loop does; the window at which it stops, and the evaluated ones."""
    scheduler = BackoffScheduler(**options)
    raws: deque[float] = deque(maxlen=2)
    evaluated: list[int] = []
    for window in range(windows):
        if not scheduler.should_adapt(window):
            continue
        closed = window - (evaluated[-1] if evaluated else -1)
        evaluated.append(window)
        raws.append(score(window))
        scheduler.record_score(raws[-1], window)
        if scheduler.is_improving():
            scheduler.record_improvement(sum(raws) / len(raws), closed)
        else:
            scheduler.record_non_improvement(closed)
        if scheduler.current_state is DORMANT:
            return window, evaluated
    return None, evaluated


# --- table --------------------------------------------------------------------------------------

# (what happens, state, interval, non-improvements, total) after each step, with default arguments.
TABLE = [
    ("start", ACTIVE, 1, 0, 0),
    ("better", ACTIVE, 1, 0, 1),
    ("flat 1", ACTIVE, 2, 1, 2),
    ("flat 2", ACTIVE, 4, 3, 4),
    ("flat 4", COOLING, 8, 7, 8),
    ("worse 8", ACTIVE, 16, 15, 16),
    ("flat 3", COOLING, 32, 18, 19),
    ("better", ACTIVE, 1, 0, 20),
    ("flat 5", COOLING, 2, 5, 25),
    ("restart", ACTIVE, 1, 0, 25),
    ("flat 19", COOLING, 2, 19, 44),
    ("flat 1", DORMANT, 4, 20, 45),
    ("flat 1", DORMANT, 8, 21, 46),
    ("restart", ACTIVE, 1, 0, 46),
    ("flat 19", COOLING, 2, 19, 65),
    ("worse 1", DORMANT, 4, 20, 66),
    ("better", ACTIVE, 1, 0, 67),
    ("rollback 3", ACTIVE, 1, 3, 70),
]


def test_state_machine_follows_the_table() -> None:
    scheduler = BackoffScheduler()
    actions: dict[str, Callable[[int], None]] = {
        "start": lambda n: None,
        "better": lambda n: scheduler.record_improvement(1.0),
        "flat": lambda n: scheduler.record_non_improvement(n),
        "worse": lambda n: scheduler.record_degradation(n),
        "rollback": lambda n: scheduler.record_degradation(n, rolled_back=True),
        "restart": lambda n: scheduler.record_restart(),
    }
    for step, (what, *expected) in enumerate(TABLE):
        name, _, number = what.partition(" ")
        actions[name](int(number or 1))
        found = [
            scheduler.current_state,
            scheduler.current_interval,
            scheduler.consecutive_non_improvements,
            scheduler.total_episodes,
        ]
        assert found == expected, f"row {step}: {what}"


def test_interval_doubles_up_to_its_cap() -> None:
    scheduler = BackoffScheduler(max_interval_episodes=20)
    intervals = []
    for _ in range(7):
        intervals.append(scheduler.current_interval)
        scheduler.record_non_improvement()
    assert intervals == [1, 2, 4, 8, 16, 20, 20]


@pytest.mark.parametrize(
    ("factor", "expected"), [(1.5, [1, 2, 3, 5, 8]), (1.01, [1, 2, 3, 4, 5]), (3.0, [1, 3, 9, 27, 81])]
)
def test_interval_grows_for_every_factor_above_one(factor: float, expected: list[int]) -> None:
    scheduler = BackoffScheduler(backoff_factor=factor)
    intervals = []
    for _ in range(5):
        intervals.append(scheduler.current_interval)
        scheduler.record_non_improvement()
    assert intervals == expected


@pytest.mark.parametrize(("interval", "due"), [(1, [0, 1, 2, 3, 4, 5, 6, 7, 8]), (4, [0, 4, 8])])
def test_window_is_due_when_it_is_a_multiple_of_the_interval(interval: int, due: list[int]) -> None:
    scheduler = BackoffScheduler(base_interval=interval)
    assert [window for window in range(9) if scheduler.should_adapt(window)] == due


def test_best_score_is_the_best_not_the_last() -> None:
    scheduler = BackoffScheduler()
    assert scheduler.best_score is None
    for score in (100.0, 40.0, 101.0, 3.0):
        scheduler.record_score(score)
        scheduler.record_improvement(score)
    assert scheduler.best_score == 101.0


def test_dormancy_waits_for_its_minimum_of_windows() -> None:
    scheduler = BackoffScheduler(min_episodes_before_dormant=60)
    states = []
    for _ in range(6):
        scheduler.record_non_improvement(10)
        states.append(scheduler.current_state)
    assert states == [COOLING] * 5 + [DORMANT]


def test_degradation_waits_for_its_minimum_of_windows() -> None:
    scheduler = BackoffScheduler(min_episodes_before_degradation=3)
    scheduler.record_improvement(100.0)
    fired = []
    for _ in range(3):
        fired.append(scheduler.has_degraded(10.0))
        scheduler.record_non_improvement()
    assert fired == [False, False, True]


@pytest.mark.parametrize(
    ("best", "limit"),
    [(100.0, 95.0), (-100.0, -105.0), (0.0, -1e-4), (1e-6, 1e-6 - 1e-4)],
)
def test_degradation_threshold_is_a_fraction_of_the_size_of_the_best(best: float, limit: float) -> None:
    scheduler = BackoffScheduler(min_episodes_before_degradation=0)
    scheduler.record_improvement(best)
    assert not scheduler.has_degraded(limit + 1e-7)
    assert scheduler.has_degraded(limit - 1e-7)


@pytest.mark.parametrize(("best", "limit"), [(100.0, 95.0), (-100.0, -105.0), (0.0, 0.0), (1e-6, 0.95e-6)])
def test_asked_directly_the_threshold_alone_decides(best: float, limit: float) -> None:
    scheduler = BackoffScheduler(min_degradation_drop=10.0)
    assert not scheduler.check_degradation(-1e9)
    scheduler.record_improvement(best)
    assert not scheduler.check_degradation(limit + 1e-12)
    assert scheduler.check_degradation(limit - 1e-12)
    for window in range(20):  # neither noise nor a minimum of windows plays a part
        scheduler.record_score(best + (50.0 if window % 2 else -50.0))
    assert scheduler.check_degradation(limit - 1e-12)


@pytest.mark.parametrize("state", [ACTIVE, COOLING, DORMANT])
def test_degradation_recorded_directly_makes_active_and_counts_nothing(state: LoopState) -> None:
    scheduler = BackoffScheduler()
    scheduler.record_improvement(-3.0)
    scheduler.record_non_improvement({ACTIVE: 1, COOLING: 5, DORMANT: 20}[state])
    assert scheduler.current_state is state
    before = scheduler.state_dict()
    scheduler.record_degradation()
    assert scheduler.state_dict() == before | {"state": "ACTIVE"}


def test_no_degradation_before_there_is_a_best() -> None:
    assert not BackoffScheduler(min_episodes_before_degradation=0).has_degraded(-1e9)


def noisy_hundred(spread: float) -> BackoffScheduler:
    scheduler = BackoffScheduler()
    for window in range(20):
        scheduler.record_score(100.0 + (spread if window % 2 else -spread))
        scheduler.record_improvement(100.0)
    return scheduler


@pytest.mark.parametrize(
    ("scores", "fired"),
    [
        ([85.0, 85.0, 85.0, 85.0], [False, False, False, False]),  # within the noise of ± 10
        ([20.0], [False]),  # one low score may be bad luck
        ([20.0, 20.0], [False, True]),
        ([20.0, 100.0, 20.0, 100.0], [False, False, False, False]),
        ([35.0, 35.0, 35.0], [False, False, True]),
        ([-100.0], [True]),
    ],
)
def test_degradation_must_be_clear_of_the_noise(scores: list[float], fired: list[bool]) -> None:
    scheduler = noisy_hundred(10.0)
    found = []
    for score in scores:
        scheduler.record_score(score)
        found.append(scheduler.has_degraded(score))
    assert found == fired


def test_single_low_score_of_a_quiet_run_is_degradation() -> None:
    scheduler = noisy_hundred(0.1)
    scheduler.record_score(60.0)
    assert scheduler.has_degraded(80.0)


def test_smoothed_score_that_still_carries_an_older_low_one_is_no_degradation() -> None:
    scheduler = noisy_hundred(0.1)
    scheduler.record_score(20.0)
    scheduler.record_score(100.0)
    assert not scheduler.has_degraded(60.0)


def test_one_lucky_score_does_not_make_the_usual_ones_degraded() -> None:
    scheduler = noisy_hundred(2.0)
    scheduler.record_score(500.0)
    scheduler.record_improvement(300.0)
    for _ in range(5):
        scheduler.record_score(100.0)
        assert not scheduler.has_degraded(100.0)


def test_rollback_forgets_the_scores_of_the_degraded_policy() -> None:
    scheduler = noisy_hundred(1.0)
    before = scheduler.state_dict()["points"]
    for _ in range(2):
        scheduler.record_score(30.0)
    scheduler.record_degradation(rolled_back=True)
    assert scheduler.state_dict()["points"] == before[2:]  # two scores out of score_window
    assert not scheduler.has_degraded(100.0)


# --- improvement --------------------------------------------------------------------------------


def test_first_score_is_an_improvement() -> None:
    scheduler = BackoffScheduler()
    assert not scheduler.is_improving()
    scheduler.record_score(-5.0)
    assert scheduler.is_improving()


def filled(scores: list[float], best: float) -> BackoffScheduler:
    scheduler = BackoffScheduler()
    for score in scores:
        scheduler.record_score(score)
    scheduler.record_improvement(best)
    return scheduler


def test_gain_below_two_sigma_of_noise_is_no_improvement() -> None:
    noisy = [0.0, 5.0] * 10
    small, large = filled(noisy, 5.0), filled(noisy, 5.0)
    small.record_score(10.0)
    large.record_score(40.0)
    assert not small.is_improving()
    assert large.is_improving()


def test_user_margin_is_a_floor_for_the_gain() -> None:
    scheduler = filled([0.0] * 4, 0.0)
    scheduler.record_score(1.0)
    assert scheduler.is_improving(margin=0.9)
    assert not scheduler.is_improving(margin=1.1)


@pytest.mark.parametrize("slope", [1e-6, 0.01, 1.0, 1e6])
@pytest.mark.parametrize("start", [-1000.0, 0.0, 1000.0])
def test_steady_ramp_always_improves(slope: float, start: float) -> None:
    stopped, evaluated = simulate(lambda window: start + slope * window, 300)
    assert stopped is None
    assert len(evaluated) >= 200


def test_falling_score_is_never_an_improvement() -> None:
    scheduler = filled([100.0], 100.0)
    for window in range(30):
        scheduler.record_score(99.0 - window)
        assert not scheduler.is_improving()


def test_nan_score_changes_nothing() -> None:
    scheduler = filled([1.0, 2.0, 3.0], 3.0)
    before = scheduler.state_dict()
    for score in (math.nan, math.inf, -math.inf):
        scheduler.record_score(score, 100)
        scheduler.record_improvement(score)
    assert scheduler.state_dict() == before
    assert not scheduler.has_degraded(math.nan)


# --- simulation ---------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0.0, 7.0, -1e6, 0.1])
def test_constant_score_stops_within_forty_windows(value: float) -> None:
    stopped, evaluated = simulate(lambda window: value, 1000)
    assert stopped == 32
    assert evaluated == [0, 1, 2, 4, 8, 16, 32]


def stops(process: Callable[[int, random.Random], float], windows: int, seeds: int = 100) -> list[int]:
    found = []
    for seed in range(seeds):
        rng = random.Random(seed)
        stopped, _ = simulate(lambda window, rng=rng: process(window, rng), windows)
        if stopped is not None:
            found.append(stopped)
    return found


@pytest.mark.parametrize("level", [0.0, 100.0])
def test_flat_noisy_score_stops_within_two_hundred_windows(level: float) -> None:
    assert len(stops(lambda window, rng: level + 10.0 * rng.gauss(0, 1), 201)) >= 90


@pytest.mark.parametrize("sigma", [0.5, 5.0])
def test_noisy_steady_ramp_never_stops(sigma: float) -> None:
    assert stops(lambda window, rng: window + sigma * rng.gauss(0, 1), 500) == []


def test_slow_ramp_of_one_sigma_per_thirty_windows_seldom_stops() -> None:
    assert len(stops(lambda window, rng: window + 30.0 * rng.gauss(0, 1), 400)) <= 4


def test_solved_task_stops_soon_though_the_way_to_it_was_noisy() -> None:
    def learned(window: int, rng: random.Random) -> float:
        return 500.0 if window > 20 else 25.0 * window + 40.0 * rng.gauss(0, 1)

    found = stops(learned, 400)
    assert len(found) == 100
    assert sorted(found)[50] <= 66


def test_fresh_fall_is_not_a_plateau() -> None:
    # Level at 100, then the evaluation that would end training finds 20.
    stopped, evaluated = simulate(lambda window: (100.0 if window < 30 else 20.0) + window % 3, 1000)
    assert stopped is not None
    assert len([window for window in evaluated if window >= 30]) >= 3


def test_recovery_from_a_fall_is_awaited() -> None:
    def score(window: int) -> float:
        return window % 3 + 100.0 - (max(0.0, 70.0 - (window - 30)) if window >= 30 else 0.0)

    stopped, _ = simulate(score, 1000)
    assert stopped is not None
    assert stopped >= 100


def test_plateau_ends_after_nine_times_the_threshold_whatever_the_noise() -> None:
    scheduler = BackoffScheduler(max_interval_episodes=1)
    rng = random.Random(0)
    scheduler.record_score(1e9, 0)
    scheduler.record_improvement(1e9)
    for window in range(1, 500):
        scheduler.record_score(rng.gauss(0, 1) * 1e8, window)
        scheduler.record_non_improvement()
        if scheduler.current_state is DORMANT:
            break
    assert window == 180


# --- model --------------------------------------------------------------------------------------

steps = st.lists(
    st.tuples(st.sampled_from(["better", "flat", "worse", "rollback", "restart"]), st.integers(1, 50)),
    max_size=60,
)


@settings(deadline=None)
@given(steps=steps, plateau=st.integers(1, 10), extra=st.integers(0, 30), factor=st.floats(1.0, 4.0))
def test_any_history_keeps_the_invariants(
    steps: list[tuple[str, int]], plateau: int, extra: int, factor: float
) -> None:
    scheduler = BackoffScheduler(
        plateau_threshold=plateau, dormant_threshold=plateau + extra, backoff_factor=factor
    )
    best, count, total = None, 0, 0
    for action, n in steps:
        before = scheduler.current_interval
        if action == "better":
            scheduler.record_improvement(float(n), n)
            best = n if best is None else max(best, n)
            count, total = 0, total + n
            assert (scheduler.current_state, scheduler.current_interval) == (ACTIVE, 1)
        elif action == "restart":
            scheduler.record_restart()
            count = 0
            assert (scheduler.current_state, scheduler.current_interval) == (ACTIVE, 1)
        else:
            if action == "flat":
                scheduler.record_non_improvement(n)
            else:
                scheduler.record_degradation(n, rolled_back=action == "rollback")
            count, total = count + n, total + n
            if count >= plateau + extra:
                assert scheduler.current_state is DORMANT
            elif action == "flat" and count >= plateau:
                assert scheduler.current_state is COOLING
            else:
                assert scheduler.current_state is ACTIVE
            grown = 1 if action == "rollback" else min(math.ceil(before * factor), 100)
            assert scheduler.current_interval == grown
        assert scheduler.best_score == best
        assert (scheduler.consecutive_non_improvements, scheduler.total_episodes) == (count, total)


@settings(deadline=None)
@given(scores=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=80), cut=st.integers(0, 80))
def test_restored_state_goes_on_identically(scores: list[float], cut: int) -> None:
    def feed(scheduler: BackoffScheduler, part: list[float]) -> None:
        for score in part:
            scheduler.record_score(score)
            if scheduler.is_improving():
                scheduler.record_improvement(score)
            elif scheduler.has_degraded(score):
                scheduler.record_degradation()
            else:
                scheduler.record_non_improvement()

    whole, first, rest = BackoffScheduler(), BackoffScheduler(), BackoffScheduler()
    feed(whole, scores)
    feed(first, scores[:cut])
    rest.load_state_dict(first.state_dict())
    feed(rest, scores[cut:])
    assert rest.state_dict() == whole.state_dict()


# --- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("base_interval", 0, ValueError),
        ("base_interval", 1.5, TypeError),
        ("base_interval", True, TypeError),
        ("backoff_factor", 0.5, ValueError),
        ("backoff_factor", math.nan, ValueError),
        ("backoff_factor", "2", TypeError),
        ("max_interval_episodes", 0, ValueError),
        ("plateau_threshold", -1, ValueError),
        ("dormant_threshold", 0, ValueError),
        ("degradation_threshold", 1.1, ValueError),
        ("min_degradation_drop", -1.0, ValueError),
        ("min_episodes_before_dormant", -1, ValueError),
        ("min_episodes_before_degradation", None, TypeError),
        ("noise_k", math.inf, ValueError),
        ("score_window", 0, ValueError),
        ("trend_window", "8", TypeError),
    ],
)
def test_wrong_argument_is_named(name: str, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=name):
        BackoffScheduler(**{name: value})


def test_scores_must_come_in_order() -> None:
    scheduler = BackoffScheduler()
    scheduler.record_score(1.0, 5)
    with pytest.raises(ValueError, match="episode_id"):
        scheduler.record_score(1.0, 5)
