"""GE's XML: MUSE, whose DICOM conversion is read independently, and CardioSoft."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from ibt_deploy.errors import (
    BadSampling,
    BadUnits,
    InputError,
    MalformedFile,
    MissingLeads,
    UnsupportedFormat,
)
from ibt_deploy.files import MemoryFolder
from ibt_deploy.readers import read
from ibt_deploy.readers.xml import muse as muse_reader
from ibt_deploy.records import Recording
from ibt_deploy.vocabulary import LEADS
from tests.helpers.ecg_files import EIGHT, cardiosoft, muse
from tests.helpers.wfdb_records import raw_ecg


def recordings(data: bytes) -> list[Recording]:
    found = read(MemoryFolder({"m.xml": data}) / "m.xml")
    assert all(isinstance(one, Recording) for one in found)
    return [one for one in found if isinstance(one, Recording)]


def code_of(data: bytes, error: type[InputError]) -> str:
    with pytest.raises(error) as caught:
        recordings(data)
    return caught.value.code


def test_equals_its_dicom_conversion(shared: Path) -> None:
    pydicom = pytest.importorskip("pydicom")
    folder = shared / "data" / "formats" / "muse_xml"
    (recording,) = read(folder / "synthetic_muse.xml")
    assert isinstance(recording, Recording)
    waves = pydicom.dcmread(folder / "synthetic_muse.dcm")
    rhythm = waves.WaveformSequence[0]
    assert rhythm.MultiplexGroupLabel == "Rhythm"
    names = [c.ChannelSourceSequence[0].CodeMeaning for c in rhythm.ChannelDefinitionSequence]
    microvolts = {
        name.removeprefix("Lead "): row for name, row in zip(names, waves.waveform_array(0).T, strict=True)
    }
    assert recording.leads == EIGHT
    for lead, row in zip(recording.leads, recording.signal, strict=True):
        np.testing.assert_allclose(row, microvolts[lead] / 1000, atol=1e-12)
    assert recording.sampling_rate == float(rhythm.SamplingFrequency)
    assert (recording.age, recording.sex, recording.dx, recording.warnings) == (45.0, "Male", None, ())


def test_the_rhythm_strip_in_millivolts() -> None:
    (recording,) = recordings(muse())
    rows = [LEADS.index(lead) for lead in EIGHT]
    np.testing.assert_allclose(recording.signal, raw_ecg()[rows] * 0.00488, rtol=1e-12)
    assert (recording.leads, recording.sampling_rate, recording.record_id) == (EIGHT, 500.0, "m")
    assert (recording.age, recording.sex, recording.format) == (61.0, "Female", "GE MUSE XML")


def test_exponent_of_the_rate() -> None:
    strip = "<SampleBase>5</SampleBase><SampleExponent>2</SampleExponent>"
    assert recordings(muse(strip=strip))[0].sampling_rate == 500.0


def test_several_strips_are_several_recordings() -> None:
    first, second = recordings(muse(kinds=("Rhythm", "Rhythm")))
    assert (first.record_id, second.record_id) == ("m_1", "m_2")


def test_checksum() -> None:
    assert recordings(muse(LeadDataCRC32="0"))[0].warnings == ()
    (warning,) = recordings(muse(LeadDataCRC32="12"))[0].warnings
    assert warning.code == "checksum_differs"


def test_a_lead_that_was_off_is_noted() -> None:
    assert "off: I, II" in recordings(muse(LeadOff="TRUE"))[0].notes[0]


@pytest.mark.parametrize(
    ("data", "error", "code"),
    [
        (muse(kinds=("Median",)), MissingLeads, "no_ecg_lead"),
        (muse({}), MissingLeads, "no_ecg_lead"),
        (muse(LeadID=""), MissingLeads, "missing_lead_name"),
        (muse(LeadID="I"), MissingLeads, "doubled_lead"),
        (muse(strip=""), BadSampling, "missing_rate"),
        (muse(strip="<SampleBase>-1</SampleBase>"), BadSampling, "missing_rate"),
        (muse(LeadAmplitudeUnits="FURLONGS"), BadUnits, "unknown_unit"),
        (muse(LeadAmplitudeUnits=""), BadUnits, "missing_unit"),
        (muse(LeadAmplitudeUnitsPerBit="0"), BadUnits, "missing_gain"),
        (muse(LeadSampleCountTotal="4999"), MalformedFile, "truncated_file"),
        (muse(LeadByteCountTotal="1"), MalformedFile, "truncated_file"),
        (muse(WaveFormData="$$$"), MalformedFile, "malformed_file"),
        (muse(WaveFormData=""), MalformedFile, "truncated_file"),
        (muse(LeadSampleSize="4"), UnsupportedFormat, "unsupported_format"),
        (muse()[:-9], MalformedFile, "bad_xml"),
    ],
)
def test_refusals(data: bytes, error: type[InputError], code: str) -> None:
    assert code_of(data, error) == code


def test_leads_of_different_lengths_or_times() -> None:
    raw = dict(zip(LEADS, raw_ecg(), strict=True))
    assert code_of(muse(raw | {"V6": raw["V6"][:-1]}), MalformedFile) == "truncated_file"
    text = muse().replace(b"<LeadTimeOffset>0", b"<LeadTimeOffset>2500", 12)
    assert code_of(text, UnsupportedFormat) == "unsupported_format"


def test_entities_are_neither_expanded_nor_fetched(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("500")
    for entity in ('"500"', f'SYSTEM "file://{tmp_path}/secret"'):
        data = muse(
            before=f"<!DOCTYPE RestingECG [<!ENTITY e {entity}>]>", strip="<SampleBase>&e;</SampleBase>"
        )
        file = MemoryFolder({"m.xml": data}) / "m.xml"
        with pytest.raises(MalformedFile) as caught:
            muse_reader.read(file)
        assert caught.value.code == "unsafe_xml"


def test_cardiosoft_in_millivolts_with_what_it_states() -> None:
    (recording,) = recordings(cardiosoft())
    np.testing.assert_allclose(recording.signal, raw_ecg() * 0.00488, rtol=0, atol=1e-12)
    assert (recording.leads, recording.sampling_rate, recording.format) == (LEADS, 500.0, "GE CardioSoft XML")
    assert (recording.age, recording.sex, recording.device) == (61.0, "Female", "CardioSoft")
    assert recording.recorded == datetime(2002, 11, 22, 9, 10, 11)
    assert recording.notes == recording.warnings == ()


def test_cardiosoft_without_an_age_has_that_of_its_dates() -> None:
    # a day before the fiftieth birthday
    assert recordings(cardiosoft(age=""))[0].age == 49.0


@pytest.mark.parametrize(
    ("data", "error", "code"),
    [
        (cardiosoft(rate=""), BadSampling, "missing_rate"),
        (cardiosoft(rate="<SampleRate>500</SampleRate>"), BadSampling, "missing_rate"),
        (cardiosoft(rate='<SampleRate units="kHz">1</SampleRate>'), BadSampling, "missing_rate"),
        (cardiosoft(resolution=""), BadUnits, "missing_gain"),
        (cardiosoft(resolution='<Resolution units="uVperLsb">0</Resolution>'), BadUnits, "missing_gain"),
        (cardiosoft(resolution="<Resolution>5</Resolution>"), BadUnits, "missing_unit"),
        (cardiosoft(resolution='<Resolution units="nVperLsb">5</Resolution>'), BadUnits, "unknown_unit"),
        (cardiosoft({"": np.arange(9)}), MissingLeads, "missing_lead_name"),
        (cardiosoft(leads=13), MalformedFile, "truncated_file"),
        (cardiosoft(samples=5001), MalformedFile, "truncated_file"),
        (cardiosoft().replace(b'lead="III"', b'lead="II"'), MissingLeads, "doubled_lead"),
        (cardiosoft().replace(b"StripData", b"Strip"), MissingLeads, "no_rhythm"),
        (cardiosoft({"I": np.array([1.5, 2.0])}), MalformedFile, "not_numbers"),
        (cardiosoft({"I": np.array(["1 2", "3"])}), MalformedFile, "not_numbers"),
        (cardiosoft()[:-400], MalformedFile, "bad_xml"),
    ],
)
def test_cardiosoft_that_is_refused(data: bytes, error: type[InputError], code: str) -> None:
    assert code_of(data, error) == code
