"""Results of scoring: predictions and refusals.

Their ``to_dict()`` is the contract; tables, CSV and pictures are views of it.
A number is never NaN here, and a refused input has no number at all.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import compress
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from ibt_deploy.bundle import BundleClass
from ibt_deploy.errors import InputError, one_line
from ibt_deploy.records import Notice
from ibt_deploy.types import AnyFloats, Bools, Floats, Ints, Task
from ibt_deploy.vocabulary import CLASSES, INDEX, N_VARIABLES, NAMES, OTHER_UNITS, VARIABLES

if TYPE_CHECKING:
    from ibt_deploy.preprocess.heart_rate import FrontalAxis, HeartRate

NOTICE = "Research software, not a medical device."
DECIMALS = 6
LEFT_OUT = "left_out"
"""Code of a file that is clearly not a record: it is listed, and does not count as refused."""


@dataclass(frozen=True)
class Model:
    """The model that answered, and its device.

    Attributes
    ----------
    name, version, sha256
        Those of the bundle; the hash covers every file of it.
    variant
        Precision of the graph, e.g. ``fp32``.
    operating_point
        Name of the set of thresholds.
    device
        ``cpu`` or ``cuda``: the device actually used.
    """

    name: str
    version: str
    sha256: str
    variant: str
    operating_point: str
    device: str


@dataclass(frozen=True)
class WindowShare:
    """Number of windows of a recording in which a class reaches its threshold, and its most probable window.

    Attributes
    ----------
    reached, of
        Number of windows that reach the threshold, and of all windows.
    highest, highest_at
        The highest probability, and where its window starts, in seconds.
    """

    reached: int
    of: int
    highest: float
    highest_at: float

    def to_dict(self) -> dict[str, Any]:
        """The shares as a JSON-compatible dictionary."""
        return {
            "reached": self.reached,
            "share": round(self.reached / self.of, DECIMALS),
            "highest": round(self.highest, DECIMALS),
            "highest_at": round(self.highest_at, 3),
        }


@dataclass(frozen=True)
class Finding:
    """One of the 26 classes of one recording.

    ``positive`` is always False for a class that is not evaluable, because training and validation say too
    little about it.
    ``alternative`` is True if the class reaches its threshold but a positive finding excludes it.
    """

    code: str
    abbreviation: str
    name: str
    probability: float
    threshold: float
    positive: bool
    evaluable: bool
    alternative: bool = False
    windows: WindowShare | None = None

    @property
    def status(self) -> str:
        """``positive``, ``alternative``, ``negative`` or ``not evaluable``."""
        if not self.evaluable:
            return "not evaluable"
        if self.alternative:
            return "alternative"
        return "positive" if self.positive else "negative"


@dataclass(frozen=True, eq=False, kw_only=True)
class Prediction(ABC):
    """The answer for one input; subclasses add what is specific to a task.

    Attributes
    ----------
    record, source, format
        As read from the input.
    changes
        Everything preprocessing changed, and what the reader noticed; one sentence each.
    warnings
        Reasons to trust the answer less.
    model
        The model that answered.
    """

    record: str
    source: str
    format: str
    changes: tuple[str, ...]
    warnings: tuple[Notice, ...]
    model: Model

    task: ClassVar[Task]

    def _repr_html_(self) -> str:
        from ibt_deploy.render.html import prediction_html

        return prediction_html(self)

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """The prediction as a JSON-compatible dictionary."""

    @abstractmethod
    def rows(self) -> list[dict[str, Any]]:
        """The prediction as rows of a table, without its record."""

    def _head(self) -> dict[str, Any]:
        model = self.model
        return {
            "record": self.record,
            "task": self.task,
            "bundle": {
                "name": model.name,
                "version": model.version,
                "sha256": model.sha256,
                "variant": model.variant,
            },
            "operating_point": model.operating_point,
            "device": model.device,
        }

    def _notices(self) -> list[dict[str, str]]:
        return [{"code": w.code, "message": w.message} for w in self.warnings]


@dataclass(frozen=True, eq=False, kw_only=True)
class ArrhythmiaPrediction(Prediction):
    """The findings of one recording.

    Attributes
    ----------
    sampling_rate, duration, leads
        In Hz, in seconds, and the names as found.
    classes
        The 26 classes.
    probabilities, thresholds, positive
        Per class, shape ``(26,)``; combined over several windows as in :mod:`ibt_deploy.decisions`.
    alternative
        Classes that reach their threshold but are excluded by a positive finding; shape ``(26,)``.
    windows
        Calibrated probabilities of every 10-second window, shape ``(windows, 26)``.
    window_starts
        Seconds from the start of the recording, shape ``(windows,)``.
    familiarity
        Share of recordings like the training set that lie at least as far from its centre; None if the bundle
        does not describe its training set.
    heart_rate, axis
        Computed from the signal, not by the model; None where they were not computed.
    """

    sampling_rate: float
    duration: float
    leads: tuple[str, ...]
    classes: tuple[BundleClass, ...]
    probabilities: Floats
    thresholds: Floats
    positive: Bools
    alternative: Bools
    windows: Floats
    window_starts: Floats
    familiarity: float | None = None
    heart_rate: HeartRate | None = None
    axis: FrontalAxis | None = None

    task: ClassVar[Task] = "arrhythmia"

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> ArrhythmiaPrediction:
        """The prediction whose :meth:`to_dict` is ``entry``, as a server sent it.

        Raises
        ------
        KeyError, TypeError, ValueError, IndexError
            ``entry`` does not have the form of an answer.
        """
        from ibt_deploy.preprocess.heart_rate import FrontalAxis, HeartRate

        findings, windows = entry["findings"], entry["windows"]
        given, rate, axis = entry["input"], entry.get("heart_rate"), entry.get("axis")
        codes = {c.code: c.codes for c in CLASSES}
        return cls(
            **_read(entry),
            sampling_rate=float(given["sampling_rate"]),
            duration=float(given["duration"]),
            leads=tuple(map(str, given["leads"])),
            classes=tuple(
                BundleClass(
                    str(f["code"]), str(f["abbreviation"]), str(f["name"]),
                    codes.get(f["code"], (str(f["code"]),)), bool(f["evaluable"]), {},
                )
                for f in findings
            ),
            probabilities=np.array([f["probability"] for f in findings], dtype=np.float64),
            thresholds=np.array([f["threshold"] for f in findings], dtype=np.float64),
            positive=np.array([f["positive"] for f in findings], dtype=bool),
            alternative=np.array([f["status"] == "alternative" for f in findings], dtype=bool),
            windows=np.array([w["probabilities"] for w in windows], dtype=np.float64),
            window_starts=np.array([w["start"] for w in windows], dtype=np.float64),
            familiarity=entry.get("familiarity"),
            heart_rate=rate and HeartRate(rate["bpm"], np.array(rate["r_peaks"], dtype=np.float64)),
            axis=axis and FrontalAxis(axis["degrees"], axis["spread"], axis["reason"]),
        )  # fmt: skip

    def __repr__(self) -> str:
        found = ", ".join(f.abbreviation for f in self.findings if f.positive) or "no finding"
        return f"<ArrhythmiaPrediction {self.record!r}: {found} ({self.model.operating_point})>"

    @property
    def findings(self) -> tuple[Finding, ...]:
        """All 26 classes, in the official order."""
        reached = (self.windows >= self.thresholds).sum(axis=0)
        highest, at = self.windows.max(axis=0), self.window_starts[self.windows.argmax(axis=0)]
        given = (self.probabilities, self.thresholds, self.positive, self.alternative, reached, highest, at)
        return tuple(
            Finding(
                c.code, c.abbreviation, c.name, p, t, y, c.evaluable, a,
                WindowShare(n, len(self.windows), most, start),
            )
            for c, p, t, y, a, n, most, start in zip(
                self.classes, *(values.tolist() for values in given), strict=True
            )
        )  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """The prediction as a JSON-compatible dictionary."""
        windows = [
            {"start": round(float(start), 3), "probabilities": _rounded(row)}
            for start, row in zip(self.window_starts, self.windows, strict=True)
        ]
        return self._head() | {
            "input": {
                "source": self.source,
                "format": self.format,
                "sampling_rate": self.sampling_rate,
                "duration": round(self.duration, 3),
                "leads": list(self.leads),
                "changes": list(self.changes),
            },
            "warnings": self._notices(),
            "heart_rate": None if self.heart_rate is None else self.heart_rate.to_dict(),
            "axis": None if self.axis is None else self.axis.to_dict(),
            "familiarity": None if self.familiarity is None else round(self.familiarity, 4),
            "findings": [
                {
                    "code": f.code,
                    "abbreviation": f.abbreviation,
                    "name": f.name,
                    "probability": round(f.probability, DECIMALS),
                    "threshold": round(f.threshold, DECIMALS),
                    "positive": f.positive,
                    "evaluable": f.evaluable,
                    "status": f.status,
                    "windows": f.windows.to_dict() if f.windows else None,
                }
                for f in self.findings
            ],
            "windows": windows,
            "notice": NOTICE,
        }

    def rows(self) -> list[dict[str, Any]]:
        """One row: names of the positive findings, and the probability of every class."""
        found = self.findings
        names = [finding.name for finding in found if finding.positive]
        return [{"findings": names} | {finding.abbreviation: finding.probability for finding in found}]


class ReadAs(NamedTuple):
    """The unit in which a variable of a stay was read, and the range of its values."""

    variable: str
    unit: str
    median: float
    lowest: float
    highest: float


_SEVERAL_UNITS = np.array([INDEX[name] for name in OTHER_UNITS])


@dataclass(frozen=True, eq=False, kw_only=True)
class SepsisPrediction(Prediction):
    """The hourly risk of one stay: calibrated probability of ``SepsisLabel``, 1 from 6 h before onset on.

    Attributes
    ----------
    hours
        ICULOS of every row, shape ``(hours,)``.
    risk, alarms
        Shape ``(hours,)``; an alarm wherever the risk reaches the threshold.
    threshold
        Threshold of the operating point.
    values
        Measured values as the model saw them, shape ``(hours, 40)``; NaN where there was nothing plausible.
    inserted
        True for hours that are missing from the file, shape ``(hours,)``.
    units_stated
        Whether the source states the units of its values; else they were assumed.
    reported
        :attr:`read_as` where ``values`` are not known.
    """

    hours: Ints
    risk: Floats
    alarms: Bools
    threshold: float
    values: AnyFloats
    inserted: Bools
    units_stated: bool = False
    reported: tuple[ReadAs, ...] | None = None

    task: ClassVar[Task] = "sepsis"

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> SepsisPrediction:
        """As for a recording; ``values`` are infinite where something was measured.

        An answer states which variables were measured in each hour, but not their values.
        """
        given, hours = entry["input"], entry["hours"]
        values = np.full((len(hours), N_VARIABLES), np.inf)
        for row, hour in zip(values, hours, strict=True):
            row[[INDEX[name] for name in hour["missing"]]] = np.nan
        return cls(
            **_read(entry),
            hours=np.array([h["hour"] for h in hours], dtype=np.int64),
            risk=np.array([h["risk"] for h in hours], dtype=np.float64),
            alarms=np.array([h["alarm"] for h in hours], dtype=bool),
            threshold=float(hours[0]["threshold"]),
            values=values,
            inserted=np.array([h["inserted"] for h in hours], dtype=bool),
            units_stated=bool(given.get("units_stated", False)),
            reported=tuple(
                ReadAs(*(read[name] for name in ReadAs._fields)) for read in given.get("read_as", ())
            ),
        )

    def __repr__(self) -> str:
        alarms = f"alarm in {int(self.alarms.sum())} of {len(self.hours)} hours"
        highest = f"highest risk {self.risk.max():.3f}"
        return f"<SepsisPrediction {self.record!r}: {highest}, {alarms} ({self.model.operating_point})>"

    @property
    def missing(self) -> tuple[tuple[str, ...], ...]:
        """Variables not measured in each hour."""
        return tuple(_names(row) for row in np.isnan(self.values))

    @property
    def never_measured(self) -> tuple[str, ...]:
        """Variables not measured in any hour."""
        return _names(np.asarray(np.isnan(self.values).all(axis=0)))

    @property
    def read_as(self) -> tuple[ReadAs, ...]:
        """Measured variables that hospitals also report in other units."""
        if self.reported is not None:
            return self.reported
        rising = np.sort(self.values.T[_SEVERAL_UNITS], axis=1)  # NaN last
        counts = rising.shape[1] - np.count_nonzero(np.isnan(rising), axis=1)
        rows, n = np.flatnonzero(counts), counts[counts > 0]
        lower, upper = rising[rows, (n - 1) // 2], rising[rows, n // 2]
        columns = ((lower + upper) / 2, rising[rows, 0], rising[rows, n - 1])
        return tuple(
            ReadAs(VARIABLES[place].name, VARIABLES[place].unit, *(round(value, 3) for value in values))
            for place, *values in zip(
                _SEVERAL_UNITS[rows].tolist(), *(column.tolist() for column in columns), strict=True
            )
        )

    def to_dict(self) -> dict[str, Any]:
        """The prediction as a JSON-compatible dictionary."""
        threshold = round(self.threshold, DECIMALS)
        risks = [round(risk, DECIMALS) for risk in self.risk.tolist()]
        rows = zip(
            self.hours.tolist(),
            risks,
            self.alarms.tolist(),
            self.inserted.tolist(),
            self.missing,
            strict=True,
        )
        return self.before_hours() | {
            "hours": [
                {
                    "hour": hour,
                    "risk": risk,
                    "threshold": threshold,
                    "alarm": alarm,
                    "inserted": inserted,
                    "missing": list(missing),
                }
                for hour, risk, alarm, inserted, missing in rows
            ],
            "notice": NOTICE,
        }

    def before_hours(self) -> dict[str, Any]:
        """What precedes the hours in :meth:`to_dict`, for callers that write the hours in another way."""
        return self._head() | {
            "input": {
                "source": self.source,
                "format": self.format,
                "hours": len(self.hours),
                "first_hour": int(self.hours[0]),
                "last_hour": int(self.hours[-1]),
                "changes": list(self.changes),
                "never_measured": list(self.never_measured),
                "units_stated": self.units_stated,
                "read_as": [read._asdict() for read in self.read_as],
            },
            "warnings": self._notices(),
        }

    def rows(self) -> list[dict[str, Any]]:
        """One row per hour, with its risk and whether that is an alarm."""
        hours = zip(self.hours.tolist(), self.risk.tolist(), self.alarms.tolist(), strict=True)
        return [{"hour": hour, "risk": risk, "alarm": alarm} for hour, risk, alarm in hours]


@dataclass(frozen=True)
class Refusal:
    """An input that got no score.

    Attributes
    ----------
    source
        The path, or the record's id if it did not come from a file.
    code
        Machine-readable reason.
    message
        One line: where, what, and what to do.
    """

    source: str
    code: str
    message: str

    @classmethod
    def of(cls, source: str, error: InputError) -> Refusal:
        """The refusal of an input that raised ``error``; its message is one line."""
        return cls(source, error.code, one_line(error))

    def to_dict(self) -> dict[str, Any]:
        """The refusal as a JSON-compatible dictionary."""
        refused = self.code != LEFT_OUT
        return {"source": self.source, "refused": refused, "code": self.code, "message": self.message}


def _read(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that predictions of every task share."""
    given, bundle = entry["input"], entry["bundle"]
    return {
        "record": str(entry["record"]),
        "source": str(given["source"]),
        "format": str(given["format"]),
        "changes": tuple(map(str, given["changes"])),
        "warnings": tuple(Notice(str(w["code"]), str(w["message"])) for w in entry["warnings"]),
        "model": Model(
            name=str(bundle["name"]),
            version=str(bundle["version"]),
            sha256=str(bundle["sha256"]),
            variant=str(bundle["variant"]),
            operating_point=str(entry["operating_point"]),
            device=str(entry["device"]),
        ),
    }


def _names(missing: Bools) -> tuple[str, ...]:
    return tuple(compress(NAMES, missing.tolist()))


def _rounded(values: Floats) -> list[float]:
    return [round(value, DECIMALS) for value in values.tolist()]
