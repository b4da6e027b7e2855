"""Tables of many patients in any order give the same stays as the single-file reader, and lose no row."""

from __future__ import annotations

import gzip
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from helpers.patient_tables import COLUMNS, HEADER, MAPPING, MEMORY_MB, STAMPS, row
from hypothesis import given, settings
from hypothesis import strategies as st

from ibt_deploy.batch.tables.open import Tables, open_tables
from ibt_deploy.batch.tables.stays import Overlap, contradicted, medians, repeats
from ibt_deploy.errors import BadUnits, BatchError, InputError, TooShort
from ibt_deploy.mapping import parse_mapping
from ibt_deploy.predictions import Refusal
from ibt_deploy.readers import stays as single
from ibt_deploy.records import Stay
from ibt_deploy.vocabulary import INDEX, NAMES

pa = pytest.importorskip("pyarrow")
pytest.importorskip("pyarrow.csv")
pytest.importorskip("pyarrow.parquet")
pytest.importorskip("duckdb")


TEXT_PATIENTS = pa.csv.ConvertOptions(column_types={"patient_id": pa.string()}, strings_can_be_null=False)
Open = Callable[..., Tables]


@pytest.fixture
def opened(tmp_path: Path) -> Open:
    """Open a table written from lines, or files as they are."""

    def open_(lines: Sequence[str] | None = None, *, paths: Sequence[Path] = (), mapping: str = "") -> Tables:
        given = list(paths)
        if lines is not None:
            path = tmp_path / "export.csv"
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")
            given.append(path)
        read = parse_mapping(mapping.encode()) if mapping else None
        return open_tables(given, read, work=tmp_path / "work", memory_mb=MEMORY_MB, threads=1)

    return open_


def answers(tables: Tables, slices: int = 3) -> list[Stay | Refusal]:
    return [answer for part in tables.slices(slices) for answer in tables.read(part)]


def stay_named(found: Sequence[Stay | Refusal], name: str) -> Stay:
    return next(a for a in found if isinstance(a, Stay) and a.patient_id == name)


def refusals(found: Sequence[Stay | Refusal]) -> list[Refusal]:
    return [a for a in found if isinstance(a, Refusal)]


def example(root: Path) -> list[str]:
    return (root / "examples" / "stay.psv").read_text(encoding="utf-8").splitlines()


def assert_same(found: Stay, expected: Stay) -> None:
    np.testing.assert_array_equal(found.values, expected.values)
    np.testing.assert_array_equal(np.asarray(found.labels), np.asarray(expected.labels))
    np.testing.assert_array_equal(np.asarray(found.inserted), np.asarray(expected.inserted))
    for name in ("patient_id", "source", "format", "notes", "extra"):
        assert getattr(found, name) == getattr(expected, name), name


@pytest.mark.parametrize("count", [1, 20])
def test_a_folder_of_single_stays_reads_as_the_reader_reads_them(
    root: Path, tmp_path: Path, opened: Open, count: int
) -> None:
    lines = example(root)
    folder = tmp_path / "psv"
    folder.mkdir()
    for i in range(count):
        kept = [line for k, line in enumerate(lines) if k == 0 or k % (i + 3)]
        (folder / f"p{i:02d}.psv").write_text("\n".join(kept), encoding="utf-8")
    found = answers(opened(paths=[folder]))
    assert len(found) == count
    for answer in found:
        assert isinstance(answer, Stay)
        assert_same(answer, single.read(Path(answer.source))[0])


@pytest.mark.parametrize("ending", ["csv", "csv.gz", "csv.zst", "parquet"])
def test_one_table_reads_as_the_reader_reads_it(tmp_path: Path, opened: Open, ending: str) -> None:
    rng = np.random.default_rng(1)
    lines = [
        HEADER + ",hospital",
        *(f"{row(f'p{p}', h, rng.normal(80, 9))},A" for p in range(40) for h in (1, 2, 4)),
    ]
    plain = tmp_path / "plain" / "table.csv"
    plain.parent.mkdir()
    plain.write_text("\n".join(lines), encoding="utf-8")
    path = tmp_path / f"table.{ending}"
    if ending == "parquet":
        import pyarrow.csv
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.csv.read_csv(plain), path)
    elif ending == "csv":
        path.write_bytes(plain.read_bytes())
    else:
        with pa.output_stream(str(path), compression="gzip" if ending.endswith("gz") else "zstd") as stream:
            stream.write(plain.read_bytes())
    expected = {stay.patient_id: stay for stay in single.read(plain)}
    found = answers(opened(paths=[path]))
    assert [a.patient_id for a in found if isinstance(a, Stay)] == sorted(expected)
    for answer in found:
        assert isinstance(answer, Stay)
        reference = expected[answer.patient_id]
        np.testing.assert_array_equal(answer.values, reference.values)
        np.testing.assert_array_equal(np.asarray(answer.labels), np.asarray(reference.labels))
        assert answer.notes == reference.notes
        assert answer.extra == {"hospital": "A"}


