"""Read ICU stays: the Challenge's pipe-separated files, CSV and Parquet, one or many patients per file.

Column names are those of the Challenge 2019, exactly. ``ICULOS`` (or ``hour``, the same thing) is required;
``patient_id`` is needed only if a file holds several patients; ``hospital`` and ``SepsisLabel`` are
optional. Values are taken unchanged: units are those of ``ehr_variables.csv``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from ibt_deploy.errors import BadRows, InputError, MalformedFile, TooLong, TooShort
from ibt_deploy.files import File
from ibt_deploy.readers.columns import MISSING_WORDS, DelimitedTable, Numbers, shortened
from ibt_deploy.records import Notice, Stay, are_consecutive
from ibt_deploy.types import Bools, Floats, Ints
from ibt_deploy.vocabulary import INDEX, MAX_HOURS, N_TIME_VARYING, N_VARIABLES, NAMES

TASK = "sepsis"
NAME = "ICU stay (PSV, CSV, Parquet)"

PARQUET_MAGIC = b"PAR1"
DELIMITERS = {"|": "PSV", ",": "CSV", ";": "CSV (semicolons)", "\t": "TSV"}
LABEL, PATIENT, HOSPITAL, HOUR = "SepsisLabel", "patient_id", "hospital", "hour"
ICULOS = INDEX["ICULOS"]
KNOWN = frozenset((*NAMES, LABEL, PATIENT, HOSPITAL, HOUR))
SPELT = {name.casefold(): name for name in KNOWN}
# With fewer vital signs and labs than this a risk would rest only on age and time.
FEWEST_MEASURED_COLUMNS = 5
RECOGNISED_FROM = 3
MAX_TEXT_BYTES = 1 << 31
LISTED = 8
HEADERS_KEPT = 16
_ROW = re.compile(r"row (\d+)")


class Table(Protocol):
    """Columns by name: the rows of one stay or of several."""

    names: tuple[str, ...]

    def __len__(self) -> int: ...
    def words(self, name: str) -> list[str]:
        """A column of text."""

    def numbers(self, names: list[str]) -> Numbers:
        """Columns of numbers."""


def sniff(file: File, head: bytes) -> bool:
    """Whether a file that begins with ``head`` is a table of ICU stays.

    True for Parquet, for the suffix ``.psv`` and for a text whose first line names ICULOS or at least three
    of the 40 variables (in any case, so that the error for a misspelt header can say so).
    """
    if head.startswith(PARQUET_MAGIC) or file.suffix.casefold() in {".psv", ".parquet"}:
        return True
    header = head.decode("utf-8-sig", errors="replace").lstrip().split("\n", 1)[0].casefold()
    found = {name.strip().strip('"') for name in header.split(_delimiter(header))}
    return "iculos" in found or len(found & {name.casefold() for name in NAMES}) >= RECOGNISED_FROM


def read(file: File) -> list[Stay]:
    """All stays of a file, in the order of their first rows.

    Raises
    ------
    InputError
        The file, or any stay in it, is refused; the message says which and why. :func:`read_each` answers
        for every stay separately.
    MissingExtra
        The file is Parquet and pyarrow is not installed.
    OSError
        The file cannot be opened.
    """
    return all_or_error(read_each(file))


def all_or_error(answers: Iterable[Stay | InputError]) -> list[Stay]:
    """The stays; raises the first error among the answers."""
    stays = []
    for answer in answers:
        if isinstance(answer, InputError):
            raise answer
        stays.append(answer)
    return stays


def read_each(file: File) -> Iterator[Stay | InputError]:
    """One answer per patient of a file: the stay, or the reason for its refusal.

    Raises
    ------
    InputError
        The file as a whole is refused.
    MissingExtra
        The file is Parquet and pyarrow is not installed.
    """
    try:
        table, file_format = _opened(file)
        for answer in stays_of_table(table, file_format, file):
            yield _with_line(answer, table) if isinstance(answer, InputError) else answer
    except InputError as error:
        raise error.at(str(file)) from error.__cause__


def _with_line(error: InputError, table: Table) -> InputError:
    """The error of a row with the row's number replaced by the line of the file, as an editor shows it."""
    match = _ROW.match(error.message)
    if match is None or not isinstance(table, DelimitedTable):
        return error
    message = table.row(int(match[1]) - 1) + error.message[match.end() :]
    return type(error)(message, where=error.where, code=error.code)


