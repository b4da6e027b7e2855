"""Faults planted in a stay are refused or warned about by every interface; normal stays pass."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from helpers.bundles import ORDINARY

from ibt_deploy import load
from ibt_deploy.errors import BadRows, BadUnits, InputError
from ibt_deploy.mapping.units import conversion
from ibt_deploy.preprocess.stay_checks import (
    UNIT_RULES,
    checked_stay,
    lab_relations,
    unit_likelihoods,
)
from ibt_deploy.records import Stay
from ibt_deploy.vocabulary import INDEX, VARIABLES

HOURS = 12


def ordinary() -> np.ndarray:
    """A stay whose values move a little about the median patient's."""
    rows = np.full((HOURS, 40), np.nan)
    wave = 1 + 0.03 * np.sin(np.arange(HOURS))
    for name, value in ORDINARY.items():
        steady = name in ("Age", "Gender", "HospAdmTime", "FiO2", "Temp", "O2Sat", "SaO2", "pH")
        rows[:, INDEX[name]] = value if steady else value * wave
    rows[:, INDEX["ICULOS"]] = np.arange(1, HOURS + 1)
    return rows


def found(rows: np.ndarray, **fields: object) -> tuple[str, ...]:
    """Codes of the warnings, or that of the refusal with 'refused' before it."""
    try:
        notices = checked_stay(Stay(rows, "p1", "p1.psv", "PSV", **fields))[1]  # type: ignore[arg-type]
    except InputError as error:
        return ("refused", error.code)
    return tuple(notice.code for notice in notices)


def test_an_ordinary_stay_passes_without_a_word() -> None:
    assert found(ordinary()) == ()


@pytest.mark.parametrize(
    ("variable", "unit", "outcome"),
    [
        ("Glucose", "mmol/L", ("refused", "doubtful_unit")),
        ("Creatinine", "umol/L", ("refused", "doubtful_unit")),
        ("SBP", "kPa", ("refused", "doubtful_unit")),
        ("MAP", "kPa", ("refused", "doubtful_unit")),
        ("DBP", "kPa", ("refused", "doubtful_unit")),
        ("PaCO2", "kPa", ("refused", "doubtful_unit")),
        ("Temp", "degF", ("refused", "doubtful_unit")),
        ("O2Sat", "fraction", ("refused", "doubtful_unit")),
        ("Hgb", "g/L", ("refused", "doubtful_unit")),
        ("Hct", "fraction", ("refused", "doubtful_unit")),
        ("WBC", "cells/uL", ("refused", "doubtful_unit")),
        ("Platelets", "cells/uL", ("refused", "doubtful_unit")),
        ("Fibrinogen", "g/L", ("refused", "doubtful_unit")),
        ("AST", "ukat/L", ("refused", "doubtful_unit")),
        ("Age", "months", ("refused", "doubtful_unit")),
        ("Calcium", "mmol/L", ("doubtful_unit",)),
        ("Magnesium", "mmol/L", ("doubtful_unit",)),
        ("Phosphate", "mmol/L", ("doubtful_unit",)),
        ("Lactate", "mg/dL", ("doubtful_unit",)),
        ("Hgb", "mmol/L", ("doubtful_unit",)),
        ("TroponinI", "ng/L", ("doubtful_unit",)),
    ],
)
def test_another_unit_is_seen_in_one_stay(variable: str, unit: str, outcome: tuple[str, ...]) -> None:
    known = conversion(variable, unit)
    rows = ordinary()
    rows[:, INDEX[variable]] = (rows[:, INDEX[variable]] - known.offset) / known.factor
    assert tuple(code for code in found(rows) if code != "values_out_of_range") == outcome


SHIFTED = [
    ("Creatinine", "umol/L"),
    ("Bilirubin_total", "umol/L"),
    ("Bilirubin_direct", "umol/L"),
    ("Glucose", "mmol/L"),
    ("Lactate", "mg/dL"),
    ("Magnesium", "mmol/L"),
    ("Hgb", "mmol/L"),
    ("PaCO2", "kPa"),
    ("AST", "ukat/L"),
    ("Alkalinephos", "ukat/L"),
    ("TroponinI", "ng/L"),
]


