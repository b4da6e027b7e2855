"""ECGs as text: what the file or its layout states is used; if it does not state enough, it is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ibt_deploy.errors import (
    BadRows,
    BadSampling,
    BadUnits,
    InputError,
    MalformedFile,
    MissingLeads,
    UnsupportedFormat,
)
from ibt_deploy.files import MemoryFolder
from ibt_deploy.readers import read, task_of
from ibt_deploy.records import Recording
from ibt_deploy.vocabulary import LEADS
from tests.helpers.wfdb_records import raw_ecg

RAW = raw_ecg(600)
LAYOUT = f'sampling_rate = 500\nunit = "uV"\nleads = "{" ".join(LEADS)}"\n'


def table(header: str = "", delimiter: str = ",", *, end: str = "\n", rows: np.ndarray = RAW.T) -> str:
    lines = [delimiter.join(map(str, row)) for row in rows.tolist()]
    return end.join([*filter(None, [header]), *lines]) + end


def recording(text: str | bytes, name: str = "t.csv", **beside: str) -> Recording:
    files = {name: text.encode() if isinstance(text, str) else text}
    files |= {key.replace("_", "."): value.encode() for key, value in beside.items()}
    (found,) = read(MemoryFolder(files) / name)
    assert isinstance(found, Recording)
    return found


def code_of(error: type[InputError], text: str | bytes, name: str = "t.csv", **beside: str) -> str:
    with pytest.raises(error) as caught:
        recording(text, name, **beside)
    return caught.value.code


def expect_raw(found: Recording) -> None:
    np.testing.assert_allclose(found.signal, RAW / 1000, rtol=1e-12)
    assert (found.leads, found.sampling_rate) == (LEADS, 500.0)


def test_real_table_without_a_header(shared: Path) -> None:
    path = shared / "data" / "formats" / "csv" / "MUSE_20180111_155115_19000.csv"
    with pytest.raises(MissingLeads) as caught:
        read(path)
    assert "layout.toml" in caught.value.message
    assert "sampling_rate = 500; unit = " in caught.value.message
    found = recording(path.read_bytes(), "x.csv", layout_toml=LAYOUT)
    np.testing.assert_allclose(found.signal.T, np.loadtxt(path, delimiter=",") / 1000, rtol=1e-12)


def test_real_text_with_a_preamble(shared: Path) -> None:
    path = shared / "data" / "formats" / "txt" / "testing_ecg.txt"
    found = recording(path.read_bytes(), "x.txt", x_toml=LAYOUT)
    np.testing.assert_allclose(found.signal.T, np.loadtxt(path, skiprows=6) / 1000, rtol=1e-12)
    limb = found.signal[:3]
    assert np.abs(limb[2] - limb[1] + limb[0]).max() < 0.006


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (table(",".join(f"{lead} (uV)" for lead in LEADS)), "t.csv"),
        (table("\t".join(f"{lead}_uV" for lead in LEADS), "\t"), "t.tsv"),
        (table(";".join(f"Lead {lead} [µV]" for lead in LEADS), ";", end="\r\n"), "t.csv"),
        (table(" ".join(f"{lead}/uV" for lead in LEADS), " "), "t.txt"),
        (table(",".join(f'"{lead} (uV)"' for lead in LEADS)), "t.csv"),
    ],
)
def test_unit_in_the_header_and_rate_in_the_layout(text: str, name: str) -> None:
    found = recording(text, name, t_toml="sampling_rate = 500")
    np.testing.assert_allclose(found.signal, RAW / 1000, rtol=1e-12)
    assert found.sampling_rate == 500.0


@pytest.mark.parametrize(
    "preamble",
    [
        "# Sampling rate: 500 Hz\n# unit: uV",
        "sampling_frequency,500\nunits,uV",
        "Fs = 0.5 kHz\nAmplitude unit = µV",
        "Patient: 1\nSampling Rate (Hz): 500\nUnit: uV\n\n",
    ],
)
@pytest.mark.parametrize("mark", ["", "# "])
def test_everything_stated_in_the_file(preamble: str, mark: str) -> None:
    expect_raw(recording(f"{preamble}\n{mark}{table(','.join(LEADS))}"))


def test_leads_in_rows() -> None:
    rows = "\n".join(
        f"{lead}," + ",".join(map(str, row)) for lead, row in zip(LEADS, RAW.tolist(), strict=True)
    )
    expect_raw(recording(f"fs: 500\nunit: uV\n{rows}\n"))
    expect_raw(recording(table(rows=RAW), t_toml=LAYOUT + 'orientation = "rows"'))
    expect_raw(recording(table(rows=RAW), t_toml=LAYOUT))


def test_faults_in_rows_of_leads() -> None:
    wide = table(rows=RAW)
    lines = wide.split("\n")
    empty = lines[3].split(",")
    empty[5] = ""
    found = recording("\n".join([*lines[:3], ",".join(empty), *lines[4:]]), t_toml=LAYOUT)
    assert np.isnan(found.signal[3, 5])
    assert np.isnan(found.signal).sum() == 1
    for word, code in (("x", "not_a_number"), ("1_0", "not_a_number"), ("1e999", "infinite")):
        row = lines[3].split(",")
        row[5] = word
        text = "\n".join([*lines[:3], ",".join(row), *lines[4:]])
        assert code_of(BadRows, text, t_toml=LAYOUT) == code
    assert code_of(MalformedFile, wide[:-9], t_toml=LAYOUT) == "ragged_rows"
    many = table(rows=np.ones((300, 300), np.int64))
    assert code_of(MalformedFile, many, t_toml=LAYOUT) == "bad_layout"


def test_column_of_times_and_other_columns() -> None:
    header = "time_ms," + ",".join(f"{lead} (mV)" for lead in LEADS) + ",marker"
    rows = np.column_stack([np.arange(600) * 2, RAW.T / 1000, np.zeros(600)])
    found = recording(table(header, rows=rows))
    expect_raw(found)
    assert found.notes == (
        "the sampling rate is that of the column of times",
        "left out columns that are not leads: marker",
    )
    rows[300:, 0] += 50
    assert code_of(BadSampling, table(header, rows=rows)) == "missing_rate"
    assert code_of(BadSampling, table(header.replace("time_ms", "time"), rows=rows)) == "missing_rate"


TIMED = "time_ms," + ",".join(f"{lead} (mV)" for lead in LEADS)
TIMED_ROWS = np.column_stack([np.arange(600) * 4, RAW.T / 1000])
NAMED = ",".join(LEADS)


@pytest.mark.parametrize(
    "text",
    [
        "Sampling rate: 1000 Hz\n" + table(TIMED, rows=TIMED_ROWS),
        "Sampling rate: 1000 Hz\n" + table(TIMED.replace("time_ms", "time"), rows=TIMED_ROWS),
        "unit: uV\n" + table(TIMED, rows=TIMED_ROWS),
        "Sampling rate: 500 Hz\nfs = 1000\nunit: uV\n" + table(NAMED),
        "Sampling rate: 500 Hz\nunit: uV\nunits: mV\n" + table(NAMED),
    ],
)
def test_a_text_that_contradicts_itself(text: str) -> None:
    assert code_of(MalformedFile, text) == "bad_header"


@pytest.mark.parametrize("name", ["time_ms", "time", "t (ms)"])
def test_a_stated_rate_that_the_times_confirm(name: str) -> None:
    text = "Sampling rate: 250 Hz\n" + table(TIMED.replace("time_ms", name), rows=TIMED_ROWS)
    found = recording(text)
    assert (found.sampling_rate, found.notes) == (250.0, ())


def test_units_of_one_size_agree() -> None:
    header = ",".join(f"{lead} (\u00b5V)" for lead in LEADS)
    expect_raw(recording("Sampling rate: 500 Hz\nunit: uV\n" + table(header)))


def german(rows: np.ndarray = RAW.T / 1000) -> str:
    lines = ["Abtastrate: 500 Hz", "Einheit: mV", ";".join(LEADS)]
    lines += [";".join(f"{value:.3f}".replace(".", ",") for value in row) for row in rows]
    return "\n".join(lines) + "\n"


def test_decimal_commas() -> None:
    found = recording(german())
    expect_raw(found)
    assert found.notes == ("the numbers have a decimal comma",)


def test_commas_that_may_stand_before_thousands_are_refused_with_the_key_to_write() -> None:
    text = german(RAW.T[:20] * 0 + 1.234)
    with pytest.raises(MalformedFile, match=r'decimal = ","') as caught:
        recording(text)
    assert caught.value.code == "bad_layout"
    assert recording(text, t_toml='decimal = ","').signal[0, 0] == 1.234


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("I,II,III,V1\n", "a header and no rows"),
        ("time,I,II,V1\n2024-01-31 10:00:00,1,2,3\n2024-01-31 10:00:01,1,2,3\n", "'time' holds dates"),
        ("Zeit;I;II;V1\n31.01.2024 10:00;1;2;3\n31.01.2024 10:01;1;2;3\n", "'Zeit' holds dates"),
        ("HR|Temp\n80|37\n".encode("utf-16"), "UTF-16"),
    ],
)
def test_what_keeps_a_table_from_being_read_is_named(text: str | bytes, reason: str) -> None:
    with pytest.raises(UnsupportedFormat, match=reason):
        recording(text)


def test_layout_as_json_decimal_commas_and_scale() -> None:
    layout = {"sampling_rate": 500, "unit": "uV", "leads": list(LEADS), "decimal": ",", "scale": 2}
    text = table("", ";", rows=RAW.T / 2).replace(".", ",")
    expect_raw(recording(text, t_json=json.dumps(layout)))


def test_layout_of_the_file_before_that_of_the_folder() -> None:
    found = recording(table(), t_toml=LAYOUT, layout_toml=LAYOUT.replace("500", "250"))
    assert found.sampling_rate == 500.0
    assert recording(table(), layout_toml=LAYOUT.replace("500", "250")).sampling_rate == 250.0


def test_missing_cells_are_invalid_samples() -> None:
    text = table().split("\n")
    text[7] = "nan,," + text[7].split(",", 2)[2]
    found = recording("\n".join(text), t_toml=LAYOUT)
    assert np.isnan(found.signal[:2, 7]).all()
    assert np.isnan(found.signal).sum() == 2


def test_trailing_delimiters_blank_lines_and_marks() -> None:
    expect_raw(recording("\ufeff\n\n" + table().replace("\n", ",\n\n"), t_toml=LAYOUT))
    expect_raw(recording(table().encode("utf-16"), "t.txt", t_toml=LAYOUT))
    expect_raw(recording("a title 12\nof 2 lines\n" + table(), t_toml=LAYOUT + "skip_lines = 2"))


HEADED = table(",".join(LEADS))


@pytest.mark.parametrize(
    ("text", "layout", "error", "code"),
    [
        (HEADED, "", BadSampling, "missing_rate"),
        (HEADED, "sampling_rate = 500", BadUnits, "missing_unit"),
        (HEADED, 'sampling_rate = 500\nunit = "parsec"', BadUnits, "unknown_unit"),
        (HEADED, 'sampling_rate = 0\nunit = "mV"', BadSampling, "missing_rate"),
        (HEADED, LAYOUT + "scale = -1", BadUnits, "missing_gain"),
        (HEADED, LAYOUT + "colour = 1", MalformedFile, "bad_layout"),
        (HEADED, LAYOUT + 'skip_lines = "1"', MalformedFile, "bad_layout"),
        (HEADED, LAYOUT + "skip_lines = -1", MalformedFile, "bad_layout"),
        (HEADED, LAYOUT + 'orientation = "up"', MalformedFile, "bad_layout"),
        (HEADED, LAYOUT + 'delimiter = ""', MalformedFile, "bad_layout"),
        (HEADED, 'leads = ["I", 2]', MalformedFile, "bad_layout"),
        (HEADED, 'sampling_rate = 500\nunit = "mV"\nleads = "I II"', MalformedFile, "bad_layout"),
        (HEADED, "no toml", MalformedFile, "bad_layout"),
        ("fs: 250\n" + HEADED, LAYOUT, MalformedFile, "bad_layout"),
        (HEADED.replace("\n4", "\n4,4", 1), LAYOUT, MalformedFile, "ragged_rows"),
        (HEADED + ",".join(["x"] * 12), LAYOUT, BadRows, "not_a_number"),
        (HEADED + ",".join(["inf"] * 12), LAYOUT, BadRows, "infinite"),
        (HEADED.replace("I,II,", "I (mV),II (uV),", 1), "", BadUnits, "unknown_unit"),
        (HEADED.replace("aVF", "aVL", 1), 'sampling_rate = 500\nunit = "uV"', MissingLeads, "doubled_lead"),
        (table(rows=RAW.T[:12]), LAYOUT, MalformedFile, "bad_layout"),
    ],
)
def test_refusals(text: str, layout: str, error: type[InputError], code: str) -> None:
    beside = {"t_toml": layout} if layout else {}
    assert code_of(error, text, **beside) == code


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("colour = 1", "unknown key 'colour'; known: sampling_rate, unit, "),
        ("sampling_rate = true", "t.toml: sampling_rate: int | float is expected, not True"),
        ('orientation = "up"', "t.toml: orientation: 'up' is not one of 'columns', 'rows'"),
        ("skip_lines = -1", "t.toml: skip_lines: -1 is not in [0, inf)"),
        (f'skip_lines = "{"1" * 500}"', "t.toml: skip_lines: int is expected, not '111"),
    ],
)
def test_a_wrong_layout_is_refused_with_its_place(line: str, message: str) -> None:
    with pytest.raises(MalformedFile) as refused:
        read(MemoryFolder({"t.csv": HEADED.encode(), "t.toml": line.encode()}) / "t.csv")
    assert message in refused.value.message
    assert len(refused.value.message) < 200


def test_stays_stay_stays_and_prose_is_nothing(root: Path) -> None:
    stay = "HR,O2Sat,Temp,SBP,MAP,ICULOS\n" + "80,98,37,120,80,1\n" * 3
    assert task_of(MemoryFolder({"s.csv": stay.encode()}) / "s.csv") == "sepsis"
    assert task_of(MemoryFolder({"s.csv": HEADED.encode()}) / "s.csv") == "arrhythmia"
    for text in ("one two three\nfour", "1\n2\n3\n", "1,2\n3,4\n", "a,b\n1,2\n3,4\n", '{"a": [1, 2]}'):
        assert code_of(UnsupportedFormat, text, "n.txt") == "unsupported_format"
