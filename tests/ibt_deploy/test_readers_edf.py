"""EDF and BDF; pyedflib writes and reads the same files independently where it is installed."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

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
from ibt_deploy.records import Recording
from ibt_deploy.vocabulary import LEADS
from tests.helpers.ecg_files import edf
from tests.helpers.wfdb_records import raw_ecg


def recording(data: bytes, name: str = "e.edf") -> Recording:
    (found,) = read(MemoryFolder({name: data}) / name)
    assert isinstance(found, Recording)
    return found


def code_of(data: bytes, error: type[InputError]) -> str:
    with pytest.raises(error) as caught:
        recording(data)
    return caught.value.code


def test_millivolts_rate_and_leads() -> None:
    found = recording(edf())
    np.testing.assert_allclose(found.signal, raw_ecg() * 1e-4, atol=1e-12)
    assert (found.leads, found.sampling_rate, found.format) == (LEADS, 500.0, "EDF")
    assert found.notes == ("converted from uV to mV",)


@pytest.mark.parametrize("kind", ["edf", "edf+"])
def test_a_date_reads_as_pyedflib_wrote_it(tmp_path: Path, kind: str) -> None:
    pyedflib = pytest.importorskip("pyedflib")
    when = datetime.datetime(2009, 12, 31, 23, 58, 7)
    file_type = pyedflib.FILETYPE_EDFPLUS if kind == "edf+" else pyedflib.FILETYPE_EDF
    path = tmp_path / "r.edf"
    with pyedflib.EdfWriter(str(path), 1, file_type=file_type) as writer:
        header = {
            "label": "ECG II", "dimension": "uV", "sample_frequency": 500, "physical_max": 3276.7,
            "physical_min": -3276.8, "digital_max": 32767, "digital_min": -32768, "transducer": "",
            "prefilter": "",
        }  # fmt: skip
        writer.setSignalHeader(0, header)
        writer.setStartdatetime(when)
        writer.setEquipment("Holter_7")
        writer.writeSamples([np.zeros(5000)])
    found = recording(path.read_bytes())
    assert (found.recorded, found.device) == (when, "Holter 7" if kind == "edf+" else None)


@pytest.mark.parametrize(
    ("field", "day", "expected"),
    [
        ("Startdate 02-MAR-2002 X X ELI_250", "02.03.02", datetime.datetime(2002, 3, 2, 10)),
        ("Startdate X X X X", "01.01.85", None),
        ("", "01.01.85", None),
        ("", "02.03.84", datetime.datetime(2084, 3, 2, 10)),
        ("", "02.03.86", datetime.datetime(1986, 3, 2, 10)),
        ("", "31.02.86", None),
    ],
)
def test_the_start_of_a_recording(field: str, day: str, expected: datetime.datetime | None) -> None:
    data = edf(reserved="EDF+C" if field else "")
    data = data[:88] + f"{field:<80}".encode() + f"{day:<8}".encode() + data[176:]
    found = recording(data)
    assert found.recorded == expected
    assert found.device == ("ELI 250" if "ELI" in field else None)


@pytest.mark.parametrize("kind", ["edf", "edf+", "bdf", "bdf+"])
def test_equals_pyedflib(tmp_path: Path, kind: str) -> None:
    """Leads in two units among channels of other kinds and rates, and annotations."""
    pyedflib = pytest.importorskip("pyedflib")
    types = {
        "edf": pyedflib.FILETYPE_EDF, "edf+": pyedflib.FILETYPE_EDFPLUS,
        "bdf": pyedflib.FILETYPE_BDF, "bdf+": pyedflib.FILETYPE_BDFPLUS,
    }  # fmt: skip
    most = 32767 if kind.startswith("edf") else 8388607
    path = tmp_path / f"k.{kind[:3]}"

    def channel(label: str, unit: str, rate: int, top: float) -> dict[str, Any]:
        return {
            "label": label, "dimension": unit, "sample_frequency": rate,
            "physical_min": -top, "physical_max": top, "digital_min": -most - 1, "digital_max": most,
            "transducer": "", "prefilter": "",
        }  # fmt: skip

    with pyedflib.EdfWriter(str(path), 14, file_type=types[kind]) as writer:
        channels = [channel(f"EKG {lead}", "uV", 500, 5000) for lead in LEADS[:6]]
        channels += [channel(lead, "mV", 500, 5) for lead in LEADS[6:]]
        writer.setSignalHeaders(
            [channel("EEG Fpz-Cz", "uV", 100, 200), *channels, channel("Resp", "Ohm", 20, 1)]
        )
        writer.setBirthdate(datetime.date(1951, 5, 2))
        writer.setSex(0)
        writer.setStartdatetime(datetime.datetime(2002, 3, 2))
        rows = [row.astype(float) * scale for row, scale in zip(raw_ecg(), [1] * 6 + [1e-3] * 6, strict=True)]
        writer.writeSamples([np.zeros(1000), *rows, np.ones(200)])
        if kind.endswith("+"):
            writer.writeAnnotation(1.5, 0.1, "spike")
    found = recording(path.read_bytes(), path.name)
    with pyedflib.EdfReader(str(path)) as reader:
        expected = [reader.readSignal(i + 1) * (1e-3 if i < 6 else 1) for i in range(12)]
    np.testing.assert_allclose(found.signal, expected, rtol=0, atol=1e-9)
    assert (found.leads, found.sampling_rate, found.format) == (LEADS, 500.0, kind.upper())
    if kind.endswith("+"):
        assert (found.age, found.sex) == (50.0, "Female")
    assert found.notes[0] == "left out channels that are not standard leads: EEG Fpz-Cz, Resp"


def test_a_file_that_was_never_closed() -> None:
    found = recording(edf(records=-1) + b"\1" * 77)
    assert found.signal.shape == (12, 5000)
    assert "10 were found" in found.notes[0]


def test_more_records_than_claimed() -> None:
    found = recording(edf(records=4))
    assert found.signal.shape == (12, 2000)
    assert "more records" in found.notes[0]


def test_negative_gain_is_warned_of() -> None:
    found = recording(edf(physical=("3276.8", "-3276.7")))
    assert found.warnings[0].code == "negative_gain"
    np.testing.assert_allclose(found.signal, -raw_ecg() * 1e-4, atol=1e-3)


def test_several_seconds_a_record() -> None:
    assert recording(edf(duration="2")).sampling_rate == 250.0
    assert recording(edf(duration="0,5")).sampling_rate == 1000.0


def test_plain_ecg_channels_are_no_leads() -> None:
    found = recording(edf(labels=["ECG", "EKG2", *LEADS[:8]]))
    assert found.leads == LEADS[:8]
    assert "ECG, EKG2" in found.notes[0]


@pytest.mark.parametrize(
    ("data", "error", "code"),
    [
        (edf(reserved="EDF+D"), UnsupportedFormat, "discontinuous"),
        (edf(samples=[500] * 11 + [250]), UnsupportedFormat, "mixed_rates"),
        (edf(labels=["EEG C3", "EEG C4"]), MissingLeads, "no_ecg_lead"),
        (edf(labels=["ECG I", "I"]), MissingLeads, "doubled_lead"),
        (edf(unit=""), BadUnits, "missing_unit"),
        (edf(unit="mmHg"), BadUnits, "unknown_unit"),
        (edf(physical=("1", "1")), BadUnits, "missing_gain"),
        (edf(digital=("5", "5")), BadUnits, "missing_gain"),
        (edf(digital=("", "5")), BadUnits, "missing_gain"),
        (edf(duration="0"), BadSampling, "missing_rate"),
        (edf(duration="nan"), BadSampling, "missing_rate"),
        (edf(duration="1e-300"), BadSampling, "rate_out_of_range"),
        (edf(labels=["ECG I", "EEG C3"], samples=[0, 500]), BadSampling, "rate_out_of_range"),
        (edf(records=11), MalformedFile, "truncated_file"),
        (edf(records=0), MalformedFile, "empty_file"),
        (edf(records=-2), MalformedFile, "bad_header"),
        (edf(records="many"), MalformedFile, "bad_header"),
        (edf(samples=[-500] * 12), MalformedFile, "bad_header"),
        (edf(samples=[0] * 12), MalformedFile, "bad_header"),
        (edf(records=-1)[: 256 * 13], MalformedFile, "empty_file"),
        (edf()[:300], MalformedFile, "truncated_file"),
        (edf()[:254] + b"99" + edf()[256:], MalformedFile, "bad_header"),
    ],
)
def test_refusals(data: bytes, error: type[InputError], code: str) -> None:
    assert code_of(data, error) == code