@pytest.mark.parametrize("hours", [slice(0, 5), slice(5, None), slice(0, None, 2)])
@pytest.mark.parametrize(("variable", "unit"), SHIFTED)
def test_a_unit_that_changes_within_a_stay_is_seen(variable: str, unit: str, hours: slice) -> None:
    known = conversion(variable, unit)
    rows = ordinary()
    rows[hours, INDEX[variable]] = (rows[hours, INDEX[variable]] - known.offset) / known.factor
    assert tuple(code for code in found(rows) if code != "values_out_of_range") == ("doubtful_unit",)
    assert "doubtful_unit" not in found(rows, confirmed=frozenset({variable}))


def test_urea_nitrogen_that_changes_to_and_fro_is_seen() -> None:
    rows = ordinary()
    rows[::2, INDEX["BUN"]] /= 2.801
    assert found(rows) == ("doubtful_unit",)


def test_a_change_of_unit_is_counted() -> None:
    rows = ordinary()
    rows[7:, INDEX["Lactate"]] *= 9.008
    notices = checked_stay(Stay(rows, "p1", "p1.psv", "PSV"))[1]
    assert "5 of 12 values look like mg/dL, not mmol/L" in notices[0].message


def test_urea_that_falls_with_creatinine_is_dialysis() -> None:
    rows = ordinary()
    rows[:, INDEX["BUN"]], rows[:, INDEX["Creatinine"]] = 84, 6.0
    rows[6:, INDEX["BUN"]], rows[6:, INDEX["Creatinine"]] = 30, 2.1
    assert found(rows) == ()


def test_the_likelihood_of_a_unit_is_that_of_the_joint_distribution() -> None:
    """Against the density of the normal distribution, evaluated once as given and once converted."""
    relations = lab_relations()
    rows = ordinary()
    rows[:, INDEX["BUN"]] = 7
    rows[:, [INDEX["Lactate"], INDEX["TroponinI"]]] = np.nan
    given = np.array([np.log(rows[:, INDEX[name]]).mean() for name in relations.variables])
    known = ~np.isnan(given)
    sigma = relations.covariance[np.ix_(known, known)]

    def density(values: np.ndarray) -> float:
        rest = (values - relations.mean)[known]
        return float(-rest @ np.linalg.solve(sigma, rest) / 2)

    judged = list(unit_likelihoods(rows, relations))
    assert {"Lactate", "TroponinI"}.isdisjoint(one.other.variable for one in judged)
    for one in judged:
        converted = given.copy()
        converted[relations.variables.index(one.other.variable)] -= one.other.shift
        assert one.whole == pytest.approx(density(converted) - density(given), abs=1e-6)


def test_the_message_says_which_values_and_what_to_do() -> None:
    rows = ordinary()
    rows[:, INDEX["Glucose"]] = np.linspace(6, 9, HOURS)
    with pytest.raises(BadUnits, match=r"Glucose 6 to 9 is not usual in mg/dL; it looks like mmol/L\. Conv"):
        checked_stay(Stay(rows, "p1", "p1.psv", "PSV"))


def test_a_confirmed_unit_is_not_doubted() -> None:
    rows = ordinary()
    rows[:, INDEX["Glucose"]] = 7
    assert found(rows, confirmed=frozenset({"Glucose"})) == ("values_out_of_range",)
    assert found(rows, confirmed=frozenset({"Lactate"})) == ("refused", "doubtful_unit")


def test_one_value_in_the_right_unit_answers_the_doubt() -> None:
    rows = ordinary()
    rows[:, INDEX["Glucose"]] = 20
    rows[3, INDEX["Glucose"]] = 127
    assert found(rows) == ()


