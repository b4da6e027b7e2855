"""The inputs that the sources of a run name: folders, files, globs, lists of files and archives.

The order is fixed: sources as given, folders in the order of their names, a folder's own files before its
sub-folders. Hidden files are left out, as are links to folders (they may form cycles) and folders that a
batch run writes to. A file named twice is listed once.

A DICOMDIR stands for the files that it references: ECG waveforms are inputs, references to anything else are
ignored and counted. Files in its folder that it does not reference are inputs like any other.
"""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path

from ibt_deploy.batch.archives import MAX_HEADER_BYTES, archive_entries, is_archive
from ibt_deploy.batch.output import LOCK, STATE
from ibt_deploy.batch.plan import Entry, FileEntry, Group, RefusedEntry, Stamp, grouped, stamp_of
from ibt_deploy.errors import BatchError, one_line

LIST_MARK = "@"
MAX_LIST_BYTES = 1 << 30
DICOMDIR, IN_USE = "DICOMDIR", 0xFFFF
_MAGIC = "*?["


def entries_of(sources: Sequence[str], ignored: Counter[str] | None = None) -> Iterator[Entry]:
    """Every input of the sources, in order.

    Parameters
    ----------
    sources
        As the user names them.
    ignored
        Counts, by kind, what a DICOMDIR references other than ECG waveforms.

    Raises
    ------
    BatchError
        A source does not exist, a glob matches nothing, or a folder cannot be read: its content is unknown
        then, and the run must not pretend to be complete.
    """
    folders, files = expanded(sources)
    counts: Counter[str] = Counter() if ignored is None else ignored
    for path in folders:
        yield from _walked(path, counts)
    yield from _listed(files, counts)


def expanded(sources: Sequence[str]) -> tuple[list[str], list[str]]:
    """The folders and files that the sources name, without files inside one of the folders."""
    folders: dict[str, str] = {}
    files: dict[str, str] = {}
    for source in sources:
        for path in _named(source):
            where = files if not Path(path).is_dir() else folders
            where.setdefault(str(Path(path).absolute()), path)
    outer = {key: path for key, path in folders.items() if not _within(key, folders.keys())}
    return list(outer.values()), [path for key, path in files.items() if not _within(key, outer.keys())]


def table_files(sources: Sequence[str]) -> list[str]:
    """Every file of the sources, for a run over tables; hidden ones are left out."""
    folders, files = expanded(sources)
    return [*_files_in(folders), *files]


def first_files(sources: Sequence[str]) -> Iterator[str]:
    """The files of the sources, one at a time; an archive counts as one file."""
    folders, files = expanded(sources)
    yield from files
    yield from _files_in(folders)


def _files_in(folders: Sequence[str]) -> Iterator[str]:
    for folder in folders:
        for place, names, _ in _scanned(folder):
            yield from (str(Path(place) / name) for name in names)


def stamped(paths: Sequence[str]) -> list[FileEntry]:
    """An entry for each file, without companions; a file that cannot be examined fails when it is read."""
    found = []
    for path in paths:
        try:
            found.append(FileEntry(path, stamp_of(Path(path).stat())))
        except OSError:
            found.append(FileEntry(path, (0, 0)))
    return found


def _named(source: str) -> list[str]:
    if source.startswith(LIST_MARK):
        return _from_list(Path(source[1:]))
    path = Path(source)
    if path.exists():
        return _from_list(path) if path.suffix.lower() == ".txt" and _is_list(path) else [source]
    if any(c in source for c in _MAGIC):
        if found := sorted(glob.glob(source, recursive=True)):  # noqa: PTH207 - Path.glob takes no absolute pattern
            return found
        raise BatchError(f"{source}: matches no file")
    raise BatchError(f"{source}: no such file or folder")


def _is_list(path: Path) -> bool:
    """Whether a text file holds paths: its first line other than a comment names something that exists."""
    with path.open("rb") as stream:
        lines = stream.read(1 << 16).decode("utf-8", errors="replace").replace("\0", "").splitlines()
    first = next((line.strip() for line in lines if line.strip() and not line.startswith("#")), "")[:4096]
    return bool(first) and (_exists(Path(first)) or _exists(path.parent / first))


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # the name is too long
        return False


