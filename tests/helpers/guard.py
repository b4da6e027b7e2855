"""Run something with bounded time and memory, as a hostile file may ask for as much as it likes."""

from __future__ import annotations

import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from ibt_deploy.errors import InputError, MissingExtra
from ibt_deploy.files import MemoryFile
from ibt_deploy.preprocess.ecg import standardise
from ibt_deploy.records import Recording

SECONDS = 2.0
MEGABYTES = 512
LARGEST_STANDARDISED = 200_000


class TookTooLongError(Exception):
    """More CPU time than allowed."""


@contextmanager
def bounded(seconds: float = SECONDS, megabytes: int = MEGABYTES) -> Iterator[None]:
    """TookTooLongError after so much CPU time, MemoryError where more than so much is allocated."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise TookTooLongError(f"more than {seconds:g} s of CPU time")

    previous = signal.signal(signal.SIGPROF, stop)
    limits = resource.getrlimit(resource.RLIMIT_AS)
    statm = Path("/proc/self/statm")
    if statm.exists():
        pages = int(statm.read_text().split()[0])
        most = pages * resource.getpagesize() + (megabytes << 20)
        resource.setrlimit(resource.RLIMIT_AS, (most, limits[1]))
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_AS, limits)
        signal.signal(signal.SIGPROF, previous)


def try_reader(reader: str, file: MemoryFile) -> str:
    """Sniff and read ``file`` by one reader, and prepare what it gives; the code of the refusal, or ``read``.

    Anything that is not of the error tree is raised.
    """
    module = sys.modules[f"ibt_deploy.readers.{reader}"]
    try:
        module.sniff(file, file.read_bytes()[:4096])
        items = module.read(file)
    except InputError as error:
        return _told(error)
    except MissingExtra:
        return "missing_extra"
    for item in items:
        if isinstance(item, Recording):
            assert 0 < item.sampling_rate < float("inf")
            assert item.signal.dtype == float
            assert item.signal.shape[0] == len(item.leads) > 0
            if item.signal.size <= LARGEST_STANDARDISED:
                with suppress(InputError):
                    standardise(item)
    return "read"


def _told(refusal: InputError) -> str:
    """The code of a refusal whose message is one line."""
    assert refusal.code
    assert "\n" not in refusal.message
    return refusal.code
