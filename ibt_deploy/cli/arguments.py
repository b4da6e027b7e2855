"""What the FILE arguments of a command name: files, folders, WFDB records by name, standard input."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from ibt_deploy.errors import BatchError
from ibt_deploy.files import File, MemoryFolder
from ibt_deploy.predictions import Refusal
from ibt_deploy.printable import one_line

STANDARD_INPUT = "-"
MAX_STANDARD_INPUT_BYTES = 1 << 30


class Named:
    """A file, and whether it was named itself or only lies in a folder that was.

    Attributes
    ----------
    file
        What to read.
    folder
        The folder that was named; None for a file that was named itself.
    """

    __slots__ = ("file", "folder")

    def __init__(self, file: File, folder: Path | None = None) -> None:
        self.file = file
        self.folder = folder


def named_files(arguments: Iterable[Path]) -> Iterator[Named | Refusal]:
    """Every file that the arguments stand for, in order.

    A folder stands for the records in it and in its sub-folders, in the order of their names, without hidden
    files; a folder that a reader takes as a whole (MEDS, OMOP, FHIR) stands for itself. A name that does not
    exist stands for the WFDB header of that name. ``-`` stands for the bytes of standard input.
    """
    for path in arguments:
        if str(path) == STANDARD_INPUT:
            yield _standard_input()
        elif path.is_dir():
            yield from _in_folder(path)
        else:
            header = path.with_name(f"{path.name}.hea") if path.name else path
            yield Named(header if not path.exists() and header.is_file() else path)


def _standard_input() -> Named | Refusal:
    content = sys.stdin.buffer.read(MAX_STANDARD_INPUT_BYTES + 1)
    if len(content) > MAX_STANDARD_INPUT_BYTES:
        message = "standard input: more than 1 GiB; save it as a file first"
        return Refusal(STANDARD_INPUT, "too_large", message)
    return Named(MemoryFolder({"stdin": content}) / "stdin")


def _in_folder(folder: Path) -> Iterator[Named | Refusal]:
    from ibt_deploy.batch.plan import FileEntry, MemberEntry
    from ibt_deploy.batch.sources import entries_of
    from ibt_deploy.readers import standards

    if standards.sniff(folder, b""):
        yield Named(folder)
        return
    archives: set[str] = set()
    found = False
    try:
        for entry in entries_of([str(folder)]):
            found = True
            if isinstance(entry, FileEntry):
                yield Named(Path(entry.path), folder)
            elif not isinstance(entry, MemberEntry):
                yield Refusal(entry.source, entry.code, entry.message)
            elif entry.archive not in archives:
                archives.add(entry.archive)
                message = f"{entry.archive}: an archive; 'ibt batch' scores what is in it"
                yield Refusal(entry.archive, "is_an_archive", one_line(message))
    except BatchError as error:
        yield Refusal(str(folder), "unreadable_file", one_line(error))
        return
    if not found:
        yield Refusal(str(folder), "empty_folder", one_line(f"{folder}: no file in this folder"))
