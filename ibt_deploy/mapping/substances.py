"""Molar masses, so that a lab's mmol/L and mg/dL are the same amount of the same substance.

Atomic weights are the abridged standard values of IUPAC (Prohaska et al., Pure Appl. Chem. 94, 573-600,
2022); molar masses follow from the formulas. Where a lab reports a part of the molecule, that part counts:
urea as its nitrogen (BUN), inorganic phosphate as phosphorus. Two proteins have conventional values: a
quarter of the haemoglobin tetramer, 16,114.5 g/mol (ICSH, J. Clin. Pathol. 49, 271-274, 1996), and
fibrinogen, 340 kg/mol (the factor 0.0294 from mg/dL to umol/L in the AMA Manual of Style).
"""

from __future__ import annotations

import re

ATOMIC_WEIGHTS = {
    "H": 1.008,
    "C": 12.011,
    "N": 14.007,
    "O": 15.999,
    "Mg": 24.305,
    "P": 30.974,
    "Ca": 40.078,
}
FORMULAS = {
    "BUN": "N2",
    "Calcium": "Ca",
    "Creatinine": "C4H7N3O",
    "Bilirubin_direct": "C33H36N4O6",
    "Bilirubin_total": "C33H36N4O6",
    "Glucose": "C6H12O6",
    "Lactate": "C3H6O3",
    "Magnesium": "Mg",
    "Phosphate": "P",
}
"""What one mole of the substance weighs in the mass that is reported; for BUN the two nitrogens of urea."""

PROTEINS = {"Hgb": 16_114.5, "Fibrinogen": 340_000.0}
UREA = "CH4N2O"

CHARGES = {"BaseExcess": 1, "HCO3": 1, "Chloride": 1, "Potassium": 1, "Calcium": 2, "Magnesium": 2}
"""Equivalents in a mole; a lab's mEq/L of anything else is ambiguous."""


def molar_mass(variable: str) -> float | None:
    """Grams in a mole of what ``variable`` measures; None where no such conversion makes sense."""
    if variable in PROTEINS:
        return PROTEINS[variable]
    return mass_of(FORMULAS[variable]) if variable in FORMULAS else None


def mass_of(formula: str) -> float:
    """Molar mass in g/mol of a formula such as ``C6H12O6``."""
    return sum(
        ATOMIC_WEIGHTS[element] * int(count or 1)
        for element, count in re.findall(r"([A-Z][a-z]?)(\d*)", formula)
    )
