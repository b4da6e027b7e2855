"""Turn a recording into the input of the ECG models: 12 leads at 200 Hz in windows of 10 s.

In this order:

1. the 12 standard leads are found by name; a duplicate one is refused, others are left out;
2. samples beyond 20 mV count as invalid, as does NaN; more than 20 % of them is refused;
3. an amplitude that no heart produces is refused as a wrong unit or gain;
4. missing limb leads are derived from two others; missing chest leads become zeros (not all six);
5. the median of each lead is removed; gaps of up to 0.2 s are bridged linearly, longer ones are zero;
6. the whole record is resampled to 200 Hz, and only then
7. band-passed if the model requires it, cut into windows, divided by one constant and clipped.

Steps 1 to 6 are :func:`standardise`, the same for every model; step 7 is :func:`windows`. In version 1.1.0
the end of a window that was not recorded is NaN, which the graph masks; in version 1.0.0 windows are full.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from ibt_deploy.errors import BadSampling, BundleError, MissingLeads, TooShort
from ibt_deploy.preprocess.filters import band_passed, medians, resample
from ibt_deploy.preprocess.heart_rate import FrontalAxis, HeartRate, frontal_axis
from ibt_deploy.preprocess.quality import (
    LeadQuality,
    gain_notices,
    limb_lead_notices,
    raw_signal_notices,
    signal_quality,
    valid_samples,
)
from ibt_deploy.records import Notice, Recording, age_notices
from ibt_deploy.types import Float32s, Floats
from ibt_deploy.vocabulary import CHEST_LEADS, DERIVED, LEADS, LIMB_LEADS, canonical_lead


@dataclass(frozen=True, eq=False)
class OrderedLeads:
    """The 12 leads in standard order.

    Attributes
    ----------
    signal
        Millivolts, shape ``(12, n)``; NaN where invalid, all NaN for a missing lead.
    changes, warnings
        As in :class:`ibt_deploy.preprocess.ecg.StandardEcg`.
    missing
        Leads without any valid sample.
    """

    signal: Floats
    changes: tuple[str, ...]
    warnings: tuple[Notice, ...]
    missing: tuple[str, ...]


def ordered_leads(recording: Recording) -> OrderedLeads:
    """The 12 leads of ``recording``, which may have any leads in any order.

    At least two limb leads that differ and one chest lead are needed: without the former the limb leads
    are not known, without any chest lead it is not a 12-lead ECG. A lead that is present but flat is
    kept; one without any valid sample counts as missing.

    Raises
    ------
    MissingLeads
        One of these is missing, or a lead occurs twice.
    BadUnits, TooShort
        See :func:`ibt_deploy.preprocess.quality.valid_samples`.
    """
    rows, changes = _rows(recording)
    limb = [lead for lead in LIMB_LEADS if lead in rows]
    valid = [lead for lead in limb if _has_samples(recording.signal[rows[lead]])]
    if len(limb) < 2:
        raise MissingLeads(
            f"needs leads I and II, or two limb leads they follow from; found {_listed(recording.leads)}"
        )
    if 2 <= len(valid) < len(limb):
        rows = {lead: row for lead, row in rows.items() if lead not in limb or lead in valid}
        limb = valid
    if not rows.keys() & set(CHEST_LEADS):
        raise MissingLeads("no chest lead (V1 to V6)", code="no_chest_lead")
    names = [lead for lead in LEADS if lead in rows]
    order = [rows[lead] for lead in names]
    if order != sorted(order):
        changes.append("put the leads in the standard order")
    unchanged = order == list(range(len(recording.leads)))
    found, warnings = valid_samples(recording.signal if unchanged else recording.signal[order], names)

    signal, derived = _completed(found, names, limb[:2])
    if derived:
        changes.append(f"derived {', '.join(derived)} from {' and '.join(limb[:2])}")
    else:
        warnings += limb_lead_notices(signal)
    missing = [
        lead for lead, row in zip(LEADS, signal, strict=True) if np.isnan(row[0]) and np.isnan(row).all()
    ]
    if missing:
        warnings.append(Notice("missing_leads", f"without a valid sample, set to zero: {', '.join(missing)}"))
    return OrderedLeads(signal, tuple(changes), tuple(warnings), tuple(missing))


def _rows(recording: Recording) -> tuple[dict[str, int], list[str]]:
    """Row of each standard lead in the recording, and the leads that are left out."""
    rows: dict[str, int] = {}
    others: list[str] = []
    for row, name in enumerate(recording.leads):
        lead = canonical_lead(name)
        if lead is None:
            others.append(name)
        elif lead in rows:
            raise MissingLeads(f"lead {lead} occurs twice", code="doubled_lead")
        else:
            rows[lead] = row
    return rows, [f"left out {_listed(others)}"] if others else []


def _has_samples(row: Floats) -> bool:
    """Whether any sample is a number; if the first one is, the others are not checked."""
    return not np.isnan(row[:1]).all() or not np.isnan(row).all()


def _completed(found: Floats, names: list[str], sources: Sequence[str]) -> tuple[Floats, list[str]]:
    """All 12 leads, and which were derived from the two limb leads ``sources``; NaN where impossible.

    No two limb leads point the same way, so any two give leads I and II, and with them the others.
    """
    if len(names) == len(LEADS):
        return found, []
    signal = np.full((len(LEADS), found.shape[1]), np.nan)
    signal[[LEADS.index(name) for name in names]] = found
    derived = [lead for lead in LIMB_LEADS if lead not in names]
    from_one_and_two = np.array([(1.0, 0.0), (0.0, 1.0), *DERIVED.values()])
    given = [LIMB_LEADS.index(lead) for lead in sources]
    weights = from_one_and_two @ np.linalg.inv(from_one_and_two[given])
    for lead in derived:
        first, second = weights[LIMB_LEADS.index(lead)].round(9).tolist()
        signal[LEADS.index(lead)] = first * signal[given[0]] + second * signal[given[1]]
    return signal, derived


def _listed(names: Iterable[str]) -> str:
    """The first of ``names``, shortened to fit a line."""
    some = [name[:20] for name in names]
    return ", ".join(some[:15]) + (", ..." if len(some) > 15 else "")


NAME = "ecg"
VERSION, MASKED_VERSION = "1.0.0", "1.1.0"
SAMPLING_RATE = 200
MIN_SAMPLING_RATE, MAX_SAMPLING_RATE = 50, 10_000
MIN_SECONDS = 5.0
FILLED_SAMPLES = 20
"""Number of samples (0.1 s) up to which a window's missing end is zero-filled if a model needs it full."""
GAP_SECONDS = 0.2
AXIS_DOUBTED = frozenset(
    {"electrodes_exchanged", "leads_inverted", "lead_amplitude", "limb_leads_contradict", "negative_gain"}
)
"""Warnings that leave no leads from which to compute an axis."""


