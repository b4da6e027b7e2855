"""Units and plausible values of hourly rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ibt_deploy.preprocess.stay import clean
from ibt_deploy.vocabulary import INDEX, VARIABLES


def rows(**columns: float) -> np.ndarray:
    values = np.full((1, 40), np.nan)
    for name, value in columns.items():
        values[0, INDEX[name]] = value
    return values


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (0.4, 0.4),
        (40.0, 0.4),
        (100.0, 1.0),
        (1.0, 1.0),
        (21.0, 0.21),
        (0.2, 0.21),
        (20.5, 0.21),
        (0.19, np.nan),
        (-50.0, np.nan),
        (4000.0, np.nan),
        (1.5, np.nan),
    ],
)
def test_fio2_becomes_a_fraction(found: float, expected: float) -> None:
    cleaned, counts = clean(rows(FiO2=found))
    np.testing.assert_equal(cleaned[0, INDEX["FiO2"]], np.float32(expected))
    assert counts.rescaled == int(1 < found <= 100)
    assert counts.out_of_range[INDEX["FiO2"]] == int(np.isnan(expected))


@pytest.mark.parametrize("variable", VARIABLES, ids=lambda v: v.name)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bounds_are_inside_and_what_lies_beyond_is_dropped_and_counted(variable, dtype) -> None:
    column = INDEX[variable.name]
    width = variable.plausible_max - variable.plausible_min
    for value in (variable.plausible_min, variable.plausible_max):
        cleaned, counts = clean(rows(**{variable.name: value}).astype(dtype))
        assert cleaned[0, column] == np.float32(value)
        assert counts.out_of_range.sum() == 0
    low, high = variable.plausible_min - 0.2 * width, variable.plausible_max + 200 * width
    for value in (low, high, 1e300 if dtype is np.float64 else 1e30):
        cleaned, counts = clean(rows(**{variable.name: value}).astype(dtype))
        assert np.isnan(cleaned[0, column])
        assert counts.out_of_range[column] == 1


@pytest.mark.parametrize(("name", "value"), [("Gender", 0.5), ("Unit1", 2.0), ("ICULOS", 3.5)])
def test_flags_and_hours_must_be_whole(name: str, value: float) -> None:
    cleaned, counts = clean(rows(**{name: value}))
    assert np.isnan(cleaned[0, INDEX[name]])
    assert counts.out_of_range[INDEX[name]] == 1


def test_share_counts_vital_signs_and_labs_that_were_there() -> None:
    _, counts = clean(rows(HR=80, Temp=98.6, Lactate=2, pH=7.4, Age=60, Gender=1, ICULOS=1))
    assert counts.out_of_range_share == 0.25
    assert clean(rows(Age=60))[1].out_of_range_share == 0.0


def test_input_is_left_alone_and_wrong_width_is_refused() -> None:
    values = rows(FiO2=40)
    clean(values)
    assert values[0, INDEX["FiO2"]] == 40
    with pytest.raises(ValueError, match="40 variables"):
        clean(values[:, :39])


@given(st.lists(st.one_of(st.floats(width=32), st.floats(0, 120, width=32)), min_size=40, max_size=40))
def test_cleaning_twice_changes_nothing(values: list[float]) -> None:
    once, _ = clean(np.array([values]))
    twice, counts = clean(once)
    np.testing.assert_array_equal(once, twice)
    assert counts.rescaled == 0
    assert counts.out_of_range.sum() == 0
