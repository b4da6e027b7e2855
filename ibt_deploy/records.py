"""The two things that are scored: a Recording (ECG) and a Stay (ICU)."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from ibt_deploy.types import Bools, Floats, Ints
from ibt_deploy.vocabulary import INDEX, MAX_HOURS, N_VARIABLES


@dataclass(frozen=True)
class Notice:
    """A remark that accompanies a score because it affects its meaning.

    Attributes
    ----------
    code
        Machine-readable, snake_case.
    message
        One sentence for the reader of the score.
    """

    code: str
    message: str


@dataclass(frozen=True, eq=False)
class Recording:
    """One ECG as read, before any preprocessing.

    Attributes
    ----------
    signal
        Millivolts, shape ``(leads, samples)``; NaN where a sample is invalid.
    sampling_rate
        Samples per second and lead, in Hz.
    leads
        Lead names as found, one per row of ``signal``.
    record_id
        Name of the record.
    source
        Where it came from: a path, or a description.
    format
        Name of the file format, e.g. ``"WFDB (16, MATLAB)"``.
    dx
        SNOMED CT codes of the diagnoses that the file states, or None where it states none.
    age, sex
        As stated by the file, otherwise None.
    recorded
        Start of the recording, as stated: date and time (local unless it has a zone), or the date alone.
    device
        Maker and model of the recording device, as stated.
    notes
        Remarks of the reader, one sentence each.
    warnings
        Remarks of the reader that make the signal doubtful.
    """

    signal: Floats
    sampling_rate: float
    leads: tuple[str, ...]
    record_id: str
    source: str
    format: str
    dx: tuple[str, ...] | None = None
    age: float | None = None
    sex: str | None = None
    recorded: datetime | date | None = None
    device: str | None = None
    notes: tuple[str, ...] = ()
    warnings: tuple[Notice, ...] = ()

    def __post_init__(self) -> None:
        if self.signal.ndim != 2 or len(self.signal) != len(self.leads):
            raise ValueError(f"signal {self.signal.shape} is not (leads, samples) of {len(self.leads)} leads")

    def __repr__(self) -> str:
        return (
            f"<Recording {self.record_id!r}: {len(self.leads)} leads, {self.duration:.1f} s "
            f"at {self.sampling_rate:g} Hz, {self.format}>"
        )

    def _repr_html_(self) -> str:
        from ibt_deploy.render.html import recording_html

        return recording_html(self)

    @property
    def duration(self) -> float:
        """Length in seconds."""
        return float(self.signal.shape[1] / self.sampling_rate)


@dataclass(frozen=True, eq=False)
class Stay:
    """One ICU stay: hourly rows of the 40 variables of the Challenge 2019.

    Attributes
    ----------
    values
        Shape ``(hours, 40)``, columns in the order of :data:`ibt_deploy.vocabulary.VARIABLES` and in
        their units; NaN where nothing was measured.
    patient_id
        Name of the patient or stay.
    source, format
        As for a Recording.
    labels
        ``SepsisLabel`` of each row, if the file has it; -1 for a row without one.
    inserted
        True for rows that stand for an hour missing from the file.
    notes
        Remarks of the reader, one sentence each.
    extra
        Further columns by name, not read by any model.
    confirmed
        Variables whose unit a person has confirmed in a mapping.
    warnings
        Remarks of the reader that affect the risk.
    units_stated
        Whether the source states the units; otherwise ``values`` are assumed to be in those of the variables.
    """

    values: Floats
    patient_id: str
    source: str
    format: str
    labels: npt.NDArray[np.int8] | None = None
    inserted: Bools | None = None
    notes: tuple[str, ...] = ()
    extra: dict[str, Any] = field(default_factory=dict)
    confirmed: frozenset[str] = frozenset()
    warnings: tuple[Notice, ...] = ()
    units_stated: bool = False

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or self.values.shape[1] != N_VARIABLES:
            raise ValueError(f"values {self.values.shape} are not (hours, {N_VARIABLES})")

    def __repr__(self) -> str:
        return f"<Stay {self.patient_id!r}: {len(self.values)} hours, {self.format}>"

    @property
    def hours(self) -> Ints:
        """ICULOS of each row: hours since ICU admission."""
        return self.values[:, INDEX["ICULOS"]].astype(np.int64)


def are_consecutive(hours: Floats) -> bool:
    """Whether hours, shape ``(n,)``, are integers within 1 to 336 and consecutive.

    The caller determines what is wrong with hours that are not. No hour at all is False, as is NaN.
    """
    if not len(hours):
        return False
    first, last = hours[0].item(), hours[-1].item()
    return (
        1 <= first <= last <= MAX_HOURS
        and float(first).is_integer()
        and bool((hours[1:] - hours[:-1] == 1).all())
    )


ADULT, OLDEST = 18, 120
"""Ages in years: the models were trained on adults, and nobody is older."""


def age_notices(age: float | None) -> list[Notice]:
    """A warning if ``age`` in years is impossible or that of a child; None is unknown: no warning."""
    if age is None:
        return []
    if plausible_age(age) is None:
        return [Notice("impossible_age", f"an age of {age:g} years is impossible and was dropped")]
    if age < ADULT:
        return [Notice("not_adult", f"{age:g} years old: the models were trained on adults only")]
    return []


def plausible_age(age: float | None) -> float | None:
    """``age`` in years, or None if it is impossible."""
    return age if age is not None and 0 <= age <= OLDEST else None
