from __future__ import annotations

from datetime import date, datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from helpers.wfdb_records import raw_ecg, write_record
from hypothesis import given, settings
from hypothesis import strategies as st

from ibt_deploy.cli import main
from ibt_deploy.errors import UnsupportedFormat
from ibt_deploy.readers import read
from ibt_deploy.records import Recording
from ibt_deploy.types import Floats
from ibt_deploy.vocabulary import LEADS
from ibt_deploy.writers import COARSEST, FINEST, INVALID, LARGEST_GRID, WRITERS, quantised, write

SUFFIXES = tuple(WRITERS)


def made(signal: Floats | None = None, **stated: object) -> Recording:
    rng = np.random.default_rng(1)
    values = rng.normal(0, 0.5, (12, 2500)) if signal is None else signal
    options = {
        "sampling_rate": 500.0, "leads": LEADS[: len(values)], "record_id": "r", "source": "made",
        "format": "made", "age": 61.0, "sex": "Female", "dx": ("426783006",),
    }  # fmt: skip
    return Recording(values, **(options | stated))  # type: ignore[arg-type]


def back(path: Path) -> Recording:
    (found,) = read(path)
    assert isinstance(found, Recording)
    return found


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_lies_on_no_grid_is_rounded_to_half_a_step_at_most(tmp_path: Path, suffix: str) -> None:
    original = made()
    original.signal[0, :10] = np.nan
    write(original, tmp_path / f"r{suffix}")
    found = back(tmp_path / f"r{suffix}")
    step = max(quantised(row, "lead").step for row in original.signal) / 1000
    assert step <= 0.0002
    tolerance = 0 if suffix == ".parquet" else step / 2 + 1e-12
    np.testing.assert_allclose(found.signal, original.signal, rtol=0, atol=tolerance)
    assert (found.leads, found.sampling_rate, found.age, found.sex) == (LEADS, 500.0, 61.0, "Female")
    assert found.warnings == ()
    assert found.dx == (None if suffix == ".dcm" else original.dx)


ZONE = timezone(timedelta(hours=-3, minutes=-30))
MOMENTS = (
    None,
    date(1990, 10, 1),
    datetime(2002, 11, 22, 9, 10, 0),
    datetime(2024, 2, 29, 23, 59, 59, 250000),
    datetime(2024, 2, 29, 0, 0, 1, tzinfo=ZONE),
)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("recorded", MOMENTS)
@pytest.mark.parametrize("device", [None, "Mortara Instrument, Inc. ELI250"])
def test_date_time_and_device_come_back(
    tmp_path: Path, suffix: str, recorded: date | None, device: str | None
) -> None:
    write(made(recorded=recorded, device=device), tmp_path / f"r{suffix}")
    found = back(tmp_path / f"r{suffix}")
    assert (found.recorded, found.device) == (recorded, device)
    assert isinstance(found.recorded, datetime) == isinstance(recorded, datetime)


def test_other_libraries_find_date_time_and_device(tmp_path: Path) -> None:
    pydicom, wfdb = pytest.importorskip("pydicom"), pytest.importorskip("wfdb")
    when = datetime(2002, 11, 22, 9, 10, 0, 250000)
    for suffix in SUFFIXES:
        write(made(recorded=when, device="ELI250"), tmp_path / f"r{suffix}")
    header = wfdb.rdheader(str(tmp_path / "r"))
    assert header.base_datetime == when
    assert "Device: ELI250" in header.comments
    dataset = pydicom.dcmread(tmp_path / "r.dcm")
    assert pydicom.valuerep.DT(dataset.AcquisitionDateTime) == when
    assert (dataset.StudyDate, dataset.ContentDate) == ("20021122", "20021122")
    assert dataset.ManufacturerModelName == "ELI250"
    (converter,) = dataset.ContributingEquipmentSequence
    assert converter.Manufacturer == "ibt"


def test_a_date_that_nobody_stated_is_not_made_up(tmp_path: Path) -> None:
    header = write_record(tmp_path, raw_ecg())
    result = CliRunner().invoke(main, ["convert", str(header), str(tmp_path / "r.dcm")])
    assert result.exit_code == 0
    assert "AcquisitionDateTime, which DICOM requires, is empty" in result.stderr
    pydicom = pytest.importorskip("pydicom")
    assert not pydicom.dcmread(tmp_path / "r.dcm").AcquisitionDateTime