def test_rows_in_any_order_and_over_several_files(tmp_path: Path, opened: Open) -> None:
    first, second = tmp_path / "1.csv", tmp_path / "2.csv"
    first.write_text(f"{HEADER}\n{row('b', 2, 62)}\n{row('a', 3, 53)}\n")
    second.write_text(f"{HEADER}\n{row('a', 1, 51)}\n{row('b', 1, 61)}\n{row('a', 2, 52)}\n")
    a, b = answers(opened(paths=[first, second]))
    assert isinstance(a, Stay)
    assert isinstance(b, Stay)
    assert a.values[:, INDEX["HR"]].tolist() == [51, 52, 53]
    assert b.hours.tolist() == [1, 2]
    assert "Rows were gathered from 2 files." in a.notes


def test_patients_come_in_the_order_of_their_bytes(opened: Open) -> None:
    names = ["Z", "a", "é", "10", "9", "B"]
    found = answers(opened([HEADER, *(row(name, 1) for name in names)]))
    assert [a.patient_id for a in found if isinstance(a, Stay)] == sorted(names, key=str.encode)


def test_a_slice_knows_how_many_it_holds_and_travels(opened: Open) -> None:
    tables = opened([HEADER, *(row(f"{p:03d}", h) for p in range(50) for h in range(1, 2 + p % 5))])
    again = pickle.loads(pickle.dumps(tables))
    for n in (1, 4, 50, 80):
        slices = tables.slices(n)
        assert sum(map(len, slices)) == tables.patients == 50
        found = [a for part in slices for a in again.read(part)]
        assert [a.patient_id for a in found] == [f"{p:03d}" for p in range(50)]
        assert [len(list(again.read(part))) for part in slices] == [len(part) for part in slices]


CASES = {
    "not_a_number": [row("b", 1, "abc")],
    "doubled_hour": [row("b", 1), row("b", 1)],
    "missing_hour": [row("b", "")],
    "bad_hour": [row("b", 1.5)],
    "infinite": [row("b", 1, "inf")],
    "too_long": [row("b", 337)],
    "bad_label": ["b,1,80,97,37,120,80,2"],
}


@pytest.mark.parametrize("code", CASES)
def test_a_bad_patient_costs_only_itself(opened: Open, code: str) -> None:
    found = answers(opened([HEADER, row("a", 1), *CASES[code], row("c", 1)]))
    assert [a.code for a in refusals(found)] == [code]
    assert "patient b" in refusals(found)[0].message
    assert len(found) == 3


def test_a_message_names_the_row_of_the_file(opened: Open) -> None:
    lines = [HEADER, *(row("a", h) for h in range(1, 9)), row("x", 1, "?"), row("b", 5), row("b", 5)]
    found = refusals(answers(opened(lines)))
    assert [a.code for a in found] == ["doubled_hour", "not_a_number"]
    assert "line 12 repeats hour 5" in found[0].message
    assert "line 10, column HR" in found[1].message


def test_a_short_line_costs_its_patient_where_that_is_known(opened: Open) -> None:
    tables = opened([HEADER, row("a", 1), "a,2,80", row("b", 1), "nobody", row("b", 2)])
    found = answers(tables)
    assert [a.code for a in refusals(found)] == ["ragged_rows"]
    lost = list(tables.rejected())
    assert len(lost) == 1
    assert "line 5" in lost[0].message
    assert tables.report.rejected_rows == 2
    assert tables.report.unassigned_rows == 1
    assert any("1 row of the export could not be read" in note for note in stay_named(found, "b").notes)


