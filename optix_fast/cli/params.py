"""The tables of hyperparameters and settings: `optix-fast params` and docs/hyperparameters.md.

Meanings come from the docstrings of the config dataclasses, defaults and ranges from their fields.
"""

from __future__ import annotations

import inspect
import re
import shutil
import textwrap
import types
import typing
from collections.abc import Iterable, Iterator
from dataclasses import MISSING, Field, fields
from typing import Any, NamedTuple

from optix_fast.agents.factory import ALGORITHMS
from optix_fast.config import TrainConfig
from optix_fast.fields import kind_of

_PAGE = """\
# Hyperparameters and settings

    optix-fast params ppo                                  # the same tables on a terminal
    optix-fast train CartPole-v1 -p learning_rate=1e-3 -p n_envs=4
    optix-fast train CartPole-v1 --config mine.yaml        # n_envs: 4, hyperparams: {learning_rate: 1e-3}
    make_agent("ppo", env, hyperparams={"learning_rate": 1e-3})

A default holds where neither the environment's preset nor you say otherwise; a run's `config.yaml` lists
every value that was in force. Numbers are read as YAML 1.2 does: `1e-3` and `1e6` are numbers.
"""
_WRITTEN_BY = "<!-- Written by: optix-fast params --markdown > docs/hyperparameters.md -->\n"


class Row(NamedTuple):
    """One hyperparameter or setting."""

    name: str
    meaning: str
    default: str
    range: str


def report(algo: str | None, markdown: bool = False) -> str:
    """The tables: of one algorithm, or of all of them and of the settings of a run.

    Raises:
        ValueError: an unknown algorithm.
    """
    if algo is not None and algo not in ALGORITHMS:
        raise ValueError(f"algo must be one of {', '.join(ALGORITHMS)}; got {algo!r}")
    tables = {name: rows(ALGORITHMS[name].config) for name in ([algo] if algo else ALGORITHMS)}
    if algo is None:
        tables["settings of a run"] = rows(TrainConfig)
    if markdown:
        head = "" if algo else f"{_PAGE}\n{_WRITTEN_BY}\n"
        return head + "\n\n".join(_in_markdown(title, table) for title, table in tables.items())
    return "\n\n".join(_in_text(title, table) for title, table in tables.items())


def rows(config: type[Any]) -> list[Row]:
    """A row for each field of a config dataclass, in order."""
    meanings, hints = _meanings(config), typing.get_type_hints(config)
    return [
        Row(f.name, meanings.get(f.name, ""), _default(f), _range(f, hints[f.name])) for f in fields(config)
    ]


def _meanings(config: type[Any]) -> dict[str, str]:
    """What the Args of a docstring say of each name; those of the bases first."""
    meanings: dict[str, str] = {}
    for each in reversed(config.__mro__):
        _, _, text = inspect.cleandoc(each.__dict__.get("__doc__") or "").partition("\nArgs:\n")
        entries = re.findall(r"^    (\w+): (.*(?:\n {8,}.*)*)", text.split("\n\n", 1)[0], re.MULTILINE)
        meanings |= {name: " ".join(meaning.split()).rstrip(".") for name, meaning in entries}
    return meanings


def _default(f: Field[Any]) -> str:
    if f.default is not MISSING:
        return _as_yaml(f.default)
    return "(none)" if f.default_factory is MISSING else _as_yaml(f.default_factory())


def _as_yaml(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    return str(list(value)) if isinstance(value, tuple) else str(value)


def _range(config_field: Field[Any], hint: Any) -> str:
    """What a value can be."""
    optional = type(None) in typing.get_args(hint)
    kind = kind_of(config_field)
    text = _kind(hint) if kind is None else str(kind)
    return f"{text}, or none" if optional else text


def _kind(hint: Any) -> str:
    """A type in words."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return " or ".join(arguments)
    if origin in (types.UnionType, typing.Union):
        return _kind(next(kind for kind in arguments if kind is not type(None)))
    words = {int: "whole number", float: "number", bool: "true or false", str: "text"}
    words |= {tuple: "list of whole numbers", dict: "mapping"}
    return words[origin or hint]


def _in_markdown(title: str, table: Iterable[Row]) -> str:
    lines = [f"## {title}", "", "| name | meaning | default | range |", "|---|---|---|---|"]
    lines += [f"| `{row.name}` | {row.meaning} | {row.default} | {row.range} |" for row in table]
    return "\n".join(lines)


def _in_text(title: str, table: list[Row]) -> str:
    """Columns of name, default and range, the meaning below; as wide as the terminal."""
    width = max(40, min(shutil.get_terminal_size().columns, 110))
    name_width = max(len(row.name) for row in table)

    def lines() -> Iterator[str]:
        yield title
        for row in table:
            first = f"  {row.name:<{name_width}}  {row.default}   ({row.range})"
            yield from textwrap.wrap(first, width, subsequent_indent=" " * (name_width + 4))
            yield from textwrap.wrap(row.meaning, width, initial_indent=" " * 6, subsequent_indent=" " * 6)

    return "\n".join(lines())
