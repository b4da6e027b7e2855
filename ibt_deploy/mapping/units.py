"""Convert the unit of a hospital's column to the unit of the variable, as a factor and an offset.

pint handles dimensions and prefixes; this module adds what it cannot know: how hospitals spell units, the
molar mass of a substance, what 10^3/uL is called, and that ``C`` is not the coulomb. Anything that cannot be
converted to the variable's unit is refused. pint is loaded when the first unit differs from the
variable's own.

Molar masses make a lab's mmol/L and mg/dL the same amount of the same substance. Atomic weights are the
abridged standard values of IUPAC (Prohaska et al., Pure Appl. Chem. 94, 573-600, 2022); molar masses follow
from the formulas. Where a lab reports a part of the molecule, that part counts: urea as its nitrogen (BUN),
inorganic phosphate as phosphorus. Two proteins have conventional values: a quarter of the haemoglobin
tetramer, 16,114.5 g/mol (ICSH, J. Clin. Pathol. 49, 271-274, 1996), and fibrinogen, 340 kg/mol (the factor
0.0294 from mg/dL to umol/L in the AMA Manual of Style).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ibt_deploy.errors import BadUnits, require
from ibt_deploy.vocabulary import INDEX, VARIABLES

CANONICAL = {v.name: v.unit for v in VARIABLES}
PINT_NAMES = {
    "beats/min": "1/min",
    "breaths/min": "1/min",
    "%": "percent",
    "fraction": "",
    "IU/L": "U/L",
    "years": "year",
    "hours": "hour",
}
"""pint's names of units in ``ehr_variables.csv``, where they differ."""

COUNTS = ("WBC", "Platelets")
WITHOUT_UNIT = ("pH", "Gender", "Unit1", "Unit2", "ICULOS")
CELSIUS = {"c": "degC", "celsius": "degC", "f": "degF", "fahrenheit": "degF"}
SPELLINGS = {
    "bpm": "1/min",
    "/min": "1/min",
    "min-1": "1/min",
    "/minute": "1/min",
    "beats/minute": "1/min",
    "breaths/minute": "1/min",
    "insp/min": "1/min",
    "mm hg": "mmHg",
    "mmhg": "mmHg",
    "mm[hg]": "mmHg",
    "kpa": "kPa",
    "cmh2o": "cmH2O",
    "pct": "%",
    "percent": "%",
    "vol%": "%",
    "l/l": "fraction",
    "ratio": "fraction",
    "proportion": "fraction",
    "sec": "s",
    "secs": "s",
    "seconds": "s",
    "y": "year",
    "yr": "year",
    "yrs": "year",
    "years": "year",
    "jahre": "year",
    "months": "month",
    "h": "hour",
    "hrs": "hour",
    "stunden": "hour",
    "minutes": "min",
    "d": "day",
    "days": "day",
    "tage": "day",
}
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
"""UCUM codes that this package spells differently, in lower case."""

PH_UNITS = frozenset({"[ph]", "ph", "units", "ph units", "1", "{ph}", "{ph units}", "unit"})
PREFIXES = {
    "": 1.0,
    "1": 1.0,
    "#": 1.0,
    "cells": 1.0,
    "k": 1e3,
    "tsd": 1e3,
    "tsd.": 1e3,
    "thou": 1e3,
    "g": 1e9,
    "gpt": 1e9,
    "giga": 1e9,
    "mrd": 1e9,
}
"""What may stand before the volume of a cell count, in lower case, besides powers of ten."""

POWER = re.compile(r"x?\s*10\s*(?:\^|\*\*?|e|E)?\s*(\d+)")
UNIT_TEXT = re.compile(r"[A-Za-z0-9/^*.% \-]{1,40}")

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
"""Molar mass of the substance as reported; for BUN that of the two nitrogens of urea."""

PROTEINS = {"Hgb": 16_114.5, "Fibrinogen": 340_000.0}
UREA = "CH4N2O"