@pytest.mark.parametrize("odd", ["\r\n", "\n"])
def test_a_short_line_costs_its_patient_in_a_file_with_lines_that_end_differently(
    tmp_path: Path, opened: Open, odd: str
) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(f"{HEADER}{odd}{row('a', 1)}\n{row('b', 1)}\na,2,80\nnobody\n".encode())
    tables = opened(paths=[path])
    found = answers(tables)
    assert [(a.code, "patient a" in a.message) for a in refusals(found)] == [("ragged_rows", True)]
    assert (len(found), tables.report.rejected_rows, tables.report.unassigned_rows) == (2, 2, 1)


@pytest.mark.parametrize("end", ["", 'd",1,80,97,37,120,80,0'])
def test_a_quotation_mark_swallows_no_neighbours(opened: Open, end: str) -> None:
    lines = [HEADER, row("a", 1), f'"{row("a", 2)}', row("b", 1), row("c", 1), *filter(None, [end])]
    tables = opened(lines)
    names = {a.patient_id for a in answers(tables) if isinstance(a, Stay)}
    assert {"a", "b", "c"} <= names
    assert [r.code for r in tables.rejected()] == ["ragged_rows"]


def test_cells_that_only_the_reader_understands_are_read(opened: Open) -> None:
    found = answers(
        opened([HEADER, row("a", 1, "   "), row("a", 2, "nAn"), row("a", 3, " 81 "), row("a", 4, "٨٢")])
    )
    rates = stay_named(found, "a").values[:, INDEX["HR"]]
    np.testing.assert_array_equal(rates, [np.nan, np.nan, 81, 82])


