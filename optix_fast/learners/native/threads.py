"""How many threads one call of the core may use."""

from __future__ import annotations

import functools
import math
import os
from pathlib import Path

import torch

_CGROUPS = Path("/sys/fs/cgroup")


def learner_threads() -> int:
    """Threads that one learner call may use: OPTIX_FAST_NUM_THREADS, else as many as torch does, but no more
    than the processors that the process may run on and the quota of its control group. A call takes one for
    about every million multiply-adds, and two for two networks side by side; results do not depend on it.

    Raises:
        ValueError: OPTIX_FAST_NUM_THREADS is not a number of at least 1.
    """
    asked = os.environ.get("OPTIX_FAST_NUM_THREADS")
    if asked is None:
        return min(torch.get_num_threads(), _allowed_processors(), processors_of_quota())
    if not asked.isdecimal() or int(asked) < 1:
        raise ValueError(f"OPTIX_FAST_NUM_THREADS must be an integer of at least 1, got {asked!r}")
    return int(asked)


def _allowed_processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@functools.cache
def processors_of_quota(root: Path = _CGROUPS, membership: Path = Path("/proc/self/cgroup")) -> int:
    """Processors that the tightest quota of the process's control groups amounts to, rounded up; without a
    quota, more than any machine has.

    Args:
        root: where the control groups are mounted.
        membership: the file that names the process's own.
    """
    quotas = [math.inf]
    for line in _text(membership).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":  # version 2: "max 100000" or "150000 100000"
            base, read = root, _quota_v2
        elif "cpu" in controllers.split(","):
            base, read = root / "cpu", _quota_v1
        else:
            continue
        place = base / path.lstrip("/")
        for group in (place, *place.parents):
            quotas.append(read(group))
            if group == base:
                break
    tightest = min(quotas)
    return 2**20 if tightest == math.inf else max(1, math.ceil(tightest))


def _quota_v2(group: Path) -> float:
    parts = _text(group / "cpu.max").split()
    return math.inf if not parts or parts[0] == "max" else int(parts[0]) / int(parts[1])


def _quota_v1(group: Path) -> float:
    quota, period = _text(group / "cpu.cfs_quota_us"), _text(group / "cpu.cfs_period_us")
    return math.inf if not quota or not period or int(quota) < 0 else int(quota) / int(period)


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
