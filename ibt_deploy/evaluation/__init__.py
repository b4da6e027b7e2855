"""Score labelled inputs with the official metrics, recalibrate on them, and watch exports without labels.

This module holds what both tasks share: the inputs of an evaluation and their labels, the sub-groups by
sex and age, and the result with its intervals over patients. :mod:`ibt_deploy.evaluation.ecg` and
:mod:`ibt_deploy.evaluation.stay` score the inputs. :mod:`ibt_deploy.evaluation.recalibration` fits a site's
own calibration and thresholds and writes them; :mod:`ibt_deploy.evaluation.monitoring` compares two finished
runs of ``ibt batch``.
"""

from __future__ import annotations

import csv
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from ibt_deploy.errors import DataError
from ibt_deploy.metrics.bootstrap import Interval
from ibt_deploy.predictions import NOTICE, Model, Refusal
from ibt_deploy.readers import task_of
from ibt_deploy.records import Recording
from ibt_deploy.types import PARTS, Strings, Task

if TYPE_CHECKING:
    from ibt_deploy.predictor import Predictor

UNKNOWN = "unknown"
AGE_BANDS = ((40, "under 40"), (65, "40-64"), (80, "65-79"), (1000, "80 and over"))
"""Exclusive upper limit in years, and name, of each band."""
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
    """Sub-groups in the order a reader expects: the youngest first, the unknown last."""
    youngest = AGE_BANDS[0][1]
    return sorted(groups.items(), key=lambda entry: (entry[0] == UNKNOWN, entry[0] != youngest, entry[0]))


K = TypeVar("K")
T = TypeVar("T")
SNOMED = re.compile(r"\d{6,18}", re.ASCII)


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
    found = {task: tuple(sorted(path.rglob(parts.files))) for task, parts in PARTS.items()}
    tasks = [task for task, files in found.items() if files]
    if len(tasks) != 1:
        kinds = [f"{parts.noun} ({parts.files[1:]})" for parts in PARTS.values()]
        what = f"both {' and '.join(kinds)}" if tasks else f"neither {' nor '.join(kinds)}"
        hint = "name a folder that holds one of them" if tasks else "a table of stays is named as a file"
        raise DataError(f"{path}: {what} in it; {hint}")
    return Source(tasks[0], found[tasks[0]])


@dataclass(frozen=True)
class Label:
    """Label of one recording: SNOMED CT codes, and patient and source if they are named."""

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
                raise DataError(f"{path}: line {number}: {wrong[0][:40]!r} in dx is not a SNOMED CT code")
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
                raise DataError(f"{path}: line {number} names neither a file nor a record")

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
                for row in reader:
                    yield reader.line_num, {key: (value or "").strip() for key, value in row.items() if key}
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"{self._path}: cannot be read as CSV ({error})") from error

    def _add(self, table: dict[K, Label], key: K, label: Label, number: int) -> None:
        if key in table:
            raise DataError(f"{self._path}: line {number} names {key} a second time")
        table[key] = label


@dataclass(frozen=True)
class Measure:
    """One number of an evaluation.

    Attributes
    ----------
    name, title
        For machines and for people.
    value, low, high
        The value and its interval; NaN where undefined.
    """

    name: str
    title: str
    value: float
    low: float = math.nan
    high: float = math.nan

    @classmethod
    def of(cls, name: str, title: str, interval: Interval) -> Measure:
        """A measure with its bootstrap interval."""
        return cls(name, title, interval.value, interval.low, interval.high)


@dataclass(frozen=True)
class Group:
    """Rows of numbers about parts of the data: classes, or hospitals.

    Attributes
    ----------
    name, title
        For machines and for people.
    columns
        Key and title of each number.
    rows
        Name of each part with its numbers; NaN where undefined, None where it does not apply.
    """

    name: str
    title: str
    columns: tuple[tuple[str, str], ...]
    rows: tuple[tuple[str, Mapping[str, float | int | bool | None]], ...]


@dataclass(frozen=True)
class Evaluation:
    """The result of one evaluation.

    Attributes
    ----------
    task, source, model
        What was scored by which model.
    counts
        What was scored and refused, e.g. ``{"recordings": 200, "patients": 200, "refused": 1}``.
    measures
        The headline numbers.
    groups
        Tables.
    refusals
        Inputs without a score.
    notes
        What is undefined, and other remarks.
    draws
        Bootstrap draws of patients behind each interval.
    """

    task: str
    source: str
    model: Model
    counts: Mapping[str, int]
    measures: tuple[Measure, ...]
    groups: tuple[Group, ...]
    refusals: tuple[Refusal, ...]
    notes: tuple[str, ...]
    draws: int

    def to_dict(self) -> dict[str, Any]:
        """The evaluation as a JSON-compatible dictionary; null where a number is undefined."""
        m = self.model
        return {
            "task": self.task,
            "source": self.source,
            "bundle": {"name": m.name, "version": m.version, "sha256": m.sha256, "variant": m.variant},
            "operating_point": m.operating_point,
            "device": m.device,
            "counts": dict(self.counts),
            "bootstrap_draws": self.draws,
            "measures": {
                measure.name: {
                    "value": _finite(measure.value),
                    "interval": [_finite(measure.low), _finite(measure.high)],
                }
                for measure in self.measures
            },
            "groups": {
                group.name: [
                    {"name": name, **{key: _finite(value) for key, value in numbers.items()}}
                    for name, numbers in group.rows
                ]
                for group in self.groups
            },
            "refused": [refusal.to_dict() for refusal in self.refusals],
            "notes": list(self.notes),
            "notice": NOTICE,
        }


class Scored(Protocol):
    """Labelled inputs and their scores."""

    @property
    def refusals(self) -> tuple[Refusal, ...]:
        """Inputs without a score or without a label."""

    def evaluated(self, predictor: Predictor, source: str, draws: int) -> Evaluation:
        """Every measure, with intervals over patients."""

    def rows(self, predictor: Predictor) -> tuple[list[str], Iterable[Iterable[Any]]]:
        """Header and rows of ``predictions.csv``."""


def index_of_each(names: Iterable[str]) -> list[int]:
    """Index of each name, in order of first appearance: ``a b a`` gives ``0 1 0``."""
    numbers: dict[str, int] = {}
    return [numbers.setdefault(name, len(numbers)) for name in names]


def _finite(value: float | int | bool | None) -> float | int | bool | None:
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    return value


def why_none(refusals: Sequence[Refusal]) -> str:
    """Why nothing is left: the number of refusals, and the commonest reason with an example."""
    if not refusals:
        return "(the data hold none)"
    reasons = Counter(refusal.code for refusal in refusals)
    code, count = reasons.most_common(1)[0]
    example = next(refusal.message for refusal in refusals if refusal.code == code)
    others = f", {len(refusals) - count} others" if len(refusals) > count else ""
    return f"({len(refusals)} refused; {count} {code}{others}: {example})"
