"""A mapping is applied as written, and its errors are located."""

from __future__ import annotations

from pathlib import Path

import pytest

from ibt_deploy.errors import InputError
from ibt_deploy.mapping import load_mapping, parse_mapping

GOOD = """
[table]
patient = "id"
delimiter = ";"
decimal = ","
missing = [-1, "n.b."]

[time]
kind = "timestamp"
column = "zeit"
format = ["%d.%m.%Y %H:%M"]
zone = "Europe/Berlin"
admission = "first"

[columns.HR]
column = "puls"
unit = "1/min"

[columns.Temp]
column = "temp"
unit = "°F"
confirmed = true

[columns.SBP]
column = "sys"
unit = "mmHg"

[columns.Glucose]
column = "bz"
unit = "mmol/L"
missing = 999

[columns.Creatinine]
column = "krea"
factor = 0.0113

[columns.Gender]
column = "sex"
male = ["M", 1]
female = ["W", 0]

[unit_type]
column = "station"
medical = "MICU"
surgical = ["SICU"]
"""


def test_a_whole_mapping() -> None:
    mapping = parse_mapping(GOOD.encode())
    assert mapping.table.patient == "id"
    assert mapping.table.missing == ("-1", "n.b.")
    assert mapping.time.kind == "timestamp"
    assert mapping.time.admission is None
    assert list(mapping.columns) == ["HR", "Temp", "SBP", "Creatinine", "Glucose"]
    assert mapping.columns["Temp"].confirmed
    assert mapping.columns["Glucose"].missing == ("999",)
    assert mapping.columns["Creatinine"].conversion.value(100) == pytest.approx(1.13)
    assert mapping.gender is not None
    assert mapping.gender.ones == ("M", "1")
    assert mapping.unit_type is not None
    assert mapping.unit_type.medical == ("MICU",)
    assert {c.variable for c in mapping.conversions} == {"Temp", "Creatinine", "Glucose"}
    assert mapping.names == {"id", "zeit", "puls", "temp", "sys", "bz", "krea", "sex", "station"}


@pytest.mark.parametrize(
    ("old", "new", "place", "code"),
    [
        ('unit = "mmHg"', 'unit = "mmHgg"', "columns.SBP.unit", "unknown_unit"),
        ('unit = "mmHg"', "factor = 0", "columns.SBP.factor", "bad_mapping"),
        ('unit = "mmHg"', "", "columns.SBP.unit", "bad_mapping"),
        ('unit = "mmHg"', 'unit = "mmHg"\noffset = 2', "columns.SBP.offset", "bad_mapping"),
        ('unit = "mmHg"', 'unit = "?"', "columns.SBP.unit", "bad_mapping"),
        ('unit = "mmHg"', 'unit = "mmHg"\nunits = "kPa"', "columns.SBP.units", "bad_mapping"),
        ('decimal = ","', 'decimal = ";"', "table.decimal", "bad_mapping"),
        ('delimiter = ";"', 'delimiter = ","', "table.decimal", "bad_mapping"),
        ('zone = "Europe/Berlin"', 'zone = "CET?"', "time.zone", "bad_mapping"),
        ('zone = "Europe/Berlin"', "", "time.zone", "bad_mapping"),
        ('zone = "Europe/Berlin"', 'zone = "offset"', "time.format", "bad_mapping"),
        ('admission = "first"', "", "time.admission", "bad_mapping"),
        ("confirmed = true", "confirmed = 1", "columns.Temp.confirmed", "bad_mapping"),
        ("[columns.SBP]", "[columns.sbp]", "columns.sbp", "bad_mapping"),
        ("[columns.SBP]", "[columns.ICULOS]", "columns.ICULOS", "bad_mapping"),
        ('medical = "MICU"', 'medical = "sicu"', "unit_type.surgical", "bad_mapping"),
        ('column = "bz"', 'column = "krea"', "columns.Glucose.column", "bad_mapping"),
        ("[table]", "[tables]\nx = 1\n[table]", "tables", "bad_mapping"),
        ("[columns.HR]", "[columns.HR", "mapping.toml", "bad_mapping"),
        ('male = ["M", 1]', 'male = ["?"]', "columns.Gender.male", "bad_mapping"),
    ],
)
def test_every_slip_is_refused_with_its_place(old: str, new: str, place: str, code: str) -> None:
    assert old in GOOD
    with pytest.raises(InputError) as caught:
        parse_mapping(GOOD.replace(old, new, 1).encode())
    assert caught.value.code == code
    assert place in str(caught.value)


def test_too_few_variables_are_refused() -> None:
    text = '[table]\n[time]\ncolumn = "h"\n[columns.HR]\ncolumn = "hr"\nunit = "beats/min"\n'
    with pytest.raises(InputError, match="at least 5"):
        parse_mapping(text.encode())


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        load_mapping(tmp_path / "no.toml")
    assert caught.value.code == "unreadable_file"


def test_a_column_named_urea_needs_its_substance() -> None:
    urea = '[columns.BUN]\ncolumn = "Harnstoff mg/dl"\nunit = "mg/dL"\n\n'
    text = GOOD.replace("[columns.HR]", f"{urea}[columns.HR]", 1)
    with pytest.raises(InputError, match=r"means urea, whose mass is 2\.14 times") as caught:
        parse_mapping(text.encode())
    assert caught.value.code == "bad_mapping"
    for substance, factor in (("urea", 28.014 / 60.056), ("nitrogen", 1.0)):
        stated = text.replace('unit = "mg/dL"', f'unit = "mg/dL"\nsubstance = "{substance}"', 1)
        found = parse_mapping(stated.encode()).columns["BUN"].conversion
        assert found.factor == pytest.approx(factor, rel=1e-4)
    moles = parse_mapping(text.replace("mg/dL", "mmol/L").encode())
    assert moles.columns["BUN"].conversion.factor == pytest.approx(2.8014)
