"""Inputs of an evaluation, the diagnoses that a table states for them, and sub-groups by sex and age."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from ibt_deploy.errors import DataError
from ibt_deploy.readers import task_of
from ibt_deploy.records import Recording
from ibt_deploy.types import Strings, Task

UNKNOWN = "unknown"
AGE_BANDS = ((40, "under 40"), (65, "40-64"), (80, "65-79"), (1000, "80 and over"))
"""Upper limit in years, excluded, and name of each band."""
SEXES = ("female", "male")


def age_bands(ages: npt.ArrayLike) -> Strings:
    """The age band of each age in years; ``unknown`` for NaN and for what is not an age."""
    years = np.asarray(ages, dtype=np.float64)
    bands = np.full(len(years), UNKNOWN, dtype="U16")
    lower = 0
    for upper, name in AGE_BANDS:
        bands[(years >= lower) & (years < upper)] = name
        lower = upper
    return bands


def named_sexes(values: Iterable[Any]) -> Strings:
    """``female``, ``male`` or ``unknown`` for words in any case; any other word is unknown."""
    words = (str(value).lower() for value in values)
    return np.array([word if word in SEXES else UNKNOWN for word in words], dtype="U7")


def in_order(groups: Mapping[str, T]) -> list[tuple[str, T]]:
    """Sub-groups in the order a reader expects: the youngest first, what is unknown last."""
    youngest = AGE_BANDS[0][1]
    return sorted(groups.items(), key=lambda entry: (entry[0] == UNKNOWN, entry[0] != youngest, entry[0]))


K = TypeVar("K")
T = TypeVar("T")
SNOMED = re.compile(r"\d{6,18}", re.ASCII)
PATTERNS: dict[Task, str] = {"arrhythmia": "*.hea", "sepsis": "*.psv"}


@dataclass(frozen=True)
class Source:
    """The files of an evaluation, sorted, and their task."""

    task: Task
    files: tuple[Path, ...]


def source_of(path: Path) -> Source:
    """The inputs in a file or, at any depth, in a folder.

    Raises
    ------
    DataError
        When a folder holds neither recordings (``.hea``) nor stays (``.psv``), or both.
    InputError
        When a file is not understood.
    """
    if not path.is_dir():
        return Source(task_of(path), (path,))
    found = {task: tuple(sorted(path.rglob(pattern))) for task, pattern in PATTERNS.items()}
    tasks = [task for task, files in found.items() if files]
    if len(tasks) != 1:
        both, neither = (
            "both recordings (.hea) and stays (.psv)",
            "neither recordings (.hea) nor stays (.psv)",
        )
        what = both if tasks else neither
        hint = "name a folder that holds one of them" if tasks else "a table of stays is named as a file"
        raise DataError(f"{path}: {what} in it; {hint}")
    return Source(tasks[0], found[tasks[0]])


@dataclass(frozen=True)
class Label:
    """What is stated about one recording: SNOMED CT codes, and patient and source where they are named."""

    codes: tuple[str, ...]
    patient: str | None = None
    source: str = ""


class LabelTable:
    """Diagnoses from a CSV file.

    Columns: ``file`` (path of the header, matched from its end) or ``record`` (its name without suffix), or
    both; ``dx``: SNOMED CT codes, separated by anything but letters and digits; optionally ``patient`` and
    ``source``. A row with an empty ``dx`` states no diagnosis, so that its recording has no label.

    Parameters
    ----------
    path
        The CSV file.

    Raises
    ------
    DataError
        When the file cannot be read, a column is missing, a ``dx`` holds anything but codes, or two rows name
        the same recording.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._by_file: dict[PurePosixPath, Label] = {}
        self._by_record: dict[str, Label] = {}
        self._depths: set[int] = set()
        for number, row in self._rows():
            codes = tuple(re.findall(r"\w+", row["dx"]))
            if wrong := [code for code in codes if not SNOMED.fullmatch(code)]:
                raise DataError(f"{path}: row {number}: {wrong[0][:40]!r} in dx is no SNOMED CT code")
            if not codes:
                continue
            label = Label(codes, row.get("patient") or None, row.get("source", ""))
            if row.get("file"):
                file = PurePosixPath(row["file"].replace("\\", "/")).with_suffix("")
                self._depths.add(len(file.parts))
                self._add(self._by_file, file, label, number)
            elif row.get("record"):
                self._add(self._by_record, row["record"], label, number)
            else:
                raise DataError(f"{path}: row {number} names neither a file nor a record")

    def of(self, recording: Recording) -> Label | None:
        """The label of a recording; None where the table does not name it."""
        parts = Path(recording.source).with_suffix("").parts
        for depth in sorted(self._depths, reverse=True):
            if depth <= len(parts) and (label := self._by_file.get(PurePosixPath(*parts[-depth:]))):
                return label
        return self._by_record.get(recording.record_id)

    def _rows(self) -> Iterator[tuple[int, dict[str, str]]]:
        try:
            with self._path.open(newline="", encoding="utf-8-sig") as file:
                reader = csv.DictReader(file)
                columns = set(reader.fieldnames or ())
                if "dx" not in columns or not columns & {"file", "record"}:
                    raise DataError(f"{self._path}: needs a column 'dx' and a column 'record' or 'file'")
                for number, row in enumerate(reader, start=2):
                    yield number, {key: (value or "").strip() for key, value in row.items() if key}
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"{self._path}: cannot be read as CSV ({error})") from error

    def _add(self, table: dict[K, Label], key: K, label: Label, number: int) -> None:
        if key in table:
            raise DataError(f"{self._path}: row {number} names {key} a second time")
        table[key] = label
