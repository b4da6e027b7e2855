"""GE MUSE XML (``RestingECG``): the rhythm strip, not the median beat.

MUSE usually stores 8 leads, from which the other limb leads follow; they are returned unchanged. Diagnosis
statements are free text, not SNOMED CT codes, so they are not turned into any. GE publishes no
specification; the tags are self-explanatory, and the reader was checked against a DICOM conversion of a file.
"""

from __future__ import annotations

import re
import zlib
from datetime import date, datetime
from typing import Any, NamedTuple
from xml.etree.ElementTree import Element

import numpy as np

from ibt_deploy.errors import (
    BadSampling,
    BadUnits,
    MalformedFile,
    MissingLeads,
    UnsupportedFormat,
)
from ibt_deploy.files import File
from ibt_deploy.readers.stated import YEARS, clock_of, device_of, millivolts_per, moment, sex_of
from ibt_deploy.readers.xml import (
    decoded,
    number_in,
    outline_of,
    parsed,
    root_name,
    text_of,
)
from ibt_deploy.records import Notice, Recording
from ibt_deploy.types import Int16s

NAME = "GE MUSE XML"
TASK = "arrhythmia"

MAX_LEADS = 64
_DAY = re.compile(r"(\d{1,2})-(\d{1,2})-(\d{4})", re.ASCII)
_CLOCK = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2}))?", re.ASCII)


class _Lead(NamedTuple):
    name: str
    raw: Int16s
    millivolts: float
    start: float
    is_off: bool
    checksum_differs: bool


def sniff(file: File, head: bytes) -> bool:
    """Whether the document is a ``RestingECG``."""
    del file
    return root_name(head) == "RestingECG"


def read(file: File) -> list[Recording]:
    """Read the rhythm strips in ``file``; there is almost always one.

    Raises
    ------
    MissingLeads
        No rhythm strip; a lead without a name, or occurring twice.
    BadSampling, BadUnits
        A rate, a unit or a gain is missing or unknown.
    MalformedFile
        Damaged samples, or not as many as claimed.
    UnsupportedFormat
        Leads that do not begin together.
    InputError
        See :func:`ibt_deploy.readers.xml.parsed`.
    """
    root = parsed(file)
    strips = [wave for wave in root.iter("Waveform") if text_of(wave, "WaveformType").lower() == "rhythm"]
    if not strips:
        raise MissingLeads("holds no rhythm strip, only median beats or nothing", code="no_ecg_lead")
    age = number_in(text_of(root, "PatientDemographics/PatientAge"))
    years = YEARS.get(text_of(root, "PatientDemographics/AgeUnits").lower())
    sex = sex_of(text_of(root, "PatientDemographics/Gender"))
    recorded = _recorded(root)
    device = device_of(text_of(root, "TestDemographics/AcquisitionDevice"))
    found = []
    for number, strip in enumerate(strips, start=1):
        leads = _leads(strip)
        off = [lead.name for lead in leads if lead.is_off]
        differs = [lead.name for lead in leads if lead.checksum_differs]
        warnings = []
        if differs:
            sentence = f"not the checksum in the file, which is damaged or altered: {', '.join(differs)}"
            warnings.append(Notice("checksum_differs", sentence))
        found.append(
            Recording(
                signal=np.array([lead.raw * lead.millivolts for lead in leads]),
                sampling_rate=_rate(strip),
                leads=tuple(lead.name for lead in leads),
                record_id=file.stem if len(strips) == 1 else f"{file.stem}_{number}",
                source=str(file),
                format=NAME,
                age=None if age is None or years is None else age * years,
                sex=sex,
                recorded=recorded,
                device=device,
                notes=(f"the cart marked these leads as off: {', '.join(off)}",) if off else (),
                warnings=tuple(warnings),
            )
        )
    return found


