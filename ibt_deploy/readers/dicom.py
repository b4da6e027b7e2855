"""DICOM ECG waveforms: 12-lead, general and ambulatory ECG (PS3.3 A.34.3 to A.34.5), read by pydicom."""

from __future__ import annotations

import math
import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from io import BytesIO
from typing import Any
from warnings import catch_warnings, simplefilter

import numpy as np

from ibt_deploy.errors import (
    BadSampling,
    BadUnits,
    MalformedFile,
    MissingLeads,
    TooLong,
    UnsupportedFormat,
    first_line,
    require,
)
from ibt_deploy.files import File
from ibt_deploy.readers.stated import (
    age_between,
    device_of,
    inverted_leads,
    millivolts_per,
    moment_of,
    sex_of,
)
from ibt_deploy.records import Recording
from ibt_deploy.types import AnyInts, Floats
from ibt_deploy.vocabulary import LEAD_NUMBERS, canonical_lead

MAX_VALUES = 20_000_000
"""Maximum number of samples times channels (12 leads at 500 Hz: 55 minutes), so that memory stays bounded."""
MAX_CHANNELS = 512
PADDING_SECONDS = 0.2
"""Where samples also take the padding value, a run at least this long is padding."""

_DTYPES = {"SB": "i1", "UB": "u1", "SS": "i2", "US": "u2", "SL": "i4", "UL": "u4", "SV": "i8", "UV": "u8"}
_BEAT = re.compile(r"median|average|representative|template|beat", re.IGNORECASE)
_LEAD_NUMBER = re.compile(r"(?:5\.6\.3-9-|2:)(\d{1,4})")
_ASIDE = re.compile(r"\([^)]*\)")


@dataclass(frozen=True, eq=False)
class Channel:
    """One channel: its name, and mV = raw * ``scale`` + ``offset``; without a voltage there is no scale."""

    name: str
    scale: float | None
    offset: float
    skewed: bool


@dataclass(frozen=True, eq=False)
class Group:
    """One multiplex group.

    Attributes
    ----------
    label
        Label in the file.
    original
        Whether it says that it was not derived from others; None if it does not say.
    rate
        Samples per second.
    start
        Offset in ms from the start of the acquisition; None if it does not say.
    channels
        Channels in the order of the samples.
    raw
        Shape ``(samples, channels)``.
    padding
        Raw value that stands for a missing sample, or None.
    """

    label: str
    original: bool | None
    rate: float
    start: float | None
    channels: tuple[Channel, ...]
    raw: AnyInts
    padding: int | None

    @property
    def is_beat(self) -> bool:
        """Whether its label is that of an averaged beat."""
        return _BEAT.search(self.label) is not None

    @property
    def seconds(self) -> float:
        """Duration."""
        return len(self.raw) / self.rate

    def millivolts(self, notes: list[str]) -> tuple[Floats, tuple[str, ...]]:
        """Signal of shape ``(leads, samples)``, NaN where there is no sample, and the names of its leads."""
        voltages = [number for number, channel in enumerate(self.channels) if channel.scale is not None]
        dropped = [channel.name for channel in self.channels if channel.scale is None]
        if not voltages:
            raise MissingLeads(
                f"no voltage among the channels: {', '.join(dropped)[:200]}", code="no_ecg_lead"
            )
        if dropped:
            notes.append(f"left out channels that are not voltages: {', '.join(dropped)[:200]}")
        if any(channel.skewed for channel in self.channels):
            notes.append("channels are sampled up to some samples apart, which is left as it is")
        signal = np.empty((len(voltages), len(self.raw)))
        for row, number in zip(signal, voltages, strict=True):
            channel = self.channels[number]
            row[:] = self.raw[:, number]
            row *= channel.scale or 0.0
            row += channel.offset
        if self.padding is not None:
            self._blank(signal, voltages, self.padding, notes)
        return signal, tuple(self.channels[number].name for number in voltages)

    def _blank(self, signal: Floats, voltages: list[int], padding: int, notes: list[str]) -> None:
        """Set padding to NaN: everywhere if outside the samples' range, else only in long runs."""
        padded = self.raw == padding
        if not padded.any():
            return
        others = self.raw[~padded]
        outside = not len(others) or not int(others.min()) <= padding <= int(others.max())
        shortest = 1 if outside else max(round(PADDING_SECONDS * self.rate), 2)
        for row, number in zip(signal, voltages, strict=True):
            edges = np.flatnonzero(np.diff(padded[:, number], prepend=False, append=False))
            for start, stop in edges.reshape(-1, 2).tolist():
                if stop - start >= shortest:
                    row[start:stop] = np.nan
        if not outside:
            notes.append(
                f"the padding value {padding} is also that of samples; "
                f"taken for padding only where it lasts {PADDING_SECONDS} s"
            )


