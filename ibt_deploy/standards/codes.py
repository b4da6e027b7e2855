"""Which code is which of the 40 variables, in which unit: ``data/ehr_codes.csv``.

Each row names its source. Units of events are UCUM, or the spellings that :mod:`ibt_deploy.mapping.units`
knows.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from ibt_deploy.errors import BadUnits
from ibt_deploy.mapping.units import conversion
from ibt_deploy.tables import read_table
from ibt_deploy.variables import INDEX

LOINC, OMOP, MIMIC = "LOINC", "OMOP", "MIMIC-IV"

NO_UNIT = frozenset({"", "unk", "none", "null", "n/a", "no matching concept"})
PH_UNITS = frozenset({"[ph]", "ph", "units", "ph units", "1", "{ph}", "{ph units}", "unit"})
UCUM = {
    "cel": "degC",
    "[degf]": "degF",
    "[iu]/l": "IU/L",
    "a": "years",
    "mo": "months",
    "d": "days",
    "1": "fraction",
    "{ratio}": "fraction",
    "{fraction}": "fraction",
}
"""UCUM codes that the house spells otherwise, in small letters."""


@dataclass(frozen=True)
class Code:
    """A row of the table.

    Attributes
    ----------
    variable
        One of the 40.
    system, code
        ``LOINC``, ``OMOP`` (standard concept) or ``MIMIC-IV`` (item), and the code in it.
    ucum
        Unit in which the code's values usually are.
    factor, offset
        ``value * factor + offset`` turns ``ucum`` into the variable's unit.
    priority
        Where several codes of a variable have values in one hour, those with the lowest number count: an
        arterial line goes before a cuff.
    unit_implied
        Whether a value without a unit is in ``ucum``: the item is defined so, or no other unit exists.
    substance
        ``urea`` where the mass is that of whole urea.
    name, source
        What the code means, and who says so.
    """

    variable: str
    system: str
    code: str
    ucum: str
    factor: float
    offset: float
    priority: int
    unit_implied: bool
    substance: str
    name: str
    source: str


@dataclass(frozen=True)
class Meaning:
    """What the values of a code in a unit are: ``value * factor + offset`` of ``variable``."""

    variable: str
    factor: float
    offset: float
    priority: int


@lru_cache(maxsize=1)
def codes() -> dict[tuple[str, str], Code]:
    """The table, by system and code."""
    return {
        (row["system"], row["code"]): Code(
            row["variable"],
            row["system"],
            row["code"],
            row["ucum"],
            float(row["factor"]),
            float(row["offset"]),
            int(row["priority"]),
            row["unit_implied"] == "yes",
            row["substance"],
            row["name"],
            row["source"],
        )
        for row in read_table("ehr_codes.csv")
    }


@lru_cache(maxsize=4096)
def meaning(system: str, code: str, unit: str | None) -> Meaning | str:
    """What the values of a code are, or the reason why they are not used.

    Parameters
    ----------
    system, code
        As in the table.
    unit
        As the event states it; None or a word for nothing where it states none.

    Returns
    -------
    Meaning, or ``unknown_code``, ``no_unit`` or ``unknown_unit``.

    Raises
    ------
    MissingExtra
        The unit is not the table's own, and pint is not installed.
    """
    row = codes().get((system, code))
    if row is None:
        return "unknown_code"
    text = (unit or "").strip()
    if text.casefold() in NO_UNIT:
        if not row.unit_implied:
            return "no_unit"
        text = row.ucum
    if row.variable == "pH" and text.casefold() in PH_UNITS:
        text = row.ucum
    if text == row.ucum:
        return Meaning(row.variable, row.factor, row.offset, row.priority)
    try:
        found = conversion(row.variable, _spelt(text), row.substance or None)
    except BadUnits:
        return "unknown_unit"
    return Meaning(row.variable, found.factor, found.offset, row.priority)


def _spelt(unit: str) -> str:
    """A UCUM code as the house's conversions spell it; annotations in braces mean nothing."""
    if unit.casefold() in UCUM:
        return UCUM[unit.casefold()]
    bare = re.sub(r"\{[^}]*\}", "", unit)
    return UCUM.get(bare.casefold(), bare)


def loinc_of(variable: str) -> Code:
    """The first LOINC code of a variable: the one with which an export of our own would name it.

    Raises
    ------
    KeyError
        The variable has none.
    """
    if variable not in INDEX:
        raise KeyError(variable)
    found = (row for row in codes().values() if row.system == LOINC and row.variable == variable)
    row = next(found, None)
    if row is None:
        raise KeyError(variable)
    return row
