"""The tables of hyperparameters and settings."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from optix_fast.agents.factory import ALGORITHMS
from optix_fast.cli.params import report, rows
from optix_fast.config import TrainConfig

PAGE = Path(__file__).parents[2] / "docs" / "hyperparameters.md"


def test_the_page_in_docs_is_what_the_command_prints() -> None:
    assert PAGE.read_text(encoding="utf-8") == report(None, markdown=True) + "\n", (
        "run: optix-fast params --markdown > docs/hyperparameters.md"
    )


@pytest.mark.parametrize(
    "config", [*(each.config for each in ALGORITHMS.values()), TrainConfig], ids=lambda c: c.__name__
)
def test_every_field_has_a_meaning_a_default_and_a_range(config: type[Any]) -> None:
    assert [row.name for row in rows(config) if not (row.meaning and row.default and row.range)] == []
    assert [row.name for row in rows(config)] == [f.name for f in fields(config)]


def test_a_row_says_what_docstring_field_and_checks_say() -> None:
    by_name = {row.name: row for row in rows(ALGORITHMS["dqn"].config)}
    assert by_name["gamma"][1:] == ("discount", "0.99", "0 to 1")
    assert by_name["per_eps"].default == "1e-06"
    assert by_name["loss"].range == "huber or mse"
    assert by_name["double_q"].range == "true or false"
    assert by_name["epsilon_decay_steps"].range == "whole number ≥ 1, or none"
    settings = {row.name: row for row in rows(TrainConfig)}
    assert settings["vectorization"].range == "sync or async or vector_entry_point"
    assert settings["hidden_sizes"][2:] == ("[64, 64]", "list of whole numbers")


def test_a_narrow_terminal_gets_narrow_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    assert max(map(len, report(None).splitlines())) <= 60


def test_one_algorithm_alone() -> None:
    assert "clip_ratio" in report("ppo")
    assert "epsilon_decay" not in report("ppo")
    with pytest.raises(ValueError, match="algo must be one of ppo, dqn, sac, td3, tqc, crossq; got 'a2c'"):
        report("a2c")
