"""The 40 variables of the Challenge 2019 in official order, with true units and plausible ranges."""

from __future__ import annotations

from dataclasses import dataclass

from ibt_deploy.files import read_table


@dataclass(frozen=True)
class Variable:
    """One column of a stay.

    Attributes
    ----------
    name, unit, description
        As in ``ehr_variables.csv``; the unit is the one the magnitudes show, not always the documented one.
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