@dataclass(frozen=True, kw_only=True)
class EcgPreprocessing:
    """Constants of a model's preprocessing, as kept in its bundle.

    Attributes
    ----------
    scale
        Millivolts that become 1: the standard deviation over all leads and training records.
    band
        Edges in Hz of the zero-phase Butterworth band-pass, or None for no filter.
    band_order
        Order of the filter.
    clip
        Clipping bound, in units of ``scale``.
    sampling_rate, length
        Hz, and samples per window.
    name, version
        Name and version of the preprocessing.
    shortest_seconds
        In version 1.1.0: the shortest recording that the model scores; None in version 1.0.0.
    """

    scale: float
    band: tuple[float, float] | None = None
    band_order: int = 2
    clip: float = 20.0
    sampling_rate: int = SAMPLING_RATE
    length: int = 2000
    name: str = NAME
    version: str = VERSION
    shortest_seconds: float | None = None

    def __post_init__(self) -> None:
        _refuse_unknown(self.name, self.version)
        if (self.shortest_seconds is not None) != (self.version == MASKED_VERSION) or not (
            self.shortest_seconds is None or 0 < self.shortest_seconds <= self.length / self.sampling_rate
        ):
            raise BundleError(f"impossible shortest_seconds {self.shortest_seconds} of ECG preprocessing")
        if self.sampling_rate != SAMPLING_RATE or self.length <= 0 or not (self.scale > 0 and self.clip > 0):
            raise BundleError("impossible constants of ECG preprocessing")
        if self.band is not None and not (
            0 < self.band[0] < self.band[1] < SAMPLING_RATE / 2 and 1 <= self.band_order <= 10
        ):
            raise BundleError(f"impossible band {self.band} of order {self.band_order}")

    def to_dict(self) -> dict[str, Any]:
        """The constants as a JSON-compatible dictionary."""
        constants = asdict(self)
        constants["band"] = None if self.band is None else list(self.band)
        if self.shortest_seconds is None:
            del constants["shortest_seconds"]
        return constants

    @property
    def shortest(self) -> int:
        """Minimum number of samples of a recording."""
        if self.shortest_seconds is None:
            return self.length - FILLED_SAMPLES
        return math.ceil(self.shortest_seconds * self.sampling_rate)

    @classmethod
    def from_dict(cls, constants: Mapping[str, Any]) -> EcgPreprocessing:
        """Constants from :meth:`to_dict` output; raises BundleError if this version cannot honour them."""
        _refuse_unknown(constants.get("name"), constants.get("version"))
        try:
            band = constants["band"]
            return cls(**{**constants, "band": None if band is None else (float(band[0]), float(band[1]))})
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise BundleError(f"malformed constants of ECG preprocessing: {error}") from error


