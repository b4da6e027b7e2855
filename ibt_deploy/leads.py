"""The 12 standard leads: their order, the names they go by, and which follow from leads I and II."""

from __future__ import annotations

import re

LEADS: tuple[str, ...] = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
LIMB_LEADS: tuple[str, ...] = LEADS[:6]
CHEST_LEADS: tuple[str, ...] = LEADS[6:]

DERIVED: dict[str, tuple[float, float]] = {
    "III": (-1.0, 1.0),
    "aVR": (-0.5, -0.5),
    "aVL": (1.0, -0.5),
    "aVF": (-0.5, 1.0),
}
"""Weights of leads I and II in the limb leads that follow from them (Einthoven, Goldberger)."""

LEAD_NUMBERS: dict[int, str] = {
    1: "I", 2: "II", 3: "V1", 4: "V2", 5: "V3", 6: "V4", 7: "V5", 8: "V6", 9: "V7",
    10: "V2R", 11: "V3R", 12: "V4R", 13: "V5R", 14: "V6R", 15: "V7R", 16: "X", 17: "Y", 18: "Z",
    61: "III", 62: "aVR", 63: "aVL", 64: "aVF", 65: "-aVR", 66: "V8", 67: "V9", 68: "V8R", 69: "V9R",
}  # fmt: skip
"""Leads by their number in SCP-ECG (EN 1064, 5.6.3, table 4), which DICOM and ISO 11073 use too."""

_PREFIX = re.compile(r"^(?:MDC_ECG_LEAD_|(?:ECG[ _]?)?LEAD[ _]?|ECG[ _])")
_ALIASES: dict[str, str] = {lead.upper(): lead for lead in LEADS}
_ALIASES |= {"DI": "I", "DII": "II", "DIII": "III", "D1": "I", "D2": "II", "D3": "III"}
_ALIASES |= {f"C{i}": f"V{i}" for i in range(1, 7)}


def canonical_lead(name: str) -> str | None:
    """The standard lead that ``name`` stands for, or None.

    Case does not matter. Understood besides the plain names: a prefix ``Lead``, ``ECG`` or
    ``MDC_ECG_LEAD_``, ``DI`` or ``D1`` for I, ``C1`` for V1. Inverted (``-aVR``) and modified (``MLII``)
    leads are other leads, hence None.
    """
    return _ALIASES.get(_PREFIX.sub("", name.strip().upper()))
