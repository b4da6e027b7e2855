"""DICOM waveforms made with pydicom, element by element."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    TwelveLeadECGWaveformStorage,
    generate_uid,
)

from ibt_deploy.vocabulary import LEADS

KINDS = {"i1": "SB", "u1": "UB", "i2": "SS", "u2": "US", "i4": "SL", "u4": "UL"}
NUMBERS = dict(zip(LEADS, (1, 2, 61, 62, 63, 64, 3, 4, 5, 6, 7, 8), strict=True))


def coded(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def channel(
    name: str,
    *,
    sensitivity: float | None = 2.5,
    unit: str | None = "uV",
    correction: float | None = 1,
    baseline: float | None = 0,
    code: tuple[str, str] | None = None,
    meaning: str | None = None,
) -> Dataset:
    item = Dataset()
    value, scheme = code or (f"5.6.3-9-{NUMBERS.get(name, 0)}", "SCPECG")
    item.ChannelSourceSequence = [coded(value, scheme, f"Lead {name}" if meaning is None else meaning)]
    if sensitivity is not None:
        item.ChannelSensitivity = sensitivity
    if unit is not None:
        item.ChannelSensitivityUnitsSequence = [coded(unit, "UCUM", "unit")]
    if correction is not None:
        item.ChannelSensitivityCorrectionFactor = correction
    if baseline is not None:
        item.ChannelBaseline = baseline
    item.ChannelSampleSkew = 0
    item.WaveformBitsStored = 16
    return item


def group(
    raw: npt.NDArray[np.integer],
    channels: Sequence[Dataset],
    *,
    rate: float | None = 500,
    label: str = "RHYTHM",
    originality: str = "ORIGINAL",
    padding: int | None = None,
    start: float | None = 0,
) -> Dataset:
    """``raw`` has the shape (channels, samples)."""
    item = Dataset()
    if start is not None:
        item.MultiplexGroupTimeOffset = start
    item.WaveformOriginality, item.MultiplexGroupLabel = originality, label
    item.NumberOfWaveformChannels, item.NumberOfWaveformSamples = raw.shape
    if rate is not None:
        item.SamplingFrequency = rate
    item.ChannelDefinitionSequence = list(channels)
    item.WaveformBitsAllocated = 8 * raw.dtype.itemsize
    item.WaveformSampleInterpretation = KINDS[raw.dtype.str[1:]]
    if padding is not None:
        item.WaveformPaddingValue = np.array(padding, dtype=raw.dtype).tobytes()
    data = np.ascontiguousarray(raw.T).tobytes()
    item.WaveformData = data + bytes(len(data) % 2)
    return item


def dicom(
    *groups: Dataset,
    sop_class: str = TwelveLeadECGWaveformStorage,
    syntax: str = ExplicitVRLittleEndian,
    **stated: Any,
) -> bytes:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = sop_class
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = syntax
    dataset = FileDataset(
        "a.dcm",
        {},
        file_meta=meta,
        preamble=bytes(128),
        is_implicit_VR=syntax == ImplicitVRLittleEndian,
        is_little_endian=syntax != ExplicitVRBigEndian,
    )
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, meta.MediaStorageSOPInstanceUID
    for keyword, value in stated.items():
        setattr(dataset, keyword, value)
    if groups:
        dataset.WaveformSequence = list(groups)
    out = BytesIO()
    dataset.save_as(out, enforce_file_format=True)
    return out.getvalue()


def ecg(dtype: str = "i2", samples: int = 3000, leads: int = 12, seed: int = 0) -> npt.NDArray[np.integer]:
    rng = np.random.default_rng(seed)
    low, high = (-120, 120) if dtype == "i1" else (0, 255) if dtype == "u1" else (-500, 500)
    return rng.integers(low if dtype[0] == "i" else 0, high, (leads, samples)).astype(dtype)