def _from_list(path: Path) -> list[str]:
    """Paths in a list file, one per line; relative ones start at the list's folder, else the current one."""
    try:
        if path.stat().st_size > MAX_LIST_BYTES:
            raise BatchError(f"{path}: larger than a list of files can be")
        lines = path.read_text(encoding="utf-8-sig", errors="surrogateescape").splitlines()
    except OSError as error:
        raise _unreadable(str(path), error) from error
    found = []
    for line in map(str.strip, lines):
        if line and not line.startswith("#"):
            beside = path.parent / line
            found.append(str(beside) if _exists(beside) or not _exists(Path(line)) else line)
    if not found:
        raise BatchError(f"{path}: an empty list")
    return found


def _within(key: str, folders: Set[str]) -> bool:
    return any(str(parent) in folders for parent in Path(key).parents)


@dataclass
class _Folder:
    """Contents of one folder."""

    stamps: dict[str, Stamp] = field(default_factory=dict)
    groups: list[Group] = field(default_factory=list)
    archives: list[str] = field(default_factory=list)


def _walked(top: str, ignored: Counter[str]) -> Iterator[Entry]:
    passed_over: set[str] = set()
    for place, names, stamps in _scanned(top):
        folder = _folder(place, names, stamps)
        for name in names:
            path = str(Path(place) / name)
            if name.upper() == DICOMDIR and (found := _references(path)) is not None:
                passed_over |= {path, *found.others}
                ignored.update(found.others.values())
                yield from found.refused
        for name, companions in folder.groups:
            if not passed_over or str(Path(place) / name) not in passed_over:
                yield _file_entry(place, name, companions, folder.stamps)
        for name in folder.archives:
            yield from archive_entries(str(Path(place) / name))


def _scanned(top: str) -> Iterator[tuple[str, list[str], dict[str, Stamp]]]:
    """Each folder under ``top``, the names of its files in order, and their stamps."""
    waiting = [top]
    while waiting:
        place = waiting.pop()
        if place != top and (Path(place) / STATE / LOCK).is_file():
            continue
        stamps: dict[str, Stamp] = {}
        below = []
        try:
            with os.scandir(place) as found:
                for item in found:
                    if item.name.startswith("."):
                        continue
                    if item.is_dir(follow_symlinks=False):
                        below.append(item.name)
                    elif not _leads_to_folder(item):
                        stamps[item.name] = _stamp(item)
        except OSError as error:
            raise _unreadable(place, error) from error
        yield place, sorted(stamps), stamps
        waiting += [str(Path(place) / name) for name in sorted(below, reverse=True)]


@dataclass(frozen=True)
class _References:
    """Files that a DICOMDIR references: ECG waveforms, others with their kind, and unavailable ones."""

    ecgs: tuple[str, ...]
    others: dict[str, str]
    refused: tuple[RefusedEntry, ...]


def _references(path: str) -> _References | None:
    """References in a DICOMDIR (PS3.3 F.3); None if it cannot be read as one, or pydicom is missing."""
    try:
        from pydicom import dcmread
        from pydicom.errors import InvalidDicomError
        from pydicom.uid import UID
    except ModuleNotFoundError:
        return None
    from ibt_deploy.readers.dicom import DAMAGE, ECG_CLASSES

    try:
        records = list(dcmread(path).DirectoryRecordSequence)
        found = [
            (record.ReferencedFileID, str(record.get("ReferencedSOPClassUIDInFile", "")))
            for record in records
            if record.get("ReferencedFileID") and record.get("RecordInUseFlag", IN_USE) == IN_USE
        ]
    except (*DAMAGE, InvalidDicomError):
        return None
    ecgs: dict[str, None] = {}
    others: dict[str, str] = {}
    refused = []
    for parts, kind in found:
        names = [parts] if isinstance(parts, str) else [str(part) for part in parts]
        file = _below(Path(path).parent, names)
        if file is None:
            shown = one_line("/".join(names))
            refused.append(
                RefusedEntry(
                    f"{path}: {shown}", "no_such_file", f"{path}: references {shown}, which does not exist"
                )
            )
        elif kind in ECG_CLASSES:
            ecgs[str(file)] = None
        else:
            others[str(file)] = UID(kind).name if kind else "no stated kind"
    return _References(tuple(ecgs), others, tuple(refused))


