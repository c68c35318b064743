"""How many cores this process may use: what its affinity and its container leave it."""

from __future__ import annotations

import math
import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def usable_cores(cgroup: Path = CGROUP) -> int:
    """At least 1. More threads than this would only wait for one another.

    A container's limit of CPU time (`docker run --cpus`, Kubernetes' limits.cpu) does not show in the
    affinity; a fraction of a core counts as one. cgroup: where its control group's files are.
    """
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        cores = os.cpu_count() or 1
    limit = _quota(cgroup)
    return cores if limit is None else max(1, min(cores, math.ceil(limit)))


def _quota(cgroup: Path) -> float | None:
    """Cores' worth of CPU time, or None if it is not limited.

    cgroup v2: cpu.max holds "QUOTA PERIOD" in µs, or "max PERIOD"; v1: two files, the quota -1 if none.
    https://docs.kernel.org/admin-guide/cgroup-v2.html, https://docs.kernel.org/scheduler/sched-bwc.html
    """
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            quota, period = " ".join((cgroup / name).read_text() for name in names).split()
            limit = int(quota) / int(period)
        except (OSError, ValueError, ZeroDivisionError):  # no such file, or "max"
            continue
        if limit > 0:
            return limit
    return None
