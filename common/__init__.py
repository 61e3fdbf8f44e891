"""What the three problems share. Imported before torch, it sets the process's OpenMP threads and memory allocation.

``python benchmarks/speed.py threads`` compares the settings of the threads, idle and beside a busy process.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def usable_cores(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Return how many cores this process may use, by affinity and by the CPU quota of its container (cgroup v2)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = (cgroup / "cpu.max").read_text(encoding="utf-8").split()
    except (OSError, ValueError):
        return cores
    return cores if quota == "max" else max(1, min(cores, int(quota) // int(period)))


if "torch" not in sys.modules:  # a program that uses hubconf.py has loaded it, and keeps its own settings
    os.environ.setdefault("OMP_NUM_THREADS", str(usable_cores()))
    # A waiting OpenMP thread spins only briefly: it would otherwise hold the core that the thread it waits for needs.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    if sys.platform.startswith("linux"):
        # glibc returns large buffers to the kernel, which clears them again at the next step; keep them instead.
        for _parameter, _value in ((-4, 0), (-1, 2**31 - 1), (-2, 2**26)):  # MMAP_MAX, TRIM_THRESHOLD, TOP_PAD
            ctypes.CDLL(None).mallopt(_parameter, _value)
