"""A plain long table: its mapping is suggested, its hours equal those of pandas, bad rows are refused."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from ibt_deploy.cli import main
from ibt_deploy.errors import BadRows, InputError
from ibt_deploy.mapping import Mapping, load_mapping, parse_mapping
from ibt_deploy.mapping.suggest import suggested_mapping
from ibt_deploy.records import Stay
from ibt_deploy.standards.events import ASSUMED_NOTE
from ibt_deploy.standards.exports import EventStays, Export, opened
from ibt_deploy.vocabulary import NAMES

pytest.importorskip("duckdb")
pytest.importorskip("pint")

GERMAN: dict[str, tuple[str, str, float, float, float]] = {
    "Puls": ("1/min", "HR", 84, 10, 1.0),
    "SpO2": ("%", "O2Sat", 96, 1, 1.0),
    "Temperatur": ("°C", "Temp", 37, 0.4, 1.0),
    "RR sys": ("mmHg", "SBP", 120, 9, 1.0),
    "RR dia": ("mmHg", "DBP", 62, 5, 1.0),
    "Atemfrequenz": ("1/min", "Resp", 18, 3, 1.0),
    "Kreatinin": ("µmol/l", "Creatinine", 88, 15, 113.12 / 10_000),
    "Blutzucker": ("mmol/l", "Glucose", 7, 1, 180.156 / 10),
    "Harnstoff": ("mg/dl", "BUN", 40, 5, 28.014 / 60.056),
    "Hämoglobin": ("g/l", "Hgb", 110, 8, 0.1),
    "CRP": ("mg/l", "", 80, 20, 0.0),
    "Kreatinin (Urin)": ("mmol/l", "", 8, 1, 0.0),
}
"""Unit, variable, mean, deviation, and the factor into the variable's unit, all written by hand."""

UNIVERSAL: dict[str, tuple[str, str, float, float, float]] = {
    "8867-4": ("/min", "HR", 84, 10, 1.0),
    "59408-5": ("%", "O2Sat", 96, 1, 1.0),
    "8310-5": ("[degF]", "Temp", 98.6, 0.7, 5 / 9),
    "76215-3": ("mm[Hg]", "SBP", 120, 9, 1.0),
    "76534-7": ("mm[Hg]", "SBP", 140, 9, 1.0),
    "9279-1": ("/min", "Resp", 18, 3, 1.0),
    "14682-9": ("umol/L", "Creatinine", 88, 15, 113.12 / 10_000),
    "22664-7": ("mmol/L", "BUN", 6, 1, 2.8014),
    "6690-2": ("10*9/L", "WBC", 9, 1, 1.0),
    "1988-5": ("mg/L", "", 80, 20, 0.0),
}


def events(codes: dict[str, tuple[str, str, float, float, float]], start: pd.Timestamp) -> pd.DataFrame:
    """Twenty-five stays of 30 h; every measurement about six times."""
    rng = np.random.default_rng(7)
    rows = [
        (
            f"{4711 + n}",
            start + pd.Timedelta(minutes=97 * n + int(minute)),
            code,
            round(mean + dev * z, 1),
            unit,
        )
        for n in range(25)
        for code, (unit, _, mean, dev, _) in codes.items()
        for minute, z in zip(rng.integers(0, 30 * 60, 6), rng.normal(size=6), strict=True)
    ]
    frame = pd.DataFrame(rows, columns=["patient", "time", "code", "value", "unit"])
    return frame.sample(frac=1, random_state=3).reset_index(drop=True)


def by_pandas(
    frame: pd.DataFrame,
    codes: dict[str, tuple[str, str, float, float, float]],
    starts: pd.Series[Any],
    first: tuple[str, ...] = (),
) -> pd.DataFrame:
    """Hourly medians in the variables' units: index patient and hour, a column for each variable.

    Of a variable with several codes those of ``first`` count where they have a value in the hour.
    """
    known = frame[frame["code"].map(lambda code: bool(codes[code][1]))].drop_duplicates()
    known = known.assign(
        variable=known["code"].map(lambda code: codes[code][1]),
        number=known["value"] * known["code"].map(lambda code: codes[code][4]),
        hour=((known["time"] - known["patient"].map(starts)) / pd.Timedelta(hours=1)).map(np.floor) + 1,
    )
    known.loc[known["unit"] == "[degF]", "number"] -= 32 * 5 / 9
    known = known[known["hour"] >= 1]
    better = known[known["code"].isin(first)][["patient", "hour", "variable"]].drop_duplicates()
    merged = known.merge(better.assign(has_better=True), how="left")
    kept = merged[merged["code"].isin(first) | merged["has_better"].isna()]
    return kept.groupby(["patient", "hour", "variable"])["number"].median().unstack("variable")