CHARGES = {"BaseExcess": 1, "HCO3": 1, "Chloride": 1, "Potassium": 1, "Calcium": 2, "Magnesium": 2}
"""Equivalents per mole; a lab's mEq/L of anything else is ambiguous."""


@dataclass(frozen=True)
class Conversion:
    """``value * factor + offset`` is in the variable's unit.

    Attributes
    ----------
    variable
        One of the 40.
    unit
        The unit that the column has, as it was written.
    factor, offset
        In float64.
    """

    variable: str
    unit: str
    factor: float = 1.0
    offset: float = 0.0

    @property
    def changes_nothing(self) -> bool:
        """Whether values pass unchanged, bit for bit."""
        return self.factor == 1.0 and self.offset == 0.0

    def value(self, given: float) -> float:
        """The value in the variable's unit."""
        return given * self.factor + self.offset

    def given(self, value: float) -> float:
        """The value in the column's own unit."""
        return (value - self.offset) / self.factor

    @property
    def note(self) -> str:
        """The note on this conversion that accompanies every score."""
        return f"{self.variable} from {self.unit} to {CANONICAL[self.variable]}"


@lru_cache(maxsize=512)
def conversion(variable: str, unit: str, substance: str | None = None) -> Conversion:
    """How to convert values of ``variable`` from ``unit`` to its own unit.

    Parameters
    ----------
    variable
        One of the 40.
    unit
        E.g. ``"degF"``, ``"umol/L"``, ``"G/l"``, ``"10*9/L"``; UCUM codes as well.
    substance
        For BUN only: ``"urea"`` where a mass is that of whole urea, ``"nitrogen"`` (or None) where it is
        that of its nitrogen.

    Raises
    ------
    BadUnits
        The unit is unknown, or measures something else (code ``unknown_unit``).
    MissingExtra
        pint is not installed.
    """
    if variable not in INDEX:
        raise BadUnits(f"{variable!r} is not one of the 40 variables", code="unknown_unit")
    if substance not in (None, "urea", "nitrogen") or (substance and variable != "BUN"):
        raise BadUnits(f"substance {substance!r} is not known for {variable}", code="unknown_unit")
    text = _of_ucum(unit.strip())
    if variable == "pH" and unit.strip().casefold() in PH_UNITS:
        return Conversion(variable, unit)
    if text == CANONICAL[variable] and substance != "urea":
        return Conversion(variable, unit)
    if variable in WITHOUT_UNIT:
        raise BadUnits(f"{variable} has no other unit than {CANONICAL[variable]!r}", code="unknown_unit")
    if variable in COUNTS:
        return Conversion(variable, unit, _rounded(_count(variable, text)))
    factor, offset = _by_pint(variable, text, substance)
    return Conversion(variable, unit, _rounded(factor), offset)


def _of_ucum(unit: str) -> str:
    """A UCUM code as this package spells it; annotations in braces mean nothing."""
    if unit.casefold() in UCUM:
        return UCUM[unit.casefold()]
    bare = re.sub(r"\{[^}]*\}", "", unit)
    return UCUM.get(bare.casefold(), bare)


def _rounded(factor: float) -> float:
    """``factor`` to 15 digits: without the noise that a detour through base units leaves on 0.1."""
    return float(f"{factor:.15g}")


def _count(variable: str, text: str) -> float:
    """Factor from a cell count per volume to 10^3/uL."""
    amount, slash, volume = _latin(text).rpartition("/")
    power = POWER.fullmatch(amount.strip())
    multiple = 10.0 ** int(power.group(1)) if power else PREFIXES.get(amount.strip().casefold())
    litres = {"ul": 1e-6, "mm3": 1e-6, "cmm": 1e-6, "ml": 1e-3, "l": 1.0, "nl": 1e-9}
    size = litres.get(volume.strip().casefold())
    if not slash or multiple is None or size is None:
        raise _unknown(variable, text)
    return multiple * 1e-9 / size