def group_of(item: Any, *, little_endian: bool) -> Group:
    """A multiplex group from its item of the Waveform Sequence.

    Raises
    ------
    InputError
        MalformedFile: no samples, or fewer than claimed. BadSampling, BadUnits, MissingLeads: no rate; no
        sensitivity, unit of voltage or name of a lead. UnsupportedFormat: samples of speech codecs. TooLong:
        more than :data:`MAX_VALUES`.
    """
    rate = _number(item, "SamplingFrequency")
    if rate is None or not rate > 0:
        raise BadSampling("a multiplex group states no sampling frequency", code="missing_rate")
    count, samples = int(item.NumberOfWaveformChannels), int(item.NumberOfWaveformSamples)
    kind = str(item.WaveformSampleInterpretation)
    if kind not in _DTYPES:
        raise UnsupportedFormat(
            f"samples of the kind {kind[:10]}, which no ECG has", code="unsupported_compression"
        )
    dtype = np.dtype(_DTYPES[kind]).newbyteorder("<" if little_endian else ">")
    if int(item.WaveformBitsAllocated) != 8 * dtype.itemsize:
        raise MalformedFile(
            f"samples {kind} of {int(item.WaveformBitsAllocated)} bits contradict each other",
            code="bad_header",
        )
    if not 0 < count <= MAX_CHANNELS or samples <= 0:
        raise MalformedFile(f"claims {samples} samples of {count} channels", code="bad_header")
    if count * samples > MAX_VALUES:
        raise TooLong(
            f"claims {samples} samples of {count} channels; cut it into pieces of at most "
            f"{MAX_VALUES // 1_000_000} million samples",
            code="recording_too_long",
        )
    data = bytes(item.WaveformData)
    size = count * samples * dtype.itemsize
    if len(data) < size:
        raise MalformedFile(
            f"is truncated: {samples} samples of {count} channels take {size} bytes, it holds {len(data)}",
            code="truncated_file",
        )
    if len(data) >= 2 * size:
        raise MalformedFile(
            f"holds {len(data)} bytes of samples where {samples} samples of {count} channels take {size}; "
            "its bits allocated are wrong",
            code="bad_header",
        )
    definitions = list(item.ChannelDefinitionSequence)
    if len(definitions) != count:
        raise MalformedFile(f"claims {count} channels and defines {len(definitions)}", code="bad_header")
    padding = item.get("WaveformPaddingValue")
    return Group(
        label=str(item.get("MultiplexGroupLabel", "") or ""),
        original={"ORIGINAL": True, "DERIVED": False}.get(str(item.get("WaveformOriginality", "")).strip()),
        rate=rate,
        start=_number(item, "MultiplexGroupTimeOffset"),
        channels=tuple(_channel(number, channel) for number, channel in enumerate(definitions, start=1)),
        raw=np.frombuffer(data, dtype=dtype, count=count * samples).reshape(samples, count),
        padding=_padding(padding, dtype),
    )


def _padding(value: Any, dtype: np.dtype[Any]) -> int | None:
    """The padding value: pydicom returns bytes, or a number if the file declares it as one."""
    if value is None or value == b"":
        return None
    if isinstance(value, bytes):
        return None if len(value) < dtype.itemsize else int(np.frombuffer(value, dtype=dtype, count=1)[0])
    return int(value)


def _channel(number: int, item: Any) -> Channel:
    name = _name(number, item)
    factor = None
    sensitivity = _number(item, "ChannelSensitivity")
    units = item.get("ChannelSensitivityUnitsSequence") or []
    unit = str(units[0].get("CodeValue", "")) if len(units) else None
    is_lead = canonical_lead(name) is not None
    if unit is not None:
        factor = millivolts_per(unit)
        if factor is None and is_lead:
            raise BadUnits(f"lead {name}: the unit {unit[:20]!r} is not mV, uV or V", code="unknown_unit")
    if is_lead and (sensitivity is None or sensitivity == 0 or factor is None):
        what = "unit" if sensitivity else "sensitivity"
        raise BadUnits(f"lead {name}: no {what} is stated", code="missing_gain")
    skew = (_number(item, "ChannelSampleSkew") or 0.0, _number(item, "ChannelTimeSkew") or 0.0)
    if factor is None or not sensitivity:
        return Channel(name, None, 0.0, False)
    correction = _number(item, "ChannelSensitivityCorrectionFactor")
    scale = sensitivity * (1.0 if correction is None else correction) * factor
    offset = (_number(item, "ChannelBaseline") or 0.0) * factor
    if not (math.isfinite(scale) and math.isfinite(offset) and scale):
        raise BadUnits(f"lead {name}: an impossible sensitivity or baseline", code="missing_gain")
    return Channel(name, scale, offset, abs(skew[0]) >= 1 or skew[1] != 0)


