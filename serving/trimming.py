"""Memory that large requests leave behind, given back to the system."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import threading
from collections.abc import Callable
from functools import cache

WORTH_IT = 2**20
DELAY_SECONDS = 0.5


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Of mallopt(3)."""
LARGE_BLOCK, SLACK = 4 * 2**20, 16 * 2**20


def keep_large_blocks_apart() -> None:
    """Have blocks of 4 MiB and more taken from the system and given back one by one.

    By itself glibc learns from the first large block to keep all that are no larger.
    """
    mallopt = _of_c_library("mallopt")
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGE_BLOCK)
        mallopt(M_TRIM_THRESHOLD, SLACK)


class Trimmer:
    """Gives back, once a large request is over, what the C library keeps for the next one.

    glibc keeps freed memory for each thread: after a series of bodies of 30 MB that is half a gigabyte.
    Elsewhere nothing is done.
    """

    def __init__(self) -> None:
        self._due = False

    def after(self, size: int) -> None:
        """A request that held ``size`` bytes is over; called in the event loop."""
        if size >= WORTH_IT and not self._due and _of_c_library("malloc_trim") is not None:
            self._due = True
            asyncio.get_running_loop().call_later(DELAY_SECONDS, self._begin)

    def _begin(self) -> None:
        self._due = False
        # ctypes lets go of the interpreter meanwhile
        threading.Thread(target=_trim, name="trim", daemon=True).start()


def _trim() -> None:
    gc.collect(1)  # errors and their frames hold each other, and what was read
    trim = _of_c_library("malloc_trim")
    if trim is not None:
        trim(0)


@cache
def _of_c_library(name: str) -> Callable[..., int] | None:
    try:
        found: Callable[..., int] | None = getattr(ctypes.CDLL(None), name, None)
    except (OSError, TypeError):
        return None
    return found
