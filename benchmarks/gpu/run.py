"""Builds, tests and benchmarks the CUDA kernels on this machine, in one go within ten minutes.

    python benchmarks/gpu/run.py [--output benchmarks/results/gpu.json] [--skip-build]

Needs an NVIDIA GPU, nvcc, a C++ compiler and a torch with CUDA. Builds the package for this GPU into the
running environment, runs the tests marked gpu, then times every kernel with CUDA events: many calls between
two events and one synchronisation, once with the data of the last call in the caches ("warm") and once with
the caches emptied before every call ("cold"). Each figure stands beside the bytes it moves and the bandwidth
that a copy reaches here. What fails is written down too; the exit status says so.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import platform
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).parent.parent.parent
BUILD_LIMIT, TEST_LIMIT, BENCH_LIMIT = 200, 150, 180  # seconds; together with the imports, ten minutes


def run(command, limit):
    """What a command did; status 124 when it ran out of time.

    Not started in the root: the source tree there would be imported in place of what is installed.
    """
    start = time.monotonic()
    try:
        ran = subprocess.run(
            command,
            cwd=ROOT / "benchmarks",
            capture_output=True,
            text=True,
            timeout=limit,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        status, text = ran.returncode, ran.stdout + ran.stderr
    except subprocess.TimeoutExpired as late:
        status, text = 124, str(late.stdout or "")
    return {
        "command": " ".join(command[1:]),
        "status": status,
        "seconds": round(time.monotonic() - start, 1),
        "tail": text.splitlines()[-25:],
    }


# ---- timing -------------------------------------------------------------------------------------------


class Stopwatch:
    """Microseconds of a call on the current stream."""

    def __init__(self, torch):
        self.torch = torch
        # Larger than any second-level cache: writing it leaves nothing of the last call there.
        self.flush = torch.empty(512 * 2**20, dtype=torch.int8, device="cuda")

    def _elapsed(self, work):
        begin, end = (self.torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        work()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) * 1000.0

    def warm(self, call, rounds=7):
        def many(calls):
            for _ in range(calls):
                call()

        self._elapsed(lambda: many(3))
        once = max(1.0, self._elapsed(lambda: many(10)) / 10)
        calls = int(min(2000, max(10, 20_000 / once)))
        return statistics.median(self._elapsed(lambda: many(calls)) / calls for _ in range(rounds))

    def cold(self, call, rounds=15):
        times = []
        for _ in range(rounds):
            self.flush.zero_()
            times.append(self._elapsed(call))
        return statistics.median(times)

    def python(self, call, calls=300):
        """Until the call returns, the device working behind: what Python pays."""
        call()
        self.torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(calls):
            call()
        seconds = time.perf_counter() - start
        self.torch.cuda.synchronize()
        return seconds / calls * 1e6


# ---- cases: (name, bytes moved or None, call) ---------------------------------------------------------


def gae_cases(torch, ops):
    for steps, envs in [(128, 8), (2048, 1), (128, 4096), (1024, 4096), (4096, 4096), (256, 65536)]:
        values = [torch.randn(steps, envs, device="cuda") for _ in range(3)]
        flags = [torch.rand(steps, envs, device="cuda") < 0.01 for _ in range(2)]
        last = torch.randn(envs, device="cuda")
        out = (torch.empty_like(values[0]), torch.empty_like(values[0]))

        def call(values=values, flags=flags, last=last, out=out):
            rewards, baseline, final = values
            return ops.gae(rewards, baseline, last, flags[0], flags[1], final, out=out)

        # Final values are read only where truncated: one row in a hundred.
        yield f"gae {steps}x{envs}", int(steps * envs * 18.04), call


def ppo_loss_cases(torch, ops):
    options = {"clip_ratio": 0.2, "vf_coef": 0.5, "entropy_coef": 0.01}
    for dist, width in [(ops.Categorical(), 6), (ops.Normal(), 6), (ops.MultiDiscrete((3, 3, 4)), 10)]:
        for batch in [64, 4096, 2**20, 2**22]:
            columns = 2 * width if isinstance(dist, ops.Normal) else width
            params = torch.randn(batch, columns, device="cuda", requires_grad=True)
            if isinstance(dist, ops.Normal):
                actions = torch.randn(batch, width, device="cuda")
            elif isinstance(dist, ops.Categorical):
                actions = torch.randint(width, (batch,), device="cuda")
            else:
                actions = torch.randint(3, (batch, 3), device="cuda")
            data = [torch.randn(batch, device="cuda") * 0.1 for _ in range(4)]
            data[2].requires_grad_()

            def call(dist=dist, params=params, actions=actions, data=data):
                return ops.ppo_loss(dist, params, actions, *data, **options)

            per_sample = 8 * columns + actions.element_size() * actions[0].numel() + 20
            yield f"ppo_loss {type(dist).__name__} {width}, {batch}", batch * per_sample, call


def sum_tree_cases(torch, ops):
    for size in [256, 4096]:
        tree = ops.SumTree(2**20, "cuda", seed=0)
        tree.update(torch.arange(2**20, device="cuda"), torch.rand(2**20, device="cuda") + 0.1)
        indices = torch.randint(2**20, (size,), device="cuda")
        priorities = torch.rand(size, device="cuda") + 0.1

        def call(tree=tree, indices=indices, priorities=priorities, size=size):
            tree.update(indices, priorities)
            return tree.sample_weighted(size, 0.4)

        yield f"sum_tree 2^20, update and sample {size}", None, call


def tanh_normal_cases(torch, ops):
    for rows in [64, 4096, 2**20]:
        mean, log_std, action = (torch.rand(rows, 6, device="cuda") * 0.9 for _ in range(3))

        def call(mean=mean, log_std=log_std, action=action):
            return ops.tanh_normal_log_prob(mean, log_std, action)

        yield f"tanh_normal_log_prob {rows}x6", rows * (6 * 12 + 4), call


# ---- PPO's whole update: 4 096 environments of 128 steps, minibatches of 16 384 rows, 4 epochs ------------


def ppo_updates(torch, ops, width):
    """name → one window's update: eager_ppo.py's loop, the same with compiled networks, and ours."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import eager_ppo

    from optix_fast.learners.ppo.batch import Batch
    from optix_fast.learners.ppo.config import PPOConfig
    from optix_fast.learners.ppo.graph import GraphPPO
    from optix_fast.learners.ppo.update import Permutations, PPOModel
    from optix_fast.networks.heads import CategoricalHead
    from optix_fast.random import RandomStream

    epochs, minibatch = 4, 16384
    config = PPOConfig(n_epochs=epochs, minibatch_size=minibatch, vf_coef=0.25)
    policies = {}
    for name in ("eager", "torch.compile", "graph"):
        actor, critic = eager_ppo.networks(17, width, 6)
        data = eager_ppo.random_data(actor, critic, 4096 * 128, 17)
        actor, critic = actor.cuda(), critic.cuda()
        adam = torch.optim.Adam([*actor.parameters(), *critic.parameters()], lr=3e-4, fused=name != "graph")
        policies[name] = actor, critic, adam, eager_ppo.Data(*(part.cuda() for part in data))
    actor, critic, adam, data = policies["graph"]
    model = PPOModel(actor, critic, adam, CategoricalHead(), is_loss_fused=True)
    graph, stream = GraphPPO(), RandomStream(0)
    batch = Batch(*data, None)

    def replay():
        order = Permutations(stream, epochs, len(batch.returns)).order
        graph.update(model, batch, order, config)

    actor, critic, adam, data = policies["torch.compile"]
    compiled = torch.compile(actor), torch.compile(critic), adam, data
    return {
        "eager": lambda: eager_ppo.update(*policies["eager"], epochs, minibatch),
        "torch.compile": lambda: eager_ppo.update(*compiled, epochs, minibatch),
        "graph": replay,
    }


