"""Compare two finished runs of ``ibt batch``, or a run with the training data.

Each measure is compared by an index with a limit:

* **Stability**: the population stability index, ``sum((now - then) * ln(now / then))`` over bins of the
  reference. For risks, probabilities and lengths the bins are deciles of the reference, counted exactly; for
  inputs they are the spans between the five quantiles that ``summary.json`` holds, where the new share of a
  span is interpolated. 0.1 is usually called moderate and 0.25 large. With few patients the index is above
  0 even without any change, by about ``(bins - 1) * (1 / n + 1 / m)`` (Yurdakul and Naranjo, J. Risk Model
  Validation 14(4), 2020); that is added to the limit, with patients as ``n`` and ``m``, since the hours of
  one patient are alike.
* **Shares** (of hours in alarm, of values present, of patients with a warning or a finding): the same index
  over two bins, yes and no.
* **Shift**: against training, where a bundle keeps no quantiles, the median's distance from the training
  median in training standard deviations.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from ibt_deploy.bundle import Bundle
from ibt_deploy.errors import DataError, require
from ibt_deploy.preprocess.stay import LOGARITHMIC, StayPreprocessing
from ibt_deploy.types import NOUNS, PARTS, TASKS, AnyInts, Floats, Task
from ibt_deploy.vocabulary import N_TIME_VARYING, NAMES

Kind = Literal["input", "missing", "risk", "alarm", "finding", "warning", "length", "refused"]
Numbers: TypeAlias = tuple[int, dict[str, tuple[Kind, Floats]], dict[str, tuple[Kind, int, int]]]
"""Patients, numbers and shares as in :class:`Export`."""
FEWEST = 100


@dataclass(frozen=True, eq=False)
class Export:
    """The numbers of a finished ``ibt batch``.

    Attributes
    ----------
    path
        Its folder.
    summary
        ``summary.json``.
    patients
        Stays or recordings that were scored.
    numbers
        Values of each measure that is compared by deciles.
    shares
        How often each thing occurred, and out of how many.
    """

    path: Path
    summary: dict[str, Any]
    patients: int
    numbers: dict[str, tuple[Kind, Floats]] = field(default_factory=dict)
    shares: dict[str, tuple[Kind, int, int]] = field(default_factory=dict)

    @property
    def task(self) -> Task:
        """``arrhythmia`` or ``sepsis``."""
        task: Task = self.summary["task"]
        return task

    @property
    def columns(self) -> dict[str, dict[str, Any]]:
        """Counts for each column of a table, by variable."""
        return {column["variable"]: column for column in self.summary.get("tables", {}).get("columns", [])}

    @property
    def rows(self) -> int:
        """Rows of the tables."""
        return int(self.summary.get("tables", {}).get("rows", 0))


def read_export(path: Path) -> Export:
    """The numbers of a finished run in ``path``.

    Raises
    ------
    DataError
        There is no finished run, its format is not Parquet, or it has fewer than 100 patients.
    MissingExtra
        pyarrow is not installed.
    """
    require("ibt monitor", "pyarrow")
    import pyarrow as pa
    import pyarrow.dataset as ds

    try:
        summary = json.loads((path / "summary.json").read_text(encoding="utf-8"))
        is_known = summary["task"] in TASKS and summary["format"] == "parquet"
    except (OSError, ValueError, KeyError, TypeError):
        raise DataError(f"{path}: no finished run of ibt batch (no readable summary.json)") from None
    if not is_known:
        raise DataError(f"{path}: written with --format {summary['format']}; only Parquet can be compared")
    files = sorted((path / "predictions").glob("*.parquet"))
    try:
        table = ds.dataset([str(file) for file in files], format="parquet")
        found = PARTS[summary["task"]].exported.load()(table)
    except (pa.ArrowException, OSError, KeyError) as error:
        raise DataError(f"{path}: predictions cannot be read ({str(error).splitlines()[0]})") from error
    patients, numbers, shares = found
    if patients < FEWEST:
        raise DataError(f"{path}: {patients} scored; a comparison needs at least {FEWEST}")
    for code, count in summary.get("warnings", {}).items():
        shares[f"warning {code}"] = ("warning", int(count), patients)
    shares["refused inputs"] = ("refused", int(summary["refusals"]), int(summary["answers"]))
    return Export(path, summary, patients, numbers, shares)


def numbers_of_stays(table: Any) -> Numbers:
    """The numbers of an export of stays."""
    columns = table.to_table(columns=["record", "risk", "alarm", "missing"])
    risk = columns["risk"].to_numpy().astype(np.float64)
    alarm = columns["alarm"].to_numpy()
    record = columns["record"].combine_chunks().dictionary_encode()
    stay = record.indices.to_numpy()
    stays = len(record.dictionary)
    hours = np.bincount(stay, minlength=stays).astype(np.float64)
    in_alarm = np.bincount(stay, weights=alarm, minlength=stays) > 0
    numbers: dict[str, tuple[Kind, Floats]] = {
        "risk": ("risk", risk),
        "highest risk of a stay": ("risk", _highest(risk, stay, stays)),
        "variables missing in an hour": ("missing", columns["missing"].to_numpy().astype(np.float64)),
        "hours of a stay": ("length", hours),
    }
    shares: dict[str, tuple[Kind, int, int]] = {
        "hours in alarm": ("alarm", int(alarm.sum()), len(alarm)),
        "stays with an alarm": ("alarm", int(in_alarm.sum()), stays),
    }
    return stays, numbers, shares


def _highest(risk: Floats, stay: AnyInts, stays: int) -> Floats:
    found = np.zeros(stays)
    np.maximum.at(found, stay, risk)
    return found


def numbers_of_recordings(table: Any) -> Numbers:
    """The numbers of an export of recordings."""
    names = [name for name in table.schema.names if name.startswith(("p_", "pos_"))]
    columns = table.to_table(columns=[*names, "duration", "sampling_rate"])
    numbers: dict[str, tuple[Kind, Floats]] = {
        "duration": ("length", columns["duration"].to_numpy().astype(np.float64)),
        "sampling rate": ("input", columns["sampling_rate"].to_numpy().astype(np.float64)),
    }
    shares: dict[str, tuple[Kind, int, int]] = {}
    for name in names:
        kind, _, short = name.partition("_")
        values = columns[name].to_numpy()
        if kind == "p":
            numbers[f"probability {short}"] = ("risk", values.astype(np.float64))
        else:
            shares[f"finding {short}"] = ("finding", int(values.sum()), len(values))
    return len(columns), numbers, shares


MODERATE, LARGE = 0.1, 0.25
TENTHS = np.arange(1, 10) / 10
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
SMALLEST_SHARE = 1e-4
FEWEST_VALUES = 50
MOST_RATIO = 1.5
LARGE_SHIFT = 0.5


@dataclass(frozen=True)
class Change:
    """One measure, then and now.

    Attributes
    ----------
    name, kind
        Name and kind of the measure.
    then, now
        Medians or shares, for people; NaN where unknown.
    index, limit
        The value that is judged, and the limit from which the change counts as large.
    measure
        ``stability`` or ``shift``.
    """

    name: str
    kind: Kind
    then: float
    now: float
    index: float
    limit: float
    measure: Literal["stability", "shift"] = "stability"

    @property
    def is_large(self) -> bool:
        """Whether the change needs attention."""
        return self.index >= self.limit

    def to_dict(self) -> dict[str, Any]:
        """The change as a JSON-compatible dictionary."""
        numbers = {
            key: None if math.isnan(value) else round(value, 6)
            for key, value in (("then", self.then), ("now", self.now), ("index", self.index))
        }
        return {"name": self.name, "kind": self.kind, "measure": self.measure, **numbers} | {
            "limit": round(self.limit, 6),
            "large": self.is_large,
        }


@dataclass(frozen=True)
class Monitoring:
    """All changes between a reference and an export, the largest relative to its limit first."""

    task: str
    reference: str
    now: str
    patients: tuple[int, int]
    changes: tuple[Change, ...]
    notes: tuple[str, ...] = ()

    @property
    def large(self) -> tuple[Change, ...]:
        """Changes beyond their limit."""
        return tuple(change for change in self.changes if change.is_large)

    def to_dict(self) -> dict[str, Any]:
        """The comparison as a JSON-compatible dictionary."""
        return {
            "task": self.task,
            "reference": self.reference,
            "now": self.now,
            "patients": {"then": self.patients[0], "now": self.patients[1]},
            "changed": [change.name for change in self.large],
            "changes": [change.to_dict() for change in self.changes],
            "notes": list(self.notes),
        }


def compared(then: Export, now: Export, limit: float = LARGE) -> Monitoring:
    """Compare one export with another.

    Raises
    ------
    DataError
        The exports are of different tasks.
    """
    if then.task != now.task:
        raise DataError(f"{then.path} is of {then.task}, {now.path} of {now.task}")
    sizes = (then.patients, now.patients)
    found = [*_tenths(then, now, limit), *_shares(then, now, limit), *_inputs(then, now, limit)]
    notes = []
    if then.summary["model"] != now.summary["model"]:
        differing = [k for k, v in then.summary["model"].items() if now.summary["model"].get(k) != v]
        notes.append(f"scored by other models: {', '.join(differing)} differ")
    if not (then.columns and now.columns) and PARTS[then.task].in_tables:
        notes.append("one export is of single files; inputs by variable are counted in tables alone")
    return Monitoring(then.task, str(then.path), str(now.path), sizes, _ordered(found), tuple(notes))


def compared_with_training(bundle: Bundle, now: Export, limit: float = LARGE) -> Monitoring:
    """Compare an export with the data that a bundle was trained and tested on.

    Inputs and missing values are compared with the training set; risks, alarms and findings with the test
    set.

    Raises
    ------
    DataError
        The export was scored by another bundle, or the contract keeps no figures to compare with.
    """
    model = now.summary["model"]
    if model["sha256"] != bundle.sha256:
        raise DataError(
            f"{now.path} was scored by {model['bundle']} ({model['sha256'][:12]}), not by {bundle.name} "
            f"({bundle.sha256[:12]}); name it with --bundle"
        )
    try:
        test = bundle.contract["metrics"]["test"]
        size = int(test[NOUNS[now.task]])
        changes = _ordered(PARTS[now.task].changes.load()(bundle, test, size, now, limit))
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{bundle.path}: the contract keeps nothing to compare with ({error})") from error
    reference = f"training of {bundle.name} {bundle.version}"
    notes = ["risks, alarms and findings are compared with the test part of the shipped bundle"]
    if "recalibration" in bundle.contract:
        notes.append("this bundle was recalibrated: the test part was scored before that")
    return Monitoring(now.task, reference, str(now.path), (size, now.patients), changes, tuple(notes))


def stability(then: npt.ArrayLike, now: npt.ArrayLike) -> float:
    """Population stability index of two lists of shares; an empty bin counts as 1 in 10,000."""
    a = np.maximum(np.asarray(then, dtype=np.float64), SMALLEST_SHARE)
    b = np.maximum(np.asarray(now, dtype=np.float64), SMALLEST_SHARE)
    return float(((b - a) * np.log(b / a)).sum())


def _by_chance(bins: int, sizes: tuple[int, int]) -> float:
    """The index to be expected if nothing changed."""
    return (bins - 1) * (1 / sizes[0] + 1 / sizes[1])


def _ordered(changes: Iterable[Change]) -> tuple[Change, ...]:
    return tuple(sorted(changes, key=lambda change: -change.index / change.limit))


def _tenths(then: Export, now: Export, limit: float) -> Iterator[Change]:
    sizes = (then.patients, now.patients)
    for name in then.numbers.keys() & now.numbers.keys():
        kind, a = then.numbers[name]
        b = now.numbers[name][1]
        edges = np.unique(np.quantile(a, TENTHS))
        shares = [
            np.bincount(np.searchsorted(edges, values, side="left"), minlength=len(edges) + 1) / len(values)
            for values in (a, b)
        ]
        yield Change(
            name,
            kind,
            float(np.median(a)),
            float(np.median(b)),
            stability(*shares),
            limit + _by_chance(len(edges) + 1, sizes),
        )


def _shares(then: Export, now: Export, limit: float) -> Iterator[Change]:
    sizes = (then.patients, now.patients)
    for name in sorted(then.shares.keys() | now.shares.keys()):
        kind = (then.shares.get(name) or now.shares[name])[0]
        a, b = (
            export.shares[name][1] / max(export.shares[name][2], 1) if name in export.shares else 0.0
            for export in (then, now)
        )
        yield _share(name, kind, a, b, sizes, limit)


def _share(name: str, kind: Kind, then: float, now: float, sizes: tuple[int, int], limit: float) -> Change:
    """A change of a share; for alarms and findings, a ratio beyond one and a half also counts as large."""
    chance = _by_chance(2, sizes)
    index = stability((then, 1 - then), (now, 1 - now))
    bound = limit + chance
    if kind in ("alarm", "finding") and then > 0:
        # 15 % of hours in alarm rising to 30 % gives an index of only 0.13, but twice the work
        ratio = stability((then, 1 - then), (min(MOST_RATIO * then, 1), 1 - min(MOST_RATIO * then, 1)))
        bound = min(bound, ratio + 4 * chance)
    return Change(name, kind, then, now, index, bound)


def _inputs(then: Export, now: Export, limit: float) -> Iterator[Change]:
    """Values and missing values by variable, from the columns of tables."""
    sizes = (then.patients, now.patients)
    if not (then.columns and now.columns):
        return
    for name in NAMES:
        pair = [export.columns.get(name) for export in (then, now)]
        values = [0 if column is None else int(column["values"]) for column in pair]
        if not any(values):
            continue
        present = [n / max(export.rows, 1) for n, export in zip(values, (then, now), strict=True)]
        yield _share(f"{name} measured", "missing", present[0], present[1], sizes, limit)
        if pair[0] is None or pair[1] is None or min(values) < FEWEST_VALUES:
            continue
        a, b = pair[0]["quantiles"], pair[1]["quantiles"]
        measured = (min(values[0], sizes[0]), min(values[1], sizes[1]))
        spans = _spans(a, b)
        yield Change(
            name, "input", float(a[2]), float(b[2]),
            stability(*spans), limit + _by_chance(len(spans[0]), measured),
        )  # fmt: skip


def _spans(then: Sequence[float], now: Sequence[float]) -> tuple[Floats, Floats]:
    """Shares of values between the reference's quantiles: its own, and those interpolated for the other.

    Equal quantiles form one edge, at the mean of their probabilities: half of a block of equal values lies
    on either side. Beyond the outer quantiles, half of the remaining share is assumed.
    """
    edges, own = _distinct(then)
    values, known = _distinct(now)
    outer = known[0] / 2, 1 - (1 - known[-1]) / 2
    found = np.interp(edges, values, known, left=outer[0], right=outer[1])
    return np.diff([0.0, *own, 1.0]), np.diff([0.0, *found, 1.0])


def _distinct(quantiles: Sequence[float]) -> tuple[Floats, Floats]:
    values = np.unique(quantiles)
    probabilities = np.array(QUANTILES)
    given = np.asarray(quantiles)
    return values, np.array([probabilities[given == value].mean() for value in values])


def against_stays(
    bundle: Bundle, test: dict[str, Any], size: int, now: Export, limit: float
) -> Iterator[Change]:
    """Inputs against those of training, risks and alarms against those of the test set."""
    constants = bundle.preprocessing
    sizes = (size, now.patients)
    bins = test["calibration"]["bins"]
    predicted = np.array([b["predicted"] for b in bins])
    edges = np.sqrt(predicted[1:] * predicted[:-1])
    risk = now.numbers["risk"][1]
    shares = np.bincount(np.searchsorted(edges, risk), minlength=len(bins)) / len(risk)
    total = sum(b["n"] for b in bins)
    yield Change(
        "risk", "risk", float(np.median(predicted)), float(np.median(risk)),
        stability([b["n"] / total for b in bins], shares), limit + _by_chance(len(bins), sizes),
    )  # fmt: skip
    point = bundle.operating_point(now.summary["model"]["operating_point"])
    middles = (np.arange(len(bins)) + 0.5) / len(bins)
    expected = 1 - float(
        np.interp(math.log(point.thresholds[0]), np.log(np.maximum(predicted, 1e-9)), middles)
    )
    alarms, hours = now.shares["hours in alarm"][1:]
    yield _share("hours in alarm", "alarm", expected, alarms / hours, sizes, limit)
    if not isinstance(constants, StayPreprocessing) or not now.columns:
        return
    for place, name in enumerate(NAMES[:N_TIME_VARYING]):
        column = now.columns.get(name)
        count = 0 if column is None else int(column["values"])
        if constants.centres and constants.features == "full" and constants.deviations[place] > 0:
            measured = constants.centres[N_TIME_VARYING + place]
            present = count / max(now.rows, 1)
            yield _share(f"{name} measured", "missing", measured, present, sizes, limit)
        if column is None or count < FEWEST_VALUES or constants.deviations[place] <= 0:
            continue
        median = float(column["quantiles"][2])
        read = math.log1p(max(median, 0.0)) if LOGARITHMIC[place] else median
        usual = constants.medians[place]
        shift = abs(read - usual) / constants.deviations[place]
        then = math.expm1(usual) if LOGARITHMIC[place] else usual
        yield Change(name, "input", then, median, shift, LARGE_SHIFT, "shift")


def against_recordings(
    bundle: Bundle, test: dict[str, Any], size: int, now: Export, limit: float
) -> Iterator[Change]:
    """Findings against those that sensitivity and specificity on the test set imply."""
    sizes = (size, now.patients)
    for c in bundle.classes:
        figures = test["classes"].get(c.abbreviation, {})
        name = f"finding {c.short}"
        if "sensitivity" not in figures or name not in now.shares:
            continue
        prevalence = figures["positives"] / figures["n"]
        expected = figures["sensitivity"]["value"] * prevalence + (1 - prevalence) * (
            1 - figures["specificity"]["value"]
        )
        positive, n = now.shares[name][1:]
        yield _share(name, "finding", expected, positive / n, sizes, limit)
