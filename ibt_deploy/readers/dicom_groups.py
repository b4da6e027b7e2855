"""Multiplex groups of a DICOM waveform (PS3.3 C.10.9) as plain numbers and names, without pydicom's types."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from ibt_deploy.errors import BadSampling, BadUnits, MalformedFile, MissingLeads, TooLong, UnsupportedFormat
from ibt_deploy.leads import canonical_lead
from ibt_deploy.readers.scp_record import LEAD_NAMES
from ibt_deploy.readers.units import millivolts_per
from ibt_deploy.types import AnyInts, Floats

MAX_VALUES = 20_000_000
"""Samples times channels read at most (12 leads at 500 Hz: 55 minutes), so that memory stays bounded."""
MAX_CHANNELS = 512
PADDING_SECONDS = 0.2
"""Where the padding value is one that samples have too, so long a run of it is padding."""

_DTYPES = {"SB": "i1", "UB": "u1", "SS": "i2", "US": "u2", "SL": "i4", "UL": "u4", "SV": "i8", "UV": "u8"}
_BEAT = re.compile(r"median|average|representative|template|beat", re.IGNORECASE)
_LEAD_NUMBER = re.compile(r"(?:5\.6\.3-9-|2:)(\d{1,4})")
_ASIDE = re.compile(r"\([^)]*\)")


@dataclass(frozen=True, eq=False)
class Channel:
    """One channel: its name, and real value = raw * ``scale`` + ``offset`` in mV; no voltage has no scale."""

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
        As the file calls it.
    original
        Whether it says that it was not derived from others; None where it does not say.
    rate
        Samples per second.
    start
        Offset in ms from the start of the acquisition; None where it does not say.
    channels
        In the order of the samples.
    raw
        Shape ``(samples, channels)``.
    padding
        Raw value that stands for no sample, or None.
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
        """Whether it is an averaged beat, by its label."""
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
            notes.append(f"left out what is no voltage: {', '.join(dropped)[:200]}")
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
        """NaN for padding: wherever its value stands out of the samples' range, else only in long runs."""
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
        MalformedFile: no samples, or fewer than claimed. BadSampling, BadUnits, MissingLeads: no rate, no
        sensitivity or a unit that is no voltage for a lead, no name. UnsupportedFormat: samples of speech
        codecs. TooLong: more than :data:`MAX_VALUES`.
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
    """The padding value: pydicom gives its bytes, or a number where the file says that it is one."""
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
    coded = LEAD_NAMES.get(int(match[1])) if match else canonical_lead(code)
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
