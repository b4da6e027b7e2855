from __future__ import annotations

import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import dicom_records as dcm
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.data import get_testdata_file
from pydicom.uid import (
    BasicTextSRStorage,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EncapsulatedPDFStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    GeneralECGWaveformStorage,
    HemodynamicWaveformStorage,
    ImplicitVRLittleEndian,
    TwelveLeadECGWaveformStorage,
)

from ibt_deploy.errors import InputError
from ibt_deploy.files import MemoryFolder
from ibt_deploy.readers import read
from ibt_deploy.records import Recording
from ibt_deploy.vocabulary import LEADS

CHANNELS = [dcm.channel(lead) for lead in LEADS]
WHOLE = dcm.dicom(dcm.group(dcm.ecg(), CHANNELS))


def recordings(data: bytes, name: str = "a.dcm") -> list[Recording]:
    found = read(MemoryFolder({name: data}) / name)
    return [item for item in found if isinstance(item, Recording)]


def recording(data: bytes, name: str = "a.dcm") -> Recording:
    (found,) = recordings(data, name)
    return found


def refused(data: bytes, name: str = "a.dcm") -> str:
    with pytest.raises(InputError) as caught:
        read(MemoryFolder({name: data}) / name)
    assert "\n" not in str(caught.value)
    return caught.value.code


@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u2", "i4", "u4"])
def test_samples_of_every_size(dtype: str) -> None:
    raw = dcm.ecg(dtype, samples=2501, leads=3)
    found = recording(dcm.dicom(dcm.group(raw, CHANNELS[:3], rate=1000)))
    np.testing.assert_allclose(found.signal, raw * 0.0025, rtol=0, atol=1e-12)
    assert (found.leads, found.sampling_rate, found.format) == (LEADS[:3], 1000.0, "DICOM (12-lead ECG)")


@pytest.mark.parametrize(
    "syntax",
    [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian],
)
def test_every_transfer_syntax(syntax: str) -> None:
    raw = dcm.ecg()
    stored = raw.byteswap() if syntax == ExplicitVRBigEndian else raw
    data = dcm.dicom(
        dcm.group(stored, CHANNELS, padding=None), syntax=syntax, sop_class=GeneralECGWaveformStorage
    )
    found = recording(data)
    np.testing.assert_allclose(found.signal, raw * 0.0025, rtol=0, atol=1e-12)
    assert found.format == "DICOM (general ECG)"


@pytest.mark.parametrize(
    ("options", "millivolts", "offset"),
    [
        ({"sensitivity": 1, "correction": 4.88}, 0.00488, 0.0),
        ({"sensitivity": 0.005, "unit": "mV"}, 0.005, 0.0),
        ({"sensitivity": 2, "correction": None, "baseline": None}, 0.002, 0.0),
        ({"sensitivity": 5, "baseline": -100}, 0.005, -0.1),
        ({"sensitivity": 1250, "unit": "nV", "baseline": 5000}, 0.00125, 0.005),
    ],
)
def test_sensitivity_correction_baseline_and_unit(
    options: dict[str, Any], millivolts: float, offset: float
) -> None:
    """PS3.3 C.10.9.1.4: value = sample x sensitivity x correction + baseline, all in the stated unit."""
    raw = dcm.ecg(leads=2)
    found = recording(dcm.dicom(dcm.group(raw, [dcm.channel(lead, **options) for lead in ("I", "II")])))
    np.testing.assert_allclose(found.signal, raw * millivolts + offset, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("code", "meaning", "lead"),
    [
        (("5.6.3-9-62", "SCPECG"), "", "aVR"),
        (("2:64", "MDC"), "", "aVF"),
        (("MDC_ECG_LEAD_V3", "MDC"), "", "V3"),
        (("2:3", "MDC"), "Lead V1", "V1"),
        (("X1", "99VENDOR"), "Lead II (Einthoven)", "II"),
        (("5.6.3-9-66", "SCPECG"), "Lead V8", "V8"),
    ],
)
def test_names_of_leads(code: tuple[str, str], meaning: str, lead: str) -> None:
    item = dcm.channel("?", code=code, meaning=meaning)
    assert recording(dcm.dicom(dcm.group(dcm.ecg(leads=1), [item]))).leads == (lead,)


def test_the_label_names_a_channel_without_a_source() -> None:
    item = dcm.channel("I")
    del item.ChannelSourceSequence
    item.ChannelLabel = "aVL"
    assert recording(dcm.dicom(dcm.group(dcm.ecg(leads=1), [item]))).leads == ("aVL",)


def test_averaged_beats_are_left_out() -> None:
    rhythm = dcm.group(dcm.ecg(), CHANNELS)
    beat = dcm.group(dcm.ecg(samples=600), CHANNELS, label="MEDIAN BEAT", originality="DERIVED")
    unlabelled = dcm.group(dcm.ecg(samples=600), CHANNELS, label="", originality="DERIVED")
    unstated = dcm.group(dcm.ecg(samples=600), CHANNELS, label="", originality="")
    for groups in ((rhythm, beat), (beat, rhythm), (unlabelled, rhythm), (unstated, rhythm)):
        found = recording(dcm.dicom(*groups))
        assert found.signal.shape == (12, 3000)
        assert any("left out derived signals" in note for note in found.notes)
    assert refused(dcm.dicom(beat)) == "no_rhythm"
    assert refused(dcm.dicom(unlabelled)) == "no_rhythm"
    short = dcm.group(dcm.ecg(samples=600), CHANNELS)
    assert recording(dcm.dicom(short)).signal.shape == (12, 600)


