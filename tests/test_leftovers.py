"""What killed processes left is recognised by its name; what live ones work on is not touched."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from optix_fast import leftovers
from optix_fast.serialization import save_state

MINE = leftovers.owner_mark()


@pytest.fixture
def ended() -> str:
    """The mark of a process of this machine that has ended."""
    process = subprocess.Popen([sys.executable, "-S", "-c", ""])
    process.wait()
    return MINE.replace(f"-{os.getpid()}", f"-{process.pid}")


def test_only_what_an_ended_process_of_this_machine_made_is_left_over(ended: str) -> None:
    assert leftovers.is_leftover(f".state{ended}-1a2b.tmp")
    assert not leftovers.is_leftover(f".state{MINE}-1a2b.tmp")
    assert not leftovers.is_leftover(f".state@{'0' * 8}{ended[9:]}-1a2b.tmp")  # of another machine
    assert not leftovers.is_leftover(".state.tmp")
    assert not leftovers.is_leftover(f".state{ended}0000000000-1a2b.tmp")  # no number of a process


def test_another_users_process_is_alive(ended: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(pid: int, number: int) -> None:
        raise PermissionError

    monkeypatch.setattr("os.kill", forbidden)
    assert not leftovers.is_leftover(f".state{ended}-1a2b.tmp")


def test_temporary_folders_of_ended_processes_are_deleted(
    tmp_path: Path, ended: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory, disk = tmp_path / "memory", tmp_path / "disk"
    monkeypatch.setattr(leftovers, "MEMORY", memory)
    monkeypatch.setattr(tempfile, "tempdir", str(disk))
    for folder in (memory, disk):
        (folder / f"optix_fast-{ended}-x" / "weights").mkdir(parents=True)
        (folder / f"optix_fast-{ended}-x" / "weights" / "policy").touch()
        (folder / f"other-{ended}-x").mkdir()
    with leftovers.temporary_folder(10) as in_memory, leftovers.temporary_folder(None) as on_disk:
        leftovers.delete_temporary_folders()
        assert set(memory.iterdir()) == {Path(in_memory), memory / f"other-{ended}-x"}
        assert set(disk.iterdir()) == {Path(on_disk), disk / f"other-{ended}-x"}


def test_a_file_that_is_being_written_names_its_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def replace(source: Path, target: Path) -> None:
        leftovers.delete_temporary_files(tmp_path)
        seen.append(Path(source).exists() and MINE in Path(source).name)
        raise OSError("full")

    monkeypatch.setattr("os.replace", replace)
    with pytest.raises(OSError, match="full"):
        save_state(tmp_path / "state", {})
    assert seen == [True]


def test_a_folder_that_is_not_there_has_no_leftovers(tmp_path: Path) -> None:
    leftovers.delete_temporary_files(tmp_path / "absent")
