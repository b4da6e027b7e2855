"""Philips Sierra XML, versions 1.03 and 1.04 (PageWriter carts, TraceMasterVue), compressed or not.

Tags and units are those of the published schemas (``restingecgdata``): the resolution is microvolts of one
step, ``durationperchannel`` milliseconds. Interpretation statements are free text and become no diagnoses.
"""

from __future__ import annotations

from xml.etree.ElementTree import Element

import numpy as np

from ibt_deploy.errors import BadSampling, BadUnits, MalformedFile, MissingLeads, TooLong, UnsupportedFormat
from ibt_deploy.files import File
from ibt_deploy.leads import LEADS, canonical_lead
from ibt_deploy.readers.ages import age_between
from ibt_deploy.readers.muse_fields import (
    decoded,
    number_in,
    sex_of,
    text_of,
)
from ibt_deploy.readers.philips_xli import MAX_SAMPLES, decoded_leads, from_residuals
from ibt_deploy.readers.xml_tree import parsed, root_name
from ibt_deploy.records import Recording
from ibt_deploy.types import Floats, Ints

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

    The cart may end it with a calibration pulse, the same in all leads. That is no ECG: it is left out, and
    a note says so.

    Raises
    ------
    UnsupportedFormat
        Another version, encoding, compression or kind of samples.
    MissingLeads
        No waveforms, or nobody knows of which leads.
    BadSampling, BadUnits
        Rate or resolution are missing.
    MalformedFile
        Damaged samples, or fewer than claimed.
    InputError
        See :func:`ibt_deploy.readers.xml_tree.parsed` and :mod:`ibt_deploy.readers.philips_xli`.
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
    years = number_in(text_of(patient, "age/years"))
    if years is None:
        taken = _found(root, "dataacquisition").get("date", "")
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
        raise MissingLeads("a lead is there twice", code="doubled_lead")
    return labels


def _stored(waves: Element, leads: tuple[str, ...]) -> tuple[list[Ints], bool]:
    """Ints as stored, one array for each lead, and whether they were compressed."""
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
            f"{len(values)} samples are not those of {len(leads)} leads", code="truncated_file"
        )
    if len(values) > MAX_SAMPLES * len(leads):
        raise TooLong(f"more than {MAX_SAMPLES} samples of a lead", code="recording_too_long")
    return list(values.reshape(len(leads), -1)), False


def _plain_numbers(text: str) -> Ints:
    """Whole numbers set apart by blanks or commas."""
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
    """Whether uncompressed limb leads are stored as differences all the same, which Einthoven's law shows.

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
    if samples < claimed:
        raise MalformedFile(
            f"{claimed} samples of each lead are claimed, {samples} are there", code="truncated_file"
        )
    return [] if samples == claimed else [f"{claimed} samples of each lead are claimed, {samples} are there"]


def _calibration_pulse(raw: Ints, height: int, rate: float) -> int:
    """Number of samples at the end that are a pulse of 1 mV, or zero around it, in all leads alike."""
    alike = (raw == raw[0]).all(axis=0) & ((raw[0] == 0) | (raw[0] == height))
    others = np.flatnonzero(~alike)
    start = int(others[-1]) + 1 if len(others) else raw.shape[1]
    high = np.count_nonzero(raw[0, start:] == height)
    return raw.shape[1] - start if high >= PULSE_SECONDS * rate and len(raw) > 1 else 0
