"""The wfdb package is the independent reader here, wherever it accepts the file."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ibt_deploy.errors import BadUnits, InputError, MalformedFile, MissingLeads, TooLong, UnsupportedFormat
from ibt_deploy.readers import read as read_any
from ibt_deploy.readers import task_of
from ibt_deploy.readers.wfdb import read
from ibt_deploy.records import Recording
from ibt_deploy.vocabulary import LEADS
from tests.helpers.wfdb_records import raw_ecg, write_record

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # pandas 3.1 about how wfdb uses it
    import wfdb


def code_of(path: Path, error: type[InputError]) -> str:
    """Code of the one-line refusal that reading ``path`` ends in."""
    with pytest.raises(error) as caught:
        read_any(path)
    assert "\n" not in str(caught.value)
    assert caught.value.where == str(path)
    return caught.value.code


def expected(path: Path) -> np.ndarray:
    """Physical signals as wfdb reads them, one row per signal."""
    record = wfdb.rdrecord(str(path.with_suffix("")), smooth_frames=False)
    return np.array(record.e_p_signal)


def as_flac(folder: Path, replace: Sequence[tuple[str, str]] = (), signals: int = 8) -> Path:
    """A record of 8 leads, which is as many as FLAC holds, in format 516; ``signals`` of them in the file."""
    path = write_record(folder, raw_ecg()[:8], leads=LEADS[:8], storage="516", replace=replace)
    soundfile.write(folder / "r1.dat", raw_ecg()[:signals].T, 8000, format="FLAC", subtype="PCM_16")
    return path


def written_by_wfdb(folder: Path, raw: np.ndarray, storage: str) -> Path:
    """Write ``raw`` with the wfdb package."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        wfdb.wrsamp(
            "r1",
            fs=500,
            units=["mV"] * len(raw),
            sig_name=list(LEADS[: len(raw)]),
            d_signal=raw.T.astype(np.int64),
            fmt=[storage] * len(raw),
            adc_gain=[1000.0] * len(raw),
            baseline=[0] * len(raw),
            write_dir=str(folder),
        )
    return folder / "r1.hea"


@pytest.mark.parametrize("storage", ["16", "16+24", "16x1+0"])
def test_format_16_equals_wfdb(tmp_path: Path, storage: str) -> None:
    path = write_record(tmp_path, storage=storage, gain="812.5(-7)/mV")
    (recording,) = read(path)
    np.testing.assert_array_equal(recording.signal, expected(path))
    assert recording.leads == LEADS
    assert (recording.sampling_rate, recording.record_id, recording.notes) == (500.0, "r1", ())
    assert recording.format == ("WFDB (16, MATLAB)" if storage == "16+24" else "WFDB (16)")


def test_comments_travel(tmp_path: Path) -> None:
    (recording,) = read(
        write_record(tmp_path, comments=["#Dx: 164889003,,426783006,", "# Age: 61", "# Sex: F"])
    )
    assert (recording.dx, recording.age, recording.sex) == (("164889003", "426783006"), 61.0, "Female")


def test_georgia_header_that_wfdb_refuses(tmp_path: Path) -> None:
    path = write_record(tmp_path, stem="E00001", name="E00001.mat", storage="16+24")
    with pytest.raises(wfdb.io.header.HeaderSyntaxError):
        wfdb.rdrecord(str(path.with_suffix("")))
    (recording,) = read(path)
    np.testing.assert_array_equal(recording.signal, raw_ecg() / 1000)
    assert (recording.record_id, recording.notes) == ("E00001", ())


def test_invalid_sample_becomes_nan(tmp_path: Path) -> None:
    raw = raw_ecg()
    raw[3, 100:110] = -32768
    (recording,) = read(write_record(tmp_path, raw))
    assert np.isnan(recording.signal[3, 100:110]).all()
    assert np.isnan(recording.signal).sum() == 10


@pytest.mark.parametrize(
    ("unit", "gain"), [("uV", 1.0), ("\u00b5V", 1.0), ("UV", 1.0), ("V", 1e6), ("MV", 1e3), ("mv", 1e3)]
)
def test_units_are_converted_and_noted(tmp_path: Path, unit: str, gain: float) -> None:
    (recording,) = read(write_record(tmp_path, gain=f"{gain:g}(0)/{unit}"))
    np.testing.assert_allclose(recording.signal, raw_ecg() / 1000, rtol=1e-12)
    assert recording.notes == (() if unit.lower() == "mv" else (f"converted from {unit} to mV",))


def test_no_unit_is_millivolt_by_definition_and_noted(tmp_path: Path) -> None:
    (recording,) = read(write_record(tmp_path, gain="1000"))
    np.testing.assert_array_equal(recording.signal, raw_ecg() / 1000)
    assert "no unit" in recording.notes[0]