@pytest.mark.parametrize("count", [1, 12])
@pytest.mark.parametrize("patient", ["a", "12_3"])
def test_an_underscore_makes_no_number_here_either(
    tmp_path: Path, opened: Open, patient: str, count: int
) -> None:
    """The engine itself reads 1_0 as 10; the single-file reader refuses it, and a name may have one."""
    for number in range(count):
        lines = [HEADER, row(patient, 2 * number + 1, "7_2" if not number else 72), row("b_1", number + 1)]
        (tmp_path / f"{number:02d}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    paths = sorted(tmp_path.glob("*.csv"))
    found = answers(opened(paths=paths))
    (refused,) = refusals(found)
    assert refused.code == "not_a_number"
    assert refused.message.endswith("line 2, column HR: '7_2' is not a number")
    assert len(stay_named(found, "b_1").values) == count
    single_file = {getattr(a, "code", None) or a.patient_id for a in single.read_each(paths[0])}  # type: ignore[union-attr]
    assert single_file == {"not_a_number", "b_1"}


def test_an_underscore_makes_no_number_in_parquet(tmp_path: Path, opened: Open) -> None:
    columns = {
        name: [value] * 2 for name, value in zip(HEADER.split(",")[2:], (80, 97, 37, 120, 80, 0), strict=True)
    }
    table = pa.table({"patient_id": ["a", "b"], "ICULOS": [1, 1], **columns, "HR": ["7_2", "72"]})
    pa.parquet.write_table(table, tmp_path / "t.parquet")
    refused, stay = answers(opened(paths=[tmp_path / "t.parquet"]))
    assert isinstance(refused, Refusal)
    assert refused.code == "not_a_number"
    assert isinstance(stay, Stay)
    assert stay.values[:, INDEX["HR"]].tolist() == [72]


def test_rows_without_a_patient_are_reported(opened: Open) -> None:
    tables = opened([HEADER, row("a", 1), row("", 7)])
    assert len(answers(tables)) == 1
    assert [(r.code, "line 3" in r.message) for r in tables.rejected()] == [("missing_patient", True)]


@pytest.mark.parametrize("name", ["NaN", " ", "null", "N/A"])
def test_a_word_for_missing_is_no_patient_in_text_nor_in_parquet(
    tmp_path: Path, opened: Open, name: str
) -> None:
    lines = [HEADER, row("a", 1), row(f" {name} ", 7), row(" a ", 2)]
    tables = opened(lines)
    (stay,) = answers(tables)
    assert isinstance(stay, Stay)
    assert (stay.patient_id, len(stay.values)) == ("a", 2)
    assert [r.code for r in tables.rejected()] == ["missing_patient"]
    table = pa.csv.read_csv(tmp_path / "export.csv", convert_options=TEXT_PATIENTS)
    pa.parquet.write_table(table, tmp_path / "t.parquet")
    both = [tmp_path / "export.csv", tmp_path / "t.parquet"]
    for path in both:
        read = list(single.read_each(path))
        assert [getattr(r, "code", None) or r.patient_id for r in read] == ["missing_patient", "a"]  # type: ignore[union-attr]
    parquet = open_tables(both[1:], None, work=tmp_path / "other", memory_mb=MEMORY_MB, threads=1)
    assert [a.patient_id for a in answers(parquet) if isinstance(a, Stay)] == ["a"]
    assert [r.code for r in parquet.rejected()] == ["missing_patient"]


def test_limits_of_measurement_are_read_as_the_limit_and_counted(opened: Open) -> None:
    tables = opened([HEADER, row("a", 1, "<50"), row("a", 2, ">= 150"), row("b", 1, 80), row("c", 1, "<x")])
    found = answers(tables)
    np.testing.assert_array_equal(stay_named(found, "a").values[:, INDEX["HR"]], [50, 150])
    assert tables.report.limits == {"HR": 2}
    assert "read as the limit: HR 2." in tables.report.text()
    assert [r.code for r in refusals(found)] == ["not_a_number"]


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_every_kind_of_row_is_counted_where_it_belongs(tmp_path: Path, opened: Open, ending: str) -> None:
    """Eleven rows: two of b, one of d and two that name no known stay are rejected."""
    lines = [
        HEADER,
        *(row("a", hour) for hour in (1, 2)),
        *(row("b", hour, rate) for hour, rate in ((1, "abc"), (2, "x"), (3, 80))),
        row("c", 1, "<50"),
        "d,1,80",
        row("d", 2),
        "nobody",
        row("", 7),
        row("e", 1, "inf"),
    ]
    path = tmp_path / "export.csv"
    path.write_bytes(ending.join([*lines, ""]).encode())
    tables = opened(paths=[path])
    found = refusals(answers(tables))
    assert [(r.code, r.message.partition("patient ")[2]) for r in found] == [
        ("not_a_number", "b: line 4, column HR: 'abc' is not a number"),
        ("ragged_rows", "d: line 8 has 3 cells, the header has 8"),
        ("infinite", "e: line 12, column HR: infinite"),
    ]
    assert [(r.code, r.message.partition(", ")[2]) for r in tables.rejected()] == [
        ("ragged_rows", "line 10: has 1 cell, the header has 8"),
        ("missing_patient", "line 11: names no patient"),
    ]
    report = tables.report
    # rows: 2 + 1 + 1 + 1 + 1 usable ones, and the first bad one of b and of d
    assert (report.files, report.patients, report.rows) == (1, 5, 8)
    assert (report.rejected_rows, report.unassigned_rows, report.limits) == (5, 2, {"HR": 1})
    heart_rate = next(facts for facts in report.columns if facts.variable == "HR")
    # with the row without a patient, and with the infinite value
    assert (heart_rate.values, heart_rate.out_of_range) == (7, 1)


def test_a_damaged_file_costs_only_itself(tmp_path: Path, opened: Open) -> None:
    good, bad, empty = tmp_path / "a.csv.gz", tmp_path / "b.csv.gz", tmp_path / "c.csv"
    good.write_bytes(gzip.compress(f"{HEADER}\n{row('a', 1)}\n".encode()))
    bad.write_bytes(gzip.compress("\n".join([HEADER, *(row(str(i), 1) for i in range(999))]).encode())[:-40])
    empty.write_bytes(b"")
    parquet = tmp_path / "d.parquet"
    parquet.write_bytes(b"PAR1 and nothing else")
    tables = opened(paths=[good, bad, empty, parquet])
    assert [a.patient_id for a in answers(tables) if isinstance(a, Stay)] == ["a"]
    assert [path for path, _, _ in tables.report.refused_files] == [str(bad), str(empty), str(parquet)]
    assert len(list(tables.rejected())) == 3


@pytest.mark.parametrize(
    ("lines", "code"),
    [
        ([], "empty_file"),
        ([HEADER], "no_rows"),
        (["a,b,c", "1,2,3"], "missing_columns"),
        ([f"{HEADER},HR"], "doubled_column"),
    ],
)
def test_a_table_that_is_none_is_refused(opened: Open, lines: list[str], code: str) -> None:
    with pytest.raises(InputError) as caught:
        opened(lines)
    assert caught.value.code in (code, "empty_file")


def test_the_same_inputs_are_not_ingested_twice(tmp_path: Path, opened: Open) -> None:
    lines = [HEADER, row("a", 1)]
    first = opened(lines)
    store = first.folder / "stays.parquet"
    made = store.stat().st_mtime_ns
    assert opened(lines).fingerprint == first.fingerprint
    assert store.stat().st_mtime_ns == made
    changed = opened([*lines, row("b", 1)])
    assert changed.fingerprint != first.fingerprint
    assert changed.patients == 2


def test_too_little_memory_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(f"{HEADER}\n{row('a', 1)}\n")
    with pytest.raises(BatchError, match="too low"):
        open_tables([path], None, work=tmp_path / "w", memory_mb=100)


def test_doubtful_columns_are_refused_before_anything_is_scored(opened: Open) -> None:
    lines = ["patient_id,ICULOS,HR,O2Sat,Temp,SBP,MAP"]
    lines += [f"{p},{h},80,97,{98 + h % 3},120,80" for p in range(25) for h in (1, 2, 3)]
    tables = opened(lines)
    assert "doubtful" in tables.report.text()
    with pytest.raises(BadUnits, match="degF") as caught:
        tables.slices(1)
    assert caught.value.code == "doubtful_unit"


def stamped(at: str, rate: str = "80", sex: str = "M", station: str = "MICU", patient: str = "7") -> str:
    return f"{patient};{at};01.03.2021 10:00;{rate};97;98,6;16;88,4;{sex};{station}"


def test_a_mapping_gives_canonical_hourly_rows(opened: Open) -> None:
    lines = [
        COLUMNS,
        stamped("01.03.2021 12:59", "90,5"),
        stamped("01.03.2021 10:00", "80"),
        stamped("01.03.2021 10:30", "84"),
        stamped("01.03.2021 10:59", "-1"),
        stamped("01.03.2021 12:01", "70"),
        stamped("01.03.2021 12:00", "75"),
    ]
    (stay,) = answers(opened(lines, mapping=MAPPING.format(time=STAMPS)))
    assert isinstance(stay, Stay)
    assert stay.hours.tolist() == [1, 2, 3]
    values = stay.values
    np.testing.assert_array_equal(values[:, INDEX["HR"]], [82, np.nan, 75])
    assert values[0, INDEX["Temp"]] == pytest.approx(37, abs=1e-9)
    assert values[0, INDEX["SBP"]] == pytest.approx(120.01, abs=0.01)
    assert values[0, INDEX["Creatinine"]] == pytest.approx(1.0, abs=0.001)
    assert values[0, [INDEX["Gender"], INDEX["Unit1"], INDEX["Unit2"]]].tolist() == [1, 1, 0]
    notes = " ".join(stay.notes)
    for part in (
        "Temp from degF to degC",
        "medians within each hour",
        "6 rows became 2 hours",
        "1 missing hour",
    ):
        assert part in notes


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (stamped("31.02.2021 10:00"), "bad_time"),
        (stamped("01.03.2021 09:59"), "before_admission"),
        (stamped("28.03.2021 02:30"), "ambiguous_time"),
        (stamped(""), "missing_hour"),
        (stamped("20.03.2021 10:00"), "too_long"),
        (stamped("01.03.2021 10:00", sex="D"), "unknown_code"),
        (stamped("01.03.2021 10:00", station="NICU"), "unknown_code"),
        (stamped("01.03.2021 10:00", "8.5"), "not_a_number"),
        (stamped("01.03.2021 10:00").replace("01.03.2021 10:00;80", "02.03.2021 10:00;80"), "bad_admission"),
    ],
)
def test_what_a_mapping_does_not_settle_is_refused(opened: Open, line: str, code: str) -> None:
    lines = [COLUMNS, stamped("01.03.2021 11:00"), line, stamped("01.03.2021 11:00", patient="8")]
    found = answers(opened(lines, mapping=MAPPING.format(time=STAMPS)))
    assert [a.code for a in refusals(found)] == [code]
    assert len(found) == 2


