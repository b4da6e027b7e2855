"""HL7 annotated ECG (aECG, ``AnnotatedECG`` of HL7 v3 PORT_MT020001): its rhythm series, read as millivolts.

Representative beats are derived from the rhythm (``derivedSeries``) and are no rhythm themselves; annotations
are ignored.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date, datetime
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np

from ibt_deploy.errors import BadSampling, BadUnits, MalformedFile, MissingLeads, TooLong
from ibt_deploy.files import File
from ibt_deploy.readers.stated import (
    age_between,
    device_of,
    inverted_leads,
    millivolts_per,
    moment_of,
    rate_of_interval,
    sex_of,
)
from ibt_deploy.readers.xml import children, outline_of, parsed, root_name
from ibt_deploy.records import Notice, Recording
from ibt_deploy.types import Floats
from ibt_deploy.vocabulary import canonical_lead

NAME = "HL7 aECG"
TASK = "arrhythmia"

ROOT = "AnnotatedECG"
RHYTHM = "RHYTHM"
BEAT = "REPRESENTATIVE_BEAT"
LEAD_PREFIX = "MDC_ECG_LEAD_"
REPORTED_AGE = "21612-7"
TIMES = frozenset({"TIME_ABSOLUTE", "TIME_RELATIVE"})
SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "\u00b5s": 1e-6, "\u03bcs": 1e-6}
YEARS = {"a": 1.0, "mo": 1 / 12, "wk": 7 / 365.25, "d": 1 / 365.25}
MAX_LEADS = 64
_NUMBER = r"[+-]?+(?:\d++\.?+\d*+|\.\d++)(?:[eE][+-]?+\d{1,3}+)?+"
_NUMBERS = re.compile(rf"\s*+(?:{_NUMBER}(?:\s++|$))*+", re.ASCII)
_FLOAT = re.compile(_NUMBER, re.ASCII)


def sniff(file: File, head: bytes) -> bool:  # noqa: ARG001
    """Whether ``head`` begins an XML document whose root is AnnotatedECG."""
    return root_name(head) == ROOT


def read(file: File) -> list[Recording]:
    """Read every rhythm: one Recording for each set of simultaneous sequences.

    Raises
    ------
    InputError
        See :func:`ibt_deploy.readers.xml.parsed`. MalformedFile: no rhythm, or digits that are not
        numbers. BadSampling, BadUnits: no time increment, no scale or a unit that is not a voltage.
        MissingLeads: no sequence of a lead.
    """
    root = parsed(file)
    if root.tag != ROOT:
        raise MalformedFile(f"the root element is {root.tag[:40]}, not {ROOT}", code="bad_xml")
    sets = list(_rhythms(root))
    if not sets:
        raise MalformedFile("holds no rhythm series", code="no_rhythm")
    age, sex = _patient(root)
    found = []
    for number, (series, sequences) in enumerate(sets, start=1):
        signal, rate, leads, notes, warnings = _signal(sequences)
        found.append(
            Recording(
                signal=signal,
                sampling_rate=rate,
                leads=leads,
                record_id=file.stem if len(sets) == 1 else f"{file.stem}-{number}",
                source=str(file),
                format=NAME,
                age=age,
                sex=sex,
                recorded=_began(series) or _began(root),
                device=_device(series),
                notes=notes,
                warnings=warnings,
            )
        )
    return found


def _rhythms(root: Element) -> Iterator[tuple[Element, list[Element]]]:
    """Every rhythm series with the sequences of each of its sets."""
    for component in children(root, "component"):
        for series in children(component, "series"):
            if _code(series) == BEAT:
                continue
            for part in children(series, "component"):
                for group in children(part, "sequenceSet"):
                    yield series, [s for c in children(group, "component") for s in children(c, "sequence")]


def _began(element: Element) -> datetime | date | None:
    """The beginning of an effective time, or the single time that it states; None if it states neither."""
    when = element.find("effectiveTime")
    if when is None:
        return None
    parts = {part.tag: part.get("value", "") for part in (when, *when)}
    return next((moment_of(parts[tag]) for tag in ("low", "effectiveTime", "center") if parts.get(tag)), None)


def _device(series: Element) -> str | None:
    """Maker and model of the device that is the author of a series."""
    author = series.find("author/seriesAuthor")
    if author is None:
        return None
    return device_of(
        author.findtext("manufacturerOrganization/name", ""),
        author.findtext("manufacturedSeriesDevice/manufacturerModelName", ""),
    )


def _signal(
    sequences: list[Element],
) -> tuple[Floats, float, tuple[str, ...], tuple[str, ...], tuple[Notice, ...]]:
    """Signal, rate, leads, notes and warnings of a set of simultaneous sequences."""
    rates = {_rate(sequence) for sequence in sequences if _code(sequence) in TIMES}
    if len(rates) != 1:
        raise BadSampling(
            "states no sampling interval of the rhythm" if not rates else "states several sampling intervals",
            code="missing_rate",
        )
    rows: list[Floats] = []
    names: list[str] = []
    others, inverted = [], []
    for sequence in sequences:
        code = _code(sequence)
        if code in TIMES:
            continue
        name = code.removeprefix(LEAD_PREFIX)
        if name == code and canonical_lead(code) is None:
            others.append(code or "unnamed")
            continue
        name = canonical_lead(name) or name
        row, scale = _millivolts(sequence, name)
        rows.append(row)
        names.append(name)
        inverted += [name] if scale < 0 else []
    if not rows:
        raise MissingLeads("no sequence of a lead in the rhythm series", code="no_ecg_lead")
    if len(rows) > MAX_LEADS:
        raise TooLong(f"{len(rows)} leads", code="recording_too_long")
    lengths = {len(row) for row in rows}
    if len(lengths) > 1:
        raise MalformedFile(f"leads of {min(lengths)} and of {max(lengths)} samples", code="uneven_leads")
    if lengths == {0}:
        raise MalformedFile("the leads hold no samples", code="empty_file")
    notes = (f"left out channels that are not leads: {', '.join(others)[:200]}",) if others else ()
    signal = np.array(rows)
    if not np.isfinite(signal).all():
        raise MalformedFile("holds values that are not finite", code="not_numbers")
    return signal, rates.pop(), tuple(names), notes, inverted_leads(inverted, "scale")


def _millivolts(sequence: Element, name: str) -> tuple[Floats, float]:
    """Origin plus digits times scale, and the scale, both in millivolts."""
    value = sequence.find("value")
    scale = _quantity(value, "scale", name)
    origin = _quantity(value, "origin", name)
    if not scale:
        raise BadUnits(f"lead {name}: no scale is stated", code="missing_gain")
    digits = value.findtext("digits", default="") if value is not None else ""
    if not _NUMBERS.fullmatch(digits):
        raise MalformedFile(f"lead {name}: the digits are not all numbers", code="not_numbers")
    return np.fromstring(digits, sep=" ") * scale + (origin or 0.0), scale


def _quantity(value: Element | None, what: str, name: str) -> float | None:
    """``scale`` or ``origin`` in millivolts; None if missing."""
    found = None if value is None else value.find(what)
    if found is None:
        return None
    number, unit = found.get("value", "").strip(), found.get("unit", "")
    if not _FLOAT.fullmatch(number):
        raise BadUnits(f"lead {name}: {number[:40]!r} is not a number ({what})", code="missing_gain")
    factor = millivolts_per(unit)
    if factor is None and float(number) != 0:
        raise BadUnits(f"lead {name}: the unit {unit[:40]!r} is not a voltage", code="unknown_unit")
    return float(number) * (factor or 0.0)


def _rate(sequence: Element) -> float:
    """Samples per second, from the time increment."""
    increment = sequence.find("value/increment")
    number = "" if increment is None else increment.get("value", "").strip()
    unit = None if increment is None else SECONDS.get(increment.get("unit", "").strip())
    if not _FLOAT.fullmatch(number) or not float(number) > 0 or unit is None:
        raise BadSampling("the rhythm states no increment of time in s, ms or us", code="missing_rate")
    seconds = float(number) * unit
    if not 1e-7 < seconds < 10:
        raise BadSampling(
            f"an increment of {number} {unit:g} s is implausible for an ECG", code="rate_out_of_range"
        )
    decimals = len(number.partition(".")[2]) if "e" not in number.lower() else 15
    # the last digit was rounded; a coarse one tells too little to guess by
    return rate_of_interval(seconds, min(0.5 * 10.0**-decimals * unit, 1e-4 * seconds))


def _code(element: Element) -> str:
    code = element.find("code")
    return "" if code is None else code.get("code", "").strip()


def _patient(root: Element) -> tuple[float | None, str | None]:
    """Age in years and sex, as reported, else from the date of birth."""
    person = next(root.iter("subjectDemographicPerson"), None)
    sex = age = None
    if person is not None:
        gender = person.find("administrativeGenderCode")
        sex = sex_of("" if gender is None else gender.get("code", ""))
        born, when = person.find("birthTime"), root.find("effectiveTime")
        if born is not None and when is not None:
            stated = [part.get("value", "") for part in (when, *when) if part.get("value")]
            age = age_between(born.get("value", ""), stated[0] if stated else "")
    for annotation in root.iter("annotation"):
        value = annotation.find("value")
        if _code(annotation) == REPORTED_AGE and value is not None:
            number, unit = value.get("value", "").strip(), YEARS.get(value.get("unit", ""))
            if _FLOAT.fullmatch(number) and unit and 0 <= float(number) * unit < 150:
                age = float(number) * unit
    return age, sex


def outline(file: File) -> dict[str, Any]:
    """Header fields for a person to see."""
    return outline_of(
        file,
        "effectiveTime/low",
        "effectiveTime/center",
        "component/series/author/seriesAuthor/manufacturedSeriesDevice/manufacturerModelName",
        leads=".//sequence/code/@code",
    )
