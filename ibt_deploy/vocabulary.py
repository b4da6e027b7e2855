"""Names of the models' inputs and outputs: 12 leads, 40 variables of a stay, 26 classes."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ibt_deploy.files import read_table
from ibt_deploy.types import Bools

LEADS: tuple[str, ...] = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
LIMB_LEADS: tuple[str, ...] = LEADS[:6]
CHEST_LEADS: tuple[str, ...] = LEADS[6:]

DERIVED: dict[str, tuple[float, float]] = {
    "III": (-1.0, 1.0),
    "aVR": (-0.5, -0.5),
    "aVL": (1.0, -0.5),
    "aVF": (-0.5, 1.0),
}
"""Weights of leads I and II in the limb leads derived from them (Einthoven, Goldberger)."""

LEAD_NUMBERS: dict[int, str] = {
    1: "I", 2: "II", 3: "V1", 4: "V2", 5: "V3", 6: "V4", 7: "V5", 8: "V6", 9: "V7",
    10: "V2R", 11: "V3R", 12: "V4R", 13: "V5R", 14: "V6R", 15: "V7R", 16: "X", 17: "Y", 18: "Z",
    61: "III", 62: "aVR", 63: "aVL", 64: "aVF", 65: "-aVR", 66: "V8", 67: "V9", 68: "V8R", 69: "V9R",
}  # fmt: skip
"""Leads by their number in SCP-ECG (EN 1064, 5.6.3, table 4), also used by DICOM and ISO 11073."""

_PREFIX = re.compile(r"^(?:MDC_ECG_LEAD_|(?:ECG[ _]?)?LEAD[ _]?|ECG[ _])")
_ALIASES: dict[str, str] = {lead.upper(): lead for lead in LEADS}
_ALIASES |= {"DI": "I", "DII": "II", "DIII": "III", "D1": "I", "D2": "II", "D3": "III"}
_ALIASES |= {f"C{i}": f"V{i}" for i in range(1, 7)}


def canonical_lead(name: str) -> str | None:
    """The standard lead that ``name`` stands for, or None.

    Case is ignored. Accepted besides the plain names: a prefix ``Lead``, ``ECG`` or
    ``MDC_ECG_LEAD_``, ``DI`` or ``D1`` for I, ``C1`` for V1. Inverted (``-aVR``) and modified (``MLII``)
    leads are different leads, hence None.
    """
    return _ALIASES.get(_PREFIX.sub("", name.strip().upper()))


@dataclass(frozen=True)
class Variable:
    """One column of a stay.

    Attributes
    ----------
    name, unit, description
        As in ``ehr_variables.csv``; the unit is the one implied by the values, not always the documented one.
    plausible_min, plausible_max
        Values outside are entry or unit errors, not abnormal patients.
    group
        ``vital``, ``lab`` or ``demographic``.
    transform
        ``none``, ``log1p`` or ``signed_log1p``.
    """

    name: str
    unit: str
    description: str
    plausible_min: float
    plausible_max: float
    group: str
    transform: str


VARIABLES: tuple[Variable, ...] = tuple(
    Variable(
        row["name"],
        row["unit"],
        row["description"],
        float(row["plausible_min"]),
        float(row["plausible_max"]),
        row["group"],
        row["transform"],
    )
    for row in read_table("ehr_variables.csv")
)
NAMES: tuple[str, ...] = tuple(v.name for v in VARIABLES)
INDEX: dict[str, int] = {name: i for i, name in enumerate(NAMES)}
N_VARIABLES = len(VARIABLES)
N_VITALS = sum(v.group == "vital" for v in VARIABLES)
N_TIME_VARYING = sum(v.group != "demographic" for v in VARIABLES)
MAX_HOURS = 336

OTHER_UNITS: dict[str, tuple[str, ...]] = {
    "O2Sat": ("fraction",),
    "Temp": ("degF",),
    "SBP": ("kPa",),
    "MAP": ("kPa",),
    "DBP": ("kPa",),
    "EtCO2": ("kPa",),
    "FiO2": ("%",),
    "PaCO2": ("kPa",),
    "SaO2": ("fraction",),
    "AST": ("ukat/L",),
    "BUN": ("mmol/L",),
    "Alkalinephos": ("ukat/L",),
    "Calcium": ("mmol/L", "mEq/L"),
    "Creatinine": ("umol/L",),
    "Bilirubin_direct": ("umol/L",),
    "Glucose": ("mmol/L",),
    "Lactate": ("mg/dL",),
    "Magnesium": ("mmol/L",),
    "Phosphate": ("mmol/L",),
    "Bilirubin_total": ("umol/L",),
    "TroponinI": ("ng/L",),
    "Hct": ("fraction",),
    "Hgb": ("g/L", "mmol/L"),
    "WBC": ("cells/uL",),
    "Fibrinogen": ("g/L", "umol/L"),
    "Platelets": ("cells/uL",),
    "Age": ("months", "days"),
    "HospAdmTime": ("days",),
}
"""Other units in which hospitals report a variable."""


@dataclass(frozen=True)
class ArrhythmiaClass:
    """One scored class.

    Attributes
    ----------
    code
        SNOMED CT code under which the class is reported.
    abbreviation, name
        As in the Challenge's table.
    codes
        Every SNOMED CT code that counts as this class (four classes merge two codes).
    """

    code: str
    abbreviation: str
    name: str
    codes: tuple[str, ...]


CLASSES: tuple[ArrhythmiaClass, ...] = tuple(
    ArrhythmiaClass(
        row["snomed"],
        row["abbreviation"],
        row["name"],
        tuple((row["merged_codes"] or row["snomed"]).split("|")),
    )
    for row in read_table("classes26.csv")
)
N_CLASSES = len(CLASSES)
NORMAL_CLASS = next(i for i, c in enumerate(CLASSES) if c.abbreviation == "NSR")
INDEX_OF_CODE: dict[str, int] = {code: i for i, c in enumerate(CLASSES) for code in c.codes}


def label_vector(codes: Iterable[str]) -> Bools:
    """Which of the 26 classes the SNOMED CT ``codes`` name; unscored codes are ignored. Shape ``(26,)``."""
    vector = np.zeros(N_CLASSES, dtype=bool)
    for code in codes:
        index = INDEX_OF_CODE.get(code.strip())
        if index is not None:
            vector[index] = True
    return vector