@pytest.mark.parametrize("time", ["31.02.2021 10:00", "28.03.2021 02:30"])
def test_one_row_without_a_usable_time_costs_only_itself(opened: Open, time: str) -> None:
    hours = [stamped(f"01.03.2021 {hour}:00", str(60 + hour)) for hour in range(10, 22)]
    found = answers(
        opened([COLUMNS, *hours[:5], stamped(time, "99"), *hours[5:]], mapping=MAPPING.format(time=STAMPS))
    )
    (stay,) = found
    assert isinstance(stay, Stay)
    assert stay.values[:, INDEX["HR"]].tolist() == list(range(70, 82))
    (warning,) = stay.warnings
    assert warning.code == "rows_left_out"
    assert warning.message.startswith(
        "1 row without a usable time left out, the first of them line 7: column"
    )


def test_rows_after_two_weeks_are_left_out_as_by_the_reader(tmp_path: Path, opened: Open) -> None:
    tables = opened([HEADER, *(row("a", hour) for hour in (334, 335, 336, 337, 400))])
    (stay,) = answers(tables)
    assert isinstance(stay, Stay)
    (same,) = single.read(tmp_path / "export.csv")
    assert_same(stay, same)
    assert stay.warnings == same.warnings
    assert [w.code for w in stay.warnings] == ["rows_left_out"]


