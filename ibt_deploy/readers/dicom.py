"""DICOM ECG waveforms: 12-lead, general and ambulatory ECG (PS3.3 A.34.3 to A.34.5), read by pydicom."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any
from warnings import catch_warnings, simplefilter

import numpy as np

from ibt_deploy.errors import MalformedFile, TooLong, UnsupportedFormat
from ibt_deploy.extras import missing_extra
from ibt_deploy.files import File
from ibt_deploy.leads import canonical_lead
from ibt_deploy.printable import first_line
from ibt_deploy.readers.ages import age_between
from ibt_deploy.readers.dicom_groups import Group, group_of
from ibt_deploy.records import Notice, Recording

NAME = "DICOM"
TASK = "arrhythmia"

MAX_BYTES = 128 << 20
MAX_INFLATED_BYTES = 32 << 20
"""Of a deflated file: 45 minutes of 12 leads at 500 Hz."""
MAX_GROUPS = 64
SHORTEST_RHYTHM = 2.0
"""Seconds; a group without a telling label that is not longer is taken for an averaged beat, unless it is all
there is and states to be original."""

ECG_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.9.1.1": "12-lead ECG",
    "1.2.840.10008.5.1.4.1.1.9.1.2": "general ECG",
    "1.2.840.10008.5.1.4.1.1.9.1.3": "ambulatory ECG",
}
DEFLATED = b"1.2.840.10008.1.2.1.99"
EXPLICIT = b"1.2.840.10008.1.2.1"
BIG_ENDIAN = "1.2.840.10008.1.2.2"
_SEXES = {"M": "Male", "F": "Female"}
_AGE = re.compile(r"(\d{3})([YMWD])", re.ASCII)
_YEARS = {"Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}
_ABSENT = re.compile(r"'(?:File\w+)?Dataset' object has no attribute '(\w+)'")
_PREAMBLE = 128
_DAMAGE = (
    AttributeError, AssertionError, EOFError, IndexError, KeyError, LookupError, NotImplementedError,
    OSError, OverflowError, RecursionError, TypeError, ValueError, struct.error, zlib.error,
)  # fmt: skip
"""What pydicom raises over damaged files; everything we do with its objects happens under these."""


def sniff(file: File, head: bytes) -> bool:  # noqa: ARG001
    """Whether ``head`` begins a DICOM file, with the preamble of PS3.10 or without, as in old archives."""
    if head[_PREAMBLE : _PREAMBLE + 4] == b"DICM":
        return True
    if head[:6] == b"\x02\0\0\0UL" or head[:6] == b"\x02\0\x01\0OB":
        return True  # the file meta information, without the 132 bytes that should stand before it
    if len(head) < _PREAMBLE or head[:4] not in (b"\x08\0\x05\0", b"\x08\0\x08\0", b"\x08\0\x16\0"):
        return False
    return head[4:6] in (b"CS", b"UI") or (head[4] < 64 and head[5:8] == b"\0\0\0")


def read(file: File) -> list[Recording]:
    """Read every rhythm: one Recording for each multiplex group, simultaneous groups of other leads together.

    Averaged beats are left out. Images, reports and documents wrapped in DICOM are refused.

    Raises
    ------
    InputError
        See :func:`group_of`. UnsupportedFormat: no ECG waveform. MalformedFile: damaged, or no rhythm in it.
    MissingExtra
        pydicom is not installed.
    """
    try:
        import pydicom  # noqa: F401
    except ModuleNotFoundError as error:
        raise missing_extra(error, "reading DICOM") from error
    with file.open("rb") as stream:
        data = stream.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise TooLong(f"larger than {MAX_BYTES >> 20} MiB", code="recording_too_long")
    with catch_warnings(), _damage():
        simplefilter("ignore")  # pydicom warns of values that break rules which do not matter here
        dataset = _dataset(data)
        kind = _ecg_kind(dataset)
        items = list(dataset.WaveformSequence)
        if len(items) > MAX_GROUPS:
            raise MalformedFile(f"claims {len(items)} multiplex groups", code="bad_header")
        syntax = str(getattr(dataset.file_meta, "TransferSyntaxUID", ""))
        groups = [group_of(item, little_endian=syntax != BIG_ENDIAN) for item in items]
        age, sex = _patient(dataset)
    notes: list[str] = []
    rhythms = _rhythms(groups, notes)
    recordings = []
    for number, parts in enumerate(rhythms, start=1):
        own_notes = list(notes)
        found = [group.millivolts(own_notes) for group in parts]
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
                notes=tuple(own_notes),
                warnings=_upside_down(parts),
            )
        )
    return recordings


@contextmanager
def _damage() -> Iterator[None]:
    """Whatever a damaged file makes pydicom raise, as a refusal."""
    from pydicom.errors import BytesLengthException, InvalidDicomError

    try:
        yield
    except (*_DAMAGE, BytesLengthException, InvalidDicomError) as error:
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
    """Which ECG it is; other waveforms, images and documents are refused."""
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
    """The groups that are rhythms; those that show other leads of the same seconds stand together."""
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
    """Whether ``group`` states the start, rate and length of ``parts``, and other leads."""
    first = parts[0]
    same = (first.start, first.rate, len(first.raw)) == (group.start, group.rate, len(group.raw))
    names = {channel.name for part in parts for channel in part.channels}
    return same and first.start is not None and not names & {channel.name for channel in group.channels}


def _upside_down(parts: list[Group]) -> tuple[Notice, ...]:
    inverted = [
        c.name for part in parts for c in part.channels if c.scale and c.scale < 0 and canonical_lead(c.name)
    ]
    if not inverted:
        return ()
    sentence = f"a negative sensitivity turns these leads over: {', '.join(inverted)[:200]}"
    return (Notice("negative_gain", sentence),)


def _patient(dataset: Any) -> tuple[float | None, str | None]:
    """Age in years, as stated or from the date of birth, and sex."""
    sex = _SEXES.get(str(dataset.get("PatientSex", "") or "").strip().upper())
    match = _AGE.fullmatch(str(dataset.get("PatientAge", "") or "").strip())
    if match:
        return int(match[1]) * _YEARS[match[2]], sex
    born = str(dataset.get("PatientBirthDate", "") or "")
    for keyword in ("AcquisitionDateTime", "AcquisitionDate", "ContentDate", "StudyDate"):
        if then := str(dataset.get(keyword, "") or ""):
            return age_between(born, then), sex
    return None, sex
