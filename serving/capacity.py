"""How many processes and threads the machine, or the container's share of it, has room for."""

from __future__ import annotations

from ibt_deploy.device import Device, driver_is_there
from ibt_deploy.machine import usable_cpus, usable_memory

BYTES_A_WORKER = 2**30
"""At rest 205 MiB, under load 330, and the bodies that it may hold."""
MOST_WORKERS = 32
CPUS_PER_GPU_WORKER = 4


def default_workers(device: Device, threads: int | None = None) -> int:
    """One process for each CPU, as far as memory goes: Python's own work holds one lock a process.

    One for every ``threads`` CPUs where it is stated how many threads each has; on a GPU one for every four
    CPUs at least, because each has its own copy of the models there.
    """
    cpus = usable_cpus()
    if device == "cuda" or (device == "auto" and driver_is_there()):
        return max(1, cpus // max(threads or 0, CPUS_PER_GPU_WORKER))
    return max(1, min(cpus // (threads or 1), usable_memory() // BYTES_A_WORKER, MOST_WORKERS))


def default_threads(workers: int) -> int:
    """Requests that each of the processes computes at once, so that no CPU is left idle."""
    return -(-usable_cpus() // workers)