def test_a_rhythm_that_calls_itself_derived_is_read_where_there_is_no_other() -> None:
    found = recording(dcm.dicom(dcm.group(dcm.ecg(), CHANNELS, originality="DERIVED", label="filtered")))
    assert any("derived" in note for note in found.notes)


def test_groups_of_the_same_seconds_stand_together_and_others_apart() -> None:
    raw = dcm.ecg()
    limb, chest = dcm.group(raw[:6], CHANNELS[:6]), dcm.group(raw[6:], CHANNELS[6:])
    np.testing.assert_allclose(recording(dcm.dicom(limb, chest)).signal, raw * 0.0025)
    later = dcm.group(raw[6:], CHANNELS[6:], start=6000)
    unsaid = dcm.group(raw[6:], CHANNELS[6:], start=None)
    again = dcm.group(raw[:6], CHANNELS[:6])
    for other in (later, unsaid, again):
        first, second = recordings(dcm.dicom(limb, other))
        assert (first.record_id, second.record_id) == ("a-1", "a-2")


def test_padding_is_no_signal() -> None:
    raw = dcm.ecg(leads=2)
    raw[0, 100:110] = raw[1, 2999] = -32768
    found = recording(dcm.dicom(dcm.group(raw, CHANNELS[:2], padding=-32768)))
    assert np.flatnonzero(np.isnan(found.signal[0])).tolist() == list(range(100, 110))
    assert np.flatnonzero(np.isnan(found.signal[1])).tolist() == [2999]


def test_a_padding_value_that_samples_have_too_is_padding_only_in_long_runs() -> None:
    raw = dcm.ecg(leads=2)
    raw[0, 2000:] = 0
    raw[1, ::50] = 0
    found = recording(dcm.dicom(dcm.group(raw, CHANNELS[:2], padding=0)))
    assert np.isnan(found.signal[0, 2000:]).all()
    assert not np.isnan(found.signal[0, :1990]).any()
    np.testing.assert_allclose(found.signal[1], raw[1] * 0.0025)
    assert any("padding value 0" in note for note in found.notes)


@pytest.mark.parametrize(
    ("stated", "age"),
    [
        ({"PatientAge": "045Y"}, 45.0),
        ({"PatientAge": "006M"}, 0.5),
        ({"PatientBirthDate": "19600229", "StudyDate": "20240228"}, 63.0),
        ({"PatientBirthDate": "19600229", "AcquisitionDateTime": "20240229101112"}, 64.0),
        ({"PatientBirthDate": "20300101", "StudyDate": "20240228"}, None),
        ({}, None),
    ],
)
def test_age_and_sex(stated: dict[str, str], age: float | None) -> None:
    found = recording(dcm.dicom(dcm.group(dcm.ecg(), CHANNELS), PatientSex="F", **stated))
    assert (found.age, found.sex) == (age, "Female")


def test_a_channel_that_is_no_voltage_is_left_out() -> None:
    pressure = dcm.channel("?", unit="mm[Hg]", code=("109016", "DCM"), meaning="Arterial pressure")
    found = recording(dcm.dicom(dcm.group(dcm.ecg(leads=2), [pressure, dcm.channel("II")])))
    assert found.leads == ("II",)
    assert found.notes == ("left out channels that are not voltages: Arterial pressure",)


def spoilt(keyword: str, value: object) -> bytes:
    group = dcm.group(dcm.ecg(), CHANNELS)
    if value is None:
        delattr(group, keyword)
    else:
        setattr(group, keyword, value)
    return dcm.dicom(group)


