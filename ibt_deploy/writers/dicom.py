"""DICOM waveforms (PS3.3 A.34.3, A.34.4): the 12-lead ECG if it fits, else the general one."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from ibt_deploy import __version__
from ibt_deploy.errors import UnsupportedFormat, require
from ibt_deploy.records import Recording
from ibt_deploy.vocabulary import LEAD_NUMBERS, LEADS, canonical_lead
from ibt_deploy.writers import INVALID, Quantised, quantised

NAME = "DICOM"

RATES = (200.0, 1000.0)
"""Sampling rates in Hz that the standard allows for both kinds."""
MOST_SAMPLES = 16384
"""Maximum number of samples of a channel in a 12-lead ECG."""
MOST_CHANNELS = 24
_NUMBERS = {name: number for number, name in LEAD_NUMBERS.items()}
_SEXES = {"male": "M", "female": "F"}


def encoded(recording: Recording, path: Path) -> dict[Path, bytes]:
    """Encode the file; identifiers are new, and no person's name is known or written.

    Raises
    ------
    UnsupportedFormat
        A rate, number of leads, lead or range that the standard does not allow.
    MissingExtra
        pydicom is not installed.
    """
    require("writing DICOM", "pydicom")
    from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
    from pydicom.uid import (
        ExplicitVRLittleEndian,
        GeneralECGWaveformStorage,
        TwelveLeadECGWaveformStorage,
        generate_uid,
    )

    rate = recording.sampling_rate
    if not RATES[0] <= rate <= RATES[1] or len(f"{rate:.12g}") > 16:
        raise UnsupportedFormat(
            f"DICOM holds ECGs of 200 to 1000 Hz, not of {rate:g}", code="not_representable"
        )
    if len(recording.leads) > MOST_CHANNELS:
        raise UnsupportedFormat(
            f"DICOM holds {MOST_CHANNELS} leads, not {len(recording.leads)}", code="not_representable"
        )
    names = [canonical_lead(name) or name for name in recording.leads]
    leads = [quantised(row, name) for row, name in zip(recording.signal, names, strict=True)]
    standard = set(names) <= set(LEADS) and recording.signal.shape[1] <= MOST_SAMPLES
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = TwelveLeadECGWaveformStorage if standard else GeneralECGWaveformStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset: Any = FileDataset(str(path), {}, file_meta=meta, preamble=bytes(128))
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.SOPClassUID, dataset.SOPInstanceUID = (
        meta.MediaStorageSOPClassUID,
        meta.MediaStorageSOPInstanceUID,
    )
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = generate_uid(), generate_uid()
    dataset.Modality = "ECG"
    _state_moment(dataset, recording.recorded)
    dataset.Manufacturer, dataset.ManufacturerModelName = "", (recording.device or "")[:64]
    converter = Dataset()
    converter.PurposeOfReferenceCodeSequence = [_coded("109102", "DCM", "01", "Processing Equipment")]
    converter.Manufacturer, converter.SoftwareVersions = "ibt", __version__
    dataset.ContributingEquipmentSequence = [converter]
    dataset.SeriesNumber = dataset.InstanceNumber = 1
    dataset.StudyID = dataset.AccessionNumber = dataset.ReferringPhysicianName = ""
    dataset.PatientName = dataset.PatientBirthDate = ""
    dataset.PatientID = recording.record_id[:64]
    dataset.PatientSex = _SEXES.get((recording.sex or "").lower(), "")
    if recording.age is not None and re.fullmatch(r"\d{1,3}", f"{recording.age:g}"):
        dataset.PatientAge = f"{recording.age:03.0f}Y"
    dataset.AcquisitionContextSequence = []
    group = Dataset()
    group.MultiplexGroupTimeOffset = 0
    group.WaveformOriginality = "ORIGINAL"
    group.NumberOfWaveformChannels, group.NumberOfWaveformSamples = recording.signal.shape
    group.SamplingFrequency = f"{rate:.12g}"
    group.MultiplexGroupLabel = "RHYTHM"
    group.ChannelDefinitionSequence = [_channel(lead, name) for lead, name in zip(leads, names, strict=True)]
    group.WaveformBitsAllocated = 16
    group.WaveformSampleInterpretation = "SS"
    group.WaveformPaddingValue = np.array(INVALID, dtype="<i2").tobytes()
    group.WaveformData = np.ascontiguousarray(np.array([lead.raw for lead in leads], dtype="<i2").T).tobytes()
    dataset.WaveformSequence = [group]
    out = BytesIO()
    dataset.save_as(out, enforce_file_format=True)
    return {path: out.getvalue()}


def _state_moment(dataset: Any, recorded: date | None) -> None:
    """Set date and time of study, acquisition and content; only that of the content must be known.

    AcquisitionDateTime must have a value (type 1). None is invented if the source states none.
    """
    content: date = datetime.now(UTC) if recorded is None else recorded
    day, clock = content.strftime("%Y%m%d"), "000000"
    stated = "" if recorded is None else day
    if isinstance(content, datetime):
        part = f".{content.microsecond:06d}" if content.microsecond and recorded is not None else ""
        clock = content.strftime("%H%M%S") + part
    timed = isinstance(recorded, datetime)
    zone = recorded.strftime("%z")[:5] if isinstance(recorded, datetime) else ""
    dataset.StudyDate, dataset.StudyTime = stated, clock if timed else ""
    dataset.AcquisitionDateTime = stated + clock + zone if timed else stated
    dataset.ContentDate, dataset.ContentTime = day, clock
    if zone:
        dataset.TimezoneOffsetFromUTC = zone


def _channel(lead: Quantised, name: str) -> Any:
    from pydicom.dataset import Dataset

    if name not in _NUMBERS:
        raise UnsupportedFormat(f"DICOM has no code for the lead {name[:40]!r}", code="not_representable")
    channel = Dataset()
    channel.ChannelSourceSequence = [_coded(f"5.6.3-9-{_NUMBERS[name]}", "SCPECG", "1.3", f"Lead {name}")]
    channel.ChannelSensitivity = f"{lead.step:.12g}"
    channel.ChannelSensitivityUnitsSequence = [_coded("uV", "UCUM", "1.4", "microvolt")]
    channel.ChannelSensitivityCorrectionFactor = 1
    channel.ChannelBaseline = f"{lead.offset * lead.step:.12g}"
    channel.ChannelSampleSkew = 0
    channel.WaveformBitsStored = 16
    return channel


def _coded(value: str, scheme: str, version: str, meaning: str) -> Any:
    from pydicom.dataset import Dataset

    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodingSchemeVersion = value, scheme, version
    code.CodeMeaning = meaning
    return code