def _name(number: int, item: Any) -> str:
    """The lead's name from its coded source, the meaning of that code, or its label.

    Raises
    ------
    MissingLeads
        No name at all, or code and meaning name different leads.
    """
    sources = item.get("ChannelSourceSequence") or []
    code = str(sources[0].get("CodeValue", "") or "").strip() if len(sources) else ""
    meaning = str(sources[0].get("CodeMeaning", "") or "").strip() if len(sources) else ""
    label = str(item.get("ChannelLabel", "") or "").strip()
    match = _LEAD_NUMBER.fullmatch(code)
    coded = LEAD_NUMBERS.get(int(match[1])) if match else canonical_lead(code)
    said = canonical_lead(_ASIDE.sub("", meaning))
    if coded and said and coded != said:
        raise MissingLeads(
            f"channel {number} is coded as {coded} and called {said}", code="lead_names_differ"
        )
    name = coded or said or canonical_lead(label) or meaning or label or code
    if not name:
        raise MissingLeads(f"channel {number} has no name", code="missing_lead_name")
    return name


def _number(item: Any, keyword: str) -> float | None:
    value = item.get(keyword)
    return None if value is None or value == "" else float(value)


NAME = "DICOM"
TASK = "arrhythmia"

MAX_BYTES = 128 << 20
MAX_INFLATED_BYTES = 32 << 20
"""Size limit of a deflated file: 45 minutes of 12 leads at 500 Hz."""
MAX_GROUPS = 64
MAX_OFFSET = 1e9
"""Milliseconds (11 days) that a group may begin after the acquisition; more is damage."""
SHORTEST_RHYTHM = 2.0
"""Seconds; a group without an informative label that is not longer is taken for an averaged beat, unless it
is the only one and states that it is original."""