def read_stays(files: list[Path], mapping: Mapping, folder: Path) -> tuple[EventStays, dict[str, Stay]]:
    found = opened(Export("long table", tuple(files), mapping=mapping), folder / "work", source="x")
    answers = list(found.read_stays(0, len(found)))
    assert all(isinstance(answer, Stay) for answer in answers)
    return found, {stay.patient_id: stay for stay in answers if isinstance(stay, Stay)}


def assert_same(stays: dict[str, Stay], expected: pd.DataFrame) -> None:
    assert set(stays) == set(expected.index.get_level_values("patient"))
    for name, stay in stays.items():
        ours = pd.DataFrame(stay.values[~stay.inserted], columns=NAMES, index=stay.hours[~stay.inserted])
        theirs = expected.loc[name]
        assert ours.index.tolist() == theirs.index.tolist()
        for variable in theirs:
            np.testing.assert_allclose(ours[variable], theirs[variable], rtol=1e-9)
        measured = ours.drop(columns=["Age", "Gender", "Unit1", "Unit2", "HospAdmTime", "ICULOS"])
        assert set(measured.columns[measured.notna().any()]) == set(theirs.columns[theirs.notna().any()])


def german(folder: Path) -> tuple[Path, pd.DataFrame]:
    """A table as a German laboratory exports it, across the change of clocks of 28 March 2021."""
    frame = events(GERMAN, pd.Timestamp("2021-03-26 08:15", tz="Europe/Berlin"))
    local = frame["time"].dt.tz_convert("Europe/Berlin")
    cells = pd.DataFrame(
        {
            "Fallnr": frame["patient"],
            "Abnahmezeit": local.dt.strftime("%d.%m.%Y %H:%M"),
            "Bezeichnung": frame["code"],
            "Ergebnis": frame["value"].astype(str).str.replace(".", ",", regex=False),
            "Einheit": frame["unit"],
            "Geschlecht": frame["patient"].map(lambda name: "mw"[int(name) % 2]),
        }
    )
    path = folder / "labor.csv"
    cells.to_csv(path, sep=";", index=False, encoding="latin-1")
    return path, frame


def decided(text: str, zone: str = "Europe/Berlin") -> str:
    """The suggestion with the two lines that a person has to decide."""
    assert text.count('"?"') == 3  # the two lines, and the one that explains the mark
    return text.replace('zone = "?"', f'zone = "{zone}"').replace('admission = "?"', 'admission = "first"')


def test_a_german_table_gives_the_hours_of_pandas(tmp_path: Path) -> None:
    path, frame = german(tmp_path)
    text = suggested_mapping(path)
    found = tomllib.loads(text)
    assert found["table"] == {
        "patient": "Fallnr", "delimiter": ";", "decimal": ",", "encoding": "latin-1",
    }  # fmt: skip
    assert found["long"] == {"code": "Bezeichnung", "value": "Ergebnis", "unit": "Einheit"}
    assert {entry["code"]: entry["variable"] for entry in found["codes"]} == {
        name: variable for name, (_, variable, *_) in GERMAN.items() if variable
    }
    assert "# Mapped: 10 of 12 codes with their units, 1,500 of 1,800 rows (83.3%), 10 variables." in text
    assert "150  CRP [mg/l]" in text
    assert "150  Kreatinin (Urin) [mmol/l]" in text
    mapping = parse_mapping(decided(text).encode())
    first = frame[frame["code"].map(lambda code: bool(GERMAN[code][1]))].groupby("patient")["time"].min()
    export, stays = read_stays([path], mapping, tmp_path)
    assert_same(stays, by_pandas(frame, GERMAN, first))
    assert all(ASSUMED_NOTE in stay.notes for stay in stays.values())
    sexes = {name: stay.values[0, NAMES.index("Gender")] for name, stay in stays.items()}
    assert sexes == {name: float(int(name) % 2 == 0) for name in stays}
    assert (export.report.events, export.report.used, export.report.not_mapped) == (1800, 1500, 300)


