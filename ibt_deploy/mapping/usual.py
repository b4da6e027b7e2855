"""Where the values of an intensive care unit usually lie, and in which other units hospitals report them.

The four numbers of a variable are the 5th, 25th, 75th and 95th percentile of what the two hospitals of the
Challenge 2019 measured (the lower of the two for the first pair, the higher for the second), rounded
outwards. They serve to recognise a unit, never to judge a patient.
"""

from __future__ import annotations

Range = tuple[float, float]

PERCENTILES: dict[str, tuple[float, float, float, float]] = {
    "HR": (58, 72, 96, 115),
    "O2Sat": (93, 96, 99.5, 100),
    "Temp": (35.7, 36.5, 37.6, 38.3),
    "SBP": (91, 105, 142, 170),
    "MAP": (58, 68, 96, 116),
    "DBP": (42, 51, 75, 91),
    "Resp": (11, 15, 22, 28),
    "EtCO2": (19, 28, 38, 45),
    "BaseExcess": (-9.5, -4.7, 1, 6),
    "HCO3": (17, 21, 27, 31),
    "FiO2": (0.21, 0.4, 0.6, 1.0),
    "pH": (7.2, 7.33, 7.43, 7.5),
    "PaCO2": (28, 34, 45, 59),
    "SaO2": (62, 93, 98.7, 99.8),
    "AST": (13, 20, 181, 1860),
    "BUN": (6, 11, 29, 66),
    "Alkalinephos": (34, 52, 120, 303),
    "Calcium": (1.1, 7.2, 8.7, 9.5),
    "Chloride": (96, 102, 110, 115),
    "Creatinine": (0.5, 0.7, 1.5, 5.7),
    "Bilirubin_direct": (0.1, 0.1, 3.8, 12.8),
    "Glucose": (79, 104, 155, 236),
    "Lactate": (0.8, 1.2, 3.5, 8.7),
    "Magnesium": (1.5, 1.8, 2.2, 2.7),
    "Phosphate": (1.7, 2.6, 4.2, 6.2),
    "Potassium": (3.2, 3.7, 4.5, 5.2),
    "Bilirubin_total": (0.2, 0.5, 2.3, 11.8),
    "TroponinI": (0.01, 0.03, 13, 42),
    "Hct": (21, 26, 35.7, 42.3),
    "Hgb": (7.1, 8.5, 11.7, 14.2),
    "PTT": (23, 27.5, 43.5, 98),
    "WBC": (4.2, 7.1, 14.3, 22),
    "Fibrinogen": (107, 183, 357, 618),
    "Platelets": (62, 126, 247, 395),
    "Age": (30, 50, 76, 89),
}

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
}


def central(variable: str) -> Range | None:
    """The middle half of usual values."""
    found = PERCENTILES.get(variable)
    return None if found is None else (found[1], found[2])


def wide(variable: str) -> Range | None:
    """Nine tenths of usual values."""
    found = PERCENTILES.get(variable)
    return None if found is None else (found[0], found[3])


def is_within(value: float, interval: Range) -> bool:
    """Whether a value lies in an interval, rounding errors of a conversion forgiven."""
    slack = 1e-9 * max(abs(interval[0]), abs(interval[1]))
    return interval[0] - slack <= value <= interval[1] + slack