def _by_pint(variable: str, text: str, substance: str | None) -> tuple[float, float]:
    spelt = _spelt(variable, text)
    if not UNIT_TEXT.fullmatch(spelt):
        raise _unknown(variable, text)
    pint, registry = _registry()
    own = CANONICAL[variable]
    target = registry.parse_units(PINT_NAMES.get(own, own))
    charge = 1.0
    if re.match(r"m?eq/", spelt, re.IGNORECASE):
        if variable not in CHARGES:
            raise _unknown(variable, text)
        charge = 1.0 / CHARGES[variable]
        spelt = re.sub(r"^(m?)eq/", r"\1mol/", spelt, flags=re.IGNORECASE)
    try:
        source = registry.parse_units(PINT_NAMES.get(spelt, spelt))
        if str(target) == "degree_Celsius":
            zero = registry.Quantity(0.0, source).to(target).magnitude
            factor = (
                registry.Quantity(1.0, registry.parse_units(f"delta_{source}")).to("delta_degC").magnitude
            )
            return float(factor), float(zero)
        one = charge * registry.Quantity(1.0, source)
        if not one.check(target):
            one = _as_mass_or_moles(variable, one, target, registry)
        factor = float(one.to(target).magnitude)
    except (pint.PintError, AttributeError, ValueError, TypeError, AssertionError, ZeroDivisionError):
        raise _unknown(variable, text) from None
    if substance == "urea" and "[substance]" not in source.dimensionality:
        factor *= mass_of(FORMULAS["BUN"]) / mass_of(UREA)
    return factor, 0.0


def _as_mass_or_moles(variable: str, quantity: Any, target: Any, registry: Any) -> Any:
    """``quantity`` converted from moles to grams or the reverse, if the substance has a molar mass."""
    mass = molar_mass(variable)
    if mass is None:
        return quantity
    per_mole = registry.Quantity(mass, "g/mol")
    return quantity / per_mole if "[substance]" in target.dimensionality else quantity * per_mole


def _spelt(variable: str, text: str) -> str:
    """``text`` as pint spells it."""
    plain = _latin(text)
    small = plain.casefold()
    if variable == "Temp":
        bare = small.removeprefix("deg").strip()
        return CELSIUS.get(bare, plain)
    if small in SPELLINGS:
        return SPELLINGS[small]
    if re.fullmatch(r"(?:[mku]?)(?:iu|u|\[iu\]|e)/m?l", small):
        return re.sub(r"(?:\[iu\]|iu|u|e)/", "U/", small)
    return re.sub(r"/([dmu]?)l$", r"/\1L", plain, flags=re.IGNORECASE)


def _latin(text: str) -> str:
    """``text`` without the letters that keyboards lack."""
    plain = text.strip().replace("µ", "u").replace("μ", "u").replace("°", "").replace("²", "2")
    plain = (
        plain.replace("³", "3")
        .replace("⁹", "9")
        .replace("×", "x")
        .replace("mcg", "ug")
        .replace("mcmol", "umol")
    )
    return re.sub(r"\s*/\s*", "/", plain)


def _unknown(variable: str, text: str) -> BadUnits:
    return BadUnits(
        f"the unit {text!r} cannot be turned into {CANONICAL[variable]} of {variable}", code="unknown_unit"
    )


@lru_cache(maxsize=1)
def _registry() -> tuple[Any, Any]:
    require("converting units", "pint")
    import pint

    return pint, pint.UnitRegistry(cache_folder=None)


def molar_mass(variable: str) -> float | None:
    """Molar mass in g/mol of what ``variable`` measures; None where no such conversion makes sense."""
    if variable in PROTEINS:
        return PROTEINS[variable]
    return mass_of(FORMULAS[variable]) if variable in FORMULAS else None


def mass_of(formula: str) -> float:
    """Molar mass in g/mol of a formula such as ``C6H12O6``."""
    return sum(
        ATOMIC_WEIGHTS[element] * int(count or 1)
        for element, count in re.findall(r"([A-Z][a-z]?)(\d*)", formula)
    )