def test_dates_alone_are_refused_in_a_zone_away_from_greenwich_too(tmp_path: Path) -> None:
    path, _ = german(tmp_path)
    mapping = parse_mapping(decided(suggested_mapping(path)).encode())
    dates = re.sub(r"(\d\d\.\d\d\.\d{4}) \d\d:\d\d", r"\1 00:00", path.read_text(encoding="latin-1"))
    path.write_text(dates, encoding="latin-1")
    with pytest.raises(BadRows, match="the times seem to be dates"):
        read_stays([path], mapping, tmp_path)


def test_loinc_in_parquet_needs_no_decision(tmp_path: Path) -> None:
    start = pd.Timestamp("2150-03-01 18:20", tz="UTC")
    frame = events(UNIVERSAL, start)
    admitted = frame.groupby("patient")["time"].min() + pd.Timedelta(minutes=95)
    table = pd.DataFrame(
        {
            "stay_id": frame["patient"].astype(int),
            "intime": frame["patient"].map(admitted),
            "charttime": frame["time"],
            "loinc": frame["code"],
            "label": "as the device calls it",
            "valuenum": frame["value"],
            "valueuom": frame["unit"],
        }
    )
    (tmp_path / "shards").mkdir()
    files = [tmp_path / "shards" / f"{n}.parquet" for n in range(2)]
    table[:700].to_parquet(files[0])
    table[700:].to_parquet(files[1])
    written = tmp_path / "mapping.toml"
    with written.open("w", encoding="utf-8") as stream:
        stream.write(suggested_mapping(files[0]))
    entries = {entry["code"]: entry for entry in tomllib.loads(written.read_text())["codes"]}
    assert {code: entry.get("priority", 1) for code, entry in entries.items()} == {
        code: 3 if code == "76534-7" else 1 for code, (_, variable, *_) in UNIVERSAL.items() if variable
    }
    _, stays = read_stays(files, load_mapping(written), tmp_path)
    assert_same(stays, by_pandas(frame, UNIVERSAL, admitted, first=("76215-3",)))
    result = CliRunner().invoke(
        main,
        [
            "batch",
            str(tmp_path / "shards"),
            "--map",
            str(written),
            "--out",
            str(tmp_path / "out"),
            "--format",
            "jsonl",
        ],
    )
    assert result.exit_code == 0, result.output
    answers = [
        json.loads(line)
        for part in sorted((tmp_path / "out" / "predictions").iterdir())
        for line in part.read_text(encoding="utf-8").splitlines()
    ]
    assert [answer["record"] for answer in answers] == sorted(stays)
    assert (
        tmp_path / "out" / "not_mapped.csv"
    ).read_text() == "code,unit,events,reason\n1988-5,mg/L,150,unknown_code\n"


ROW = "{patient},2021-03-01 10:{minute:02d},{code},{value},{unit}"
HEAD = """
[table]
patient = "id"
missing = ["n.b."]
[time]
kind = "timestamp"
column = "time"
format = "iso"
zone = "fixed"
admission = "first"
[long]
code = "name"
value = "value"
unit = "unit"
"""
VITALS = {"HR": 80, "RR": 18, "SBP": 120, "DBP": 60, "Temp": 37}
CODES = "".join(
    f'[[codes]]\ncode = "{name}"\nunit = ""\nvariable = "{name if name != "RR" else "Resp"}"\nfactor = 1\n'
    for name in VITALS
)
LACTATE = '[[codes]]\ncode = "lactate"\nunit = "mmol/L"\nvariable = "Lactate"\n'


def written(folder: Path, *rows: str) -> Path:
    """A table with the vital signs of patient 1, and these rows."""
    path = folder / "t.csv"
    own = [ROW.format(patient=1, minute=0, code=name, value=value, unit="") for name, value in VITALS.items()]
    path.write_text("\n".join(["id,time,name,value,unit", *own, *rows]) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("cells", "value", "limits"),
    [
        (("2",), 2.0, False),
        (("2", "2"), 2.0, False),
        (("2", "3", "7"), 3.0, False),
        (("<0.5",), 0.5, True),
        ((">= 30",), 30.0, True),
        (("n.b.", "1.5"), 1.5, False),
        (("1_0", "1.5"), 1.5, False),
        (("haemolysed", "1.5"), 1.5, False),
    ],
)
def test_cells_of_a_value(tmp_path: Path, cells: tuple[str, ...], value: float, limits: bool) -> None:
    rows = [ROW.format(patient=1, minute=5, code="lactate", value=cell, unit="mmol/L") for cell in cells]
    mapping = parse_mapping((HEAD + CODES + LACTATE).encode())
    _, stays = read_stays([written(tmp_path, *rows)], mapping, tmp_path)
    assert stays["1"].values[0, NAMES.index("Lactate")] == value
    assert any("given as a limit" in note for note in stays["1"].notes) == limits


