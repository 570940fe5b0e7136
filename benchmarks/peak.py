"""The processor's peak of fused multiply-adds, and how far updates of the core are from it.

    python benchmarks/peak.py          peaks by instruction set, one thread and two; updates against the bound
    python benchmarks/peak.py peaks    the peaks alone

A peak is what a loop of independent multiply-adds in registers reaches, compiled here by `cc` with the flags
of the core's own kernels. The bound of an update is the arithmetic of its matrix products at the peak of one
thread with the instruction set in use, for two threads, too. Peak and updates take turns, and a ratio is that
of one turn: clocks change. Nothing else should run; the second thread needs a core of its own.
"""

from __future__ import annotations

import ctypes
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import threading
import time

import bench_ppo_update
import bench_sac_update
import torch

import optix_fast

# Bytes of a vector, and flags of the compiler (CMakeLists.txt). The portable set has no fused multiply-add.
SETS = {
    "portable": (16, []),
    "avx2": (32, ["-march=x86-64-v3"]),
    "avx512": (64, ["-march=x86-64-v4", "-mprefer-vector-width=512"]),
}
SOURCE = """
typedef float V __attribute__((vector_size(BYTES)));
/* Enough sums to hide the latency of two units, few enough for 16 registers. */
float multiply_adds(long rounds) {
  V sum[SUMS];
  const V factor = (V){} + 0.999f, addend = (V){} + 0.001f;
#pragma GCC unroll 16
  for (int j = 0; j < SUMS; ++j) sum[j] = (V){} + (float)j;
  for (long i = 0; i < rounds; ++i) {
#pragma GCC unroll 16
    for (int j = 0; j < SUMS; ++j) sum[j] = sum[j] * factor + addend;
  }
  float all = 0;
#pragma GCC unroll 16
  for (int j = 0; j < SUMS; ++j) all += sum[j][0];
  return all;
}
"""
SUMS, ROUNDS = 12, 400_000


class Peak:
    """The loop of one instruction set."""

    def __init__(self, name: str) -> None:
        n_bytes, flags = SETS[name]
        with tempfile.TemporaryDirectory() as folder:
            source, library = pathlib.Path(folder, "peak.c"), pathlib.Path(folder, "peak.so")
            source.write_text(SOURCE)
            subprocess.run(
                [
                    "cc", "-O3", "-ffp-contract=fast", "-shared", "-fPIC", f"-DBYTES={n_bytes}",
                    f"-DSUMS={SUMS}", *flags, str(source), "-o", str(library),
                ],
                check=True,
            )  # fmt: skip
            self._run = ctypes.CDLL(str(library)).multiply_adds
        self._run.argtypes, self._run.restype = [ctypes.c_long], ctypes.c_float
        self._operations = 2 * SUMS * ROUNDS * n_bytes // 4

    def speed(self, threads: int = 1) -> float:
        """FLOP/s of all threads together, in one run of some milliseconds."""
        others = [threading.Thread(target=self._run, args=(ROUNDS,)) for _ in range(threads - 1)]
        start = time.perf_counter()
        for thread in others:
            thread.start()
        self._run(ROUNDS)
        for thread in others:
            thread.join()
        return threads * self._operations / (time.perf_counter() - start)


def print_peaks() -> None:
    """GFLOP/s of every instruction set of this processor, one thread and two, and of the core's kernel."""
    info = optix_fast.build_info()
    for name in info["simd_compiled"][: info["simd_compiled"].index(info["simd"]) + 1]:
        peak = Peak(name)
        one, two = (max(peak.speed(threads) for _ in range(40)) / 1e9 for threads in (1, 2))
        print(f"{name:9} one thread {one:6.1f} GFLOP/s, two {two:6.1f} ({two / one:.2f} times that)")
    kernel = bench_ppo_update.kernel_speed() / 1e9
    print(f"the core's kernel on 512³: {kernel:.1f} GFLOP/s, {kernel / one:.2f} of the last peak")


# Name: benchmark and shape.
CASES = {
    "PPO 4-64-64-2, minibatch 64": (bench_ppo_update, (4, 64, 2, 64)),
    "PPO 17-256-256-6, minibatch 256": (bench_ppo_update, (17, 256, 6, 256)),
    "SAC 3-64-64-1, batch 100": (bench_sac_update, (3, 64, 1, 100)),
    "SAC 17-256-256-6, batch 256": (bench_sac_update, (17, 256, 6, 256)),
}


def updates_of(bench, shape) -> int:
    """How many updates one call of the benchmark makes."""
    if bench is bench_sac_update:
        return bench.UPDATES
    return bench.EPOCHS * -(-bench.ROWS // shape[-1])


def print_updates(rounds: int = 15) -> None:
    """Time of an update over its bound, with one thread and with two."""
    peak = Peak(optix_fast.build_info()["simd"])
    for name, (bench, shape) in CASES.items():
        call, operations = bench.native(*shape), bench.floating_point_operations(*shape)
        call()
        ratios, times = {1: [], 2: []}, {1: [], 2: []}
        for _ in range(rounds):
            for threads in (1, 2):
                os.environ["OPTIX_FAST_NUM_THREADS"] = str(threads)
                speed = max(peak.speed() for _ in range(3))
                times[threads].append(bench_ppo_update.seconds(call) / updates_of(bench, shape))
                ratios[threads].append(times[threads][-1] / (operations / speed))
        parts = [
            f"{threads} thread{'s' * (threads > 1)}: {statistics.median(times[threads]) * 1e6:7.1f} us, "
            f"{statistics.median(ratios[threads]):.2f} times the bound (least {min(ratios[threads]):.2f})"
            for threads in (1, 2)
        ]
        print(f"{name:32} {'; '.join(parts)}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    print_peaks()
    if sys.argv[1:] != ["peaks"]:
        print_updates()