ECG_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.9.1.1": "12-lead ECG",
    "1.2.840.10008.5.1.4.1.1.9.1.2": "general ECG",
    "1.2.840.10008.5.1.4.1.1.9.1.3": "ambulatory ECG",
}
DEFLATED = b"1.2.840.10008.1.2.1.99"
EXPLICIT = b"1.2.840.10008.1.2.1"
BIG_ENDIAN = "1.2.840.10008.1.2.2"
_AGE = re.compile(r"(\d{3})([YMWD])", re.ASCII)
_YEARS = {"Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}
_ABSENT = re.compile(r"'(?:File\w+)?Dataset' object has no attribute '(\w+)'")
_PREAMBLE = 128
DAMAGE = (
    AttributeError, AssertionError, EOFError, IndexError, KeyError, LookupError, NotImplementedError,
    OSError, OverflowError, RecursionError, TypeError, ValueError, struct.error, zlib.error,
)  # fmt: skip
"""Exceptions of pydicom for damaged files; all work with its objects is guarded against these."""


def sniff(file: File, head: bytes) -> bool:  # noqa: ARG001
    """Whether ``head`` begins a DICOM file, with the preamble of PS3.10 or, as in old archives, without."""
    if head[_PREAMBLE : _PREAMBLE + 4] == b"DICM":
        return True
    if head[:6] == b"\x02\0\0\0UL" or head[:6] == b"\x02\0\x01\0OB":
        return True  # the file meta information, without the 132 bytes that should precede it
    if len(head) < _PREAMBLE or head[:4] not in (b"\x08\0\x05\0", b"\x08\0\x08\0", b"\x08\0\x16\0"):
        return False
    return head[4:6] in (b"CS", b"UI") or (head[4] < 64 and head[5:8] == b"\0\0\0")


def read(file: File) -> list[Recording]:
    """Read every rhythm: one Recording per multiplex group; simultaneous groups of other leads are merged.

    Averaged beats are left out. Images, reports and documents wrapped in DICOM are refused.

    Raises
    ------
    InputError
        See :func:`group_of`. UnsupportedFormat: no ECG waveform. MalformedFile: damaged, or no rhythm in it.
    MissingExtra
        pydicom is not installed.
    """
    require("reading DICOM", "pydicom")
    with file.open("rb") as stream:
        data = stream.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise TooLong(f"larger than {MAX_BYTES >> 20} MiB", code="recording_too_long")
    with catch_warnings(), _damage():
        simplefilter("ignore")  # pydicom warns about violations that do not matter here
        dataset = _dataset(data)
        kind = _ecg_kind(dataset)
        items = list(dataset.WaveformSequence)
        if len(items) > MAX_GROUPS:
            raise MalformedFile(f"claims {len(items)} multiplex groups", code="bad_header")
        syntax = str(getattr(dataset.file_meta, "TransferSyntaxUID", ""))
        groups = [group_of(item, little_endian=syntax != BIG_ENDIAN) for item in items]
        age, sex = _patient(dataset)
        recorded = _recorded(dataset)
        device = device_of(
            *(str(dataset.get(key, "") or "") for key in ("Manufacturer", "ManufacturerModelName"))
        )
    notes: list[str] = []
    rhythms = _rhythms(groups, notes)
    recordings = []
    for number, parts in enumerate(rhythms, start=1):
        own_notes = list(notes)
        found = [group.millivolts(own_notes) for group in parts]
        channels = [channel for part in parts for channel in part.channels if canonical_lead(channel.name)]
        inverted = [channel.name for channel in channels if channel.scale and channel.scale < 0]
        recordings.append(
            Recording(
                signal=np.concatenate([signal for signal, _ in found]) if len(found) > 1 else found[0][0],
                sampling_rate=parts[0].rate,
                leads=tuple(lead for _, leads in found for lead in leads),
                record_id=file.stem if len(rhythms) == 1 else f"{file.stem}-{number}",
                source=str(file),
                format=f"{NAME} ({kind})",
                age=age,
                sex=sex,
                recorded=_begun(recorded, parts[0].start),
                device=device,
                notes=tuple(own_notes),
                warnings=inverted_leads(inverted, "sensitivity"),
            )
        )
    return recordings


@contextmanager
def _damage() -> Iterator[None]:
    """Turn anything that pydicom raises for a damaged file into a refusal."""
    from pydicom.errors import BytesLengthException, InvalidDicomError

    try:
        yield
    except (*DAMAGE, BytesLengthException, InvalidDicomError) as error:
        reason = first_line(error)[:200]
        if absent := _ABSENT.search(reason):
            raise MalformedFile(
                f"has no {absent[1]}, which a waveform needs: truncated or damaged", code="truncated_file"
            ) from error
        raise MalformedFile(f"cannot be read as DICOM: {reason}") from error


def _dataset(data: bytes) -> Any:
    """The whole data set; a deflated one is inflated within bounds."""
    import pydicom

    if DEFLATED in data[_PREAMBLE:1024]:
        data = _inflated(data)
    return pydicom.dcmread(BytesIO(data), force=True)


def _inflated(data: bytes) -> bytes:
    """A file of the deflated transfer syntax (PS3.5 A.5) as one of explicit VR little endian."""
    # the first element of the meta information is its length (PS3.10 7.1)
    start = _PREAMBLE + 16 + struct.unpack_from("<I", data, _PREAMBLE + 12)[0]
    body = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data[start:], MAX_INFLATED_BYTES + 1)
    if len(body) > MAX_INFLATED_BYTES:
        raise TooLong(f"inflates to more than {MAX_INFLATED_BYTES >> 20} MiB", code="recording_too_long")
    return data[:start].replace(DEFLATED, EXPLICIT.ljust(len(DEFLATED), b"\0")) + body


def _ecg_kind(dataset: Any) -> str:
    """Kind of the ECG; other waveforms, images and documents are refused."""
    uid = str(dataset.get("SOPClassUID", ""))
    if uid in ECG_CLASSES:
        if "WaveformSequence" not in dataset:
            raise MalformedFile(
                "states an ECG and holds no waveform: exported without it, or truncated before it",
                code="no_rhythm",
            )
        return ECG_CLASSES[uid]
    if str(getattr(dataset.file_meta, "MediaStorageSOPClassUID", "")) in ECG_CLASSES and not uid:
        raise MalformedFile("states an ECG and ends before it: truncated or damaged", code="truncated_file")
    from pydicom.uid import UID

    name = UID(uid).name if uid else "data without a SOP class"
    raise UnsupportedFormat(f"holds {name[:80]}, not an ECG waveform", code="no_ecg_waveform")