def test_another_unit_of_a_known_code_is_not_used(tmp_path: Path) -> None:
    row = ROW.format(patient=1, minute=5, code="lactate", value=20, unit="mg/dL")
    mapping = parse_mapping((HEAD + CODES + LACTATE).encode())
    export, stays = read_stays([written(tmp_path, row)], mapping, tmp_path)
    assert np.isnan(stays["1"].values[0, NAMES.index("Lactate")])
    (entry,) = export.report.unmapped
    assert (entry.code, entry.unit, entry.reason) == ("lactate", "mg/dL", "unknown_unit")


def test_rows_without_patient_or_with_another_number_of_cells_are_said(tmp_path: Path) -> None:
    row = ROW.format(patient="", minute=5, code="HR", value=20, unit="")
    mapping = parse_mapping((HEAD + CODES).encode())
    _, stays = read_stays([written(tmp_path, row, "1,2021-03-01 10:00,HR")], mapping, tmp_path)
    assert "2 rows of the export could not be read; they may have held rows of this stay." in stays["1"].notes


@pytest.mark.parametrize(
    ("time", "count", "code"),
    [("01.03.2021", 1, "bad_time"), ("", 1, "missing_hour"), ("01.03.2021", 0, None)],
)
def test_many_rows_without_a_time_refuse_the_stay(
    tmp_path: Path, time: str, count: int, code: str | None
) -> None:
    """One of six rows is more than a tenth; one of sixteen is left out."""
    rows = [
        f"2,{time},HR,80,",
        *(ROW.format(patient=2, minute=n, code="HR", value=80, unit="") for n in range(5)),
    ]
    rows += [] if count else [ROW.format(patient=2, minute=9, code="RR", value=n, unit="") for n in range(10)]
    mapping = parse_mapping((HEAD + CODES).encode())
    export, stays = read_stays([written(tmp_path, *rows)], mapping, tmp_path)
    assert set(stays) == ({"1"} if code else {"1", "2"})
    assert [(stay.name, stay.code) for stay in export.report.refused] == ([("2", code)] if code else [])
    if code is None:
        assert "1 rows of the export have no usable time and were left out." in stays["2"].notes