def _recorded(root: Element) -> datetime | date | None:
    """Date (month first) and time of acquisition."""
    on = _DAY.fullmatch(text_of(root, "TestDemographics/AcquisitionDate"))
    at = _CLOCK.fullmatch(text_of(root, "TestDemographics/AcquisitionTime"))
    if on is None:
        return None
    month, day, year = map(int, on.groups())
    return moment(year, month, day, None if at is None else clock_of(*map(int, at.groups(default="0"))))


def _rate(strip: Element) -> float:
    """Samples per second: ``SampleBase`` times ten to the power of ``SampleExponent``."""
    base = number_in(text_of(strip, "SampleBase"))
    exponent = number_in(text_of(strip, "SampleExponent") or "0")
    if base is None or base <= 0 or exponent is None or not abs(exponent) <= 6:
        raise BadSampling("the rhythm strip states no sampling rate (SampleBase)", code="missing_rate")
    return float(base * 10.0**exponent)


def _leads(strip: Element) -> list[_Lead]:
    """The leads of a strip, of equal length and beginning together."""
    elements = strip.findall("LeadData")
    if not 0 < len(elements) <= MAX_LEADS:
        raise MissingLeads(f"the rhythm strip has {len(elements)} leads", code="no_ecg_lead")
    leads = [_lead(element) for element in elements]
    doubled = sorted({lead.name for lead in leads if [other.name for other in leads].count(lead.name) > 1})
    if doubled:
        raise MissingLeads(f"the lead {doubled[0][:20]} occurs twice", code="doubled_lead")
    if len({len(lead.raw) for lead in leads}) > 1:
        raise MalformedFile("the leads differ in length", code="truncated_file")
    if len({lead.start for lead in leads}) > 1:
        raise UnsupportedFormat("the leads were not recorded at the same time")
    return leads


def _lead(element: Element) -> _Lead:
    name = text_of(element, "LeadID")
    if not name:
        raise MissingLeads("a lead has no name (LeadID)", code="missing_lead_name")
    where = f"lead {name[:20]}"
    unit = text_of(element, "LeadAmplitudeUnits")
    scale = millivolts_per(unit.lower().removesuffix("s"))
    if scale is None:
        code = "unknown_unit" if unit else "missing_unit"
        raise BadUnits(f"{where}: the unit {unit[:40]!r} is not MICROVOLTS", code=code)
    step = number_in(text_of(element, "LeadAmplitudeUnitsPerBit"))
    if step is None or step <= 0:
        raise BadUnits(f"{where}: no amplitude of one step (LeadAmplitudeUnitsPerBit)", code="missing_gain")
    if text_of(element, "LeadSampleSize") not in ("", "2"):
        raise UnsupportedFormat(f"{where}: samples that are not of 2 bytes")
    data = decoded(text_of(element, "WaveFormData"), where)
    for tag, held in (("LeadSampleCountTotal", len(data) / 2), ("LeadByteCountTotal", len(data))):
        claimed = text_of(element, tag)
        if claimed and number_in(claimed) != held:
            raise MalformedFile(
                f"{where}: {tag} is {claimed[:20]}, there are {held:g}", code="truncated_file"
            )
    if not data or len(data) % 2:
        raise MalformedFile(f"{where}: {len(data)} bytes do not hold whole samples", code="truncated_file")
    stated = number_in(text_of(element, "LeadDataCRC32")) or 0.0
    return _Lead(
        name=name,
        raw=np.frombuffer(data, "<i2"),
        millivolts=scale * step,
        start=sum(
            number_in(text_of(element, tag)) or 0.0 for tag in ("LeadTimeOffset", "LeadOffsetFirstSample")
        ),
        is_off=text_of(element, "LeadOff").upper() == "TRUE",
        checksum_differs=stated != 0 and int(stated) % (1 << 32) != zlib.crc32(data),
    )


def outline(file: File) -> dict[str, Any]:
    """Header fields for a person to see."""
    return outline_of(
        file,
        "TestDemographics/AcquisitionDevice",
        "TestDemographics/AcquisitionDate",
        "Waveform/SampleBase",
        leads=".//LeadData/LeadID",
    )
