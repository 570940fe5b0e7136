"""The hyperparameters of an agent: what its user said, read as its config."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any, TypeVar

from optix_fast.fields import Count, kind_of
from optix_fast.names import unknown_name
from optix_fast.types import HyperparamSet

Config = TypeVar("Config")


class Hyperparams:
    """The set that an agent was given last. What it does not hold has the config's default.

    Args:
        config_type: the algorithm's config dataclass.
        given: by the constructor's caller. Unknown keys are warned about once, here and in `replace`.

    Raises:
        TypeError, ValueError: not a HyperparamSet, or a value out of its range.
    """

    def __init__(self, config_type: type[Any], given: HyperparamSet) -> None:
        self._config_type = config_type
        self._warned: set[str] = set()
        self.read(given)
        check_whole_counts(given.params, config_type)
        self._set = given.copy()
        self._config: Any = None  # read when it is asked for, once: learn() may be called at every step
        self._warn_of_unknown(given)

    @property
    def params(self) -> dict[str, Any]:
        """What was said, defaults left out."""
        return self._set.params

    def config(self) -> Any:
        """All of them, as the config dataclass."""
        if self._config is None:
            self._config = read_config(self._config_type, self._set.params)
        return self._config

    def all(self) -> HyperparamSet:
        """All of them, defaults included; a copy."""
        complete = self._set.copy()
        complete.params = {**asdict(self.config()), **complete.params}
        return complete

    def read(self, given: HyperparamSet) -> Any:
        """Another set as the config dataclass; nothing changes.

        Raises:
            TypeError, ValueError: as the constructor.
        """
        if not isinstance(given, HyperparamSet):
            raise TypeError(f"hyperparams must be a HyperparamSet, got {type(given).__name__}")
        return read_config(self._config_type, given.params)

    def replace(self, given: HyperparamSet) -> None:
        """Take another set. What merely repeats a default stays unsaid: a set that was read and written back
        is the same."""
        self._warn_of_unknown(given)
        plain, said = asdict(self._config_type()), self._set.params
        self._set, self._config = given.copy(), None
        for key, value in given.params.items():
            if key in plain and key not in said and value == plain[key]:
                del self._set.params[key]

    def restore(self, params: Mapping[str, Any]) -> None:
        """Put back what `params` gave."""
        self._set, self._config = HyperparamSet(dict(params), self._set.episode_id), None

    def _warn_of_unknown(self, given: HyperparamSet) -> None:
        for key, message in unknown_keys(given.params, self._config_type).items():
            if key not in self._warned:
                self._warned.add(key)
                _warn_caller(message)


def read_config(config: type[Config], params: Mapping[str, Any]) -> Config:
    """The config dataclass from a params dict; missing keys take their defaults, unknown ones are
    left out. The dataclass checks its own values."""
    known = {f.name for f in fields(config)}  # type: ignore[arg-type]
    return config(**{key: value for key, value in params.items() if key in known})


def unknown_keys(params: Mapping[str, Any], config: type[Any]) -> dict[str, str]:
    """The keys that `config` does not have, each with one sentence about it."""
    known = [f.name for f in fields(config)]
    return {key: unknown_name("hyperparameter", key, known) for key in params if key not in known}


def check_whole_counts(params: Mapping[str, Any], config: type[Any]) -> None:
    """Raise ValueError where a user gives a count that is not a whole number.

    Tuners work in floats and may hand over 63.7 rows, which the config rounds; from a user it is a mistake.
    """
    for each in fields(config):
        value = params.get(each.name)
        is_fraction = isinstance(value, float) and math.isfinite(value) and not value.is_integer()
        if isinstance(kind_of(each), Count) and is_fraction:
            raise ValueError(f"{each.name} must be a whole number, got {value!r}")


def _warn_caller(message: str) -> None:
    """A UserWarning at the line outside of this package that led here."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("optix_fast."):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, UserWarning, stacklevel=level)
