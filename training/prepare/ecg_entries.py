"""Which recordings a data set holds, and what its folders or its index say about each."""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from ibt_deploy.errors import DataError
from training.prepare.ecg_sources import source_of

REQUIRED = frozenset({"record", "source", "file"})
MILLIVOLT = "mV"
APPROXIMATE = "approximate"


@dataclass(frozen=True)
class Entry:
    """One recording to prepare.

    Attributes
    ----------
    file
        Its header.
    record, source
        Identifier, and the data set it belongs to.
    dx
        SNOMED CT codes; None: those of the header count.
    amplitude
        ``mV``, or ``approximate`` where the absolute voltage is not known.
    patient, fold, age, sex
        Empty where the index says nothing.
    """

    file: Path
    record: str
    source: str
    dx: tuple[str, ...] | None = None
    amplitude: str = MILLIVOLT
    patient: str = ""
    fold: str = ""
    age: str = ""
    sex: str = ""

    @property
    def group(self) -> str:
        """What may not be divided between the parts of a split: the patient where known, else the record."""
        return f"{self.source}:patient:{self.patient}" if self.patient else f"{self.source}:{self.record}"


def index_of(root: Path) -> Path | None:
    """``index.csv`` in ``root``, if it is an index of recordings."""
    path = root / "index.csv"
    if not path.is_file():
        return None
    with path.open(encoding="utf-8", newline="") as stream:
        names = next(csv.reader(stream), [])
    return path if set(names) >= REQUIRED else None


def entries(root: Path, index_csv: Path | None) -> list[Entry]:
    """The recordings below ``root``, sorted by source and record.

    Raises
    ------
    DataError
        There are none, two have one name, or the index lacks a column or names a file outside ``root``.
    """
    if index_csv is None:
        files = root.rglob("*.hea")
        found = [Entry(file, file.stem, source_of(file.relative_to(root), root)) for file in files]
    else:
        found = _indexed(root, index_csv)
    if not found:
        raise DataError(f"{root}: no .hea file below it")
    found.sort(key=lambda entry: (entry.source, entry.record))
    names = Counter(entry.record for entry in found)
    twice = [name for name, times in names.items() if times > 1]
    if twice:
        raise DataError(f"{root}: {len(twice)} record names are there more than once, e.g. {twice[0]}")
    return found


def _indexed(root: Path, index_csv: Path) -> list[Entry]:
    """The recordings that an index lists."""
    try:
        with index_csv.open(encoding="utf-8", newline="") as stream:
            reader = csv.DictReader(stream)
            names = set(reader.fieldnames or ())
            table = list(reader)
    except OSError as error:
        raise DataError(f"{index_csv}: cannot be read: {error.strerror}") from error
    if not names >= REQUIRED:
        raise DataError(f"{index_csv}: needs the columns record, source and file")
    if any(Path(row["file"]).is_absolute() or ".." in Path(row["file"]).parts for row in table):
        raise DataError(f"{index_csv}: names a file outside {root}")
    return [
        Entry(
            file=root / row["file"],
            record=row["record"],
            source=row["source"],
            dx=tuple(row["dx"].split()) if "dx" in names else None,
            amplitude=row.get("amplitude") or MILLIVOLT,
            patient=row.get("patient") or "",
            fold=row.get("fold") or "",
            age=row.get("age") or "",
            sex=row.get("sex") or "",
        )
        for row in table
    ]
