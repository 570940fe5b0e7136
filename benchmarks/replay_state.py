"""What the replay costs when the state of a run is written and read: seconds, and memory beside the replay.

    python benchmarks/replay_state.py [--rows 1000000] [--new 30000] [--directory WHERE]

A prioritized replay of transitions of 17 numbers and 6 actions (HalfCheetah's), full: the first write, of all
of it; a write after `--new` more rows, which is what a run pays; reading it in another process; and the write
after that. Peak is the most memory that the process held, above what it held before.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from optix_fast.buffers import PrioritizedReplayBuffer, ReplaySegments, with_rows
from optix_fast.serialization import load_state, save_state

OBSERVATION, ACTION, AT_ONCE = 17, 6, 10_000
STATE = "state.safetensors"


def held() -> float:
    """Megabytes of memory that this process holds."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("/proc/self/status tells no VmRSS")


@contextmanager
def measured(what: str) -> Iterator[None]:
    """Print the seconds that the block takes, and how much memory it takes at most."""
    before, peak, is_over = held(), [0.0], threading.Event()

    def watch() -> None:
        while not is_over.wait(0.002):
            peak[0] = max(peak[0], held())

    watcher = threading.Thread(target=watch)
    watcher.start()
    began = time.perf_counter()
    try:
        yield
    finally:
        seconds = time.perf_counter() - began
        is_over.set()
        watcher.join()
    growth = max(peak[0], held()) - before
    print(f"{what:40s} {seconds:7.2f} s   peak {growth:+7.0f} MB, of {before:.0f} MB before", flush=True)


def push(buffer: PrioritizedReplayBuffer, rows: int) -> None:
    """Some rows, of environments that go on."""
    rng = np.random.default_rng(0)
    for first in range(0, rows, AT_ONCE):
        n = min(AT_ONCE, rows - first)
        seen = rng.normal(size=(2, n, OBSERVATION)).astype(np.float32)
        actions = rng.normal(size=(n, ACTION)).astype(np.float32)
        buffer.push_rows(seen[0], actions, np.zeros(n), seen[1], np.zeros(n, bool))
    _ = buffer.tree  # whose new rows are entered now


def writer(buffer: PrioritizedReplayBuffer, segments: ReplaySegments) -> Callable[[], None]:
    """Write as a run does."""

    def write() -> None:
        segments.forget()
        save_state(segments.directory.parent / STATE, buffer.state_dict(segments))
        segments.clean()

    return write


def write_twice(directory: Path, rows: int, new: int) -> None:
    """The first write and a later one."""
    buffer = PrioritizedReplayBuffer(rows, alpha=0.6, seed=0)
    push(buffer, rows)
    write = writer(buffer, ReplaySegments(directory / "rows"))
    with measured(f"write, all {rows} rows"):
        write()
    push(buffer, new)
    with measured(f"write, {new} new rows"):
        write()
    size = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
    print(f"on disk {size / 1e6:.0f} MB", flush=True)


def read_and_write(directory: Path, rows: int, new: int) -> None:
    """What a resumed run does."""
    buffer, segments = PrioritizedReplayBuffer(rows, alpha=0.6, seed=0), ReplaySegments(directory / "rows")
    with measured("read (the replay itself counts)"):
        buffer.load_state_dict(with_rows(load_state(directory / STATE), segments))
    push(buffer, new)
    with measured(f"write after that, {new} new rows"):
        writer(buffer, segments)()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=10**6)
    parser.add_argument("--new", type=int, default=30_000)
    parser.add_argument(
        "--directory", type=Path, help="on the disk to be measured; default the one for temporary files"
    )
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.read is not None:
        read_and_write(arguments.read, arguments.rows, arguments.new)
        return
    with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
        write_twice(Path(directory), arguments.rows, arguments.new)
        sizes = ["--rows", str(arguments.rows), "--new", str(arguments.new)]
        subprocess.run([sys.executable, __file__, "--read", directory, *sizes], check=True)


if __name__ == "__main__":
    main()