def test_other_unit_of_a_lead_is_refused(tmp_path: Path) -> None:
    assert code_of(write_record(tmp_path, gain="1000/mmHg"), BadUnits) == "unknown_unit"


def test_signals_that_are_no_voltage_are_left_out(tmp_path: Path) -> None:
    path = write_record(tmp_path, leads=[*LEADS[:11], "PLETH"])
    text = path.read_text().splitlines()
    text[12] = text[12].replace("/mV", "/NU")
    path.write_text("\n".join(text))
    (recording,) = read(path)
    assert recording.leads == LEADS[:11]
    assert recording.notes == ("left out channels that are not voltages: PLETH",)


def test_no_voltage_at_all(tmp_path: Path) -> None:
    path = write_record(tmp_path, raw_ecg()[:2], leads=["ABP", "PLETH"], gain="100/mmHg")
    assert code_of(path, MissingLeads) == "no_ecg_lead"


@pytest.mark.parametrize("name", ["r1.mat", "r1_1.mat", "r1.dat"])
def test_signal_file_in_place_of_the_header(tmp_path: Path, name: str) -> None:
    path = write_record(tmp_path, storage="16+24", replace=[("r1.mat", name)])
    (tmp_path / "r1.mat").rename(tmp_path / name)
    (recording,) = read_any(tmp_path / name)
    (same,) = read_any(path)
    assert isinstance(recording, Recording)
    assert isinstance(same, Recording)
    np.testing.assert_array_equal(recording.signal, same.signal)
    assert recording.record_id == "r1"


def test_signal_file_without_its_header(tmp_path: Path) -> None:
    path = write_record(tmp_path)
    path.unlink()
    assert code_of(tmp_path / "r1.dat", UnsupportedFormat) == "unsupported_format"


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "../other.dat",
        "a/../../other.dat",
        "..\\other.dat",
        "C:\\other.dat",
        "C:other.dat",
        "\\other",
    ],
)
def test_signal_file_outside_the_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "other.dat").write_bytes(bytes(120_000))
    folder = tmp_path / "in"
    folder.mkdir()
    path = write_record(folder, replace=[("r1.dat", name)])
    assert code_of(path, MalformedFile) == "unsafe_path"


def test_links_out_of_the_folder(tmp_path: Path) -> None:
    """A link may lead anywhere; only where the header's own link leads as well is it the user's own doing."""
    data, chosen = tmp_path / "data", tmp_path / "chosen"
    data.mkdir()
    chosen.mkdir()
    header = write_record(data)
    (chosen / "r1.dat").symlink_to(data / "r1.dat")
    (chosen / "r1.hea").symlink_to(header)
    assert len(read(chosen / "r1.hea")[0].leads) == 12
    (chosen / "r1.hea").unlink()
    (chosen / "r1.hea").write_text(header.read_text())
    assert code_of(chosen / "r1.hea", MalformedFile) == "unsafe_path"
    (chosen / "r1.dat").unlink()
    (chosen / "sub").symlink_to(data)
    (chosen / "r1.hea").write_text(header.read_text().replace("r1.dat", "sub/r1.dat"))
    assert code_of(chosen / "r1.hea", MalformedFile) == "unsafe_path"


def test_skew_longer_than_the_record(tmp_path: Path) -> None:
    path = write_record(tmp_path, storage="16:999999999")
    assert code_of(path, MalformedFile) == "bad_header"


def test_signal_file_missing(tmp_path: Path) -> None:
    path = write_record(tmp_path)
    (tmp_path / "r1.dat").unlink()
    assert code_of(path, MalformedFile) == "missing_signal_file"
    path.write_text(path.read_text().replace("r1.dat", "~"))
    assert code_of(path, UnsupportedFormat) == "no_signal_file"


@pytest.mark.parametrize("storage", ["16", "16+24", "212", "24", "516"])
def test_huge_claim_is_refused_before_anything_is_allocated(tmp_path: Path, storage: str) -> None:
    huge = [(" 500 5000", " 500 200000000000")]
    path = (
        as_flac(tmp_path, huge) if storage == "516" else write_record(tmp_path, storage=storage, replace=huge)
    )
    assert code_of(path, MalformedFile) == "truncated_file"


def test_flac_that_lies_about_its_length(tmp_path: Path) -> None:
    path = as_flac(tmp_path, [(" 500 5000", " 500 4000000")])
    data = bytearray((tmp_path / "r1.dat").read_bytes())
    data[22:26] = (4_000_000).to_bytes(4, "big")
    (tmp_path / "r1.dat").write_bytes(data)
    assert code_of(path, MalformedFile) == "malformed_file"
    path.write_text(path.read_text().replace("4000000", "4294967295"))
    data[22:26] = b"\xff" * 4
    (tmp_path / "r1.dat").write_bytes(data)
    assert code_of(path, TooLong) == "recording_too_long"