def _rhythms(groups: list[Group], notes: list[str]) -> list[list[Group]]:
    """The groups that are rhythms; those with other leads of the same seconds are grouped together."""
    whole = [group for group in groups if not group.is_beat]
    whole = [group for group in whole if group.seconds > SHORTEST_RHYTHM] or [
        group for group in whole if group.original
    ]
    originals = [group for group in whole if group.original is not False]
    chosen = originals or whole
    if not chosen:
        raise MalformedFile("holds averaged beats and no rhythm", code="no_rhythm")
    if not originals:
        notes.append("the file calls its rhythm derived from another")
    left = [group for group in groups if not any(group is other for other in chosen)]
    if left:
        notes.append(f"left out derived signals: {', '.join(g.label or 'unnamed' for g in left)[:200]}")
    rhythms: list[list[Group]] = []
    for group in chosen:
        for parts in rhythms:
            if _simultaneous(parts, group):
                parts.append(group)
                break
        else:
            rhythms.append([group])
    return rhythms


def _simultaneous(parts: list[Group], group: Group) -> bool:
    """Whether ``group`` has the start, rate and length of ``parts``, and other leads."""
    first = parts[0]
    same = (first.start, first.rate, len(first.raw)) == (group.start, group.rate, len(group.raw))
    names = {channel.name for part in parts for channel in part.channels}
    return same and first.start is not None and not names & {channel.name for channel in group.channels}


def _recorded(dataset: Any) -> datetime | date | None:
    """When the acquisition began; not the time of the study or of this file, which may differ."""
    zone = str(dataset.get("TimezoneOffsetFromUTC", "") or "").strip()
    day, clock = (str(dataset.get(f"Acquisition{part}", "") or "").strip() for part in ("Date", "Time"))
    for text in (str(dataset.get("AcquisitionDateTime", "") or "").strip(), day + clock, day):
        if text:
            zoned = text if text[-5:-4] in ("+", "-") or len(text) <= len("YYYYMMDD") else text + zone
            if (found := moment_of(zoned)) is not None:
                return found
    return None


def _begun(recorded: datetime | date | None, offset: float | None) -> datetime | date | None:
    """When a group began, ``offset`` milliseconds after the acquisition."""
    if not isinstance(recorded, datetime) or offset is None or not abs(offset) < MAX_OFFSET:
        return recorded
    return recorded + timedelta(milliseconds=offset)


def _patient(dataset: Any) -> tuple[float | None, str | None]:
    """Age in years, as stated or from the date of birth, and sex."""
    sex = sex_of(str(dataset.get("PatientSex", "") or ""))
    match = _AGE.fullmatch(str(dataset.get("PatientAge", "") or "").strip())
    if match:
        return int(match[1]) * _YEARS[match[2]], sex
    born = str(dataset.get("PatientBirthDate", "") or "")
    for keyword in ("AcquisitionDateTime", "AcquisitionDate", "ContentDate", "StudyDate"):
        if then := str(dataset.get(keyword, "") or ""):
            return age_between(born, then), sex
    return None, sex


def outline(file: File) -> dict[str, Any]:
    """Kind of object, device, time, and size of the waveforms."""
    import pydicom

    with file.open("rb") as stream:
        data = stream.read(MAX_BYTES)
    with catch_warnings(), _damage():
        simplefilter("ignore")
        dataset = pydicom.dcmread(BytesIO(data), force=True, stop_before_pixels=True)
        uid = dataset.get("SOPClassUID")
        recorded = _recorded(dataset)
        found: dict[str, Any] = {
            "object": None if uid is None else str(uid.name)[:80],
            "modality": str(dataset.get("Modality", "") or "") or None,
            "device": device_of(
                str(dataset.get("Manufacturer", "")), str(dataset.get("ManufacturerModelName", ""))
            ),
            "recorded": None if recorded is None else recorded.isoformat(),
        }
        groups = list(dataset.get("WaveformSequence", None) or [])[:MAX_GROUPS]
        found["waveforms"] = [
            f"{group.get('NumberOfWaveformChannels')} channels, "
            f"{group.get('NumberOfWaveformSamples')} samples, {group.get('SamplingFrequency')} Hz"
            for group in groups
        ]
    return found
