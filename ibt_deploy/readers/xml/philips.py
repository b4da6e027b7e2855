"""Philips Sierra XML, versions 1.03 and 1.04 (PageWriter carts, TraceMasterVue), compressed or not.

Tags and units are those of the published schemas (``restingecgdata``): the resolution is in microvolts per
step, ``durationperchannel`` in milliseconds. Interpretation statements are free text and become no diagnoses.

The compression, XLI, is LZW over second differences, and limb leads as residuals.

One block per lead: number of compressed bytes (uint32), a number that is always 1 (uint16), the first
second difference (int16), little-endian; then the data. They are LZW codes of 10 bits, most significant bit
first, for the high bytes of all values and then the low bytes of all. The first two values are samples, the
others second differences plus 64, each one position before the sample that it leads to.

Leads III, aVR, aVL and aVF are stored as the value predicted from the others by Einthoven's law, in integer
arithmetic that rounds towards zero, minus the lead (aVR: with the opposite sign). The maker documents none of
this; the facts are those of the Sierra ECG tools (https://github.com/sixlettervariables/sierra-ecg-tools).
Where these disagree, rounding towards zero is right: with it the limb leads of real recordings obey
Einthoven's law to the last bit, while rounding down leaves errors of one and a half steps.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np

from ibt_deploy.errors import BadSampling, BadUnits, MalformedFile, MissingLeads, TooLong, UnsupportedFormat
from ibt_deploy.files import File
from ibt_deploy.readers.stated import age_between, device_of, moment_of_iso, sex_of
from ibt_deploy.readers.xml import (
    decoded,
    number_in,
    outline_of,
    parsed,
    root_name,
    text_of,
)
from ibt_deploy.records import Recording
from ibt_deploy.types import Floats, Ints
from ibt_deploy.vocabulary import LEADS, canonical_lead

NAME = "Philips Sierra XML"
TASK = "arrhythmia"

VERSIONS = ("1.03", "1.04")
MAX_LEADS = 24
MAX_PLAIN = 1 << 23
TWELVE_LEADS = ("STD-12", "10-WIRE")
"""Acquisition types whose leads are the 12 standard ones, in order; version 1.03 names no leads."""
PULSE_MICROVOLTS = 1000.0
PULSE_SECONDS = 0.05


def sniff(file: File, head: bytes) -> bool:
    """Whether the document is ``restingecgdata``."""
    del file
    return root_name(head) == "restingecgdata"


def read(file: File) -> list[Recording]:
    """Read the recording in ``file``.

    The cart may append a calibration pulse, the same in all leads. That is not an ECG: it is left out,
    and a note says so.

    Raises
    ------
    UnsupportedFormat
        A different version, encoding, compression or kind of samples.
    MissingLeads
        No waveforms, or their leads are unknown.
    BadSampling, BadUnits
        Rate or resolution is missing.
    MalformedFile
        Damaged samples, or fewer than claimed.
    InputError
        See :func:`ibt_deploy.readers.xml.parsed` and :mod:`ibt_deploy.readers.xml.philips`.
    """
    root = parsed(file)
    version = text_of(root, "documentinfo/documentversion")
    if not version.startswith(VERSIONS):
        raise UnsupportedFormat(f"Philips ECG of version {version[:20]!r}; {' and '.join(VERSIONS)} are read")
    waves = root.find("waveforms/parsedwaveforms")
    if waves is None:
        raise MissingLeads("holds no waveforms", code="no_ecg_lead")
    characteristics = _found(root, "dataacquisition/signalcharacteristics")
    rate = _stated(waves, characteristics, "samplespersecond", "samplingrate")
    if rate is None:
        raise BadSampling("states no sampling rate", code="missing_rate")
    resolution = _stated(waves, characteristics, "resolution", "resolution", "signalresolution")
    if resolution is None:
        raise BadUnits("states no resolution", code="missing_gain")
    _check_samples(waves, characteristics)
    leads = _lead_names(waves, characteristics)
    stored, compressed = _stored(waves, leads)
    notes = []
    if compressed or _are_residuals(stored, leads):
        raw = np.array(from_residuals(stored, [canonical_lead(lead) or lead for lead in leads]))
        if not compressed:
            notes.append("limb leads are stored as differences; they were added up")
    else:
        raw = np.array(stored)
    notes += _claimed_length(waves, raw.shape[1], rate)
    pulse = _calibration_pulse(raw, round(PULSE_MICROVOLTS / resolution), rate)
    if pulse:
        raw = raw[:, :-pulse]
        notes.append(f"left out the last {pulse / rate:.2g} s, which are a calibration pulse")
    millivolts: Floats = raw.astype(np.float64) * (resolution / 1000)
    patient = _found(root, "patient/generalpatientdata")
    acquisition = _found(root, "dataacquisition")
    when = f"{acquisition.get('date', '').strip()}T{acquisition.get('time', '').strip()}".rstrip("T")
    years = number_in(text_of(patient, "age/years"))
    if years is None:
        taken = acquisition.get("date", "")
        born = text_of(patient, "age/dateofbirth")
        years = age_between(born.replace("-", ""), taken.replace("-", ""))
    return [
        Recording(
            signal=millivolts,
            sampling_rate=rate,
            leads=leads,
            record_id=file.stem,
            source=str(file),
            format=f"{NAME} {version}",
            age=years,
            sex=sex_of(text_of(patient, "sex")),
            recorded=moment_of_iso(when),
            device=device_of(
                _found(acquisition, "machine").get("detaildescription", "").partition(":")[0],
                text_of(acquisition, "machine"),
            ),
            notes=tuple(notes),
        )
    ]


def _found(root: Element, path: str) -> Element:
    """The element at ``path``, or an empty one."""
    element = root.find(path)
    return Element("absent") if element is None else element


def _stated(waves: Element, characteristics: Element, attribute: str, *tags: str) -> float | None:
    """The positive number in an attribute of the waveforms, else in a tag about the signal."""
    texts = [waves.get(attribute, ""), *(text_of(characteristics, tag) for tag in tags)]
    numbers = [number for text in texts if (number := number_in(text)) is not None and number > 0]
    if len(set(numbers)) > 1:
        raise MalformedFile(f"states different values of {attribute}: {numbers[0]:g} and {numbers[1]:g}")
    return numbers[0] if numbers else None


def _check_samples(waves: Element, characteristics: Element) -> None:
    """Refuse samples that are not signed 16-bit numbers around zero."""
    for name, usual in (("bitspersample", "16"), ("signaloffset", "0"), ("signalsigned", "true")):
        stated = (waves.get(name) or waves.get(f"n{name}") or text_of(characteristics, name)).strip().lower()
        number = number_in(stated)
        if (stated if number is None else f"{number:g}") not in ("", usual):
            raise UnsupportedFormat(f"samples with {name} {stated[:20]}")


def _lead_names(waves: Element, characteristics: Element) -> tuple[str, ...]:
    """Names of the leads, in the order of their samples."""
    labels = tuple(waves.get("leadlabels", "").split())
    if not labels:
        kinds = [text_of(characteristics, tag) for tag in ("acquisitiontype", "leadset")]
        if not any(kind in TWELVE_LEADS for kind in kinds):
            raise MissingLeads(f"does not name its leads ({', '.join(kinds)[:60]})", code="missing_lead_name")
        labels = LEADS
    count = number_in(waves.get("numberofleads", ""))
    if count is not None and 0 < count < len(labels):
        labels = labels[: int(count)]
    if len(labels) > MAX_LEADS:
        raise MissingLeads(f"names {len(labels)} leads", code="missing_lead_name")
    if len({canonical_lead(label) or label for label in labels}) < len(labels):
        raise MissingLeads("a lead occurs twice", code="doubled_lead")
    return labels


def _stored(waves: Element, leads: tuple[str, ...]) -> tuple[list[Ints], bool]:
    """Samples as stored, one array per lead, and whether they were compressed."""
    encoding = waves.get("dataencoding", "").strip().lower()
    flag = waves.get("compressflag", "true").strip().lower()
    method = (waves.get("compression") or waves.get("compressmethod") or "").strip().lower()
    text = waves.text or ""
    if encoding == "plain":
        values = _plain_numbers(text)
    elif encoding == "base64":
        data = decoded(text, "parsedwaveforms")
        if method == "xli" and flag != "false":
            return decoded_leads(data, len(leads)), True
        if method not in ("", "uncompressed", "none", "xli"):
            raise UnsupportedFormat(f"waveforms compressed by {method[:20]!r}")
        values = np.frombuffer(data[: len(data) // 2 * 2], "<i2").astype(np.int64)
    else:
        raise UnsupportedFormat(f"waveforms encoded as {encoding[:20]!r}")
    if len(values) == 0 or len(values) % len(leads):
        raise MalformedFile(
            f"{len(values)} samples do not divide evenly among {len(leads)} leads", code="truncated_file"
        )
    if len(values) > MAX_SAMPLES * len(leads):
        raise TooLong(f"more than {MAX_SAMPLES} samples of a lead", code="recording_too_long")
    return list(values.reshape(len(leads), -1)), False


def _plain_numbers(text: str) -> Ints:
    """Integers separated by blanks or commas."""
    if len(text) > MAX_PLAIN:
        raise TooLong("more than 8 MiB of numbers", code="recording_too_long")
    words = text.replace(",", " ").split()
    if not all(
        word.lstrip("+-").isascii() and word.lstrip("+-").isdigit() and len(word) < 8 for word in words
    ):
        raise MalformedFile("waveforms encoded as plain numbers hold something else")
    try:
        return np.array(words, dtype=np.int64)
    except ValueError as error:
        raise MalformedFile("waveforms encoded as plain numbers hold something else") from error


def _are_residuals(stored: list[Ints], leads: tuple[str, ...]) -> bool:
    """Whether uncompressed limb leads are nevertheless stored as differences, judged by Einthoven's law.

    Lead III is then nearly zero where II - I is not.
    """
    rows = {canonical_lead(lead): samples for lead, samples in zip(leads, stored, strict=True)}
    if not {"I", "II", "III"} <= rows.keys():
        return False
    expected = rows["II"] - rows["I"]
    return bool(np.abs(rows["III"]).sum() < np.abs(rows["III"] - expected).sum() / 4)


def _claimed_length(waves: Element, samples: int, rate: float) -> list[str]:
    """Compare with ``durationperchannel``: fewer samples are refused, more are noted."""
    duration = number_in(waves.get("durationperchannel", ""))
    if duration is None or duration <= 0:
        return []
    claimed = round(min(duration / 1000 * rate, 1e12))
    if samples == claimed:
        return []
    message = f"the file claims {claimed} samples per lead but contains {samples}"
    if samples < claimed:
        raise MalformedFile(message, code="truncated_file")
    return [message]


def _calibration_pulse(raw: Ints, height: int, rate: float) -> int:
    """Number of samples at the end that are a pulse of 1 mV, or zero around it, equally in all leads."""
    alike = (raw == raw[0]).all(axis=0) & ((raw[0] == 0) | (raw[0] == height))
    others = np.flatnonzero(~alike)
    start = int(others[-1]) + 1 if len(others) else raw.shape[1]
    high = np.count_nonzero(raw[0, start:] == height)
    return raw.shape[1] - start if high >= PULSE_SECONDS * rate and len(raw) > 1 else 0


MAX_SAMPLES = 120_000
"""Maximum number of samples per lead (4 minutes at 500 Hz), so that time and memory stay bounded."""

_HEADER = struct.Struct("<IHh")
_CODE_BITS, _END = 10, 1023
_OFFSET = 64


def decoded_leads(data: bytes, leads: int) -> list[Ints]:
    """The first ``leads`` leads in ``data``, as stored.

    Raises
    ------
    MalformedFile
        Fewer leads, leads of different lengths, or damaged codes.
    TooLong
        More than :data:`MAX_SAMPLES` samples.
    """
    found: list[Ints] = []
    place = 0
    while len(found) < leads:
        if len(data) - place < _HEADER.size:
            raise MalformedFile(f"contains {len(found)} of {leads} leads", code="truncated_file")
        size, _, start = _HEADER.unpack_from(data, place)
        place += _HEADER.size
        if size > len(data) - place:
            raise MalformedFile("the compressed leads are cut off", code="truncated_file")
        found.append(_samples(_lzw_decoded(data[place : place + size]), start))
        place += size
    if len({len(samples) for samples in found}) > 1:
        raise MalformedFile("the compressed leads differ in length")
    return found


def from_residuals(stored: Sequence[Ints], leads: Sequence[str]) -> list[Ints]:
    """The leads themselves, if limb leads are stored as residuals.

    Parameters
    ----------
    stored
        Samples as stored, one array per lead.
    leads
        Canonical names.

    Raises
    ------
    MissingLeads
        Leads I and II are not among them.
    """
    found = dict(zip(leads, stored, strict=True))
    if not found.keys() & {"III", "aVR", "aVL", "aVF"}:
        return list(stored)
    if not {"I", "II"} <= found.keys() or ("III" not in found and found.keys() & {"aVL", "aVF"}):
        raise MissingLeads("limb leads are stored as differences from leads that are not there")
    one, two = found["I"], found["II"]
    if "III" in found:
        found["III"] = two - one - found["III"]
    if "aVR" in found:
        found["aVR"] = -_half(one + two) - found["aVR"]
    if "aVL" in found:
        found["aVL"] = _half(one - found["III"]) - found["aVL"]
    if "aVF" in found:
        found["aVF"] = _half(two + found["III"]) - found["aVF"]
    return [found[lead] for lead in leads]


def _half(values: Ints) -> Ints:
    """Half of ``values``, rounded towards zero."""
    half: Ints = np.sign(values) * (np.abs(values) // 2)
    return half


def _lzw_decoded(data: bytes) -> bytes:
    """Bytes decoded from the codes in ``data``; they end with the code 1023 or with the data."""
    table = [bytes((value,)) for value in range(256)]
    out = bytearray()
    previous = b""
    bits = held = 0
    for byte in data:
        bits = (bits << 8) | byte
        held += 8
        if held < _CODE_BITS:
            continue
        held -= _CODE_BITS
        code = bits >> held
        bits &= (1 << held) - 1
        if code == _END:
            break
        if code < len(table):
            entry = table[code]
        elif code == len(table) and previous:
            entry = previous + previous[:1]
        else:
            raise MalformedFile("a damaged compressed lead: unknown code")
        if previous and len(table) < _END:
            table.append(previous + entry[:1])
        out += entry
        if len(out) > 2 * MAX_SAMPLES:
            raise TooLong(f"more than {MAX_SAMPLES} samples of a lead", code="recording_too_long")
        previous = entry
    return bytes(out)


def _samples(packed: bytes, start: int) -> Ints:
    """Samples from their second differences."""
    n = len(packed) // 2
    if n < 3:
        raise MalformedFile("a compressed lead holds no samples", code="empty_file")
    high, low = np.frombuffer(packed[: 2 * n], np.uint8).reshape(2, n).astype(np.uint16)
    values = ((high << 8) | low).view(np.int16).astype(np.int64)
    second = -np.concatenate([[start], values[2:-1] - _OFFSET])
    steps = np.cumsum(np.concatenate([[values[1] - values[0]], second]))
    samples: Ints = np.cumsum(np.concatenate([values[:1], steps]))
    if np.abs(samples).max() > 1 << 15:
        raise MalformedFile("a damaged compressed lead: samples beyond 16 bits")
    return samples


def outline(file: File) -> dict[str, Any]:
    """Header fields for a person to see."""
    return outline_of(
        file,
        "documentinfo/documentversion",
        "dataacquisition/machine",
        "dataacquisition/signalcharacteristics/samplingrate",
        "dataacquisition/signalcharacteristics/resolution",
    )
