"""One torch thread, as the results are stated, and one table: a line for each op, shape and device.

The table of pytest-benchmark itself is shown with --benchmark-compare and with --benchmark-verbose.
"""

from __future__ import annotations

import re
from collections import defaultdict

import pytest
import torch

torch.set_num_threads(1)

# What the others are compared to, in this order.
OURS = ("native", "reference")


def pytest_sessionstart(session):
    session = getattr(session.config, "_benchmarksession", None)
    if session is not None and not session.compare and not session.verbose:
        session.quiet = True


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter, config):
    session = getattr(config, "_benchmarksession", None)
    if session is None or not session.benchmarks:
        return
    groups = defaultdict(dict)
    for bench in session.benchmarks:
        if not bench.has_error:
            groups[bench.group][implementation(bench.name)] = bench["median"]
    terminalreporter.section("median of a call; in brackets: how many times ours")
    for line in table(groups):
        terminalreporter.write_line(line)


def implementation(name):
    """The last part of a test's id, which is who was measured."""
    return re.split(r"[-\[]", name.rstrip("]"))[-1]


def table(groups):
    """A line for each group: what was measured, ours, the others from the fastest on."""
    width = max(len(group) for group in groups)
    for group, medians in groups.items():
        ours = next((name for name in OURS if name in medians), min(medians, key=medians.get))
        others = sorted((seconds, name) for name, seconds in medians.items() if name != ours)
        parts = [f"{name} {in_words(seconds)} ({seconds / medians[ours]:.3g}×)" for seconds, name in others]
        yield f"{group:<{width}}  {ours} {in_words(medians[ours]):>9}   {', '.join(parts)}".rstrip()


def in_words(seconds):
    if seconds < 1e-3:
        return f"{seconds * 1e6:.1f} µs"
    return f"{seconds * 1e3:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"