def _opened(file: File) -> tuple[Table, str]:
    with file.open("rb") as stream:
        magic = stream.read(len(PARQUET_MAGIC))
    if magic == PARQUET_MAGIC or file.suffix.casefold() == ".parquet":
        from ibt_deploy.readers.columns import ParquetTable

        return ParquetTable(file), "Parquet"
    if file.stat().st_size > MAX_TEXT_BYTES:
        raise TooLong(
            "larger than 2 GiB of text; cut it by patients, or give Parquet", code="table_too_large"
        )
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise MalformedFile("is not UTF-8 text") from error
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    delimiter = _delimiter(text.lstrip().split("\n", 1)[0])
    return DelimitedTable(text, delimiter), DELIMITERS[delimiter]


def _delimiter(header: str) -> str:
    return max(DELIMITERS, key=header.count)


def stays_of_table(table: Table, file_format: str, file: File) -> Iterator[Stay | InputError]:
    """One answer per patient of a table; ``file`` names it in messages. Errors as for :func:`read_each`."""
    # made-up names are not cached
    read_header = _known_header if KNOWN.issuperset(table.names) else _header
    notes, present, optional = read_header(table.names)
    if not len(table):
        raise TooShort("there is a header and no row", code="no_rows")
    numbers = table.numbers([*present, *optional])
    if len(present) == N_VARIABLES:
        values = numbers.values[:, :N_VARIABLES]
    else:
        values = np.full((len(table), N_VARIABLES), np.nan)
        values[:, [INDEX[name] for name in present]] = numbers.values[:, : len(present)]
    extra = dict(zip(optional, numbers.values[:, len(present) :].T, strict=True))
    if HOUR in extra:
        _merge_hours(values, extra[HOUR], numbers.faults)
    labels = extra.get(LABEL)
    hospitals = table.words(HOSPITAL) if HOSPITAL in table.names else None

    nameless, patients = _patients(table)
    if len(nameless):
        yield BadRows(
            f"row {nameless[0] + 1} has no patient_id{_of_several(len(nameless))}", code="missing_patient"
        )
        lost = f"{len(nameless)} row{'s' * (len(nameless) > 1)} of the file"
        notes = (*notes, f"{lost} without patient_id may have been of this stay.")
    for patient, rows in patients:
        where = str(file) if patient is None else f"{file}, patient {patient}"
        try:
            if numbers.faults and (faulty := [row for row in rows.tolist() if row in numbers.faults]):
                raise numbers.faults[faulty[0]]
            rows, warnings = within_two_weeks(values[rows, ICULOS], rows)
            whole, inserted, whole_labels = hourly(
                values[rows], None if labels is None else labels[rows], numbered(rows)
            )
        except InputError as error:
            yield error.at(where)
            continue
        missing_hours = int(np.count_nonzero(inserted))
        yield Stay(
            values=whole,
            patient_id=file.stem if patient is None else patient,
            source=str(file),
            format=file_format,
            labels=whole_labels,
            inserted=inserted,
            notes=(*notes, *_limit_note(numbers, rows), *inserted_note(missing_hours)),
            extra={} if hospitals is None else {HOSPITAL: hospitals[rows[0]]},
            warnings=warnings,
        )


class _Header(NamedTuple):
    """Contents of a header: notes about it, and its columns of the 40 variables and of other numbers."""

    notes: tuple[str, ...]
    present: tuple[str, ...]
    optional: tuple[str, ...]