def _refuse_unknown(name: Any, version: Any) -> None:
    if name != NAME or version not in (VERSION, MASKED_VERSION):
        raise BundleError(
            f"needs preprocessing {name} {version}; this ibt has {NAME} {VERSION} and {MASKED_VERSION}; "
            "update ibt"
        )


@dataclass(frozen=True, eq=False)
class StandardEcg:
    """A recording after :func:`standardise`.

    Attributes
    ----------
    signal
        Millivolts, shape ``(12, samples)`` at 200 Hz, leads in the order of ``LEADS``.
    changes
        What was done to the recording, one phrase each.
    warnings
        What a reader of the score should know.
    missing_leads
        Leads that are zero throughout because the recording has no valid sample of them.
    heart_rate, axis
        Set by :func:`examined`; None before that.
    leads
        Quality of each of the 12 leads, set by :func:`examined`; empty before that.
    """

    signal: Floats
    changes: tuple[str, ...]
    warnings: tuple[Notice, ...]
    missing_leads: tuple[str, ...]
    heart_rate: HeartRate | None = None
    axis: FrontalAxis | None = None
    leads: tuple[LeadQuality, ...] = ()


def standardise(recording: Recording) -> StandardEcg:
    """The 12 leads of ``recording`` at 200 Hz (steps 1 to 6 in the module docstring).

    Raises
    ------
    InputError
        MissingLeads, BadUnits, BadSampling or TooShort, each with its code.
    """
    rate = _usable_rate(recording.sampling_rate)
    if recording.duration < MIN_SECONDS:
        raise TooShort(f"{recording.duration:.1f} s of signal; at least {MIN_SECONDS:.0f} s are needed")
    changes: list[str] = []
    warnings = list(recording.warnings)
    if rate < SAMPLING_RATE:
        sentence = f"sampled at {rate} Hz: nothing above {rate / 2:g} Hz is in the signal"
        warnings.append(Notice("low_sampling_rate", sentence))
    leads = ordered_leads(recording)
    changes += leads.changes
    warnings += leads.warnings
    signal, gaps = _without_gaps(leads.signal, round(GAP_SECONDS * rate), warnings)
    resampled = resample(signal, rate, SAMPLING_RATE)
    for lead, start, stop in gaps:
        first = -(-start * SAMPLING_RATE // rate)
        resampled[lead, first : -(-stop * SAMPLING_RATE // rate)] = 0.0
    if rate != SAMPLING_RATE:
        changes.append(f"resampled from {rate} to {SAMPLING_RATE} Hz")
    return StandardEcg(resampled, tuple(changes), tuple(warnings), leads.missing)


def examined(recording: Recording) -> StandardEcg:
    """:func:`standardise`, and what can be read from the signal without a model: quality, rate and axis.

    Every interface that scores calls this; training reads only the signal.

    Raises
    ------
    InputError
        As for :func:`standardise`; also TooShort if there is no heartbeat or the leads are flat for long.
    """
    standard = standardise(recording)
    found = signal_quality(standard.signal)
    known = {warning.code for warning in standard.warnings}
    warnings = [*standard.warnings, *(w for w in found.warnings if w.code not in known)]
    if "lead_amplitude" not in {warning.code for warning in warnings}:
        warnings += gain_notices(recording, np.array([lead.qrs for lead in found.leads]))
    warnings += [*raw_signal_notices(recording), *age_notices(recording.age)]
    doubted = {warning.code for warning in warnings} & AXIS_DOUBTED
    usable = {lead.lead for lead in found.leads if lead.usable} - set(standard.missing_leads)
    if doubted or not {"I", "aVF"} <= usable:
        axis = FrontalAxis(reason="leads")
    else:
        axis = frontal_axis(standard.signal, SAMPLING_RATE, found.heart_rate.peaks)
    return replace(
        standard, warnings=tuple(warnings), heart_rate=found.heart_rate, axis=axis, leads=found.leads
    )


def filtered(signal: Floats, constants: EcgPreprocessing) -> Floats:
    """``signal`` of shape ``(leads, n)`` at 200 Hz, band-passed if the model requires it."""
    if constants.band is None:
        return signal
    return band_passed(signal, constants.sampling_rate, constants.band, constants.band_order)


def window_spans(n: int, length: int, crop: Literal["all", "centre"] = "all") -> list[tuple[int, int]]:
    """Spans of the windows of ``length`` samples in a record of ``n``.

    A record of up to one window is a single span. Of a longer one, ``centre`` takes the middle; ``all``
    takes consecutive windows and, for a remainder of at least half a window, one more that ends with the
    record and so overlaps the one before it. A shorter remainder is left out.
    """
    if n <= length:
        return [(0, n)]
    if crop == "centre":
        start = (n - length) // 2
        return [(start, start + length)]
    spans = [(start, start + length) for start in range(0, n - length + 1, length)]
    if (n % length) * 2 >= length:
        spans.append((n - length, n))
    return spans


def windows(
    standard: StandardEcg, constants: EcgPreprocessing, *, crop: Literal["all", "centre"] = "all"
) -> Float32s:
    """Input of the model, shape ``(windows, 12, length)``; NaN beyond the end of a short record.

    Raises
    ------
    TooShort
        When the model was not made for a record of this length.
    """
    samples = standard.signal.shape[1]
    if samples < constants.shortest:
        raise TooShort(
            f"{samples / constants.sampling_rate:.1f} s of signal; "
            f"this model needs {constants.shortest / constants.sampling_rate:g} s"
        )
    signal = filtered(standard.signal, constants)
    spans = window_spans(samples, constants.length, crop)
    end = 0.0 if constants.shortest_seconds is None else np.nan
    out = np.full((len(spans), len(LEADS), constants.length), end, dtype=np.float32)
    for window, (start, stop) in zip(out, spans, strict=True):
        window[:, : stop - start] = scaled(signal[:, start:stop], constants)
    return out


def scaled(signal: Floats, constants: EcgPreprocessing) -> Floats:
    """``signal`` in units of the training set's standard deviation, clipped."""
    return np.clip(signal / constants.scale, -constants.clip, constants.clip)


def _usable_rate(rate: float) -> int:
    """The sampling rate as an integer; raises BadSampling if it is not one, or not that of an ECG."""
    if not math.isfinite(rate) or rate != round(rate):
        raise BadSampling(
            f"{rate:g} Hz is not a whole number; resample the recording first", code="non_integer_rate"
        )
    if not MIN_SAMPLING_RATE <= rate <= MAX_SAMPLING_RATE:
        raise BadSampling(
            f"{rate:g} Hz is outside {MIN_SAMPLING_RATE} to {MAX_SAMPLING_RATE} Hz", code="rate_out_of_range"
        )
    return round(rate)


def _without_gaps(
    signal: Floats, longest: int, warnings: list[Notice]
) -> tuple[Floats, list[tuple[int, int, int]]]:
    """``signal`` minus the median of each lead and without NaN, and its long gaps as (lead, start, stop)."""
    invalid = np.isnan(signal)
    if not invalid.any():
        return signal - medians(signal)[:, np.newaxis], []
    out = signal.copy()
    gaps: list[tuple[int, int, int]] = []
    for lead, (row, bad) in enumerate(zip(out, invalid, strict=True)):
        if bad.all():
            row[:] = 0.0
            continue
        row -= medians(row[~bad])
        if not bad.any():
            continue
        edges = np.flatnonzero(np.diff(bad, prepend=False, append=False))
        spans = [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]
        long = [(a, b) for a, b in spans if b - a > longest or a == 0 or b == len(row)]
        row[bad] = np.interp(np.flatnonzero(bad), np.flatnonzero(~bad), row[~bad])
        for a, b in long:
            row[a:b] = 0.0
            gaps.append((lead, a, b))
    partly = [LEADS[lead] for lead in dict.fromkeys(lead for lead, _, _ in gaps)]
    if partly:
        warnings.append(
            Notice("gaps", f"stretches without valid samples, set to zero, in {', '.join(partly)}")
        )
    return out, gaps
