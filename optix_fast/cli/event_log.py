"""TensorBoard's event file, beside the CSV."""

from __future__ import annotations

import math
import os
import socket
import struct
import time
from collections.abc import Mapping
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt


class TensorBoardLog:
    """Every finite number of a window as a scalar over environment steps.

    One event holds them all; it is in the file when `add` returns. (TensorBoard's own writer computes the
    checksum of an event byte by byte in Python, which takes longer than all else that a window's row needs.)

    Args:
        folder: where the event file goes; `tensorboard --logdir` shows it.
        begin: what earlier files in the folder hold from this step on is void.
    """

    def __init__(self, folder: Path, begin: int = 0) -> None:
        # Imported here: commands that write no events start sooner without it.
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # type: ignore[import-untyped]
        from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]

        self._event, self._summary = Event, Summary
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        self._file = (folder / name).open("wb")
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))
        start = SessionLog(status=SessionLog.START)
        self._write(Event(wall_time=time.time(), step=begin, session_log=start))

    def add(self, step: int, scalars: Mapping[str, Any]) -> None:
        """Write the numbers among `scalars`, by tag; what is no number, or NaN or infinite, is left out."""
        values = [
            self._summary.Value(tag=tag, simple_value=float(value))
            for tag, value in scalars.items()
            if isinstance(value, Real) and math.isfinite(value)
        ]
        self._write(self._event(wall_time=time.time(), step=step, summary=self._summary(value=values)))

    def close(self) -> None:
        """Write what is left."""
        self._file.close()

    def _write(self, event: Any) -> None:
        """A TFRecord: the length and its checksum, the content and its checksum."""
        content = event.SerializeToString()
        length = struct.pack("<Q", len(content))
        check = struct.pack("<I", masked_crc32c(length)), struct.pack("<I", masked_crc32c(content))
        self._file.write(length + check[0] + content + check[1])
        self._file.flush()


def masked_crc32c(content: bytes) -> int:
    """The checksum of TFRecords: CRC-32C, rotated, plus a constant. `content` is at least four bytes long.

    A CRC is linear over XOR: what each byte contributes depends on its value and on how many bytes follow,
    so a table of that, an XOR, and the start value in the first four bytes make it.
    """
    crc = np.frombuffer(content, np.uint8).copy()
    crc[:4] ^= 0xFF
    after = np.arange(len(crc) - 1, -1, -1)
    value = int(np.bitwise_xor.reduce(_contributions(len(crc))[after, crc])) ^ 0xFFFFFFFF
    return ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF


_table: npt.NDArray[np.uint32] = np.zeros((0, 256), np.uint32)


def _contributions(length: int) -> npt.NDArray[np.uint32]:
    """[n, 256]: the CRC-32C of byte b with k bytes of zero after it, for k below at least `length`."""
    global _table
    if len(_table) < length:
        table = np.empty((max(256, 2 * length), 256), np.uint32)
        first = np.arange(256, dtype=np.uint32)
        for _ in range(8):
            first = np.where(first & 1, first >> 1 ^ np.uint32(0x82F63B78), first >> 1)
        table[0] = first
        for k in range(1, len(table)):
            table[k] = first[table[k - 1] & 0xFF] ^ table[k - 1] >> 8
        _table = table
    return _table
