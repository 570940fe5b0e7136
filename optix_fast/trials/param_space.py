"""What trials may choose from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import optuna

ParamSpace = Mapping[str, tuple[Any, ...]]
"""{name: spec}, see `SearchedParams`."""

_NUMERIC = ("float", "log_float", "int", "log_int")


class SearchedParams:
    """The hyperparameters that trials search (seed 003, "Parameter space spec").

    ("float", lowest, highest)        uniform
    ("log_float", lowest, highest)    uniform in the logarithm
    ("int", lowest, highest)          uniform among whole numbers, both bounds included
    ("log_int", lowest, highest)      whole numbers, uniform in the logarithm
    ("categorical", a, b, …)          one of these: None, booleans, numbers or texts

    Args:
        param_space: {name: spec}.

    Raises:
        TypeError, ValueError: there is nothing to search, a kind is unknown, or bounds are missing, not
            numbers, not in order, or not positive where they must be; the parameter is named.
    """

    def __init__(self, param_space: ParamSpace) -> None:
        if not isinstance(param_space, Mapping):
            raise TypeError(f"param_space must be a mapping of names to specs, got {param_space!r}")
        if not param_space:
            raise ValueError("param_space is empty: there is nothing to search")
        self.specs = {name: _checked(name, spec) for name, spec in param_space.items()}

    @classmethod
    def of_agent(cls, agent: Any) -> SearchedParams:
        """What the agent declares: `default_param_bounds`, `default_log_params` on a logarithmic scale.

        Raises:
            ValueError: it declares nothing.
        """
        bounds = getattr(agent, "default_param_bounds", None)
        if not bounds:
            raise ValueError(
                f"{type(agent).__name__} declares no default_param_bounds: say what to search by param_space="
            )
        logarithmic = getattr(agent, "default_log_params", None) or ()
        current = agent.get_hyperparams().params
        return cls(
            {name: _spec(pair, name in logarithmic, current.get(name)) for name, pair in bounds.items()}
        )

    def allows(self, params: Mapping[str, Any]) -> bool:
        """Whether a choice is one that trials could make."""
        return params.keys() == self.specs.keys() and all(
            _allows(spec, params[name]) for name, spec in self.specs.items()
        )

    def suggest(self, trial: optuna.Trial) -> dict[str, Any]:
        """A trial's choice."""
        return {name: _suggest(trial, name, spec) for name, spec in self.specs.items()}


def _allows(spec: tuple[Any, ...], value: Any) -> bool:
    kind, *rest = spec
    if kind == "categorical":
        return value in rest
    number = int if kind.endswith("int") else Real
    is_number = isinstance(value, number) and not isinstance(value, bool)
    return is_number and bool(rest[0] <= value <= rest[1])


def _spec(pair: Sequence[float], is_logarithmic: bool, current: Any) -> tuple[Any, ...]:
    is_whole = isinstance(current, int) and not isinstance(current, bool)
    kind = ("log_" if is_logarithmic else "") + ("int" if is_whole else "float")
    return (kind, *(map(int, pair) if is_whole else pair))


def _suggest(trial: optuna.Trial, name: str, spec: tuple[Any, ...]) -> Any:
    kind, *rest = spec
    if kind == "categorical":
        return trial.suggest_categorical(name, rest)
    suggest = trial.suggest_int if kind.endswith("int") else trial.suggest_float
    return suggest(name, *rest, log=kind.startswith("log"))


def _checked(name: str, spec: Any) -> tuple[Any, ...]:
    if not isinstance(name, str):
        raise TypeError(f"names in param_space must be texts, got {name!r}")
    if not isinstance(spec, tuple | list) or not spec:
        raise TypeError(f'param_space[{name!r}] must be a tuple such as ("float", 0.1, 0.3), got {spec!r}')
    kind, *rest = spec
    if kind == "categorical":
        _check_choices(name, rest)
    elif kind in _NUMERIC:
        _check_bounds(name, kind, rest)
        if kind.endswith("float"):
            rest = [float(bound) for bound in rest]
    else:
        known = ", ".join(map(repr, (*_NUMERIC, "categorical")))
        raise ValueError(f"param_space[{name!r}] must begin with one of {known}, got {kind!r}")
    return (kind, *rest)


def _check_choices(name: str, choices: Sequence[Any]) -> None:
    if not choices:
        raise ValueError(f"param_space[{name!r}] has no choices")
    for choice in choices:
        if choice is not None and not isinstance(choice, bool | int | float | str):
            raise TypeError(
                f"param_space[{name!r}]: a choice must be None, a boolean, a number or a text, got {choice!r}"
            )
    if len(set(choices)) < len(choices):
        raise ValueError(f"param_space[{name!r}] lists equal choices: {list(choices)}")


def _check_bounds(name: str, kind: str, bounds: Sequence[Any]) -> None:
    wanted, words = (int, "whole numbers") if kind.endswith("int") else (Real, "numbers")
    if len(bounds) != 2 or not all(isinstance(b, wanted) and not isinstance(b, bool) for b in bounds):
        raise TypeError(f"param_space[{name!r}] needs two {words}, lowest and highest, got {list(bounds)}")
    low, high = bounds
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"param_space[{name!r}] needs finite bounds in order, got {low} and {high}")
    if kind.startswith("log") and low <= 0:
        raise ValueError(f"param_space[{name!r}] needs positive bounds for a logarithmic scale, got {low}")
