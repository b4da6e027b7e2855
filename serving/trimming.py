"""Memory that large requests leave behind, given back to the system."""

from __future__ import annotations

import asyncio
import ctypes
import threading
from collections.abc import Callable
from functools import cache

WORTH_IT = 2**20
DELAY_SECONDS = 0.5


class Trimmer:
    """Gives back, once a large request is over, what the C library keeps for the next one.

    glibc keeps freed memory for each thread: after a series of bodies of 30 MB that is half a gigabyte.
    Elsewhere nothing is done.
    """

    def __init__(self) -> None:
        self._due = False

    def after(self, size: int) -> None:
        """A request that held ``size`` bytes is over; called in the event loop."""
        if size >= WORTH_IT and not self._due and _malloc_trim() is not None:
            self._due = True
            asyncio.get_running_loop().call_later(DELAY_SECONDS, self._begin)

    def _begin(self) -> None:
        self._due = False
        # ctypes lets go of the interpreter meanwhile
        threading.Thread(target=_trim, name="trim", daemon=True).start()


def _trim() -> None:
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@cache
def _malloc_trim() -> Callable[[int], int] | None:
    try:
        found: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
    except (OSError, TypeError):
        return None
    return found
