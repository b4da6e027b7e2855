"""How many processes and threads the machine, or the container's share of it, has room for."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from ibt_deploy.device import Device, driver_is_there, usable_cpus

BYTES_A_WORKER = 2**30
"""At rest 205 MiB, under load 330, and the bodies that it may hold."""
MOST_WORKERS = 32
CPUS_PER_GPU_WORKER = 4
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def default_workers(device: Device) -> int:
    """One process for each CPU, as far as memory goes: Python's own work holds one lock a process.

    On a GPU one for every four, because each has its own copy of the models there.
    """
    cpus = usable_cpus()
    if device == "cuda" or (device == "auto" and driver_is_there()):
        return max(1, cpus // CPUS_PER_GPU_WORKER)
    return max(1, min(cpus, usable_memory() // BYTES_A_WORKER, MOST_WORKERS))


def default_threads(workers: int) -> int:
    """Requests that each of the processes computes at once, so that no CPU is left idle."""
    return -(-usable_cpus() // workers)


def usable_memory() -> int:
    """Bytes of the machine, or of the control group where it has a limit."""
    most = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 2**33
    for limit in _LIMITS:
        with contextlib.suppress(OSError, ValueError):  # no such group, or "max"
            most = min(most, int(Path(limit).read_text(encoding="ascii")))
    return most
