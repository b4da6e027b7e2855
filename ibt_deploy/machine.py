"""What this process may use of the machine: its affinity mask, and the limits of its control groups (Linux).

A container or a unit of systemd has less than the machine shows. A limit may stand in the group of the
process or in any group above it, in version 1 of the interface or in version 2.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

MOUNT = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
_UNKNOWN_MEMORY = 2**33


def usable_cpus() -> int:
    """CPUs that this process may use, in whole: 1 where it may use a part of one."""
    affinity = getattr(os, "sched_getaffinity", None)
    cpus = len(affinity(0)) if affinity else os.cpu_count() or 1
    for group in _groups("cpu"):
        with contextlib.suppress(OSError, ValueError):  # no such file, or "max"
            quota, period = (group / "cpu.max").read_text(encoding="ascii").split()
            cpus = min(cpus, int(quota) // int(period))
        with contextlib.suppress(OSError, ValueError):
            allowed, within = (_number(group / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
            cpus = min(cpus, allowed // within if allowed > 0 else cpus)
    return max(1, cpus)


def usable_memory() -> int:
    """Bytes of memory that this process may use, together with those that share its limit."""
    try:
        most = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError):  # Windows
        most = _UNKNOWN_MEMORY
    for group in _groups("memory"):
        for name in ("memory.max", "memory.high", "memory.limit_in_bytes"):
            with contextlib.suppress(OSError, ValueError):
                most = min(most, _number(group / name))
    return most


def _number(path: Path) -> int:
    return int(path.read_text(encoding="ascii"))


def _groups(controller: str) -> Iterator[Path]:
    """Folders of the groups that may limit this process, its own first, the topmost last.

    In a container the membership may name folders that only the host has; they cannot be read, and the
    container's limit stands at the top.
    """
    try:
        lines = MEMBERSHIP.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        lines = []
    for line in [line for line in lines if line.count(":") > 1] or ["0::/"]:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        top = MOUNT / controller if controllers else MOUNT
        own = top / path.lstrip("/")
        if ".." not in own.parts:
            yield from (group for group in (own, *own.parents) if top in group.parents)
        yield top
