"""What the three problems share. Importing it tunes the process; that must happen before torch is loaded.

Measured by ``benchmarks/threads.py``: see there for why these values.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CGROUP = Path("/sys/fs/cgroup")


def usable_cores(cgroup: Path = CGROUP) -> int:
    """Return how many cores this process may use, by affinity and by the CPU quota of its container (cgroups)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:  # version 2: "quota period", or "max period"
        quota, period = (cgroup / "cpu.max").read_text(encoding="utf-8").split()
    except (OSError, ValueError):
        try:  # version 1: no limit is -1
            quota, period = (
                (cgroup / "cpu" / f"cpu.cfs_{name}_us").read_text(encoding="utf-8") for name in ("quota", "period")
            )
        except OSError:
            return cores
    if quota == "max" or int(quota) <= 0:
        return cores
    return max(1, min(cores, int(quota) // int(period)))


def _tune_process() -> None:
    os.environ.setdefault("OMP_NUM_THREADS", str(usable_cores()))
    # A waiting OpenMP thread spins only briefly: it would otherwise hold the core that the thread it waits for needs.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    if sys.platform.startswith("linux"):
        # glibc returns large buffers to the kernel, which clears them again at the next step; keep them instead.
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
        if mallopt is not None:
            for parameter, value in ((-4, 0), (-1, 2**31 - 1), (-2, 2**26)):  # MMAP_MAX, TRIM_THRESHOLD, TOP_PAD
                mallopt(parameter, value)


_tune_process()
