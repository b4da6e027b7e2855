"""Columns that look like another unit."""

from __future__ import annotations

import pytest

from ibt_deploy.mapping.doubts import ColumnFacts, doubt_about
from ibt_deploy.mapping.units import conversion


def facts(variable: str, unit: str, median: float, **others: object) -> ColumnFacts:
    known = conversion(variable, unit)
    value = known.value(median)
    given: dict[str, object] = {
        "is_confirmed": False,
        "values": 1000,
        "out_of_range": 0,
        "quantiles": (value * 0.9, value * 0.95, value, value * 1.05, value * 1.1),
        "explained": {},
    } | others
    return ColumnFacts(variable, unit, known.factor, known.offset, **given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("variable", "unit", "median", "looks_like"),
    [
        ("Temp", "degC", 98.4, "degF"),
        ("Temp", "degF", 37.0, "degC"),
        ("Glucose", "mg/dL", 6.5, "mmol/L"),
        ("Glucose", "mmol/L", 120, "mg/dL"),
        ("FiO2", "fraction", 40, "%"),
        ("Creatinine", "mg/dL", 80, "umol/L"),
        ("Bilirubin_total", "mg/dL", 14, "umol/L"),
        ("BUN", "mg/dL", 6.4, "mmol/L"),
        ("BUN", "mg/dL", 38, "mg/dL of urea"),
        ("Hgb", "g/dL", 104, "g/L"),
        ("Hgb", "g/dL", 6.4, "mmol/L"),
        ("PaCO2", "mmHg", 5.3, "kPa"),
        ("SaO2", "%", 0.97, "fraction"),
        ("Calcium", "mg/dL", 2.1, "mmol/L"),
        ("Lactate", "mmol/L", 17, "mg/dL"),
        ("TroponinI", "ng/mL", 300, "ng/L"),
        ("Fibrinogen", "mg/dL", 2.6, "g/L"),
        ("WBC", "10^3/uL", 10_400, "cells/uL"),
        ("Hct", "%", 0.31, "fraction"),
    ],
)
def test_a_median_betrays_the_unit(variable: str, unit: str, median: float, looks_like: str) -> None:
    doubt = doubt_about(facts(variable, unit, median), 100)
    assert doubt is not None
    assert doubt.rule == "median"
    assert looks_like in doubt.message
    assert doubt_about(facts(variable, unit, median, is_confirmed=True), 100) is None


def test_the_tail_of_admission_times_betrays_days() -> None:
    # quantiles of hospital A of the Challenge 2019, in days
    quantiles = tuple(hours / 24 for hours in (-256.1, -37.87, -2.51, -0.02, -0.01))
    doubt = doubt_about(facts("HospAdmTime", "hours", -0.1, quantiles=quantiles), 100)
    assert doubt is not None
    assert (doubt.rule, doubt.is_evident) == ("tail", False)
    assert "it looks like days (-256.1 hours)" in doubt.message
    assert doubt_about(facts("HospAdmTime", "hours", -0.1, quantiles=quantiles), 19) is None
    whole = (-256.1, -37.87, -2.51, -0.02, -0.01)
    assert doubt_about(facts("HospAdmTime", "hours", -2.51, quantiles=whole), 100) is None


@pytest.mark.parametrize(
    ("variable", "unit", "median", "impossible", "evident"),
    [
        ("Temp", "degC", 98.4, 1000, True),
        ("Temp", "degC", 98.4, 900, False),  # two units in the sample
        ("Hgb", "g/dL", 6.4, 0, False),  # anaemia is possible
        ("FiO2", "fraction", 40, 950, True),
    ],
)
def test_what_is_evident_from_some_rows(
    variable: str, unit: str, median: float, impossible: int, evident: bool
) -> None:
    doubt = doubt_about(facts(variable, unit, median, out_of_range=impossible), 100)
    assert doubt is not None
    assert doubt.is_evident == evident


def test_what_another_unit_does_not_explain_is_not_evident() -> None:
    quantiles = (3.0, 90.0, 98.4, 99.0, 100.0)
    doubt = doubt_about(facts("Temp", "degC", 98.4, out_of_range=1000, quantiles=quantiles), 100)
    assert doubt is not None
    assert (doubt.rule, doubt.is_evident) == ("median", False)


@pytest.mark.parametrize(
    ("variable", "unit", "median"), [("Temp", "degC", 36.9), ("HR", "bpm", 70), ("Hgb", "g/dL", 8)]
)
def test_sick_patients_are_no_doubt(variable: str, unit: str, median: float) -> None:
    assert doubt_about(facts(variable, unit, median), 100) is None


def test_two_units_in_one_column() -> None:
    doubt = doubt_about(facts("Temp", "degC", 37, out_of_range=100, explained={"degF": 95}), 100)
    assert doubt is not None
    assert doubt.rule == "part"


def test_the_wrong_column() -> None:
    doubt = doubt_about(facts("pH", "pH units", 300, out_of_range=1000), 100)
    assert doubt is not None
    assert doubt.rule == "impossible"


def test_one_odd_patient_is_no_export() -> None:
    assert doubt_about(facts("Hgb", "g/dL", 6.4, values=30), 1) is None
    assert doubt_about(facts("Temp", "degC", 98.4, values=30, out_of_range=30), 1) is not None