def exchanged(first: str, second: str) -> Callable[[np.ndarray], None]:
    def fault(rows: np.ndarray) -> None:
        rows[:, [INDEX[first], INDEX[second]]] = rows[:, [INDEX[second], INDEX[first]]]

    return fault


def ageing(rows: np.ndarray) -> None:
    rows[:, INDEX["Age"]] = np.linspace(40, 79, HOURS)


def flipping(rows: np.ndarray) -> None:
    rows[:, INDEX["Gender"]] = np.arange(HOURS) % 2


@pytest.mark.parametrize(
    ("fault", "code"),
    [(ageing, "age_changes"), (flipping, "gender_changes"), (exchanged("SBP", "DBP"), "columns_swapped")],
)
def test_rows_of_several_patients_and_exchanged_pressures_are_refused(
    fault: Callable[[np.ndarray], None], code: str
) -> None:
    rows = ordinary()
    fault(rows)
    with pytest.raises(BadRows) as caught:
        checked_stay(Stay(rows, "p1", "p1.psv", "PSV"))
    assert caught.value.code == code


def test_a_birthday_is_no_other_patient() -> None:
    for before, after in ((63, 64), (89, 100)):
        rows = ordinary()
        rows[:5, INDEX["Age"]], rows[5:, INDEX["Age"]] = before, after
        assert found(rows) == ()
    rows = ordinary()
    rows[4, INDEX["Age"]] = 630
    assert found(rows) == ("values_out_of_range",)


def test_heart_rate_in_the_column_of_the_systolic_pressure_warns() -> None:
    rows = ordinary()
    rows[:, INDEX["HR"]] = 80 + 5 * np.cos(np.arange(HOURS))
    exchanged("HR", "SBP")(rows)
    assert found(rows) == ("columns_swapped",)
    shock = ordinary()
    shock[:, INDEX["HR"]] = 130
    shock[:, [INDEX["SBP"], INDEX["MAP"], INDEX["DBP"]]] = 92, 61, 45
    assert found(shock) == ()


def test_pressures_in_the_wrong_order_warn_by_their_share() -> None:
    rows = ordinary()
    rows[:2, INDEX["SBP"]] = 50
    assert found(rows) == ("pressures_contradict",)
    rows = ordinary()
    rows[:8, INDEX["MAP"]] = 50
    assert found(rows) == ("pressures_contradict",)
    rows = ordinary()
    rows[:1, INDEX["SBP"]] = 50  # 1 of 12 hours: a monitor glitch
    assert found(rows) == ()


def test_hospital_admission_after_that_to_the_unit_warns() -> None:
    rows = ordinary()
    rows[:, INDEX["HospAdmTime"]] = 6
    assert found(rows) == ("doubtful_unit",)


@pytest.mark.parametrize("rule", UNIT_RULES, ids=lambda rule: f"{rule.variable}-{rule.units}")
def test_what_a_rule_catches_is_plausible_in_the_unit_that_it_names(rule: object) -> None:
    assert rule in UNIT_RULES
    variable, lowest, highest, units, _ = UNIT_RULES[UNIT_RULES.index(rule)]  # type: ignore[arg-type]
    known = VARIABLES[INDEX[variable]]
    middle = float(np.sqrt(max(lowest, highest / 10) * highest))
    read = [conversion(variable, unit) for unit in units.replace("a fraction", "fraction").split(" or ")]
    assert any(known.plausible_min <= one.value(middle) <= known.plausible_max for one in read)


def test_the_predictor_applies_the_same_rules() -> None:
    rows = ordinary()
    rows[:, INDEX["Lactate"]] = 18
    predictor = load("sepsis")
    answer = predictor.predict(Stay(rows, "p1", "p1.psv", "PSV"))
    assert [warning.code for warning in answer.warnings] == ["doubtful_unit"]  # type: ignore[union-attr]
    rows[:, INDEX["Glucose"]] = 12.1
    with pytest.raises(BadUnits):
        predictor.predict(Stay(rows, "p1", "p1.psv", "PSV"))
