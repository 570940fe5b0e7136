"""The event file for TensorBoard."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c as tensorboards_crc

from optix_fast.cli.event_log import TensorBoardLog, masked_crc32c


def test_finite_numbers_are_written_and_nothing_else(tmp_path: Path) -> None:
    log = TensorBoardLog(tmp_path)
    log.add(100, {"score": 1.5, "episodes": 3, "state": "ACTIVE", "entropy": math.nan})
    log.add(200, {"score": 2.5, "episodes": 4, "state": "ACTIVE", "entropy": 0.25})
    log.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    assert set(events.Tags()["scalars"]) == {"score", "episodes", "entropy"}
    assert [(scalar.step, scalar.value) for scalar in events.Scalars("score")] == [(100, 1.5), (200, 2.5)]
    assert [(scalar.step, scalar.value) for scalar in events.Scalars("episodes")] == [(100, 3.0), (200, 4.0)]
    assert [(scalar.step, scalar.value) for scalar in events.Scalars("entropy")] == [(200, 0.25)]


def test_resumed_run_takes_back_what_it_will_write_again(tmp_path: Path) -> None:
    killed = TensorBoardLog(tmp_path)
    for step in (100, 200, 300):
        killed.add(step, {"score": float(step)})
    killed.close()
    resumed = TensorBoardLog(tmp_path, begin=201)
    resumed.add(300, {"score": 7.0})
    resumed.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [(scalar.step, scalar.value) for scalar in events.Scalars("score")] == [
        (100, 100.0),
        (200, 200.0),
        (300, 7.0),
    ]


@pytest.mark.parametrize("length", [4, 8, 255, 256, 257, 3000])
def test_checksum_is_that_of_tensorboard(length: int) -> None:
    content = bytes((7 * i + i // 251) % 256 for i in range(length))
    assert masked_crc32c(content) == tensorboards_crc(content)


def test_event_is_in_the_file_when_add_returns(tmp_path: Path) -> None:
    log = TensorBoardLog(tmp_path)
    log.add(100, {"score": 1.5})
    assert [s.value for s in EventAccumulator(str(tmp_path)).Reload().Scalars("score")] == [1.5]
    log.close()