def of_one(**options: Any) -> bytes:
    return dcm.dicom(dcm.group(dcm.ecg(leads=1), [dcm.channel("I", **options)]))


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (spoilt("SamplingFrequency", None), "missing_rate"),
        (spoilt("SamplingFrequency", 0), "missing_rate"),
        (spoilt("NumberOfWaveformSamples", 3001), "truncated_file"),
        (spoilt("NumberOfWaveformSamples", 4_000_000_000), "recording_too_long"),
        (spoilt("NumberOfWaveformChannels", 11), "bad_header"),
        (spoilt("NumberOfWaveformChannels", 0), "bad_header"),
        (spoilt("WaveformSampleInterpretation", "MB"), "unsupported_compression"),
        (spoilt("WaveformSampleInterpretation", "SL"), "bad_header"),
        (spoilt("WaveformData", None), "truncated_file"),
        (of_one(sensitivity=None), "missing_gain"),
        (of_one(sensitivity=0), "missing_gain"),
        (of_one(unit=None), "missing_gain"),
        (of_one(unit="mm[Hg]"), "unknown_unit"),
        (of_one(code=("5.6.3-9-2", "SCPECG")), "lead_names_differ"),
        (of_one(code=("", ""), meaning=""), "missing_lead_name"),
        (dcm.dicom(), "no_rhythm"),
        (dcm.dicom(sop_class=CTImageStorage), "no_ecg_waveform"),
        (dcm.dicom(sop_class=EncapsulatedPDFStorage), "no_ecg_waveform"),
        (dcm.dicom(sop_class=BasicTextSRStorage), "no_ecg_waveform"),
        (dcm.dicom(dcm.group(dcm.ecg(), CHANNELS), sop_class=HemodynamicWaveformStorage), "no_ecg_waveform"),
        (b"\0" * 128 + b"DICM" + b"\xff" * 500, "no_ecg_waveform"),
        (dcm.dicom(dcm.group(dcm.ecg(), CHANNELS)).replace(b"UL\4\0", b"UL\7\0", 1), "malformed_file"),
    ],
)
def test_refusals(data: bytes, code: str) -> None:
    assert refused(data) == code


def test_what_a_cut_file_lacks_is_said_by_its_name() -> None:
    with pytest.raises(InputError, match="has no WaveformData, which a waveform needs: truncated or damaged"):
        recordings(spoilt("WaveformData", None))
    cut = WHOLE[: WHOLE.index(b"\x08\0\x16\0UI")]  # behind the meta information, before the data set
    with pytest.raises(InputError, match="states an ECG and ends before it: truncated"):
        recordings(cut)


def test_a_sequence_that_ends_before_its_items_do() -> None:
    """pydicom raises OSError over it, which would be said as if the disk were at fault."""
    place = WHOLE.index(b"\0\x54\0\x01SQ")
    assert refused(WHOLE[: place + 8] + b"\x10\0\0\0" + bytes(2)) == "malformed_file"


def test_a_broken_line_in_a_name_is_no_broken_line_in_a_message() -> None:
    sop_class = b"UI\x1e\x00" + TwelveLeadECGWaveformStorage.encode()
    assert refused(WHOLE.replace(sop_class, sop_class[:-4] + b"\n9.9")) == "no_ecg_waveform"


@given(
    st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 255)), min_size=1, max_size=20),
    st.integers(100, 80000),
)
@settings(max_examples=60)
def test_stray_bytes_give_nothing_but_refusals(changes: list[tuple[int, int]], stop: int) -> None:
    data = bytearray(WHOLE)
    for place, byte in changes:
        data[place] = byte
    with suppress(InputError):
        recordings(bytes(data[:stop]))


def test_a_negative_sensitivity_is_warned_of() -> None:
    assert [warning.code for warning in recording(of_one(sensitivity=-2.5)).warnings] == ["negative_gain"]


def test_deflated_data_without_end_are_refused() -> None:
    import zlib

    data = dcm.dicom(dcm.group(dcm.ecg(), CHANNELS), syntax=DeflatedExplicitVRLittleEndian)
    start = 144 + int.from_bytes(data[140:144], "little")
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = squeeze.compress(bytes(33 << 20)) + squeeze.flush()
    assert refused(data[:start] + bomb) == "recording_too_long"


def test_without_preamble_and_under_another_name() -> None:
    data = dcm.dicom(dcm.group(dcm.ecg(), CHANNELS), syntax=ImplicitVRLittleEndian)
    bare = data[data.index(b"\x08\x00\x16\x00") :]
    assert recording(bare, "renamed.bin").signal.shape == (12, 3000)
    assert recording(data, "renamed.csv").signal.shape == (12, 3000)


def test_the_sample_of_pydicom_reads_as_pydicom_reads_it() -> None:
    import pydicom

    path = Path(str(get_testdata_file("waveform_ecg.dcm")))
    (found,) = read(path)
    assert isinstance(found, Recording)
    expected = pydicom.dcmread(path).waveform_array(0).T / 1000
    np.testing.assert_allclose(found.signal, expected, rtol=0, atol=1e-12)
    assert (found.leads, found.sampling_rate, found.age, found.sex) == (LEADS, 1000.0, 42.0, "Female")


def test_pydicom_is_not_loaded_for_other_files(tmp_path: Path) -> None:
    from helpers.wfdb_records import write_record

    code = (
        "import sys; from ibt_deploy.readers import read; from ibt_deploy.readers import dicom;"
        f"read({str(write_record(tmp_path))!r}); print('pydicom' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_without_pydicom_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from ibt_deploy.errors import MissingExtra

    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(MissingExtra, match=r"ibt\[formats\]"):
        recordings(dcm.dicom())


def test_eight_bits_allocated_over_samples_of_sixteen() -> None:
    item = dcm.group(dcm.ecg(), CHANNELS)
    item.WaveformBitsAllocated, item.WaveformSampleInterpretation = 8, "SB"
    assert refused(dcm.dicom(item)) == "bad_header"


def test_file_meta_information_without_the_preamble() -> None:
    np.testing.assert_array_equal(recording(WHOLE[132:]).signal, recording(WHOLE).signal)
