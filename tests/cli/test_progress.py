"""How a run shows where it is, on terminals and elsewhere."""

from __future__ import annotations

import io
import math
import sys

import pytest
from rich.console import Console

from optix_fast.cli import progress as module
from optix_fast.cli.progress import Progress


class Closed(io.StringIO):
    """A pipe whose reader has gone."""

    def write(self, text: str) -> int:
        raise BrokenPipeError


def test_a_line_fits_into_60_columns(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(1_000_000) as shown:
        shown.update(987_654, -1234.5, 54_321.0, "COOLDOWN")
    line = capsys.readouterr().err
    assert line == "987,654/1,000,000  return -1234.5  54,321 steps/s  COOLDOWN\n"
    assert len(line) <= 60


class Screen(io.StringIO):
    """A terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("width", [60, 80, 200])
def test_a_live_line_shows_the_numbers_whole(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    terminal = Console(file=screen, force_terminal=True, width=width, color_system=None)
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr("rich.console.Console", lambda **_: terminal)
    with Progress(1_000_000) as shown:
        shown.update(987_654, -1234.5, 54_321.0, "COOLDOWN")
        assert shown._live is not None
        shown._live.refresh()
    text = screen.getvalue()
    assert "987654/1000000" in text
    assert "return -1234.5  54,321 steps/s" in text
    assert "…" not in text
    assert ("COOLDOWN" in text) == (width == 200)


def test_a_note_is_written_unless_the_run_is_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    for show in (True, False):
        Progress(100, show).note("playing")
    assert capsys.readouterr().err == "playing\n"


def test_a_reader_that_goes_away_does_not_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Closed())
    monkeypatch.setattr(module, "_SECONDS_BETWEEN_LINES", 0.0)
    with Progress(100) as shown:
        shown.update(10, 1.0, 1.0, "ACTIVE")
        shown.update(20, 1.0, 1.0, "ACTIVE")


def test_a_dash_stands_for_the_score_until_an_episode_has_ended(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SECONDS_BETWEEN_LINES", 0.0)
    with Progress(100) as shown:
        for score in (math.nan, 2.0, math.nan):
            shown.update(10, score, 1.0, "ACTIVE")
    assert [line.split()[2] for line in capsys.readouterr().err.splitlines()] == ["-", "2.0", "2.0"]
