"""Stays from PSV, CSV and Parquet: the same rows from any format, and a one-line message for every fault."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ibt_deploy.errors import InputError, MissingExtra
from ibt_deploy.readers import read, task_of
from ibt_deploy.readers.stays import read_each, sniff
from ibt_deploy.records import Stay
from ibt_deploy.vocabulary import INDEX, NAMES


def table(hours: int = 5, **columns: object) -> dict[str, list[object]]:
    """Columns of a stay: HR and pH measured, demographics given, the rest missing."""
    cells: dict[str, list[object]] = {name: ["NaN"] * hours for name in NAMES}
    cells["HR"] = [70 + hour for hour in range(hours)]
    cells["pH"] = [7.38, *["NaN"] * (hours - 1)]
    cells["Age"], cells["Gender"], cells["HospAdmTime"] = [61.5] * hours, [1] * hours, [-0.03] * hours
    cells["ICULOS"] = list(range(1, hours + 1))
    for name, column in columns.items():
        cells[name] = list(column) if isinstance(column, list) else [column] * hours
    return cells


def write(path: Path, cells: dict[str, list[object]], mark: str = "|") -> Path:
    lines = [mark.join(cells), *(mark.join(map(str, row)) for row in zip(*cells.values(), strict=True))]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def only(path: Path) -> Stay:
    (stay,) = read(path)
    assert isinstance(stay, Stay)
    return stay


def refusal(path: Path) -> InputError:
    with pytest.raises(InputError) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(path))
    return caught.value


def test_psv_of_the_challenge(tmp_path: Path) -> None:
    stay = only(write(tmp_path / "p000042.psv", table(SepsisLabel=[0, 0, 0, 1, 1])))
    assert (stay.patient_id, stay.format, stay.notes, stay.extra) == ("p000042", "PSV", (), {})
    assert stay.values.shape == (5, 40)
    assert stay.values.dtype == np.float64
    assert stay.values[:, INDEX["HR"]].tolist() == [70, 71, 72, 73, 74]
    assert stay.values[0, INDEX["pH"]] == 7.38
    assert np.isnan(stay.values[1, INDEX["pH"]])
    assert stay.labels is not None
    assert stay.labels.tolist() == [0, 0, 0, 1, 1]
    assert stay.inserted is not None
    assert not stay.inserted.any()
    assert task_of(tmp_path / "p000042.psv") == "sepsis"


@pytest.mark.parametrize(
    ("suffix", "mark"), [("psv", "|"), ("csv", ","), ("csv", ";"), ("tsv", "\t"), ("txt", "|")]
)
@pytest.mark.parametrize("missing", ["NaN", "", "nan", "NA", "null"])
def test_every_dialect_reads_alike(tmp_path: Path, suffix: str, mark: str, missing: str) -> None:
    cells = table(SepsisLabel=0, HR=["NaN", 80, "NaN", "NaN", 80.5])
    reference = only(write(tmp_path / "reference.psv", cells))
    cells = {name: [missing if cell == "NaN" else cell for cell in column] for name, column in cells.items()}
    stay = only(write(tmp_path / f"stay.{suffix}", cells, mark))
    np.testing.assert_array_equal(stay.values, reference.values)


def test_order_of_columns_quotes_byte_order_mark_and_blank_lines_do_not_matter(tmp_path: Path) -> None:
    cells = table()
    reference = only(write(tmp_path / "reference.psv", cells))
    path = write(tmp_path / "stay.csv", dict(reversed(cells.items())), ",")
    lines = [",".join(f'"{cell}"' for cell in line.split(",")) for line in path.read_text().splitlines()]
    path.write_text("\ufeff" + "\r\n".join(lines) + "\r\n\r\n", encoding="utf-8")
    np.testing.assert_array_equal(only(path).values, reference.values)


def test_columns_that_are_missing_or_unknown_are_noted(tmp_path: Path) -> None:
    cells = table(ward="B4", comment="a / is, fine")
    for name in ("EtCO2", "Age"):
        del cells[name]
    stay = only(write(tmp_path / "stay.psv", cells))
    assert stay.notes == (
        "Columns not in the file, taken as never measured: EtCO2, Age.",
        "Columns that no model reads were ignored: ward, comment.",
    )
    assert np.isnan(stay.values[:, [INDEX["EtCO2"], INDEX["Age"]]]).all()


def test_missing_hours_become_rows_without_measurements(tmp_path: Path) -> None:
    stay = only(write(tmp_path / "stay.psv", table(ICULOS=[3, 4, 7, 8, 9], SepsisLabel=[0, 0, 0, 1, 1])))
    assert stay.hours.tolist() == [3, 4, 5, 6, 7, 8, 9]
    assert stay.inserted is not None
    assert stay.labels is not None
    assert stay.inserted.tolist() == [False, False, True, True, False, False, False]
    assert stay.labels.tolist() == [0, 0, -1, -1, 0, 1, 1]
    assert np.isnan(np.delete(stay.values[2:4], INDEX["ICULOS"], axis=1)).all()
    assert stay.values[4:, INDEX["HR"]].tolist() == [72, 73, 74]
    assert stay.notes == ("2 missing hours inserted as rows without measurements.",)


def test_hour_stands_in_for_iculos(tmp_path: Path) -> None:
    cells = table(hour=[2, 3, 4, 5, 6])
    del cells["ICULOS"]
    stay = only(write(tmp_path / "stay.csv", cells, ","))
    assert stay.hours.tolist() == [2, 3, 4, 5, 6]
    assert stay.notes == ()


def test_a_file_of_many_patients(tmp_path: Path) -> None:
    cells = table(
        6,
        patient_id=["b", "a", "b", "a", "b", "c"],
        hospital=["X", "Y", "X", "Y", "X", "Z"],
        ICULOS=[1, 1, 2, 2, 3, 9],
    )
    stays = read(write(tmp_path / "export.csv", cells, ","))
    assert [stay.patient_id for stay in stays if isinstance(stay, Stay)] == ["b", "a", "c"]
    assert [stay.values[:, 0].tolist() for stay in stays if isinstance(stay, Stay)] == [
        [70, 72, 74],
        [71, 73],
        [75],
    ]
    assert [stay.extra for stay in stays if isinstance(stay, Stay)] == [{"hospital": h} for h in "XYZ"]


def test_one_faulty_patient_does_not_refuse_the_others(tmp_path: Path) -> None:
    cells = table(
        6,
        patient_id=["a", "a", "b", "b", "c", "d"],
        ICULOS=[1, 2, 5, 5, 1, 1],
        Temp=["NaN", 37.1, "NaN", "NaN", "warm", "NaN"],
    )
    path = write(tmp_path / "export.psv", cells)
    answers = list(read_each(path))
    assert [type(answer).__name__ for answer in answers] == ["Stay", "BadRows", "BadRows", "Stay"]
    assert str(answers[1]) == f"{path}, patient b: line 5 repeats hour 5; hours must increase"
    assert str(answers[2]) == f"{path}, patient c: line 6, column Temp: 'warm' is not a number"
    assert refusal(path).code == "doubled_hour"


@pytest.mark.parametrize(
    ("columns", "code", "message"),
    [
        ({"Temp": [37, 37, "high", 37, 37]}, "not_a_number", "line 4, column Temp: 'high' is not a number"),
        ({"Temp": [37, 37, "37,5", 37, 37]}, "not_a_number", "'37,5' is not a number"),
        ({"Temp": [37, 37, "1_0", 37, 37]}, "not_a_number", "'1_0' is not a number"),
        ({"Temp": [37, 37, "x" * 500, 37, 37]}, "not_a_number", "x...' is not a number"),
        ({"HR": [80, "inf", 80, 80, 80]}, "infinite", "line 3, column HR: infinite"),
        ({"HR": [80, "1e999", 80, 80, 80]}, "infinite", "line 3, column HR: infinite"),
        ({"ICULOS": [1, 2, 2, 3, 4]}, "doubled_hour", "line 4 repeats hour 2"),
        ({"ICULOS": [1, 2, 4, 3, 5]}, "hours_out_of_order", "line 5 goes back to hour 3"),
        ({"ICULOS": [1, 2, "NaN", 3, 4]}, "missing_hour", "line 4 has no ICULOS"),
        ({"ICULOS": [1, 2, 2.5, 3, 4]}, "bad_hour", "line 4 has an ICULOS that is not a whole number"),
        ({"ICULOS": [0, 1, 2, 3, 4]}, "bad_hour", "line 2 has an ICULOS below 1"),
        ({"ICULOS": [337, 338, 339, 340, 341]}, "too_long", "reaches hour 341"),
        ({"ICULOS": [1, 2, 337, 4, 5]}, "hours_out_of_order", "line 5 goes back to hour 4"),
        ({"hour": [1, 2, 9, 4, 5]}, "hours_differ", "line 4: ICULOS 3 and hour 9 differ"),
        ({"SepsisLabel": [0, 0, 2, 1, 1]}, "bad_label", "line 4 has the SepsisLabel 2"),
        ({"patient_id": ["a", "a", "", "a", "a"]}, "missing_patient", "line 4 has no patient_id"),
    ],
)
def test_bad_rows_are_refused_with_their_place(tmp_path: Path, columns, code, message) -> None:
    error = refusal(write(tmp_path / "stay.psv", table(**columns)))
    assert error.code == code
    assert message in str(error)


def test_limits_of_measurement_are_read_as_the_limit_and_noted(tmp_path: Path) -> None:
    cells = table(Lactate=["<0.5", "≤ 0.6", "1.5", ">30", "NaN"], HR=[70, ">=180", 80, 80, 80])
    stay = only(write(tmp_path / "stay.psv", cells))
    np.testing.assert_array_equal(stay.values[:, INDEX["Lactate"]], [0.5, 0.6, 1.5, 30, np.nan])
    assert stay.values[1, INDEX["HR"]] == 180
    assert stay.notes == ("Values given as a limit (<0.5) were read as the limit: HR 1, Lactate 3.",)


@pytest.mark.parametrize("column", ["ICULOS", "HospAdmTime", "Gender", "SepsisLabel"])
def test_only_measurements_have_limits(tmp_path: Path, column: str) -> None:
    cells = table(SepsisLabel=0)
    cells[column] = [*cells[column][:3], "<1", *cells[column][4:]]
    assert refusal(write(tmp_path / "stay.psv", cells)).code == "not_a_number"


def test_a_word_for_missing_names_no_patient(tmp_path: Path) -> None:
    path = write(tmp_path / "table.csv", table(patient_id=["7", " 7", "NaN", "null", "8"], ICULOS=1), ",")
    lines = path.read_text().splitlines()
    place = lines[0].split(",").index("ICULOS")
    cells = lines[2].split(",")
    lines[2] = ",".join([*cells[:place], "2", *cells[place + 1 :]])
    path.write_text("\n".join(lines))
    refused, seven, eight = read_each(path)
    assert isinstance(refused, InputError)
    assert (refused.code, refused.message) == ("missing_patient", "line 4 has no patient_id (2 such rows)")
    assert isinstance(seven, Stay)
    assert isinstance(eight, Stay)
    assert (seven.patient_id, len(seven.values), eight.patient_id) == ("7", 2, "8")
    assert seven.notes == ("2 rows of the file without patient_id may have been of this stay.",)


def test_length_of_a_stay(tmp_path: Path) -> None:
    assert len(only(write(tmp_path / "one.psv", table(1))).values) == 1
    assert len(only(write(tmp_path / "longest.psv", table(336))).values) == 336


@pytest.mark.parametrize("last", [337, 1e15])
def test_what_follows_two_weeks_is_left_out_with_a_warning(tmp_path: Path, last: float) -> None:
    stay = only(write(tmp_path / "stay.psv", table(ICULOS=[333, 334, 335, 336, last], SepsisLabel=0)))
    assert stay.hours.tolist() == [333, 334, 335, 336]
    assert stay.labels is not None
    assert len(stay.labels) == 4
    (warning,) = stay.warnings
    assert warning.code == "rows_left_out"
    assert warning.message.startswith("1 row after hour 336 left out")
    longer = only(write(tmp_path / "longer.psv", table(400)))
    assert (len(longer.values), longer.warnings[0].message[:22]) == (336, "64 rows after hour 336")


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "empty_file"),
        (b"\n \n", "empty_file"),
        (("|".join(NAMES) + "\n").encode(), "no_rows"),
        (("|".join(NAMES) + "\n" + "1|" * 30 + "1\n").encode(), "ragged_rows"),
        (("|".join([*NAMES, "HR"]) + "\n" + "1|" * 40 + "1\n").encode(), "doubled_column"),
        (",".join([*NAMES, *map(str, range(300_000))]).encode(), "too_many_columns"),
        (("|".join(NAMES).replace("Temp", "temp") + "\n" + "1|" * 39 + "1\n").encode(), "misspelt_column"),
        (("|".join(NAMES[:39]) + "\n" + "1|" * 38 + "1\n").encode(), "missing_columns"),
        (b"HR|O2Sat|Temp|SBP|Age|ICULOS\n80|97|37|120|60|1\n", "missing_columns"),
        (b"a|b\n1|2\n", "missing_columns"),
        (b"\xff\xfeH\x00R\x00", "malformed_file"),
        (b"PAR1 and then nothing that belongs there", "malformed_file"),
        (b"\x00" * 100, "missing_columns"),
    ],
)
def test_files_that_are_no_stay_are_refused(tmp_path: Path, content: bytes, code: str) -> None:
    if content.startswith(b"PAR1"):
        pytest.importorskip("pyarrow")
    path = tmp_path / "stay.psv"
    path.write_bytes(content)
    assert refusal(path).code == code


@pytest.mark.parametrize("where", ["header", "row"])
def test_cells_of_absurd_length(tmp_path: Path, where: str) -> None:
    path = write(tmp_path / "stay.psv", table())
    lines = path.read_text().split("\n")
    lines = [f'{line}|"x"' for line in lines if line]
    lines[0 if where == "header" else 2] = lines[2].replace('"x"', f'"{"9" * 200_000}"')
    path.write_text("\n".join(lines))
    error = refusal(path)
    assert error.code == "malformed_file"
    assert len(str(error)) < 500


def test_long_names_do_not_drown_the_answer(tmp_path: Path) -> None:
    stay = only(write(tmp_path / "stay.psv", table(**{"x" * 100_000: 1})))
    assert len(stay.notes[-1]) < 500


def test_tables_too_large_are_refused_before_they_are_read(tmp_path: Path) -> None:
    path = write(tmp_path / "stay.psv", table())
    os.truncate(path, 1 << 40)
    assert refusal(path).code == "table_too_large"


def test_a_small_parquet_that_stands_for_too_many_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.table({"HR": [80.0] * 5}), tmp_path / "stay.parquet")
    monkeypatch.setattr("ibt_deploy.readers.columns.MAX_ROWS", 4)
    assert refusal(tmp_path / "stay.parquet").code == "table_too_large"


def test_unclosed_quote_does_not_crash(tmp_path: Path) -> None:
    path = write(tmp_path / "stay.csv", table(), ",")
    path.write_text(path.read_text().replace("\n70,", '\n"70,', 1))
    assert refusal(path).code == "ragged_rows"


@pytest.mark.parametrize(
    ("name", "head", "expected"),
    [
        ("a.csv", b"ICULOS,pulse\n", True),
        ("a.csv", b"patient_id;hour;hr;temp;sbp;dbp\n", True),
        ("a.csv", b'"HR","O2Sat","Temp"\n', True),
        ("a.csv", b"I,II,III,aVR,aVL,aVF,V1,V2,V3,V4,V5,V6\n", False),
        ("a.csv", b"-4.88,9.76,14.64,-2.44,-9.76,12.2\n", False),
        ("a.txt", b"patient 17\nHR|O2Sat|Temp\n", False),
        ("a.bin", b"PAR1\x15\x04", True),
        ("p000001.psv", b"anything", True),
        ("a.hea", b"A0001 12 500 5000\n", False),
    ],
)
def test_sniff(name: str, head: bytes, expected: bool) -> None:
    assert sniff(Path(name), head) is expected


def test_parquet_reads_like_text(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    cells = table(SepsisLabel=0, hospital="A", patient_id="p1")
    cells["pH"][1] = 7.25
    text = only(write(tmp_path / "stay.psv", cells))

    def column(name: str) -> list[object]:
        return [None if cell == "NaN" else cell for cell in cells[name]]

    arrays = {
        name: pa.array(column(name), None if name in ("hospital", "patient_id") else pa.float64())
        for name in cells
    }
    arrays["HR"] = pa.array(column("HR"), pa.int16())
    arrays["Temp"] = pa.nulls(5)
    arrays["pH"] = pa.array(["7.38", "7.25", "", None, "NaN"])
    pq.write_table(pa.table(arrays), tmp_path / "stay.parquet", row_group_size=2)
    stay = only(tmp_path / "stay.parquet")
    np.testing.assert_array_equal(stay.values, text.values)
    assert (stay.patient_id, stay.format, stay.extra) == ("p1", "Parquet", {"hospital": "A"})

    arrays["pH"] = pa.array(["7.38", "sour", "", None, "NaN"])
    pq.write_table(pa.table(arrays), tmp_path / "text.parquet")
    assert "row 2, column pH: 'sour' is not a number" in str(refusal(tmp_path / "text.parquet"))

    whole = (tmp_path / "stay.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    assert refusal(tmp_path / "cut.parquet").code == "malformed_file"


def test_parquet_without_pyarrow_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "stay.parquet"
    path.write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtra, match=r"ibt\[batch\]"):
        read(path)


def test_reading_text_loads_nothing_heavy(tmp_path: Path) -> None:
    path = write(tmp_path / "stay.psv", table())
    code = (
        "import sys; from ibt_deploy.readers import read; read(sys.argv[1]);"
        "print([m for m in ('pandas', 'pyarrow', 'scipy', 'wfdb', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_real_stays_survive_the_way_through_text(shared: Path, tmp_path: Path) -> None:
    pd = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    columns = ["patient_id", "hospital", *NAMES, "SepsisLabel"]
    frame = pd.read_parquet(
        shared / "data/p19/p19.parquet",
        columns=columns,
        filters=[("patient_id", "in", ["p000001", "p000009", "p013777", "p100001", "p119999"])],
    )
    assert frame["patient_id"].nunique() >= 3
    for patient, rows in frame.groupby("patient_id"):
        rows[[*NAMES, "SepsisLabel"]].to_csv(tmp_path / f"{patient}.psv", sep="|", index=False, na_rep="NaN")
        stay = only(tmp_path / f"{patient}.psv")
        np.testing.assert_array_equal(stay.values.astype(np.float32), rows[list(NAMES)].to_numpy(np.float32))
        assert stay.labels is not None
        np.testing.assert_array_equal(stay.labels, rows["SepsisLabel"])
        rows.to_parquet(tmp_path / "one.parquet")
        np.testing.assert_array_equal(
            only(tmp_path / "one.parquet").values.astype(np.float32), stay.values.astype(np.float32)
        )


@pytest.mark.parametrize(
    ("change", "line", "reason"),
    [
        ({"Temp": "warm"}, 8, "line 8, column Temp: 'warm' is not a number"),
        ({"ICULOS": "2"}, 8, "line 8 goes back to hour 2; hours must increase"),
        ({"ICULOS": "2.5"}, 8, "line 8 has an ICULOS that is not a whole number"),
        (None, 8, "line 8 has 2 cells, the header has 40"),
    ],
)
def test_a_row_behind_blank_lines_is_cited_by_its_line(
    root: Path, tmp_path: Path, change: dict[str, str] | None, line: int, reason: str
) -> None:
    head, *rows = (root / "examples" / "stay.psv").read_text().splitlines()[:6]
    names, cells = head.split("|"), [row.split("|") for row in rows]
    for name, value in (change or {}).items():
        cells[3][names.index(name)] = value
    if change is None:
        cells[3] = ["odd", "row"]
    rows = ["|".join(row) for row in cells]
    text = "\n".join(["", head, rows[0], "", " ", *rows[1:]]) + "\n"
    assert text.splitlines()[line - 1] == rows[3]
    (tmp_path / "s.psv").write_text(text)
    assert str(refusal(tmp_path / "s.psv")) == f"{tmp_path / 's.psv'}: {reason}"


def test_a_row_without_blank_lines_before_it_is_cited_by_its_number_alone(root: Path, tmp_path: Path) -> None:
    head, *rows = (root / "examples" / "stay.psv").read_text().splitlines()[:6]
    names, cells = head.split("|"), rows[1].split("|")
    cells[names.index("Temp")] = "warm"
    (tmp_path / "s.psv").write_text("\n".join([head, rows[0], "|".join(cells), "", *rows[2:]]) + "\n")
    assert str(refusal(tmp_path / "s.psv")).endswith("s.psv: line 3, column Temp: 'warm' is not a number")