@pytest.mark.parametrize(
    ("storage", "cut"), [("16", 1), ("16+24", 2), ("16+24", 119_000), ("516", 2000), ("212", 100)]
)
def test_truncated_signal_file(tmp_path: Path, storage: str, cut: int) -> None:
    raw = np.clip(raw_ecg(), -2000, 2000)
    if storage == "212":
        path = written_by_wfdb(tmp_path, raw, "212")
    else:
        path = as_flac(tmp_path) if storage == "516" else write_record(tmp_path, raw, storage=storage)
    file = next(file for file in tmp_path.iterdir() if file.suffix != ".hea")
    file.write_bytes(file.read_bytes()[:-cut])
    assert code_of(path, MalformedFile) == ("malformed_file" if storage == "516" else "truncated_file")


def test_empty_files(tmp_path: Path) -> None:
    path = write_record(tmp_path)
    (tmp_path / "r1.dat").write_bytes(b"")
    assert code_of(path, MalformedFile) == "truncated_file"
    path.write_text(path.read_text().replace(" 500 5000", " 500"))
    assert code_of(path, MalformedFile) == "empty_file"
    path.write_bytes(b"")
    assert code_of(path, MalformedFile) == "empty_file"


def test_damaged_flac(tmp_path: Path) -> None:
    path = write_record(tmp_path, raw_ecg()[:8], leads=LEADS[:8], storage="516")
    assert code_of(path, MalformedFile) == "malformed_file"
    assert code_of(as_flac(tmp_path, signals=4), MalformedFile) == "malformed_file"
    as_flac(tmp_path)
    data = bytearray((tmp_path / "r1.dat").read_bytes())
    data[5000:9000] = bytes(4000)
    (tmp_path / "r1.dat").write_bytes(data)
    assert code_of(path, MalformedFile) in {"malformed_file", "truncated_file"}


def test_length_is_taken_from_the_file_where_the_header_has_none(tmp_path: Path) -> None:
    (recording,) = read(write_record(tmp_path, replace=[(" 500 5000", " 500")]))
    np.testing.assert_array_equal(recording.signal, raw_ecg() / 1000)


def test_more_samples_than_claimed_is_noted(tmp_path: Path) -> None:
    (recording,) = read(write_record(tmp_path, replace=[(" 500 5000", " 500 4000")]))
    np.testing.assert_array_equal(recording.signal, raw_ecg()[:, :4000] / 1000)
    assert "claims 4000 samples, the file holds 5000" in recording.notes[0]


@pytest.mark.parametrize("unsigned", [True, False])
def test_checksum(tmp_path: Path, unsigned: bool) -> None:
    raw = raw_ecg()
    path = write_record(tmp_path, raw)
    if not unsigned:
        lines = path.read_text().split("\n")
        for i in range(1, 13):
            fields = lines[i].split()
            fields[6] = str((int(fields[6]) + 32768) % 65536 - 32768)
            lines[i] = " ".join(fields)
        path.write_text("\n".join(lines))
    assert read(path)[0].warnings == ()
    raw[4, 17] += 1
    (tmp_path / "r1.dat").write_bytes(raw.T.astype("<i2").tobytes())
    (warning,) = read(path)[0].warnings
    assert warning.code == "checksum_differs"
    assert warning.message.endswith(": aVL")


def test_a_lead_that_is_turned_over_is_warned_of(tmp_path: Path) -> None:
    path = write_record(
        tmp_path, replace=[(f"1000(0)/mV 16 0 {raw_ecg()[1, 0]} ", f"-1000(0)/mV 16 0 {raw_ecg()[1, 0]} ")]
    )
    (recording,) = read(path)
    np.testing.assert_array_equal(recording.signal[1], -raw_ecg()[1] / 1000)
    assert [(w.code, w.message[-4:]) for w in recording.warnings] == [("negative_gain", ": II")]


def test_signals_of_one_file_apart_or_different(tmp_path: Path) -> None:
    path = write_record(tmp_path)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], lines[1].replace("16", "16+2", 1), *lines[2:]]))
    assert code_of(path, MalformedFile) == "bad_header"
    shutil.copyfile(tmp_path / "r1.dat", tmp_path / "r2.dat")
    path.write_text("\n".join([*lines[:2], lines[2].replace("r1.dat", "r2.dat"), *lines[3:]]))
    assert code_of(path, MalformedFile) == "bad_header"


def test_unknown_storage_format(tmp_path: Path) -> None:
    assert code_of(write_record(tmp_path, storage="99"), UnsupportedFormat) == "unsupported_wfdb_format"