def _header(names: tuple[str, ...]) -> _Header:
    notes, given = column_notes(names), frozenset(names)
    present = tuple(name for name in NAMES if name in given)
    return _Header(tuple(notes), present, tuple(name for name in (HOUR, LABEL) if name in given))


_known_header = lru_cache(HEADERS_KEPT)(_header)


def column_notes(names: tuple[str, ...]) -> list[str]:
    """Notes about missing or unknown columns; refuses a file that is not a stay."""
    given = frozenset(names)
    missing = [name for name in NAMES if name not in given]
    measured = [name for name in NAMES[:N_TIME_VARYING] if name in given]
    unknown = [name for name in names if name and name not in KNOWN]
    for name in unknown:
        if SPELT.get(name.casefold(), name) not in given:
            raise MalformedFile(
                f"the column {name} must be spelt {SPELT[name.casefold()]}", code="misspelt_column"
            )
    if len(measured) < FEWEST_MEASURED_COLUMNS:
        raise MalformedFile(
            f"has {len(measured)} of the {N_TIME_VARYING} vital signs and labs as columns, "
            f"at least {FEWEST_MEASURED_COLUMNS} are needed (HR, O2Sat, Temp, ...)",
            code="missing_columns",
        )
    if "ICULOS" not in names and HOUR not in names:
        raise MalformedFile("has neither a column ICULOS nor a column hour", code="missing_columns")
    notes = []
    if HOUR in names and "ICULOS" in missing:
        missing.remove("ICULOS")
    if missing:
        notes.append(f"Columns not in the file, taken as never measured: {listed(missing)}.")
    if unknown:
        notes.append(f"Columns that no model reads were ignored: {listed(unknown)}.")
    return notes


def listed(names: list[str]) -> str:
    """The first names, and the number of further ones."""
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(map(shortened, names[:LISTED])) + more


def inserted_note(count: int) -> list[str]:
    """Note about ``count`` hours that are missing from the file; none for 0."""
    if not count:
        return []
    return [f"{count} missing hour{'s' * (count > 1)} inserted as rows without measurements."]


def _of_several(count: int) -> str:
    return f" ({count} such rows)" if count > 1 else ""


def _limit_note(numbers: Numbers, rows: Ints) -> list[str]:
    """Note about measurements of some rows that were given as a limit; none for 0."""
    if not numbers.limits:
        return []
    found = Counter(column for row in rows.tolist() for column in numbers.limits.get(row, ()))
    if not found:
        return []
    listed = ", ".join(f"{column} {count}" for column, count in sorted(found.items()))
    return [f"Values given as a limit (<0.5) were read as the limit: {listed}."]


def _merge_hours(values: Floats, hour: Floats, faults: dict[int, BadRows]) -> None:
    """Use ``hour`` where ICULOS is missing; rows where the two contradict each other get a fault."""
    iculos = values[:, ICULOS]
    other = (iculos != hour) & ~np.isnan(iculos) & ~np.isnan(hour)
    for row in np.flatnonzero(other).tolist():
        message = f"row {row + 1}: ICULOS {iculos[row]:g} and hour {hour[row]:g} differ"
        faults.setdefault(row, BadRows(message, code="hours_differ"))
    values[:, ICULOS] = np.where(np.isnan(iculos), hour, iculos)


def _patients(
    table: Table,
) -> tuple[Ints, list[tuple[str | None, Ints]]]:
    """Rows that name no patient, and each patient with the indices of their rows, in file order.

    Blanks around a name are ignored, and a word for a missing value is not a name.
    """
    if PATIENT not in table.names:
        return np.empty(0, dtype=np.int64), [(None, np.arange(len(table)))]
    rows: dict[str, list[int]] = {}
    for row, patient in enumerate(table.words(PATIENT)):
        rows.setdefault(patient, []).append(row)
    nameless = [row for name in rows if name.casefold() in MISSING_WORDS for row in rows[name]]
    named = {name: indices for name, indices in rows.items() if name.casefold() not in MISSING_WORDS}
    return (
        np.array(sorted(nameless), dtype=np.int64),
        [(name, np.array(indices)) for name, indices in named.items()],
    )


