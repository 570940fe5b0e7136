"""What trials may choose from."""

from __future__ import annotations

import math
from typing import Any

import optuna
import pytest
from tuning import QuadraticAgent

from optix_fast.trials.param_space import SearchedParams
from optix_fast.types import HyperparamSet


def choices(spec: tuple[Any, ...], n: int = 200) -> list[Any]:
    """What random trials choose."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    space = SearchedParams({"p": spec})
    return [space.suggest(study.ask())["p"] for _ in range(n)]


def test_floats_are_uniform() -> None:
    found = choices(("float", 2, 4))
    assert all(type(value) is float and 2.0 <= value <= 4.0 for value in found)
    assert sum(found) / len(found) == pytest.approx(3.0, abs=0.15)


def test_logarithms_of_log_floats_are_uniform() -> None:
    logs = [math.log10(value) for value in choices(("log_float", 1e-6, 1e-2))]
    assert -6.0 <= min(logs) < -5.8 and -2.2 < max(logs) <= -2.0
    assert sum(logs) / len(logs) == pytest.approx(-4.0, abs=0.3)


def test_integers_include_both_bounds() -> None:
    found = choices(("int", 2, 4))
    assert set(found) == {2, 3, 4} and all(type(value) is int for value in found)


def test_log_integers_are_mostly_small() -> None:
    found = choices(("log_int", 1, 1024))
    assert all(type(value) is int and 1 <= value <= 1024 for value in found)
    # Half of ten octaves lie below 32; on a linear scale it would be 3 %.
    assert sum(value < 32 for value in found) / len(found) == pytest.approx(0.5, abs=0.1)


def test_categories_are_what_is_listed() -> None:
    listed = [None, True, 3, 0.5, "adam"]
    assert sorted(map(str, set(choices(("categorical", *listed))))) == sorted(map(str, listed))


def test_an_agents_own_bounds_are_searched_in_its_own_scales() -> None:
    class Agent(QuadraticAgent):
        default_param_bounds = {"lr": (1e-4, 1e-2), "x": (0.0, 1.0), "n": (1.0, 8.0)}  # noqa: RUF012
        default_log_params = ["lr"]  # noqa: RUF012

        def get_hyperparams(self) -> HyperparamSet:
            return HyperparamSet({"lr": 1e-3, "x": 0.5, "n": 2})

    expected = {"lr": ("log_float", 1e-4, 1e-2), "x": ("float", 0.0, 1.0), "n": ("int", 1, 8)}
    assert SearchedParams.of_agent(Agent(0.5)).specs == expected


def test_an_agent_without_bounds_is_named() -> None:
    class Bare(QuadraticAgent):
        default_param_bounds = {}  # noqa: RUF012

    with pytest.raises(ValueError, match="Bare declares no default_param_bounds"):
        SearchedParams.of_agent(Bare(0.5))


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({}, "param_space is empty"),
        ([("x", 1, 2)], "param_space must be a mapping"),
        ({"p": ("uniform", 0, 1)}, "'p'.*'log_int' or|'p'.*must begin with one of"),
        ({"p": ("float", 1.0)}, "'p'.*two numbers"),
        ({"p": ("float", 2.0, 1.0)}, "'p'.*in order, got 2.0 and 1.0"),
        ({"p": ("float", 1.0, 1.0)}, "'p'.*in order"),
        ({"p": ("float", 0.0, float("nan"))}, "'p'.*finite"),
        ({"p": ("float", "a", "b")}, "'p'.*two numbers"),
        ({"p": ("int", 1.5, 3)}, "'p'.*whole numbers"),
        ({"p": ("int", True, 3)}, "'p'.*whole numbers"),
        ({"p": ("log_float", 0.0, 1.0)}, "'p'.*positive"),
        ({"p": ("categorical",)}, "'p'.*no choices"),
        ({"p": ("categorical", 1, True)}, "'p'.*equal choices"),
        ({"p": ("categorical", [64, 64])}, "'p'.*choice"),
        ({"p": "float"}, "'p'.*tuple"),
        ({"p": ()}, "'p'.*tuple"),
        ({3: ("float", 0.0, 1.0)}, "names.*3"),
    ],
)
def test_what_makes_no_sense_is_named(space: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        SearchedParams(space)
