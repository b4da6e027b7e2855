"""What the parts of a run hold, read one input after the other."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from ibt_deploy.batch.archives import Archive
from ibt_deploy.batch.listing import Entry, FileEntry, MemberEntry, RefusedEntry, source_of
from ibt_deploy.batch.plan import Plan
from ibt_deploy.errors import BatchError, InputError
from ibt_deploy.files import File
from ibt_deploy.inputs import items_of, refusal
from ibt_deploy.predictions import Refusal
from ibt_deploy.printable import one_line
from ibt_deploy.records import Recording, Stay

Item: TypeAlias = Recording | Stay | Refusal
Skipped: TypeAlias = Mapping[int, str]
"""Inputs of a part that are not read again, and why: their place in the part and a sentence."""
At: TypeAlias = Callable[[int], None]
"""Told the place in the part of each input before it is read."""

WORKER_DIED = "worker_died"


class Items(Protocol):
    """The inputs of a run; it travels to the workers."""

    def __len__(self) -> int:
        """Number of parts."""

    @property
    def total(self) -> int:
        """Number of inputs."""

    @property
    def report(self) -> dict[str, Any] | None:
        """What is known of the inputs before they are scored, for the summary."""

    def size_of(self, part: int) -> int:
        """Inputs in a part."""

    def read(self, part: int, skipped: Skipped, at: At) -> Iterator[Item]:
        """Everything that a part holds, in order; a refusal in place of what cannot be read."""


@dataclass
class PlannedFiles:
    """Recordings in files and archives, as a plan lists them."""

    plan: Plan
    _archive: Archive | None = field(default=None, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {"plan": self.plan, "_archive": None}

    def __len__(self) -> int:
        return len(self.plan)

    @property
    def total(self) -> int:
        """Number of inputs."""
        return self.plan.inputs

    @property
    def report(self) -> None:
        """Nothing."""

    def size_of(self, part: int) -> int:
        """Inputs in a part."""
        return self.plan.size_of(part)

    def read(self, part: int, skipped: Skipped, at: At) -> Iterator[Item]:
        """Every recording of the inputs of a part.

        Raises
        ------
        BatchError
            A whole folder or archive that was there when the inputs were listed cannot be read any more.
        """
        for place, entry in enumerate(self.plan.entries(part)):
            if place in skipped:
                yield Refusal(
                    source_of(entry), WORKER_DIED, f"{one_line(source_of(entry))}: {skipped[place]}"
                )
                continue
            at(place)
            yield from self._answers(entry)

    def _answers(self, entry: Entry) -> Iterator[Item]:
        if isinstance(entry, RefusedEntry):
            yield Refusal(entry.source, entry.code, entry.message)
            return
        count = 0
        try:
            for item in items_of(self._file(entry)):
                if isinstance(item, Refusal) and item.code in ("no_such_file", "unreadable_file"):
                    _check_place(entry)
                count += 1
                yield item
        except InputError as error:
            yield refusal(source_of(entry), error)
            return
        except OSError as error:
            _check_place(entry)
            text = f"{source_of(entry)}: cannot be read: {error.strerror or error}"
            yield Refusal(source_of(entry), "unreadable_file", one_line(text))
            return
        if not count:
            yield Refusal(
                source_of(entry), "no_recording", f"{one_line(source_of(entry))}: holds no recording"
            )

    def _file(self, entry: FileEntry | MemberEntry) -> File:
        return Path(entry.path) if isinstance(entry, FileEntry) else self._opened(entry).folder(entry)

    def close(self) -> None:
        """Close the archive that was read last; reading opens it again."""
        if self._archive is not None:
            self._archive.close()

    def _opened(self, entry: MemberEntry) -> Archive:
        if self._archive is None or self._archive.path != entry.archive:
            self.close()
            self._archive = Archive(entry.archive)
        return self._archive


def _check_place(entry: FileEntry | MemberEntry) -> None:
    """Stop the run where a whole folder or archive has gone: its records must not be refused one by one."""
    place = Path(entry.path).parent if isinstance(entry, FileEntry) else Path(entry.archive)
    try:
        if isinstance(entry, MemberEntry):
            with place.open("rb") as stream:
                stream.read(1)
        else:
            with os.scandir(place):
                pass
    except OSError as error:
        raise BatchError(one_line(f"{place}: cannot be read any more ({error.strerror})")) from error
