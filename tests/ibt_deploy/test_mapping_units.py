"""Conversions against published values, and laws that any conversion obeys."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ibt_deploy.errors import BadUnits
from ibt_deploy.mapping.units import CANONICAL, conversion, mass_of, molar_mass
from ibt_deploy.vocabulary import INDEX, OTHER_UNITS, VARIABLES

# Factors from conventional to SI units in the table "Selected laboratory tests" of the AMA Manual of Style.
AMA = [
    ("Glucose", "mmol/L", 0.0555),
    ("Creatinine", "umol/L", 88.4),
    ("Bilirubin_total", "umol/L", 17.104),
    ("Bilirubin_direct", "umol/L", 17.104),
    ("BUN", "mmol/L", 0.357),
    ("Calcium", "mmol/L", 0.25),
    ("Magnesium", "mmol/L", 0.4114),
    ("Phosphate", "mmol/L", 0.323),
    ("Hgb", "g/L", 10.0),
    ("Hgb", "mmol/L", 0.6206),
    ("Hct", "fraction", 0.01),
    ("Fibrinogen", "umol/L", 0.0294),
    ("Fibrinogen", "g/L", 0.01),
    ("AST", "ukat/L", 0.0167),
    ("Alkalinephos", "ukat/L", 0.0167),
    ("Lactate", "mg/dL", 9.01),
    ("PaCO2", "kPa", 0.133),
    ("TroponinI", "ug/L", 1.0),
    ("TroponinI", "ng/L", 1000.0),
    ("WBC", "10^9/L", 1.0),
    ("Platelets", "10*9/L", 1.0),
    ("Potassium", "mEq/L", 1.0),
    ("Calcium", "mEq/L", 0.5),
    ("Magnesium", "mEq/L", 0.8229),
]

# Standard atomic weights of 2021, https://www.ciaaw.org/atomic-weights.htm (looked up in November 2026):
# intervals as published, or the value and its uncertainty.
CIAAW_2021 = {
    "H": (1.00784, 1.00811),
    "C": (12.0096, 12.0116),
    "N": (14.00643, 14.00728),
    "O": (15.99903, 15.99977),
    "Mg": (24.304, 24.307),
    "P": (30.973761993, 30.973762003),
    "Ca": (40.074, 40.082),
}

# Atoms of a molecule that count in the mass that laboratories report: for urea its two nitrogens (BUN), for
# phosphate its phosphorus.
MOLECULES = {
    "Glucose": {"C": 6, "H": 12, "O": 6},
    "Creatinine": {"C": 4, "H": 7, "N": 3, "O": 1},
    "Bilirubin_total": {"C": 33, "H": 36, "N": 4, "O": 6},
    "Bilirubin_direct": {"C": 33, "H": 36, "N": 4, "O": 6},
    "Lactate": {"C": 3, "H": 6, "O": 3},
    "BUN": {"N": 2},
    "Calcium": {"Ca": 1},
    "Magnesium": {"Mg": 1},
    "Phosphate": {"P": 1},
}

# Published factors from a unit of mass, with the digits that are printed (looked up in November 2026).
# Calcium, creatinine, bilirubin: http://w3.csmu.edu.tw/~chr/Int_unit_conversion.htm
# Glucose, lactate, magnesium, phosphorus: http://www.elephantcare.org/convers.htm
# Urea nitrogen: https://quickmedcalc.com/calculators/unit-converter,
# after Young, Ann. Intern. Med. 106 (1987)
# Haemoglobin (a mole is one of its four chains): https://medicalalgorithms.com/hemoglobin-unit-conversion,
# after Kratz et al., N. Engl. J. Med. 351 (2004)
PRINTED = [
    ("Calcium", "mg/dL", "mmol/L", "0.2495"),
    ("Creatinine", "mg/dL", "umol/L", "88.4"),
    ("Bilirubin_total", "mg/dL", "umol/L", "17.1"),
    ("Glucose", "mg/dL", "mmol/L", "0.05551"),
    ("Lactate", "mg/dL", "mmol/L", "0.111"),
    ("Magnesium", "mg/dL", "mmol/L", "0.4114"),
    ("Phosphate", "mg/dL", "mmol/L", "0.3229"),
    ("BUN", "mg/dL", "mmol/L", "0.357"),
    ("Hgb", "g/dL", "mmol/L", "0.6206"),
]

SPELLINGS = [
    ("Temp", "°C", "degC"),
    ("Temp", "Fahrenheit", "degF"),
    ("Glucose", "mmol/l", "mmol/L"),
    ("Creatinine", "µmol/l", "umol/L"),
    ("WBC", "G/l", "10^9/L"),
    ("WBC", "Tsd/µl", "10^3/uL"),
    ("WBC", "x10³/µL".replace("³", "^3"), "10^3/uL"),
    ("Platelets", "K/uL", "10^3/uL"),
    ("AST", "U/l", "IU/L"),
    ("SBP", "mm Hg", "mmHg"),
    ("HR", "bpm", "beats/min"),
    ("FiO2", "percent", "%"),
    ("PTT", "sec", "s"),
]

UNITS = [(name, unit) for name, units in OTHER_UNITS.items() for unit in units]


@pytest.mark.parametrize(("variable", "unit", "factor"), AMA)
def test_factors_are_those_of_the_published_table(variable: str, unit: str, factor: float) -> None:
    assert conversion(variable, unit).given(1.0) == pytest.approx(factor, rel=0.006)


@pytest.mark.parametrize(("fahrenheit", "celsius"), [(32, 0), (98.6, 37), (104, 40), (212, 100)])
def test_fahrenheit(fahrenheit: float, celsius: float) -> None:
    assert conversion("Temp", "degF").value(fahrenheit) == pytest.approx(celsius, abs=1e-9)


@pytest.mark.parametrize("variable", MOLECULES)
def test_molar_masses_follow_from_the_standard_atomic_weights(variable: str) -> None:
    low, high = (
        sum(CIAAW_2021[element][end] * n for element, n in MOLECULES[variable].items()) for end in (0, 1)
    )
    assert low - 0.0005 <= (molar_mass(variable) or 0) <= high + 0.0005


@pytest.mark.parametrize(("variable", "mass", "amount", "printed"), PRINTED)
def test_factors_round_to_the_digits_that_tables_print(
    variable: str, mass: str, amount: str, printed: str
) -> None:
    found = conversion(variable, mass).factor / conversion(variable, amount).factor
    digits = len(printed.partition(".")[2])
    assert abs(found - float(printed)) <= 0.51 * 10**-digits


def test_molar_masses_are_those_of_the_handbooks() -> None:
    # CRC Handbook of Chemistry and Physics
    assert mass_of("C6H12O6") == pytest.approx(180.155, abs=0.01)
    assert mass_of("C4H7N3O") == pytest.approx(113.119, abs=0.01)
    assert mass_of("C33H36N4O6") == pytest.approx(584.662, abs=0.02)
    assert mass_of("C3H6O3") == pytest.approx(90.078, abs=0.01)
    assert mass_of("CH4N2O") == pytest.approx(60.055, abs=0.01)
    assert molar_mass("HR") is None


def test_urea_is_not_its_nitrogen() -> None:
    assert conversion("BUN", "mg/dL", "urea").given(1.0) == pytest.approx(2.14, abs=0.01)
    assert conversion("BUN", "mmol/L", "urea").factor == conversion("BUN", "mmol/L").factor


@pytest.mark.parametrize(("variable", "spelling", "usual"), SPELLINGS)
def test_spellings(variable: str, spelling: str, usual: str) -> None:
    assert conversion(variable, spelling).factor == conversion(variable, usual).factor
    assert conversion(variable, spelling).offset == conversion(variable, usual).offset


@pytest.mark.parametrize("variable", [v.name for v in VARIABLES])
def test_a_variable_in_its_own_unit_passes_bit_for_bit(variable: str) -> None:
    assert conversion(variable, CANONICAL[variable]).changes_nothing


@pytest.mark.parametrize(
    ("variable", "unit"),
    [
        ("Temp", "K"),
        ("Glucose", "kPa"),
        ("Phosphate", "mEq/L"),
        ("pH", "nmol/L"),
        ("WBC", "mg/dL"),
        ("Glucose", "mg/dL*3"),
        ("Glucose", ""),
        ("Glucose", "__import__"),
        ("FiO2", "L/min"),
        ("Gender", "M"),
        ("nothing", "mg/dL"),
        ("SBP", "1e9999 mmHg"),
    ],
)
def test_other_units_are_refused(variable: str, unit: str) -> None:
    with pytest.raises(BadUnits) as caught:
        conversion(variable, unit)
    assert caught.value.code == "unknown_unit"


@given(st.text(max_size=30))
def test_no_text_breaks_the_parser(text: str) -> None:
    try:
        found = conversion("Glucose", text)
    except BadUnits:
        return
    assert np.isfinite(found.factor)


@given(st.sampled_from(UNITS), st.floats(0, 1, allow_nan=False))
def test_there_and_back_again_is_the_same_float32(pair: tuple[str, str], share: float) -> None:
    variable = VARIABLES[INDEX[pair[0]]]
    span = variable.plausible_max - variable.plausible_min
    value = np.float32(variable.plausible_min + share * span)
    found = conversion(*pair)
    assert np.float32(found.value(found.given(float(value)))) == value
