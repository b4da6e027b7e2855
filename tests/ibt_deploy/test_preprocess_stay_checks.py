"""Refusals and warnings of a stay."""

from __future__ import annotations

import numpy as np
import pytest

from ibt_deploy.errors import BadRows, InputError, TooLong, TooShort
from ibt_deploy.preprocess.stay_checks import checked_stay
from ibt_deploy.records import Stay
from ibt_deploy.vocabulary import INDEX


def values(hours: int = 10) -> np.ndarray:
    """A stay without anything to warn about."""
    rows = np.full((hours, 40), np.nan)
    for name, value in {
        "HR": 80, "O2Sat": 97, "Temp": 37, "SBP": 120, "MAP": 80, "DBP": 60, "Resp": 16,
        "Lactate": 1.5, "FiO2": 0.4, "Age": 60, "Gender": 0, "HospAdmTime": -3,
    }.items():  # fmt: skip
        rows[:, INDEX[name]] = value
    rows[:, INDEX["ICULOS"]] = np.arange(1, hours + 1)
    return rows


def stay(rows: np.ndarray, **fields: object) -> Stay:
    return Stay(values=rows, patient_id="p1", source="folder/p1.psv", format="PSV", **fields)  # type: ignore[arg-type]


def notices(rows: np.ndarray, **fields: object) -> dict[str, str]:
    return {notice.code: notice.message for notice in checked_stay(stay(rows, **fields))[1]}


def test_an_ordinary_stay_has_no_notice_and_is_not_changed() -> None:
    rows = values()
    cleaned, found = checked_stay(stay(rows))
    assert found == ()
    np.testing.assert_array_equal(cleaned, rows.astype(np.float32))


def test_single_row() -> None:
    assert notices(values(1)) == {"single_row": "Only one hour: the risk cannot reflect a trend."}


def test_inserted_hours() -> None:
    inserted = np.zeros(10, dtype=bool)
    inserted[4] = True
    assert notices(values(), inserted=inserted) == {
        "hours_inserted": "1 missing hour was inserted as rows without measurements."
    }


def test_dropped_and_rescaled_values_are_counted_by_variable() -> None:
    rows = values()
    rows[:3, INDEX["Temp"]] = 98.6
    rows[0, INDEX["HR"]] = 999
    rows[0, INDEX["Age"]] = 130
    rows[:2, INDEX["FiO2"]] = 40
    assert notices(rows) == {
        "values_out_of_range": "Implausible values were dropped: HR 1, Temp 3, Age 1.",
        "fio2_rescaled": "FiO2 was percent in 2 rows and was divided by 100.",
    }


def test_a_variable_that_is_mostly_implausible_states_what_was_expected() -> None:
    rows = values()
    rows[:, INDEX["Temp"]] = 50
    assert notices(rows)["values_out_of_range"] == (
        "Implausible values were dropped: Temp 10 of 10 (expected 25 to 45 degC)."
    )


def test_what_was_never_measured() -> None:
    rows = values()
    rows[:, [INDEX["Temp"], INDEX["Lactate"], INDEX["FiO2"]]] = np.nan
    assert notices(rows) == {
        "vitals_never_measured": "Never measured: Temp.",
        "labs_never_measured": "No lab was ever measured.",
    }
    rows[:, :34] = np.nan
    assert list(notices(rows)) == ["nothing_measured"]


@pytest.mark.parametrize(("gap", "warned"), [(24, False), (25, True)])
@pytest.mark.parametrize("at_the_end", [False, True])
def test_long_forward_fill(gap: int, warned: bool, at_the_end: bool) -> None:
    rows = values(40)
    last = 39 - gap if at_the_end else 5
    rows[last + 1 : last + 1 + gap, INDEX["Temp"]] = np.nan
    message = "Old values were carried forward, at most: Temp 25 h."
    assert notices(rows) == ({"long_forward_fill": message} if warned else {})


def test_late_first_measurement_is_no_forward_fill() -> None:
    rows = values(60)
    rows[:50, INDEX["Temp"]] = np.nan
    assert notices(rows) == {}


def test_demographics() -> None:
    rows = values()
    rows[:, [INDEX["Age"], INDEX["HospAdmTime"]]] = np.nan
    rows[3, INDEX["Age"]] = 50
    rows[:, [INDEX["Unit1"], INDEX["Unit2"]]] = 1
    assert notices(rows) == {
        "demographics_missing": "Not given: HospAdmTime (the training median is used).",
        "unit_contradiction": "Unit1 and Unit2 are both 1: the unit counts as unknown.",
    }


def test_more_than_a_fifth_out_of_range_is_refused() -> None:
    rows = values()
    rows[:, INDEX["Temp"]] = 50
    rows[:8, INDEX["SBP"]] = 400
    assert "values_out_of_range" in notices(rows)
    rows[:, INDEX["SBP"]] = 400
    rows[:, INDEX["DBP"]] = 300
    with pytest.raises(BadRows) as caught:
        checked_stay(stay(rows))
    assert caught.value.code == "out_of_range"
    assert str(caught.value) == (
        "folder/p1.psv: 33% of the vital signs and labs are implausible, above all Temp"
        " (expected 25 to 45 degC): wrong unit or column?"
    )


@pytest.mark.parametrize(
    ("hours", "error", "code"),
    [
        ([], TooShort, "no_rows"),
        (list(range(1, 338)), TooLong, "too_long"),
        ([1, 2, 3.5], BadRows, "bad_hour"),
        ([335, 336, 337], BadRows, "bad_hour"),
        ([1, np.nan, 3], BadRows, "bad_hour"),
        ([1, 2, 4], BadRows, "hours_out_of_order"),
        ([1, 2, 2], BadRows, "hours_out_of_order"),
        ([1, 3, 2], BadRows, "hours_out_of_order"),
    ],
)
def test_hours_that_no_reader_would_let_through(hours, error: type[InputError], code: str) -> None:
    rows = values(len(hours))
    rows[:, INDEX["ICULOS"]] = hours
    with pytest.raises(error) as caught:
        checked_stay(stay(rows))
    assert caught.value.code == code


def test_a_stay_from_a_table_of_many_is_named() -> None:
    table = Stay(values=values(0), patient_id="17", source="export.csv", format="CSV")
    with pytest.raises(TooShort, match=r"^export\.csv, patient 17: the stay has no row$"):
        checked_stay(table)