def within_two_weeks(hours: Floats, rows: Ints) -> tuple[Ints, tuple[Notice, ...]]:
    """The rows up to hour 336, and a warning if later ones are dropped.

    The models were trained on the first two weeks of a stay and only look back: later rows change no earlier
    risk. Rows are unchanged if none is within two weeks, or if an earlier hour follows a later one.
    """
    later = hours > MAX_HOURS
    kept = int(np.argmax(later))
    if not kept or not later[kept:].all():
        return rows, ()
    left_out = len(rows) - kept
    message = (
        f"{left_out} row{'s' * (left_out > 1)} after hour {MAX_HOURS} left out: the models were trained on "
        "the first two weeks."
    )
    return rows[:kept], (Notice("rows_left_out", message),)


RowName: TypeAlias = Callable[[int], str]
"""Names a row of a stay in messages (``row 3``); called only when there is something to report."""


def numbered(rows: Ints) -> RowName:
    """Name rows by their numbers, counted from 1; ``rows`` are indices, shape ``(hours,)``."""
    return lambda row: f"row {rows[row] + 1}"


def hourly(
    values: Floats, labels: Floats | None, name_of: RowName
) -> tuple[Floats, Bools, npt.NDArray[np.int8] | None]:
    """One row per hour from the first to the last, which of them are new, and their labels."""
    hours = values[:, ICULOS]
    if are_consecutive(hours):
        checked = None if labels is None else _checked_labels(labels, name_of)
        return values, np.zeros(len(hours), dtype=np.bool_), checked
    for broken, code, what in (
        (np.isnan(hours), "missing_hour", "has no ICULOS"),
        (hours != np.floor(hours), "bad_hour", "has an ICULOS that is not a whole number"),
        (hours < 1, "bad_hour", "has an ICULOS below 1; the first hour is 1"),
    ):
        if broken.any():
            raise BadRows(f"{name_of(int(np.argmax(broken)))} {what}", code=code)
    if len(hours) > MAX_HOURS:
        raise TooLong(f"{len(hours)} rows, the models read at most {MAX_HOURS} hours (two weeks)")
    steps = np.diff(hours)
    if (steps <= 0).any():
        row = int(np.argmax(steps <= 0)) + 1
        code, what = (
            ("doubled_hour", "repeats") if steps[row - 1] == 0 else ("hours_out_of_order", "goes back to")
        )
        raise BadRows(f"{name_of(row)} {what} hour {hours[row]:.0f}; hours must increase", code=code)
    if hours[-1] > MAX_HOURS:
        raise TooLong(
            f"reaches hour {hours[-1]:.0f}, the models support at most hour {MAX_HOURS} (two weeks)"
        )
    checked = None if labels is None else _checked_labels(labels, name_of)
    place = (hours - hours[0]).astype(np.int64)
    inserted = np.ones(place[-1] + 1, dtype=np.bool_)
    inserted[place] = False
    whole = np.full((len(inserted), N_VARIABLES), np.nan)
    whole[place] = values
    whole[:, ICULOS] = hours[0] + np.arange(len(inserted))
    if checked is None:
        return whole, inserted, None
    whole_labels = np.full(len(inserted), -1, dtype=np.int8)
    whole_labels[place] = checked
    return whole, inserted, whole_labels


def _checked_labels(labels: Floats, name_of: RowName) -> npt.NDArray[np.int8]:
    usable = np.isin(labels, (0, 1)) | np.isnan(labels)
    if not usable.all():
        row = int(np.argmin(usable))
        raise BadRows(f"{name_of(row)} has the {LABEL} {labels[row]:g}, not 0 or 1", code="bad_label")
    return np.where(np.isnan(labels), -1, labels).astype(np.int8)


def outline(file: File) -> dict[str, Any]:
    """Rows and columns of the table."""
    table, file_format = _opened(file)
    return {"kind": file_format, "rows": len(table), "columns": [shortened(name) for name in table.names]}
