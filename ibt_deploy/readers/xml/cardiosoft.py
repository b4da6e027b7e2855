"""GE CardioSoft XML (``CardiologyXML``, also of UK Biobank): the rhythm strip of a resting ECG.

GE publishes no specification. The facts are those on which public readers of such files agree: the strip
(``StripData``) lists each lead's samples as decimal integers between commas, and states the rate in Hz, the
resolution in microvolts of one step, and how many leads and samples there are. Median beats
(``MedianSamples``), diagnosis statements and the full disclosure of a stress test are ignored.
"""

from __future__ import annotations

import re
from datetime import date, datetime
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np

from ibt_deploy.errors import BadSampling, BadUnits, MalformedFile, MissingLeads
from ibt_deploy.files import File
from ibt_deploy.readers.stated import YEARS, clock_of, device_of, moment, sex_of, whole_years
from ibt_deploy.readers.xml import children, number_in, outline_of, parsed, root_name, text_of
from ibt_deploy.records import Recording
from ibt_deploy.types import Floats

NAME = "GE CardioSoft XML"
TASK = "arrhythmia"

ROOT = "CardiologyXML"
MAX_LEADS = 64
MICROVOLTS, HERTZ = "uvperlsb", "hz"
_SAMPLES = re.compile(r"\s*+[+-]?+\d{1,9}+\s*+(?:,\s*+[+-]?+\d{1,9}+\s*+)*+,?+\s*+", re.ASCII)


def sniff(file: File, head: bytes) -> bool:
    """Whether the document is a ``CardiologyXML``."""
    del file
    return root_name(head) == ROOT


def read(file: File) -> list[Recording]:
    """Read the rhythm strips in ``file``; there is almost always one.

    Raises
    ------
    MissingLeads
        No rhythm strip, or none with leads; a lead without a name, or occurring twice.
    BadSampling, BadUnits
        Rate or resolution, or the unit of either, is missing or unknown.
    MalformedFile
        Samples that are not integers, or not as many as claimed; a different root element.
    InputError
        See :func:`ibt_deploy.readers.xml.parsed`.
    """
    root = parsed(file)
    if root.tag != ROOT:
        raise MalformedFile(f"the root element is {root.tag[:40]}, not {ROOT}", code="bad_xml")
    strips = list(children(root, "StripData"))
    if not strips:
        held = "a full disclosure" if root.find("FullDisclosure") is not None else "no signal"
        raise MissingLeads(f"holds {held} and no rhythm strip (StripData)", code="no_rhythm")
    recorded = _recorded(root)
    found = []
    for number, strip in enumerate(strips, start=1):
        names, signal = _leads(strip)
        found.append(
            Recording(
                signal=signal,
                sampling_rate=_rate(strip),
                leads=names,
                record_id=file.stem if len(strips) == 1 else f"{file.stem}-{number}",
                source=str(file),
                format=NAME,
                age=_age(root, recorded),
                sex=sex_of(text_of(root, "PatientInfo/Gender")),
                recorded=recorded,
                device=device_of(text_of(root, "ClinicalInfo/DeviceInfo/Desc"), text_of(root, "Device-Type")),
            )
        )
    return found


def _rate(strip: Element) -> float:
    """Samples per second."""
    stated, unit = text_of(strip, "SampleRate"), _unit(strip, "SampleRate")
    rate = number_in(stated)
    if rate is None or rate <= 0 or unit.lower() != HERTZ:
        raise BadSampling(
            f"the rhythm strip states no sampling rate in Hz (SampleRate is {stated[:20]!r}, its unit "
            f"{unit[:20]!r})",
            code="missing_rate",
        )
    return rate


def _millivolts_of_a_step(strip: Element) -> float:
    step, unit = number_in(text_of(strip, "Resolution")), _unit(strip, "Resolution")
    if step is None or step <= 0:
        raise BadUnits("the rhythm strip states no resolution (Resolution)", code="missing_gain")
    if unit.lower() != MICROVOLTS:
        code = "unknown_unit" if unit else "missing_unit"
        raise BadUnits(f"the unit of the resolution is {unit[:40]!r}, not uVperLsb", code=code)
    return step / 1000


def _unit(strip: Element, name: str) -> str:
    element = strip.find(name)
    return "" if element is None else element.get("units", "").strip()


def _leads(strip: Element) -> tuple[tuple[str, ...], Floats]:
    """Names of the leads, and their signal in millivolts."""
    scale = _millivolts_of_a_step(strip)
    waves = list(children(strip, "WaveformData"))
    _check_claim(strip, "NumberOfLeads", len(waves))
    if not 0 < len(waves) <= MAX_LEADS:
        raise MissingLeads(f"the rhythm strip has {len(waves)} leads", code="no_ecg_lead")
    rows: dict[str, Floats] = {}
    for wave in waves:
        name = wave.get("lead", "").strip()
        if not name:
            raise MissingLeads("a lead has no name", code="missing_lead_name")
        if name in rows:
            raise MissingLeads(f"the lead {name[:20]} occurs twice", code="doubled_lead")
        text = wave.text or ""
        if not _SAMPLES.fullmatch(text):
            raise MalformedFile(
                f"lead {name[:20]}: the samples are not whole numbers between commas", code="not_numbers"
            )
        rows[name] = np.fromstring("".join(text.split()).rstrip(","), sep=",") * scale
        _check_claim(strip, "ChannelSampleCountTotal", len(rows[name]))
    lengths = sorted({len(row) for row in rows.values()})
    if len(lengths) > 1:
        raise MalformedFile(f"leads of {lengths[0]} and of {lengths[-1]} samples", code="uneven_leads")
    return tuple(rows), np.array(list(rows.values()))


def _check_claim(strip: Element, tag: str, held: int) -> None:
    """Refuse a file whose stated number differs from what it holds."""
    claimed = text_of(strip, tag)
    if claimed and number_in(claimed) != held:
        raise MalformedFile(f"{tag} is {claimed[:20]}, there are {held}", code="truncated_file")


def _three(element: Element, *tags: str) -> tuple[float, float, float] | None:
    """The numbers below three tags; None if one is missing."""
    first, second, third = (number_in(text_of(element, tag)) for tag in tags)
    return None if first is None or second is None or third is None else (first, second, third)


def _recorded(root: Element) -> datetime | date | None:
    for path in ("ObservationDateTime", "ClinicalInfo/ObservationDateTime"):
        when = root.find(path)
        if when is not None and (day := _three(when, "Year", "Month", "Day")):
            clock = _three(when, "Hour", "Minute", "Second")
            return moment(*day, None if clock is None else clock_of(*clock))
    return None


def _age(root: Element, recorded: date | None) -> float | None:
    """Age in years as stated, else between the dates of birth and of the recording."""
    age = number_in(text_of(root, "PatientInfo/Age"))
    person = root.find("PatientInfo")
    years = YEARS.get("" if person is None else _unit(person, "Age").lower())
    if age is not None and years is not None:
        return age * years
    birth = root.find("PatientInfo/BirthDateTime")
    day = None if birth is None else _three(birth, "Year", "Month", "Day")
    born = None if day is None else moment(*day)
    if born is None or recorded is None:
        return None
    then = recorded.date() if isinstance(recorded, datetime) else recorded
    return float(whole_years(born, then)) if born <= then else None


def outline(file: File) -> dict[str, Any]:
    """Header fields for a person to see."""
    return outline_of(
        file,
        "ObservationType",
        "StripData/SampleRate",
        "StripData/Resolution",
        "StripData/ChannelSampleCountTotal",
        leads="StripData/WaveformData/@lead",
    )
