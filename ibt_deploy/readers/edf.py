"""EDF, EDF+ and BDF: sleep laboratories, Holter recorders and EEG machines that also take an ECG.

An own reader: the format is a header of fixed fields and integers in records, while the packages for it
(pyedflib, mne) open paths only, and what they do to a damaged file is decided in C or after loading it whole.
Sources: Kemp et al. 1992 (doi 10.1016/0013-4694(92)90009-7) for EDF, Kemp and Olivan 2003
(doi 10.1016/S1388-2457(03)00123-8) for EDF+, BioSemi's page on BDF, which has three bytes where EDF has two.
"""

from __future__ import annotations

import re

import numpy as np

from ibt_deploy.errors import BadSampling, BadUnits, MalformedFile, MissingLeads, TooLong, UnsupportedFormat
from ibt_deploy.files import File
from ibt_deploy.leads import canonical_lead
from ibt_deploy.readers.edf_header import EdfHeader, EdfSignal, parse_header
from ibt_deploy.readers.units import millivolts_per
from ibt_deploy.readers.wfdb.files import MAX_VALUES
from ibt_deploy.readers.wfdb.header import MAX_RATE
from ibt_deploy.records import Notice, Recording
from ibt_deploy.types import AnyInts

NAME = "EDF"
TASK = "arrhythmia"

MAGIC_EDF, MAGIC_BDF = b"0       ", b"\xffBIOSEMI"
CHUNK_BYTES = 1 << 24

_PREFIX = re.compile(r"^E[CK]G[\s_.:-]*", re.IGNORECASE)
_SUFFIX = re.compile(r"[\s_-]*(?:\bref|-ref|\(?raw\)?)$", re.IGNORECASE)


def sniff(file: File, head: bytes) -> bool:
    """Whether ``head`` begins with the version and a number of signals of EDF or BDF."""
    del file
    return head.startswith((MAGIC_EDF, MAGIC_BDF)) and head[252:256].strip().isdigit()


def read(file: File) -> list[Recording]:
    """Read the standard leads in ``file``; other channels are left out and named in the notes.

    Raises
    ------
    BadSampling
        A rate that no ECG has.
    UnsupportedFormat
        EDF+D, whose records do not follow each other without gaps; leads of different rates.
    MissingLeads
        No channel is a standard lead.
    BadUnits
        A lead is no voltage, or its digital and physical ranges give no gain.
    MalformedFile
        A damaged header; fewer records than it claims.
    TooLong
        More than :data:`ibt_deploy.readers.wfdb.files.MAX_VALUES` samples.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        header = parse_header(stream)
        if header.discontinuous:
            raise UnsupportedFormat(f"{header.dialect} with gaps between its records", code="discontinuous")
        leads, others = _leads(header)
        records, notes = _records(header, size)
        rates = {signal.samples / header.duration for signal in leads.values()}
        if len(rates) > 1:
            raise UnsupportedFormat("leads are sampled at different rates", code="mixed_rates")
        (rate,) = rates
        if not 0 < rate < MAX_RATE:
            raise BadSampling(f"{rate:g} Hz is not the rate of an ECG", code="rate_out_of_range")
        scales = {name: _gain(name, signal) for name, signal in leads.items()}
        if records * sum(signal.samples for signal in leads.values()) > MAX_VALUES:
            raise TooLong("too many samples; cut it into pieces", code="recording_too_long")
        signal = np.empty((len(leads), records * next(iter(leads.values())).samples))
        stream.seek(header.size)
        done = 0
        step = max(1, CHUNK_BYTES // header.record_size)
        while done < records:
            count = min(step, records - done)
            block = stream.read(count * header.record_size)
            if len(block) < count * header.record_size:
                raise MalformedFile("the file ends within its records", code="truncated_file")
            for row, one in zip(signal, leads.values(), strict=True):
                raw = _integers(block, count, header, one)
                row[done * one.samples : (done + count) * one.samples] = raw
            done += count
    for row, name in zip(signal, leads, strict=True):
        gain, lowest = scales[name]
        row -= leads[name].digital[0]
        row *= gain
        row += lowest
    if others:
        notes.append(f"left out channels that are no standard lead: {', '.join(others)[:200]}")
    notes += [
        f"converted from {unit} to mV"
        for unit in sorted({one.unit for one in leads.values()})
        if millivolts_per(unit) != 1.0
    ]
    return [
        Recording(
            signal=signal,
            sampling_rate=rate,
            leads=tuple(leads),
            record_id=file.stem,
            source=str(file),
            format=header.dialect,
            age=header.age,
            sex=header.sex,
            notes=tuple(notes),
            warnings=_upside_down(leads),
        )
    ]


def _leads(header: EdfHeader) -> tuple[dict[str, EdfSignal], list[str]]:
    """Channels that are standard leads by their label's last part, and the labels of all others."""
    leads: dict[str, EdfSignal] = {}
    others = []
    for signal in header.signals:
        if signal.is_annotation:
            continue
        name = _SUFFIX.sub("", _PREFIX.sub("", signal.label))
        if canonical_lead(name) is None:
            others.append(signal.label)
        elif name in leads:
            raise MissingLeads(f"the lead {name} is there twice", code="doubled_lead")
        else:
            leads[name] = signal
    if not leads:
        listed = ", ".join(others)[:200]
        raise MissingLeads(f"no channel is named after a standard lead: {listed}", code="no_ecg_lead")
    return leads, others


def _records(header: EdfHeader, size: int) -> tuple[int, list[str]]:
    """Records to read, and notes on how many there are."""
    held = (size - header.size) // header.record_size
    if header.records is None:
        if held == 0:
            raise MalformedFile("holds no records", code="empty_file")
        return held, [f"the header does not say how many records there are; {held} were found"]
    if held < header.records:
        raise MalformedFile(
            f"truncated: the header claims {header.records} records, {held} are there", code="truncated_file"
        )
    if header.records == 0:
        raise MalformedFile("holds no records", code="empty_file")
    more = held > header.records
    return header.records, ["the file holds more records than it claims; the claimed ones were read"] * more


def _gain(name: str, signal: EdfSignal) -> tuple[float, float]:
    """Millivolts per step, and millivolts at the lowest digital value."""
    scale = millivolts_per(signal.unit)
    if scale is None:
        code = "unknown_unit" if signal.unit else "missing_unit"
        raise BadUnits(f"lead {name}: the unit {signal.unit!r} is not mV, uV or V", code=code)
    (low, high), (least, most) = signal.physical, signal.digital
    if most <= least or low == high:
        raise BadUnits(f"lead {name}: a range without extent gives no gain", code="missing_gain")
    return scale * (high - low) / (most - least), scale * low


def _integers(block: bytes, count: int, header: EdfHeader, signal: EdfSignal) -> AnyInts:
    """Raw samples of one signal in ``count`` whole records."""
    width = header.bytes_per_sample
    records = np.frombuffer(block, np.uint8).reshape(count, header.record_size)
    start = signal.offset * width
    part = np.ascontiguousarray(records[:, start : start + signal.samples * width])
    if width == 2:
        return part.view("<i2").reshape(-1)
    triples = np.zeros((part.size // 3, 4), np.uint8)
    triples[:, 1:] = part.reshape(-1, 3)
    return triples.view("<i4").reshape(-1) >> 8


def _upside_down(leads: dict[str, EdfSignal]) -> tuple[Notice, ...]:
    inverted = [name for name, signal in leads.items() if signal.physical[0] > signal.physical[1]]
    if not inverted:
        return ()
    sentence = f"the header states a negative gain, which turns these leads over: {', '.join(inverted)}"
    return (Notice("negative_gain", sentence),)
