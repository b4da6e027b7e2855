"""ICU stays of the Challenge 2019, from one Parquet file or a tree of ``pNNNNNN.psv``: cache and split.

The cache keeps the rows of the files as they are, in float32 (in which no published number loses a digit);
cleaning belongs to the preprocessing of a model's bundle. A stay whose hours or labels are broken is left out
and listed, because training should not rest on guesses.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from ibt_deploy.errors import DataError, InputError
from ibt_deploy.readers.columns import DelimitedTable
from ibt_deploy.types import Bools, Ints, Task
from ibt_deploy.vocabulary import INDEX, MAX_HOURS, N_VARIABLES, NAMES
from training.data.cache import SUMMARY, UNLABELLED, Cache, CacheSummary, Refused, replaced_folder, sealed
from training.data.split import (
    FRACTIONS,
    PARTS,
    counts_head,
    counts_line,
    one_hot,
    part_counts,
    stratified_parts,
)

TASK: Task = "sepsis"
FILES = "stays (.psv)"
LABEL = "SepsisLabel"
UNKNOWN_LABEL = -1
HOUR = INDEX["ICULOS"]
# A row takes 161 bytes before compression, so no piece can exceed 60 MiB, however badly it compresses.
ROWS_PER_PIECE = 380_000
HOSPITAL_FOLDER = re.compile(r"training(?:_set)?_?([AB])", re.IGNORECASE)
UNKNOWN_HOSPITAL = "unknown"
PREPROCESSING = {"name": "raw", "version": "1.0.0"}

Progress = Callable[[int, int], None]


@dataclass(eq=False)
class _Stays:
    """Stays sorted by patient, one after the other: stay ``i`` is ``offsets[i]:offsets[i + 1]``.

    ``files`` names each in the list of refused stays: its file in a tree, or its patient in a table.
    """

    values: npt.NDArray[np.float32]
    labels: npt.NDArray[np.float32]
    offsets: npt.NDArray[np.int64]
    patients: list[str]
    hospitals: list[str]
    files: list[str]
    refused: list[Refused]


def holds(source: Path) -> bool:
    """Whether ``source`` is a folder with stays, or a table of stays."""
    return source.suffix.lower() == ".parquet" if source.is_file() else any(source.rglob("*.psv"))


def prepare(
    source: Path,
    out: Path,
    *,
    labels: Path | None = None,
    exclude: Collection[str] = (),
    only: Collection[str] = (),
    unlabelled: bool = False,
    progress: Progress | None = None,
) -> CacheSummary:
    """Write the stays of ``source`` as a cache to ``out`` (replacing an existing cache).

    Parameters
    ----------
    source
        A Parquet file with ``patient_id``, the 40 variables, ``SepsisLabel`` and optionally ``hospital``; or
        a folder with one pipe-separated file per patient anywhere below it, where the folder names
        ``training_setA`` and ``training_setB`` (or ``training_A``, ``training_B``) name the hospital.
    out
        Folder of the cache: ``cache.json``, ``index.csv`` (patient, hospital, piece, start, length,
        septic) and ``rows-NNN.npz`` (values float32 ``(rows, 40)``, labels int8 ``(rows,)``).
    labels, exclude, only
        For recordings only; refused here.
    unlabelled
        Take only the inputs; every label is then unknown, -1.
    progress
        Called with the number of files read and the total.

    Raises
    ------
    DataError
        There are no stays, columns are missing, or ``out`` is a folder that is not a cache.
    """
    if labels or exclude or only:
        raise DataError(f"{source}: holds stays; labels and sources can be chosen for recordings only")
    if source.is_dir():
        stays = _tree(source, progress, unlabelled)
    elif source.is_file():
        stays = _parquet(source, unlabelled)
    else:
        raise DataError(f"{source}: is neither a Parquet file nor a folder of .psv files")
    faults = _faults(stays, unlabelled)
    kept = [i for i in range(len(stays.patients)) if i not in faults]
    if not kept:
        raise DataError(f"{source}: no usable stay among {len(stays.patients) + len(stays.refused)}")
    refused = [*stays.refused, *(Refused(stays.files[i], *fault) for i, fault in faults.items())]
    refused.sort(key=lambda entry: entry.file)
    with replaced_folder(out, SUMMARY, "cache") as folder:
        counts = _written(stays, kept, folder)
        if unlabelled:
            counts[UNLABELLED] = len(kept)
        sha256 = sealed(
            folder,
            task=TASK,
            source=source,
            preprocessing=PREPROCESSING,
            records=len(kept),
            refused=refused,
            counts=counts,
        )
    return CacheSummary(out, len(kept), counts, tuple(refused), sha256)


def _parquet(path: Path, unlabelled: bool) -> _Stays:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        stored = pq.ParquetFile(path)
    except pa.ArrowException as error:
        raise DataError(f"{path}: cannot be read as Parquet: {error}") from error
    present = set(stored.schema_arrow.names)
    wanted = ("patient_id", *NAMES) if unlabelled else ("patient_id", *NAMES, LABEL)
    missing = [name for name in wanted if name not in present]
    if missing:
        raise DataError(f"{path}: lacks the columns {', '.join(missing)}")
    table = stored.read()
    encoded = table["patient_id"].combine_chunks().dictionary_encode()
    if encoded.null_count:
        raise DataError(f"{path}: {encoded.null_count} rows have no patient_id")
    names = np.array([str(name) for name in encoded.dictionary.to_pylist()])
    alphabetical = np.argsort(names)
    rank = np.empty(len(names), dtype=np.int64)
    rank[alphabetical] = np.arange(len(names))
    patient = rank[encoded.indices.to_numpy()]
    order = np.argsort(patient, kind="stable")
    starts = np.searchsorted(patient[order], np.arange(len(names) + 1))

    values = np.empty((len(order), N_VARIABLES), dtype=np.float32)
    for column, name in enumerate(NAMES):
        values[:, column] = table[name].to_numpy()[order]
    if "hospital" in present:
        first = table["hospital"].take(order[starts[:-1]]).to_pylist()
        hospitals = [UNKNOWN_HOSPITAL if name is None else str(name) for name in first]
    else:
        hospitals = [UNKNOWN_HOSPITAL] * len(names)
    if unlabelled:
        labels = np.full(len(order), UNKNOWN_LABEL, dtype=np.float32)
    else:
        labels = table[LABEL].to_numpy()[order].astype(np.float32)
    patients: list[str] = names[alphabetical].tolist()
    return _Stays(values, labels, starts, patients, hospitals, patients, [])


def _tree(folder: Path, progress: Progress | None, unlabelled: bool) -> _Stays:
    paths = sorted(folder.rglob("*.psv"), key=lambda path: (path.stem, path))
    if not paths:
        raise DataError(f"{folder}: holds no .psv file")
    tables: list[npt.NDArray[np.float32]] = []
    patients: list[str] = []
    hospitals: list[str] = []
    files: list[str] = []
    refused: list[Refused] = []
    for done, path in enumerate(paths, start=1):
        name = str(path.relative_to(folder))
        if patients and patients[-1] == path.stem:
            refused.append(Refused(name, "doubled_patient", "another file has the same patient id"))
        else:
            try:
                tables.append(_rows(path, unlabelled))
            except InputError as error:
                refused.append(Refused(name, error.code, error.message))
            else:
                patients.append(path.stem)
                hospitals.append(_hospital(path.relative_to(folder.parent)))
                files.append(name)
        if progress is not None:
            progress(done, len(paths))
    if not tables:
        raise DataError(f"{folder}: none of {len(paths)} files is usable; the first: {refused[0].message}")
    rows = np.concatenate(tables)
    offsets = np.concatenate([[0], np.cumsum([len(table) for table in tables])]).astype(np.int64)
    return _Stays(rows[:, :N_VARIABLES], rows[:, N_VARIABLES], offsets, patients, hospitals, files, refused)


def _rows(path: Path, unlabelled: bool) -> npt.NDArray[np.float32]:
    """The 40 variables and the label, shape ``(rows, 41)``."""
    wanted = NAMES if unlabelled else (*NAMES, LABEL)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError("the file is not UTF-8 text", code="malformed_file") from error
    table = DelimitedTable(text, "|")
    missing = [name for name in wanted if name not in table.names]
    if missing:
        raise InputError(f"lacks the columns {', '.join(missing)}", code="missing_columns")
    if not len(table):
        raise InputError("there is a header and no row", code="too_short")
    numbers = table.numbers(wanted)
    for fault in numbers.faults.values():
        raise fault
    with np.errstate(over="ignore"):
        values = numbers.values.astype(np.float32)
    return np.pad(values, ((0, 0), (0, 1)), constant_values=UNKNOWN_LABEL) if unlabelled else values


def _hospital(path: Path) -> str:
    for part in reversed(path.parts[:-1]):
        if match := HOSPITAL_FOLDER.fullmatch(part):
            return match[1].upper()
    return UNKNOWN_HOSPITAL


def _faults(stays: _Stays, unlabelled: bool) -> dict[int, tuple[str, str]]:
    """Stays that training cannot use: code and message, by index; the first if there are several."""
    hours, labels, starts = stays.values[:, HOUR], stays.labels, stays.offsets[:-1]
    within = np.ones(len(hours), dtype=bool)
    within[starts] = False
    with np.errstate(invalid="ignore"):
        step = np.diff(hours, prepend=0)
    checks: list[tuple[str, str, npt.NDArray[np.bool_]]] = [
        ("infinite", "a value is infinite", np.any(np.isinf(stays.values), axis=1)),
        (
            "bad_hour",
            f"ICULOS is missing, not whole or outside 1 to {MAX_HOURS}",
            ~np.isin(hours, np.arange(1, MAX_HOURS + 1)),
        ),
        ("hours_out_of_order", "an hour occurs twice or hours decrease", within & (step <= 0)),
        ("hours_missing", "hours are missing between rows", within & (step > 1)),
    ]
    if not unlabelled:
        checks += [
            ("bad_label", f"{LABEL} is missing or neither 0 nor 1", ~np.isin(labels, (0, 1))),
            ("label_falls_back", f"{LABEL} falls back to 0", within & (np.diff(labels, prepend=0) < 0)),
        ]
    faults: dict[int, tuple[str, str]] = {}
    for code, message, broken in checks:
        for stay in np.unique(np.searchsorted(stays.offsets, np.flatnonzero(broken), side="right") - 1):
            faults.setdefault(int(stay), (code, message))
    return faults


def _written(stays: _Stays, kept: list[int], folder: Path) -> dict[str, int]:
    """Write the pieces and the index; returns the counts."""
    index: list[tuple[str | int, ...]] = [("patient", "hospital", "piece", "start", "length", "septic")]
    counts = {"rows": 0, "septic": 0, "positive_rows": 0}
    piece: list[slice] = []
    pieces = start = 0
    for stay in kept:
        span = slice(int(stays.offsets[stay]), int(stays.offsets[stay + 1]))
        length = span.stop - span.start
        if start + length > ROWS_PER_PIECE:
            _write_piece(stays, piece, folder / f"rows-{pieces:03d}.npz")
            piece, pieces, start = [], pieces + 1, 0
        positive = int(np.count_nonzero(stays.labels[span] > 0))
        septic = int(positive > 0)
        index.append((stays.patients[stay], stays.hospitals[stay], pieces, start, length, septic))
        piece.append(span)
        start += length
        counts["rows"] += length
        counts["septic"] += septic
        counts["positive_rows"] += positive
    _write_piece(stays, piece, folder / f"rows-{pieces:03d}.npz")
    with (folder / "index.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(index)
    return counts


def _write_piece(stays: _Stays, spans: list[slice], path: Path) -> None:
    values = np.concatenate([stays.values[span] for span in spans])
    labels = np.concatenate([stays.labels[span] for span in spans]).astype(np.int8)
    np.savez_compressed(path, values=values, labels=labels)


def drawn_parts(cache: Cache, seed: int) -> Ints:
    """A new split of the stays; indices into :data:`PARTS`."""
    return stay_parts(cache.index, seed)


def drawn_folds(cache: Cache, items: Ints, folds: int) -> Ints:
    """Fold of each of ``items``, from 0: by patient, balanced by hospital, sepsis and length."""
    index = cache.index.iloc[items]
    strata = stay_strata(*(index[c].to_numpy() for c in ("hospital", "septic", "length")))
    return stratified_parts(index["patient"].to_numpy(), strata, [1 / folds] * folds)


def stay_parts(index: pd.DataFrame, seed: int = 0) -> Ints:
    """Part of each stay, balanced by hospital, sepsis and quartile of length; indices into :data:`PARTS`."""
    strata = stay_strata(*(index[c].to_numpy() for c in ("hospital", "septic", "length")))
    return stratified_parts(index["patient"].to_numpy(), strata, FRACTIONS, seed)


def stay_strata(hospitals: npt.ArrayLike, septic: npt.ArrayLike, lengths: npt.ArrayLike) -> Bools:
    """Stratum of each stay: hospital, septic or not, quartile of length; one column per stratum.

    Parameters
    ----------
    hospitals, septic, lengths
        Shape ``(n,)``; lengths in rows.
    """
    hours = np.asarray(lengths, dtype=np.float64)
    quartile = np.searchsorted(np.quantile(hours, [0.25, 0.5, 0.75]), hours, side="left")
    hospital = np.unique(np.asarray(hospitals), return_inverse=True)[1]
    return one_hot((hospital * 2 + (np.asarray(septic) > 0)) * 4 + quartile)


def split_lines(cache: Cache, parts: Ints) -> list[str]:
    """Stays, septic stays and rows of every part."""
    counts = part_counts(cache.index[["septic"]].to_numpy(), parts)
    rows = np.bincount(parts, cache.index["length"], len(PARTS)).astype(np.int64)
    return [
        counts_head(),
        counts_line("stays", counts.records),
        counts_line("septic", counts.positives[:, 0]),
        counts_line("rows", rows),
    ]
