"""The kernels beside their peers and their bounds, as docs/performance.md shows them.

    python benchmarks/kernels.py            # measure on this machine, write results/kernels.json
    python benchmarks/kernels.py --table    # write the table of docs/performance.md from that file

All implementations of a case run in every round, so that a busy machine slows them alike; what counts is
the median and, between machines and days, the ratio. One thread. A peer that is not installed is left out.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import pathlib
import platform
import resource
import statistics
import time
import warnings

import bench_gae
import bench_ppo_loss
import bench_sum_tree
import bench_tanh_normal
import pytest
import torch

import optix_fast

ROOT = pathlib.Path(__file__).parent.parent
RESULTS = pathlib.Path(__file__).parent / "results" / "kernels.json"
PAGE = ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"
PEERS = ("torch", "numpy", "numba", "stable-baselines3", "tianshou", "torchrl", "rlox", "cpprb")


def in_turn(calls, seconds):
    """Median microseconds of each call; every round runs each of them for about the same time."""
    repeats = {}
    for name, call in calls.items():
        call()
        start = time.perf_counter()
        call()
        once = time.perf_counter() - start
        repeats[name] = max(1, min(500, int(0.004 / max(once, 1e-7))))
    times = {name: [] for name in calls}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(next(iter(times.values()))) < 7:
        for name, call in calls.items():
            start = time.perf_counter()
            for _ in range(repeats[name]):
                call()
            times[name].append((time.perf_counter() - start) / repeats[name] * 1e6)
    return {name: round(statistics.median(t), 2) for name, t in times.items()}


def ready(implementations):
    calls, left_out = {}, {}
    for name, make in implementations.items():
        try:
            calls[name] = make()
            calls[name]()
        except pytest.skip.Exception as reason:
            left_out[name] = str(reason).splitlines()[0]
    return calls, left_out


def copy_of(n_bytes):
    """Reads half of the bytes and writes half, in memory that is already there."""
    source, target = torch.zeros(n_bytes // 8 + 1), torch.zeros(n_bytes // 8 + 1)
    return lambda: target.copy_(source)


def empty_call():
    """An op called on nothing: what any call costs here."""
    none = torch.zeros(0, 1)
    flags = torch.zeros(0, 1, dtype=torch.bool)
    return lambda: optix_fast.ops.gae(none, none, 0.0, flags)


def gae_cases():
    for steps, envs in bench_gae.SHAPES:
        inputs = bench_gae.rollout((steps, envs), "cpu")

        def with_out(inputs=inputs):
            out = (torch.empty_like(inputs[0]), torch.empty_like(inputs[0]))
            return lambda: optix_fast.ops.gae(*inputs, gamma=0.99, gae_lambda=0.95, out=out)

        peers = {
            f.__name__: f for f in bench_gae.IMPLEMENTATIONS if f.__name__ not in ("compiled", "in_torch")
        }
        calls = {name: (lambda f=f, i=inputs: f(i)) for name, f in peers.items()}
        # Rewards, values, final values, two flags; advantages and returns.
        yield f"gae {steps}×{envs}", calls | {"native, out=": with_out}, steps * envs * 22


def ppo_loss_cases():
    for kind, width, batch in bench_ppo_loss.CASES:
        tensors = bench_ppo_loss.minibatch(kind, width, batch)
        calls = {f.__name__: (lambda f=f, k=kind, t=tensors: f(k, t)) for f in bench_ppo_loss.IMPLEMENTATIONS}
        per_sample = 4 * 5 + (8 + 8 * width if kind == "categorical" else 20 * width)
        yield f"ppo_loss, forward and gradient, {kind} {width}, batch {batch}", calls, batch * per_sample


def sum_tree_cases():
    for size in bench_sum_tree.BATCHES:
        peers = {n: f for n, f in bench_sum_tree.IMPLEMENTATIONS.items() if n != "reference"}
        calls = {name: (lambda f=f, s=size: f(s, "cpu")) for name, f in peers.items()}
        # Two lines to update and two to draw, each from the second-level cache or beyond.
        yield f"sum_tree 2²⁰ leaves, update and weighted sample of {size}", calls, 4 * 64 * size


def tanh_normal_cases():
    for shape in bench_tanh_normal.SHAPES:
        calls = {
            f.__name__.removeprefix("log_prob_"): (lambda f=f, s=shape: bench_tanh_normal.prepared(f, s))
            for f in bench_tanh_normal.LOG_PROB
        }
        elements = shape[0] * shape[1]
        yield (
            f"tanh_normal log-prob with gradient, {shape[0]}×{shape[1]}",
            calls,
            elements * 20 + 8 * shape[0],
        )


def fresh_memory():
    """gae into memory that the system hands out anew, before this process has collected any of its own."""
    inputs = bench_gae.rollout((128, 4096), "cpu")
    out = (torch.empty_like(inputs[0]), torch.empty_like(inputs[0]))

    def timed(out):
        times = []
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(200):
            start = time.perf_counter()
            optix_fast.ops.gae(*inputs, out=out)
            times.append((time.perf_counter() - start) * 1e6)
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
        return statistics.median(times), faults / 200

    fresh, faults = timed(None)
    return {"fresh_us": round(fresh, 1), "faults": round(faults), "out_us": round(timed(out)[0], 1)}


CASES = (gae_cases, ppo_loss_cases, sum_tree_cases, tanh_normal_cases)


def measure(seconds):
    rows = []
    for cases in CASES:
        for name, implementations, n_bytes in cases():
            calls, left_out = ready(implementations)
            bounds = {"bound: memory": copy_of(n_bytes), "bound: call": empty_call()}
            times = in_turn(calls | bounds, seconds)
            rows.append(
                {
                    "case": name,
                    "bytes": n_bytes,
                    "memory_us": times.pop("bound: memory"),
                    "call_us": times.pop("bound: call"),
                    "us": times,
                    "left_out": left_out,
                }
            )
            print(json.dumps(rows[-1], ensure_ascii=False), flush=True)
    return rows


def versions():
    found = {}
    for name in PEERS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def processor():
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} cores" if names else platform.machine()


def own(name):
    return name.startswith(("native", "reference", "in_torch"))


def table(results):
    lines = [
        "| what | ours, µs | others, µs (× ours) | copying as many bytes, µs | an empty call, µs |",
        "|---|---|---|---|---|",
    ]
    for row in results["rows"]:
        us = row["us"]
        mine = us["native"]
        ours = f"{mine:.1f}" + (f" ({us['native, out=']:.1f} with `out=`)" if "native, out=" in us else "")
        peers = sorted((time, name) for name, time in us.items() if not own(name))
        others = ", ".join(f"{name} {time:.1f} ({time / mine:.1f}×)" for time, name in peers)
        lines.append(f"| {row['case']} | {ours} | {others} | {row['memory_us']:.1f} | {row['call_us']:.1f} |")
    facts = ", ".join(f"{k} {v}" for k, v in results["versions"].items())
    fresh = results["fresh_memory"]
    lines += [
        "",
        f"Measured by `{results['command']}` on {results['machine']} ({results['simd']}), {facts}. "
        f"gae 128×4096 as the first thing a process does: {fresh['fresh_us']:.0f} µs and "
        f"{fresh['faults']:.0f} page faults a call into fresh memory, {fresh['out_us']:.0f} µs with `out=`.",
    ]
    return "\n".join(lines)


def write_table():
    page = PAGE.read_text()
    head, rest = page.split(BEGIN, 1)
    tail = rest.split(END, 1)[1]
    results = json.loads(RESULTS.read_text())
    PAGE.write_text(f"{head}{BEGIN}\n{table(results)}\n{END}{tail}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--table", action="store_true", help="only write the table")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each case")
    options = parser.parse_args()
    if not options.table:
        warnings.simplefilter("ignore")
        torch.set_num_threads(1)
        info = optix_fast.build_info()
        results = {
            "command": "python benchmarks/kernels.py",
            "machine": processor(),
            "simd": info.get("simd"),
            "compiler": info.get("compiler"),
            "optix_fast": optix_fast.__version__,
            "versions": versions(),
            "fresh_memory": fresh_memory(),
            "rows": measure(options.seconds),
        }
        RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    write_table()


if __name__ == "__main__":
    main()