def test_exports_that_overlap_are_noticed(tmp_path: Path, opened: Open) -> None:
    """Hour 1: 80, 90, 84 and a second 90 that repeats the first; hour 3: 70 against 75 at one moment."""
    one = [stamped("01.03.2021 10:00"), stamped("01.03.2021 10:30", "90"), stamped("01.03.2021 12:00", "70")]
    two = [
        stamped("01.03.2021 10:30", "90"),
        stamped("01.03.2021 10:45", "84"),
        stamped("01.03.2021 12:00", "75"),
        stamped("01.03.2021 13:00", "60"),
    ]
    paths = [tmp_path / "one.csv", tmp_path / "two.csv"]
    for path, lines in zip(paths, (one, two), strict=True):
        path.write_text("\n".join([COLUMNS, *lines]) + "\n", encoding="utf-8")
    tables = opened(paths=paths, mapping=MAPPING.format(time=STAMPS))
    assert tables.report.overlap == Overlap(duplicate_rows=1, conflicting_rows=2, merged_rows=5)
    (stay,) = answers(tables)
    assert isinstance(stay, Stay)
    np.testing.assert_array_equal(stay.values[:, INDEX["HR"]], [84, np.nan, 72.5, 60])
    assert "1 row that repeats another left out." in stay.notes
    assert "2 rows contradict another of the same moment." in stay.notes
    said = tables.report.text()
    assert "overlap: 1 row repeats another of the same stay and moment exactly; each counts once." in said
    assert "overlap: 5 rows are in hours that several files hold" in said
    again = opened(paths=paths, mapping=MAPPING.format(time=STAMPS))  # resumes from what the first left
    assert again.report == tables.report


def test_an_export_that_does_not_overlap_says_nothing_of_it(opened: Open) -> None:
    lines = [COLUMNS, stamped("01.03.2021 10:00"), stamped("01.03.2021 10:30"), stamped("01.03.2021 11:00")]
    tables = opened(lines, mapping=MAPPING.format(time=STAMPS))
    assert tables.report.overlap == Overlap()
    assert "overlap" not in tables.report.text()


@given(
    st.lists(
        st.tuples(
            st.integers(0, 3), st.sampled_from([0.0, -0.0, 1.0, np.nan]), st.sampled_from([2.0, np.nan])
        )
    )
)
def test_repeated_and_contradicting_rows_are_those_that_a_plain_search_finds(
    rows: list[tuple[int, float, float]],
) -> None:
    rows.sort(key=lambda row: row[0])
    moments = np.array([row[0] for row in rows], dtype=np.int64)
    values = np.array([row[1:] for row in rows], dtype=float).reshape(-1, 2)
    written = [(m, *(None if np.isnan(x) else x for x in cells)) for m, *cells in rows]
    assert repeats(moments, values).tolist() == [row in written[:i] for i, row in enumerate(written)]
    stated = [[{row[c] for row in written if row[0] == m} - {None} for c in (1, 2)] for m, *_ in written]
    assert contradicted(moments, values).tolist() == [any(len(of) > 1 for of in two) for two in stated]