TRIO_MOMENT = datetime(2002, 11, 22, 9, 10)


@pytest.mark.parametrize(
    ("name", "recorded", "device"),
    [
        ("trio/Example.dcm", TRIO_MOMENT, "ELI250"),
        ("trio/Example.scp", TRIO_MOMENT, "ECGConversion ELI250"),
        ("trio/Example.xml", TRIO_MOMENT, "Mortara Instrument, Inc. ELI250"),
        ("muse_xml/synthetic_muse.xml", datetime(2025, 8, 17, 9, 15, 11), "MAC55"),
        (
            "philips/ad4d3d80-d165_1-04_orig.xml",
            datetime(2008, 12, 23, 19, 44, 46),
            "Philips Medical Products PageWriter Touch",
        ),
        ("wfdb/s0010_re.hea", date(1990, 10, 1), None),
    ],
)
def test_readers_find_date_time_and_device(
    shared: Path, name: str, recorded: date, device: str | None
) -> None:
    found = back(shared / "data" / "formats" / name)
    assert (found.recorded, found.device) == (recorded, device)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("step", [2.5, 5.0, 4.88, 1.0, 0.125, 1000 / 819.2])
def test_what_was_digitised_in_equal_steps_comes_back_without_loss(
    tmp_path: Path, suffix: str, step: float
) -> None:
    raw = np.random.default_rng(2).integers(-3000, 3000, (3, 1000))
    write(made(raw * step / 1000), tmp_path / f"r{suffix}")
    np.testing.assert_allclose(back(tmp_path / f"r{suffix}").signal, raw * step / 1000, rtol=0, atol=1e-5)


@given(
    st.lists(st.one_of(st.just(float("nan")), st.floats(-30, 30)), min_size=1, max_size=50),
    st.floats(-1000, 1000),
)
@settings(max_examples=200)
def test_the_law_of_rounding(values: list[float], shift: float) -> None:
    signal = np.array(values) + shift
    lead = quantised(signal, "I")
    assert np.array_equal(lead.raw == INVALID, np.isnan(signal))
    assert FINEST / 10 <= lead.step <= LARGEST_GRID
    restored = (lead.raw.astype(float) + lead.offset) * lead.step / 1000
    valid = ~np.isnan(signal)
    tolerance = 1e-8 if lead.exact else lead.step / 2000 + 1e-9
    assert np.abs(restored[valid] - signal[valid]).max(initial=0) <= tolerance
    assert lead.exact or lead.step <= COARSEST


