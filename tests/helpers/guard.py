"""Run code with bounded time and memory, because a hostile file may demand any amount of them."""

from __future__ import annotations

import json
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from types import FrameType

from ibt_deploy.errors import InputError, MissingExtra
from ibt_deploy.files import MemoryFile
from ibt_deploy.preprocess.ecg import standardise
from ibt_deploy.records import Recording

SECONDS = 2.0
MEGABYTES = 512
LARGEST_STANDARDISED = 200_000
MOST_ENTRIES = 50


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
        with suppress(TookTooLongError):  # a signal that comes this late must not keep the limits in place
            signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_AS, limits)
        signal.signal(signal.SIGPROF, previous)


def try_reader(reader: str, file: MemoryFile) -> str:
    """Sniff and read ``file`` by one reader, and prepare what it gives; the code of the refusal, or ``read``.

    Anything that is not of the error tree is raised, also by the outline of a file that is refused.
    """
    module = sys.modules[f"ibt_deploy.readers.{reader}"]
    outline = getattr(module, "outline", None)
    try:
        module.sniff(file, file.read_bytes()[:4096])
        items = module.read(file)
    except InputError as error:
        if outline is not None:
            with suppress(InputError):
                json.dumps(outline(file))
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


def try_archive(file: MemoryFile) -> str:
    """List an archive and read every record in it, as ``ibt batch`` does; what became of the last."""
    from ibt_deploy.batch.archives import SUFFIXES, Archive, archive_entries, is_archive
    from ibt_deploy.batch.plan import RefusedEntry, from_line, to_line

    told = "no_entry"
    with _on_disk(file, file.name if is_archive(file.name) else f"a{SUFFIXES[0]}") as path:
        entries = list(archive_entries(str(path)))
        with Archive(str(path)) as archive:
            for entry in entries[:MOST_ENTRIES]:
                assert from_line(to_line(entry)) == entry
                if isinstance(entry, RefusedEntry):
                    assert entry.code
                    assert "\n" not in entry.message
                    told = entry.code
                    continue
                try:
                    archive.folder(entry).read_bytes()
                    told = "read"
                except InputError as error:
                    told = _told(error)
    return told


def try_table(file: MemoryFile) -> str:
    """Look through a table of an export and suggest a mapping for it, as ``ibt batch`` does."""
    from ibt_deploy.batch.tables.layout import layout_of
    from ibt_deploy.batch.tables.survey import surveyed
    from ibt_deploy.mapping.schema import parse_mapping
    from ibt_deploy.mapping.suggest import suggested_mapping

    with _on_disk(file, file.name) as path:
        try:
            suggested = suggested_mapping(path)
            with suppress(InputError):  # most hold a "?"
                parse_mapping(suggested.encode())
            surveyed(path, None, lambda names: layout_of(names, None), lambda count: None)
        except InputError as error:
            return _told(error)
    return "read"


def try_mapping(file: MemoryFile) -> str:
    """Read a mapping."""
    from ibt_deploy.mapping.schema import parse_mapping

    try:
        parse_mapping(file.read_bytes())
    except InputError as error:
        return _told(error)
    return "read"


@contextmanager
def _on_disk(file: MemoryFile, name: str) -> Iterator[Path]:
    """A file in memory as one of a private folder."""
    with TemporaryDirectory() as folder:
        path = Path(folder, PurePosixPath(name).name.replace("\0", "") or "f")
        path.write_bytes(file.read_bytes())
        yield path


def _told(refusal: InputError) -> str:
    """The code of a refusal whose message is one line."""
    assert refusal.code
    assert "\n" not in refusal.message
    return refusal.code