def test_rows_outside_the_stay_may_be_dropped_aloud(opened: Open) -> None:
    time = STAMPS + 'before_admission = "drop"\nafter_two_weeks = "drop"\n'
    lines = [COLUMNS, *map(stamped, ("01.03.2021 08:00", "01.03.2021 10:00", "20.03.2021 10:00"))]
    (stay,) = answers(opened(lines, mapping=MAPPING.format(time=time)))
    assert isinstance(stay, Stay)
    assert stay.hours.tolist() == [1]
    assert "1 row before ICU admission left out." in stay.notes
    assert "1 row after two weeks left out." in stay.notes


def test_first_row_as_admission_and_minutes_as_hours(opened: Open) -> None:
    first = STAMPS.replace('admission = "Aufnahme"', 'admission = "first"')
    lines = [COLUMNS, stamped("01.03.2021 13:10"), stamped("01.03.2021 14:09"), stamped("01.03.2021 14:10")]
    (stay,) = answers(opened(lines, mapping=MAPPING.format(time=first)))
    assert isinstance(stay, Stay)
    assert stay.hours.tolist() == [1, 2]
    minutes = 'kind = "hours"\ncolumn = "Zeit"\nunit = "min"\n'
    lines = [COLUMNS, stamped("0"), stamped("59,9"), stamped("60"), stamped("180")]
    (stay,) = answers(opened(lines, mapping=MAPPING.format(time=minutes)))
    assert isinstance(stay, Stay)
    assert stay.hours.tolist() == [1, 2, 3, 4]


def test_codes_that_are_neither_are_unknown(opened: Open) -> None:
    lines = [COLUMNS, stamped("01.03.2021 10:00", sex="x", station="ccu")]
    (stay,) = answers(opened(lines, mapping=MAPPING.format(time=STAMPS)))
    assert isinstance(stay, Stay)
    assert np.isnan(stay.values[0, [INDEX["Gender"], INDEX["Unit1"], INDEX["Unit2"]]]).all()


def test_a_file_without_a_mapped_column_is_refused(opened: Open) -> None:
    with pytest.raises(InputError, match="no column Aufnahme"):
        opened(
            [COLUMNS.replace("Aufnahme", "x"), stamped("01.03.2021 10:00")],
            mapping=MAPPING.format(time=STAMPS),
        )