def test_flat_and_missing_leads(tmp_path: Path) -> None:
    signal = np.zeros((4, 100))
    signal[1] = 1.2345678
    signal[2] = np.nan
    signal[3, 50:] = np.nan
    for suffix in SUFFIXES:
        write(made(signal), tmp_path / f"r{suffix}")
        np.testing.assert_allclose(back(tmp_path / f"r{suffix}").signal, signal, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("recording", "name", "message"),
    [
        (made(np.array([[-400.0, 0.0123456, 400.0]])), "r.hea", "spans 800 mV"),
        (made(np.array([[-400.0, 0.0123456, 400.0]])), "r.dcm", "spans 800 mV"),
        (made(np.array([[np.inf, 0.0]])), "r.hea", "infinite"),
        (made(sampling_rate=100.0), "r.dcm", "200 to 1000 Hz"),
        (made(sampling_rate=2000.0), "r.dcm", "200 to 1000 Hz"),
        (made(leads=(*LEADS[:11], "ES")), "r.dcm", "no code for the lead 'ES'"),
        (made(leads=(*LEADS[:11], "V6\n")), "r.hea", "does not fit a header"),
        (made(leads=("I",) * 12), "r.parquet", "one name"),
        (made(), "a record.hea", "letters, digits"),
        (made(), "r.edf", ".edf"),
    ],
)
def test_what_a_format_cannot_hold_is_refused(
    tmp_path: Path, recording: Recording, name: str, message: str
) -> None:
    with pytest.raises(UnsupportedFormat, match=message):
        write(recording, tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_long_recording_is_a_general_ecg(tmp_path: Path) -> None:
    write(made(np.random.default_rng(0).normal(0, 1, (2, 20000))), tmp_path / "r.dcm")
    assert back(tmp_path / "r.dcm").format == "DICOM (general ECG)"


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_nothing_is_replaced_unless_forced(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"r{suffix}"
    write(made(), path)
    before = path.read_bytes()
    with pytest.raises(FileExistsError):
        write(made(np.zeros((1, 10))), path)
    assert path.read_bytes() == before
    write(made(np.zeros((1, 10))), path, overwrite=True)
    assert back(path).signal.shape == (1, 10)
    assert not [p for p in tmp_path.iterdir() if p.suffix == ".partial"]


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write(made(), tmp_path / "r.hea")
    assert not list(tmp_path.iterdir())


def test_a_wfdb_file_of_ours_reads_alike_in_the_wfdb_package(tmp_path: Path) -> None:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import wfdb

    original = made()
    write(original, tmp_path / "r.hea")
    record = wfdb.rdrecord(str(tmp_path / "r"))
    np.testing.assert_allclose(record.p_signal.T, back(tmp_path / "r.hea").signal, rtol=0, atol=1e-9)
    assert record.sig_name == list(LEADS)
    assert record.fs == 500


def test_a_dicom_file_of_ours_reads_alike_in_pydicom(tmp_path: Path) -> None:
    import pydicom

    write(made(), tmp_path / "r.dcm")
    array = pydicom.dcmread(tmp_path / "r.dcm").waveform_array(0).T / 1000
    np.testing.assert_allclose(array, back(tmp_path / "r.dcm").signal, rtol=0, atol=1e-9)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["convert", *map(str, arguments)])


def test_the_command(tmp_path: Path) -> None:
    header = write_record(tmp_path, raw_ecg())
    target = tmp_path / "out.dcm"
    done = run(header, target)
    assert done.exit_code == 0
    assert f"written: {target}" in done.stderr
    assert "rounded" not in done.stderr
    np.testing.assert_allclose(back(target).signal, back(header).signal, rtol=0, atol=1e-12)
    again = run(header, target)
    assert again.exit_code == 1
    assert "--force replaces it [output_exists]" in again.stderr
    assert run(header, target, "--force").exit_code == 0


def test_many_at_once_and_a_bad_one_among_them(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    headers = [write_record(tmp_path / "in", stem=f"r{n}") for n in range(3)]
    bad = tmp_path / "in" / "bad.scp"
    bad.write_bytes(b"no ECG")
    done = run(*headers[:2], bad, headers[2], "--to", "parquet", "--out-dir", tmp_path / "out")
    assert done.exit_code == 1
    assert done.stderr.count("ibt: refused:") == 1
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["r0.parquet", "r1.parquet", "r2.parquet"]


def test_two_records_of_one_name_do_not_replace_each_other(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write_record(tmp_path / folder)
    done = run(
        tmp_path / "a" / "r1.hea", tmp_path / "b" / "r1.hea", "--to", "hea", "--out-dir", tmp_path, "--force"
    )
    assert done.exit_code == 1
    assert "output_exists" in done.stderr


def test_rounding_is_said(tmp_path: Path) -> None:
    write(made(), tmp_path / "r.parquet")
    done = run(tmp_path / "r.parquet", tmp_path / "r.hea")
    assert done.exit_code == 0
    assert "rounded to steps of up to 0.1 uV" in done.stderr


def test_stays_are_not_converted(tmp_path: Path, root: Path) -> None:
    done = run(root / "examples" / "stay.psv", tmp_path / "a.hea")
    assert done.exit_code == 1
    assert "[wrong_task]" in done.stderr


@pytest.mark.parametrize(
    "arguments", [["a.hea"], ["a.hea", "b.hea", "c.hea"], ["a.hea", "b.xyz"], ["a.hea", "--to", "hea"]]
)
def test_usage(arguments: list[str]) -> None:
    assert run(*arguments).exit_code == 2


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    done = run(write_record(tmp_path), tmp_path / "none" / "a.hea")
    assert done.exit_code == 2
    assert done.stderr.startswith("ibt: ")