def test_binary_or_absurd_header(tmp_path: Path) -> None:
    path = tmp_path / "x.hea"
    path.write_bytes(b"\x00\x01\x02" * 100)
    assert code_of(path, MalformedFile) == "bad_header"
    path.write_bytes(b"r1 1 500 100\n" + b"# long\n" * 200_000)
    assert code_of(path, MalformedFile) == "bad_header"


def test_latin_1_header(tmp_path: Path) -> None:
    path = write_record(tmp_path)
    path.write_bytes(path.read_bytes() + "# Name: Jos\u00e9\n".encode("latin-1"))
    assert len(read(path)) == 1


def test_several_samples_per_frame_raise_the_rate(tmp_path: Path) -> None:
    raw = raw_ecg(4000)
    path = write_record(tmp_path, raw[:, :2000], storage="16x2", rate="250")
    interleaved = raw.reshape(12, 2000, 2).transpose(1, 0, 2)
    (tmp_path / "r1.dat").write_bytes(interleaved.astype("<i2").tobytes())
    (recording,) = read(path)
    assert recording.sampling_rate == 500.0
    np.testing.assert_array_equal(recording.signal, raw / 1000)
    path.write_text(path.read_text().replace("16x2", "16x1", 1))
    assert code_of(path, UnsupportedFormat) == "mixed_rates"


@pytest.mark.parametrize("storage", ["80", "212", "24", "32", "508", "516", "524"])
def test_other_formatswritten_by_wfdb(tmp_path: Path, storage: str) -> None:
    bits = {"80": 7, "508": 7, "212": 11}.get(storage, 15)
    raw = np.clip(raw_ecg()[:8], -(2**bits) + 1, 2**bits - 1)
    path = written_by_wfdb(tmp_path, raw, storage)
    (recording,) = read(path)
    np.testing.assert_array_equal(recording.signal, raw / 1000)
    np.testing.assert_array_equal(recording.signal, expected(path))
    assert recording.notes == ()


def test_record_name_with_a_dot_in_a_format_that_wfdb_must_read(tmp_path: Path) -> None:
    raw = np.clip(raw_ecg(), -2000, 2000)
    path = written_by_wfdb(tmp_path, raw, "212")
    path.write_text(path.read_text().replace("r1 12", "r1.dat 12", 1))
    np.testing.assert_array_equal(read(path)[0].signal, raw / 1000)


@pytest.mark.parametrize("name", ["binformats", "flacformats"])
def test_every_storage_format(shared: Path, tmp_path: Path, name: str) -> None:
    """Signals of ten (three) formats in one record, the invalid sample of each among them."""
    folder = shared / "data" / "formats" / "wfdb"
    (recording,) = read(folder / f"{name}.hea")
    np.testing.assert_array_equal(recording.signal, expected(folder / f"{name}.hea"))


@pytest.mark.parametrize("name", ["100", "100_3chan", "100-no-len", "100skew", "s0010_re"])
def test_records_of_many_kinds(shared: Path, name: str) -> None:
    path = shared / "data" / "formats" / "wfdb" / f"{name}.hea"
    (recording,) = read(path)
    np.testing.assert_array_equal(recording.signal, expected(path))
    assert not any(note.startswith("checksum") for note in recording.notes)


def test_signals_in_other_units_beside_leads(shared: Path) -> None:
    (recording,) = read(shared / "data" / "formats" / "wfdb" / "a103l.hea")
    assert recording.leads == ("II", "V")
    assert recording.notes == ("left out channels that are not voltages: PLETH",)


def test_every_public_recording_reads_as_wfdb_reads_it(shared: Path) -> None:
    """Every tenth record; wfdb refuses the Georgia ones."""
    paths = sorted((shared / "data" / "ecg").glob("*/*.hea"))
    assert len(paths) > 2500
    for path in paths[::10]:
        (recording,) = read(path)
        assert recording.leads == LEADS
        assert recording.notes == ()
        if path.parent.name != "georgia":
            np.testing.assert_array_equal(recording.signal, expected(path))


def test_where_the_system_allows_no_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(1314, "A required privilege is not held by the client")

    raw = np.clip(raw_ecg(), -2000, 2000)
    path = written_by_wfdb(tmp_path, raw, "212")
    monkeypatch.setattr(Path, "symlink_to", refuse)
    np.testing.assert_array_equal(read(path)[0].signal, raw / 1000)


def test_a_damaged_header_costs_its_neighbours_nothing(tmp_path: Path) -> None:
    (tmp_path / "x.hea").write_bytes(bytes(1000))
    stay = tmp_path / "x.psv"
    stay.write_text("HR|O2Sat|Temp|SBP|MAP|ICULOS\n80|97|36.5|120|80|1\n")
    assert task_of(stay) == "sepsis"
    signal = tmp_path / "x.dat"
    signal.write_bytes(bytes(1000))
    with pytest.raises(UnsupportedFormat, match="damaged"):
        task_of(signal)