@given(
    st.lists(st.lists(st.floats(-1e3, 1e3) | st.just(np.nan), min_size=1, max_size=6), min_size=1, max_size=6)
)
def test_medians_are_those_of_numpy(groups: list[list[float]]) -> None:
    values = np.array([x for group in groups for x in group])[:, None]
    begins = np.cumsum([0, *(len(group) for group in groups[:-1])])
    expected = [np.nan if np.isnan(group).all() else np.nanmedian(group) for group in groups]
    np.testing.assert_allclose(medians(values, begins)[:, 0], expected, rtol=1e-12, atol=1e-12)


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_every_line_ends_in_one_place(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("any")
    cell = st.sampled_from(["a", "b", "1", "2", "", "x", '"', "NaN", "-3", "1e5", "é", "inf", "1_0"])
    line = st.lists(cell, min_size=1, max_size=9).map(",".join)
    good = st.builds(row, st.sampled_from("abc"), st.integers(0, 4))
    lines = data.draw(st.lists(line | good, min_size=1, max_size=12))
    path = folder / "t.csv"
    path.write_text("\n".join([HEADER, *lines]), encoding="utf-8")
    count = sum(not (text.isspace() or not text) for text in lines)
    if not count:
        with pytest.raises(TooShort):
            open_tables([path], None, work=folder / "w", memory_mb=MEMORY_MB, threads=1)
        return
    tables = open_tables([path], None, work=folder / "w", memory_mb=MEMORY_MB, threads=1)
    lost = len(list(tables.rejected()))
    assert lost == tables.report.unassigned_rows
    # only the first of a patient's faults is kept as a row; all are counted
    assert count - tables.report.rejected_rows <= tables.report.rows
    assert tables.report.rows + lost <= count + len(lines)
    found = answers(tables)
    assert len(found) == tables.patients
    assert len({a.patient_id if isinstance(a, Stay) else a.message for a in found}) == len(found)


def test_real_stays_through_other_units(root: Path, opened: Open) -> None:
    lines = example(root)
    names = lines[0].split("|")
    swapped = {
        "Temp": ("degF", 1.8, 32.0),
        "Glucose": ("mmol/L", 1 / 18.0156, 0.0),
        "PaCO2": ("kPa", 0.133322387415, 0),
    }
    header = ",".join(["id", *(f"my {name}" for name in names)])
    rows = []
    for line in reversed(lines[1:]):
        cells = line.split("|")
        for name, (_, factor, offset) in swapped.items():
            place = names.index(name)
            if cells[place] != "NaN":
                cells[place] = repr(float(cells[place]) * factor + offset)
        rows.append(",".join(["one", *cells]))
    mapping = '[table]\npatient = "id"\nlabel = "my SepsisLabel"\n[time]\ncolumn = "my ICULOS"\n'
    if "SepsisLabel" not in names:
        mapping = mapping.replace('label = "my SepsisLabel"\n', "")
    mapping += '[columns.Gender]\ncolumn = "my Gender"\nmale = [1]\nfemale = [0]\n'
    from ibt_deploy.mapping.units import CANONICAL

    for name in NAMES:
        if name in names and name not in ("Gender", "ICULOS"):
            unit = swapped[name][0] if name in swapped else CANONICAL[name]
            mapping += f'[columns.{name}]\ncolumn = "my {name}"\nunit = "{unit}"\n'
    (stay,) = answers(opened([header, *rows], mapping=mapping))
    assert isinstance(stay, Stay)
    expected = single.read(root / "examples" / "stay.psv")[0]
    np.testing.assert_array_equal(stay.values.astype(np.float32), expected.values.astype(np.float32))


def test_a_damaged_row_is_named_with_its_own_file(tmp_path: Path) -> None:
    first, second = tmp_path / "a.csv", tmp_path / "b.csv"
    first.write_text(f"{HEADER}\n{row('x', 1)}\n{row('y', 1)}\n")
    second.write_text(f"{HEADER}\n{row('x', 2)}\n{row('y', 2)[:-3].rpartition(',')[0]}\n")
    tables = open_tables([first, second], None, work=tmp_path / "w", memory_mb=1024)
    refused = [item for part in tables.slices(1) for item in tables.read(part) if isinstance(item, Refusal)]
    assert [(item.code, item.message.startswith(f"{second}, ")) for item in refused] == [
        ("ragged_rows", True)
    ]


FAULTY_ROWS = {
    "not_a_number": [row("b", 1, "abc")],
    "doubled_hour": [row("b", 1), row("b", 1)],
    "ragged_rows": ["b,2,80"],
    "infinite": [row("b", 1, "inf")],
    "missing_patient": [row("", 7)],
}


@pytest.mark.parametrize("code", FAULTY_ROWS)
@pytest.mark.parametrize("files", [1, 20], ids=["alone", "joined with others"])
@pytest.mark.parametrize("cell", ["", '"in\nA&E"'], ids=["blank lines", "and a cell of two lines"])
def test_a_message_cites_the_line_of_the_file(
    tmp_path: Path, opened: Open, code: str, files: int, cell: str
) -> None:
    """As an editor counts, behind blank lines and behind a cell that holds a line end."""
    remarks = [f"{line},{'remark' if line == HEADER else ''}" for line in (HEADER, row("a", 1))]
    odd = [f"{row('z', 1)},{cell}"] if cell else []
    rows = [line if code == "ragged_rows" else f"{line}," for line in FAULTY_ROWS[code]]
    text = "\n".join([remarks[0], "", remarks[1], "", "   ", *odd, f"{row('c', 1)},", *rows, ""])
    paths = [tmp_path / f"t{n}.csv" for n in range(files)]
    for n, path in enumerate(paths):
        path.write_text(text if n == files // 2 else f"{HEADER},remark\n{row(f'p{n}', 1)},\n")
    due = text.splitlines().index(rows[-1]) + len(rows)
    tables = opened(paths=paths)
    said = [a.message for a in [*refusals(answers(tables)), *tables.rejected()] if a.code == code]
    assert any(f"line {due}" in message for message in said), said