def test_several_admissions_refuse_the_stay(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    rows = [
        f"{patient},2021-03-01 10:00,2021-03-01 0{(n if patient == 2 else 1)}:00,{name},{value},"
        for patient in (1, 2)
        for n, (name, value) in enumerate(VITALS.items())
    ]
    path.write_text("\n".join(["id,time,begin,name,value,unit", *rows]), encoding="utf-8")
    text = HEAD.replace('admission = "first"', 'admission = "begin"') + CODES
    export, stays = read_stays([path], parse_mapping(text.encode()), tmp_path)
    assert stays["1"].hours.tolist() == [10]
    assert [(stay.name, stay.code) for stay in export.report.refused] == [("2", "bad_admission")]


@pytest.mark.parametrize(
    ("kind", "cells", "hours"),
    [("hours", ("0", "1.5", "2"), [1, 2, 3]), ("iculos", ("1", "2", "3"), [1, 2, 3])],
)
def test_hours_instead_of_times(tmp_path: Path, kind: str, cells: tuple[str, ...], hours: list[int]) -> None:
    path = tmp_path / "t.csv"
    rows = [f"1,{cell},{name},{value}," for cell in cells for name, value in VITALS.items()]
    path.write_text("\n".join(["id,time,name,value,unit", *rows]), encoding="utf-8")
    times = f'[time]\nkind = "{kind}"\ncolumn = "time"\n'
    text = HEAD[: HEAD.index("[time]")] + times + HEAD[HEAD.index("[long]") :] + CODES
    _, stays = read_stays([path], parse_mapping(text.encode()), tmp_path)
    assert stays["1"].hours.tolist() == hours


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (HEAD, "at least 5"),
        (HEAD + CODES + CODES, "is already listed"),
        (HEAD + CODES + LACTATE.replace("Lactate", "Gender"), "must be a vital sign"),
        (HEAD + CODES + LACTATE.replace("mmol/L", "?"), "fill it in by hand"),
        (HEAD + CODES + LACTATE.replace('unit = "mmol/L"', 'unit = "kg"'), "cannot be turned into"),
        (HEAD + CODES + LACTATE + "priority = 0\n", "must be 1 to"),
        (HEAD + CODES + LACTATE + "colour = 1\n", "is unknown here"),
        (HEAD + CODES + '[columns.HR]\ncolumn = "hr"\nunit = "1/min"\n', "is in the rows"),
        (HEAD.replace('unit = "unit"', "") + CODES + LACTATE, "selects rows by the column of units"),
        (HEAD.replace('patient = "id"', "") + CODES, "is missing"),
        (HEAD.replace("[long]", 'before_admission = "refuse"\n[long]') + CODES, "must be one of drop"),
        (
            HEAD + CODES + '[[codes]]\ncode = "Harnstoff"\nunit = "mg/dl"\nvariable = "BUN"\n',
            "means urea",
        ),
        ("codes = 1\n" + HEAD, "must be tables"),
    ],
)  # fmt: skip
def test_a_mistake_in_the_mapping_is_refused_with_its_place(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        parse_mapping(text.encode())
    assert "mapping.toml" in str(caught.value)


def suggested(
    folder: Path, cells: list[tuple[str, str, str]], header: str = "id,ICULOS,test,result,unit"
) -> str:
    """The suggestion for these codes, values and units, twelve rows each."""
    path = folder / "s.csv"
    rows = [f"1,{hour},{code},{value},{unit}" for code, value, unit in cells for hour in range(1, 13)]
    path.write_text("\n".join([header, *rows]), encoding="utf-8")
    return suggested_mapping(path)


FRAME = [("Frecuencia cardiaca", "80", "lpm"), ("Plaquettes", "200", "G/l"), ("Kalium", "4.1", "mmol/l")]


@pytest.mark.parametrize(
    ("cell", "entry"),
    [
        (("Hematocrito", "38", "%"), {"unit": "%", "variable": "Hct"}),
        (("Leucocytes", "9", "10*9/L"), {"unit": "10*9/L", "variable": "WBC"}),
        (("Lactate", "1.5", ""), {"unit": "", "variable": "Lactate", "is": "mmol/L"}),
        (("Glucose", "120", "mmol/L"), {"unit": "mmol/L", "variable": "Glucose", "is": "?"}),
        (("Urée", "6", "mmol/l"), {"unit": "mmol/l", "variable": "BUN", "substance": "urea"}),
        (("NIBP sys", "120", "mmHg"), {"unit": "mmHg", "variable": "SBP", "priority": 2}),
        (("LOINC:2160-0", "0.9", "mg/dL"), {"unit": "mg/dL", "variable": "Creatinine"}),
    ],
)
def test_codes_and_units_of_several_languages(
    tmp_path: Path, cell: tuple[str, str, str], entry: dict[str, Any]
) -> None:
    found = tomllib.loads(suggested(tmp_path, [*FRAME, cell]))
    assert {"code": cell[0], **entry} in found["codes"]


@pytest.mark.parametrize(
    ("cell", "comment"),
    [
        (("Troponin T", "0.1", "ng/mL"), "perhaps TroponinI: troponin T, another protein"),
        (("Kreatinin i.S.", "0.9", "mg/dl"), "perhaps Creatinine"),
        (("Leukozyten im Sammelurin", "5", "/ul"), "12  Leukozyten im Sammelurin [/ul]"),
        (("Glucose Liquor", "60", "mg/dL"), "12  Glucose Liquor [mg/dL]"),
        (("Hb", "haemolysed", "g/dl"), "Hgb, but no row has a number"),
    ],
)
def test_what_is_not_certain_is_a_comment(tmp_path: Path, cell: tuple[str, str, str], comment: str) -> None:
    text = suggested(tmp_path, [*FRAME, cell])
    assert comment in text
    assert cell[0] not in {entry["code"] for entry in tomllib.loads(text)["codes"]}


def test_a_column_of_units_with_a_strange_name_is_found_by_its_cells(tmp_path: Path) -> None:
    text = suggested(tmp_path, [*FRAME, ("Natrium", "140", "mmol/l")], header="id,ICULOS,x1,x2,x3")
    assert tomllib.loads(text)["long"] == {"code": "x1", "value": "x2", "unit": "x3"}