def time_ppo_updates(torch, ops):
    for width in (64, 256):
        calls = ppo_updates(torch, ops, width)
        times = {name: [] for name in calls}
        for turn in range(6):
            for name, call in calls.items():
                torch.cuda.synchronize()
                start = time.perf_counter()
                call()
                torch.cuda.synchronize()
                if turn > 0:  # the first one compiles or captures
                    times[name].append((time.perf_counter() - start) * 1000)
        row = {f"{name}_ms": round(statistics.median(each), 2) for name, each in times.items()}
        yield {"case": f"ppo update 17-{width}-{width}-6, 4096 environments x 128 steps", **row}


def copy_bandwidth(torch, watch):
    source, target = (torch.empty(2**28, device="cuda") for _ in range(2))
    microseconds = watch.warm(lambda: target.copy_(source))
    return 2 * source.numel() * 4 / microseconds / 1e6  # TB/s


def benchmarks(limit):
    import torch

    from optix_fast import build_info, ops

    info = build_info()
    watch = Stopwatch(torch)
    bandwidth = copy_bandwidth(torch, watch)
    found = {
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "build": {k: info.get(k) for k in ("cuda", "cuda_architectures", "cuda_toolkit", "compiler")},
        "copy_tb_per_s": round(bandwidth, 3),
        "rows": [],
    }
    try:
        for row in time_ppo_updates(torch, ops):
            found["rows"].append(row)
            print(json.dumps(row), flush=True)
    except Exception as error:
        found["rows"].append({"case": "ppo update", "error": f"{type(error).__name__}: {error}"})
    end = time.monotonic() + limit
    for cases in (gae_cases, ppo_loss_cases, sum_tree_cases, tanh_normal_cases):
        try:
            for name, n_bytes, call in cases(torch, ops):
                if time.monotonic() > end:
                    found["rows"].append({"case": name, "left_out": "no time left"})
                    continue
                row = {
                    "case": name,
                    "warm_us": round(watch.warm(call), 2),
                    "cold_us": round(watch.cold(call), 2),
                    "python_us": round(watch.python(call), 2),
                }
                if n_bytes is not None:
                    row["bytes"] = n_bytes
                    row["bound_us"] = round(n_bytes / bandwidth / 1e6, 2)
                    row["of_bandwidth"] = round(row["bound_us"] / row["cold_us"], 3)
                found["rows"].append(row)
                print(json.dumps(row), flush=True)
        except Exception as error:  # one kernel's failure must not hide the others' figures
            found["rows"].append({"case": cases.__name__, "error": f"{type(error).__name__}: {error}"})
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--output", type=pathlib.Path, default=ROOT / "benchmarks" / "results" / "gpu.json")
    parser.add_argument("--skip-build", action="store_true", help="test and time what is installed")
    parser.add_argument("--only-benchmarks", action="store_true", help="used by the script itself")
    options = parser.parse_args()
    if options.only_benchmarks:
        options.output.write_text(json.dumps(benchmarks(BENCH_LIMIT)))
        return 0

    python = sys.executable
    report = {"command": "python benchmarks/gpu/run.py", "machine": platform.platform()}
    if not options.skip_build:
        install = [
            python,
            "-m",
            "pip",
            "install",
            "--no-deps",
            "-C",
            "cmake.define.OPTIX_FAST_CUDA=ON",
            str(ROOT),
        ]
        report["build"] = run(install, BUILD_LIMIT)
    tests = [python, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider", str(ROOT / "tests")]
    report["tests"] = run(tests, TEST_LIMIT)
    part = options.output.with_suffix(".part")
    script = [python, str(pathlib.Path(__file__)), "--only-benchmarks", "--output", str(part)]
    report["timing"] = run(script, BENCH_LIMIT + 60)
    if part.exists():
        report["results"] = json.loads(part.read_text())
        part.unlink()
    options.output.write_text(json.dumps(report, indent=1) + "\n")
    failed = [name for name in ("build", "tests", "timing") if report.get(name, {}).get("status", 0) != 0]
    print(f"written: {options.output}" + (f"; failed: {', '.join(failed)}" if failed else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
