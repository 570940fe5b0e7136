"""Checks of what the user hands to the loop; every message names the argument."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from numbers import Integral
from typing import Any

import numpy as np

from optix_fast.fields import require_number
from optix_fast.types import EpisodeData, EvalMetrics, tree_leaves

AGENT = ("act", "learn", "get_hyperparams", "set_hyperparams", "save_weights", "load_weights")
PIPELINE = ("setup", "episodes", "teardown")
EVALUATOR = ("score", "score_validation", "combine")
OPTIMIZER = ("suggest", "on_improvement", "on_plateau")


def has_methods(name: str, value: Any, methods: tuple[str, ...]) -> Any:
    """`value`, an object that has all the methods.

    Raises:
        TypeError: it is a class, or lacks some.
    """
    if isinstance(value, type):
        raise TypeError(f"{name} must be an instance, got the class {value.__name__}")
    missing = [method for method in methods if not callable(getattr(value, method, None))]
    if missing:
        raise TypeError(f"{name} must implement {', '.join(missing)}; {type(value).__name__} does not")
    return value


def flag(name: str, value: Any) -> bool:
    """`value` as a bool.

    Raises:
        TypeError: it is no truth value; text, for example.
    """
    if not isinstance(value, bool | int | np.bool_):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def function(name: str, value: Any) -> Any:
    """`value`, None or something callable.

    Raises:
        TypeError: it cannot be called.
    """
    if value is not None and not callable(value):
        raise TypeError(f"{name} must be a function, got {value!r}")
    return value


def directory(name: str, value: Any) -> str:
    """`value` as an absolute path.

    Raises:
        TypeError: it is no path.
    """
    if not isinstance(value, str | os.PathLike):
        raise TypeError(f"{name} must be a path, got {value!r}")
    return os.path.abspath(value)


def whole(name: str, value: Any) -> int | None:
    """`value`, None or an integer of at least 1.

    Raises:
        TypeError: it is no integer.
        ValueError: it is below 1.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")
    return int(value)


def number(name: str, value: Any, least: float = -math.inf) -> float:
    """`value` as a finite float of at least `least`.

    Raises:
        TypeError: it is no number.
        ValueError: it is not finite or too small.
    """
    require_number(name, value)
    if not math.isfinite(value) or value < least:
        raise ValueError(f"{name} must be finite and at least {least:g}, got {value}")
    return float(value)


def apart(name: str, pipeline: Any, other_name: str, other: Any) -> None:
    """Two pipelines of which one does not disturb the other.

    Raises:
        ValueError: they are one, or step one environment; both are named.
    """
    if pipeline is other:
        raise ValueError(f"{name} must be another object than {other_name}")
    environments = [getattr(getattr(part, "stepper", None), "env", None) for part in (pipeline, other)]
    if environments[0] is not None and environments[0] is environments[1]:
        raise ValueError(f"{name} must have an environment of its own, not the one of {other_name}")


# --- what the user's objects return -------------------------------------------------------------


def window(source: str, data: Any) -> EpisodeData:
    """`data`, a window whose columns have one row for each reward.

    Raises:
        TypeError: it is no EpisodeData, or a column is no sequence.
        ValueError: a column has another number of rows; it is named.
    """
    if not isinstance(data, EpisodeData):
        raise TypeError(f"{source} must yield EpisodeData, got {type(data).__name__}")
    n_rows = _rows(source, "rewards", data.rewards)
    columns = [("terminated", data.terminated), ("truncated", data.truncated)]
    for name, tree in (("observations", data.observations), ("actions", data.actions)):
        columns += [(name, leaf) for leaf in tree_leaves(tree) if leaf is not None]
    for name, column in columns:
        found = _rows(source, name, column)
        if found != n_rows:
            raise ValueError(
                f"{source} yielded a malformed window: {name} must have {n_rows} rows, one for each "
                f"reward, got {found}"
            )
    return data


def _rows(source: str, name: str, column: Any) -> int:
    try:
        return len(column)
    except TypeError as error:
        raise TypeError(
            f"{source} yielded a malformed window: {name} must be a sequence with one entry per row, "
            f"got {type(column).__name__}"
        ) from error


def metrics(source: str, value: Any) -> EvalMetrics:
    """`value`, EvalMetrics with a float for its score.

    Raises:
        TypeError: it is something else; what is wrong with it is named.
    """
    if not isinstance(value, EvalMetrics):
        raise TypeError(f"{source} must return EvalMetrics, got {type(value).__name__}")
    if not isinstance(value.metrics, dict):
        raise TypeError(f"{source} must return metrics in a dict, got {type(value.metrics).__name__}")
    value.primary_score = score(f"{source} must return a number as primary_score", value.primary_score)
    return value


def score(requirement: str, value: Any) -> float:
    """`value` (a number of Python, numpy or torch) as a float.

    Raises:
        TypeError: it is none.
    """
    try:
        if isinstance(value, str):
            raise TypeError("text is not a number")
        return float(value)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{requirement}, got {value!r}") from error


def diagnostics(value: Any) -> dict[str, Any]:
    """What learn() returned, as a dict of its own; None is an empty one.

    Raises:
        TypeError: it is no dict.
    """
    if value is not None and not isinstance(value, Mapping):
        raise TypeError(f"agent.learn must return a dict of diagnostics, got {type(value).__name__}")
    return dict(value or {})