def _below(folder: Path, names: Sequence[str]) -> Path | None:
    """The file that a DICOMDIR names, or its lower-case form; never one outside the folder."""
    if any(name in ("", ".", "..") or not set(name).isdisjoint("/\\\0") for name in names):
        return None
    choices = (folder.joinpath(*names), folder.joinpath(*(name.lower() for name in names)))
    return next((path for path in choices if path.is_file()), None)


def _leads_to_folder(item: os.DirEntry[str]) -> bool:
    try:
        return item.is_dir()
    except OSError:  # a link to itself; reading it will fail
        return False


def _stamp(item: os.DirEntry[str]) -> Stamp:
    try:
        return stamp_of(item.stat())
    except OSError:  # a dangling link; reading it will fail
        return stamp_of(item.stat(follow_symlinks=False))


def _folder(place: str, names: Sequence[str], stamps: dict[str, Stamp]) -> _Folder:
    archives = [name for name in names if is_archive(name)]
    plain = [name for name in names if not is_archive(name)]

    def header_text(name: str) -> str:
        path = Path(place) / name
        try:
            if path.stat().st_size > MAX_HEADER_BYTES:
                return ""
            return path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""

    return _Folder(stamps, grouped(plain, header_text), archives)


def _file_entry(place: str, name: str, companions: Sequence[str], stamps: dict[str, Stamp]) -> FileEntry:
    beside = tuple((companion, stamps[companion]) for companion in companions)
    return FileEntry(str(Path(place) / name), stamps[name], beside)


def _listed(files: Sequence[str], ignored: Counter[str]) -> Iterator[Entry]:
    """Entries of files named one by one; the signal files of a header are found beside it."""
    known: dict[str, _Folder] = {}
    owners: dict[str, dict[str, Group]] = {}
    done: set[tuple[str, str]] = set()
    named = {str(Path(path).absolute()) for path in files}
    for path in files:
        place, name = str(Path(path).parent), Path(path).name
        if is_archive(name):
            yield from archive_entries(path)
            continue
        if name.upper() == DICOMDIR and (found := _references(path)) is not None:
            ignored.update(found.others.values())
            yield from found.refused
            yield from (
                entry for entry in stamped(found.ecgs) if str(Path(entry.path).absolute()) not in named
            )
            continue
        if place not in known:
            known[place] = _neighbours(place)
            owners[place] = {n: group for group in known[place].groups for n in (group[0], *group[1])}
        group = owners[place].get(name)
        if group is None:
            yield _absent(path)
        elif (place, group[0]) not in done:
            done.add((place, group[0]))
            yield _file_entry(place, *group, known[place].stamps)


def _neighbours(place: str) -> _Folder:
    try:
        _, names, stamps = next(_scanned(place))
    except BatchError:
        return _Folder()
    return _folder(place, names, stamps)


def _absent(path: str) -> Entry:
    """The entry of a listed file that is missing from its folder's listing: hidden, unreachable or absent."""
    try:
        return FileEntry(path, stamp_of(Path(path).stat()))
    except OSError as error:
        code = "no_such_file" if isinstance(error, FileNotFoundError) else "unreadable_file"
        return RefusedEntry(path, code, one_line(f"{path}: cannot be read: {error.strerror}"))


def _unreadable(place: str, error: OSError) -> BatchError:
    reason = error.strerror or str(error)
    return BatchError(one_line(f"{place}: cannot be read ({reason}); fix this, then run the command again"))
