"""The table of codes, and the meaning of event units."""

from __future__ import annotations

import pytest

from ibt_deploy.files import read_table
from ibt_deploy.mapping.units import conversion
from ibt_deploy.standards.events import LOINC, Meaning, codes, meaning
from ibt_deploy.vocabulary import N_TIME_VARYING, NAMES

pytest.importorskip("pint")
HOUSE = {"Cel": "degC", "[degF]": "degF", "[IU]/L": "IU/L", "a": "years", "meq/L": "mEq/L"}


def check_digit(body: str) -> int:
    """The Mod 10 check digit of a LOINC code (LOINC Users' Guide, appendix C)."""
    doubled = [int(d) * (2 if place % 2 == 0 else 1) for place, d in enumerate(reversed(body))]
    return -sum(d - 9 if d > 9 else d for d in doubled) % 10


def test_every_loinc_code_has_its_check_digit() -> None:
    for _, code in (key for key in codes() if key[0] == LOINC):
        body, digit = code.split("-")
        assert int(digit) == check_digit(body), code


def test_every_row_has_a_source_and_no_code_is_there_twice() -> None:
    rows = read_table("ehr_codes.csv")
    assert all(row["source"] and row["name"] for row in rows)
    assert len(codes()) == len(rows)


def test_every_measured_variable_has_a_loinc_code() -> None:
    assert {row.variable for row in codes().values() if row.system == LOINC} >= set(NAMES[:N_TIME_VARYING])


def test_factors_are_those_of_the_house() -> None:
    for row in codes().values():
        if row.ucum in ("/min", "[pH]"):
            assert (row.factor, row.offset) == (1.0, 0.0)
            continue
        found = conversion(row.variable, HOUSE.get(row.ucum, row.ucum), row.substance or None)
        assert (row.factor, row.offset) == (found.factor, found.offset), row


@pytest.mark.parametrize(
    ("code", "unit", "given", "expected"),
    [
        ("2160-0", "umol/L", 88.42, 1.0),  # AMA Manual of Style: 88.4
        ("14682-9", "mg/dL", 1.2, 1.2),
        ("2345-7", "mmol/L", 5.551, 100.0),
        ("22664-7", "mmol/L", 10.0, 28.01),
        ("3091-6", "mg/dL", 21.44, 10.0),  # BUN = urea / 2.144
        ("8310-5", "[degF]", 98.6, 37.0),
        ("8310-5", "Cel", 37.2, 37.2),
        ("2019-8", "kPa", 5.333, 40.0),
        ("6690-2", "10*9/L", 11.5, 11.5),
        ("777-3", "/uL", 250_000.0, 250.0),
        ("89579-7", "ng/L", 40.0, 0.04),
        ("718-7", "g/L", 90.0, 9.0),
        ("3150-0", "%", 40.0, 0.4),
        ("3150-0", "1", 0.4, 0.4),
        ("2744-1", "{pH}", 7.31, 7.31),
        ("8867-4", "{beats}/min", 92.0, 92.0),
        ("8867-4", None, 92.0, 92.0),
        ("2823-3", "meq/L", 4.1, 4.1),
        ("1920-8", "[IU]/L", 35.0, 35.0),
        ("30525-0", "mo", 240.0, 20.0),
    ],
)
def test_values_in_ucum_units(code: str, unit: str | None, given: float, expected: float) -> None:
    found = meaning(LOINC, code, unit)
    assert isinstance(found, Meaning)
    assert given * found.factor + found.offset == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    ("code", "unit", "reason"),
    [
        ("9999-9", "mg/dL", "unknown_code"),
        ("2160-0", None, "no_unit"),
        ("2160-0", "UNK", "no_unit"),
        ("2160-0", "mm[Hg]", "unknown_unit"),
        ("2160-0", "furlong", "unknown_unit"),
        ("2744-1", "mmol/L", "unknown_unit"),
    ],
)
def test_what_is_not_understood_is_not_used(code: str, unit: str | None, reason: str) -> None:
    assert meaning(LOINC, code, unit) == reason
