"""The 12 standard leads of a recording: found by name, put in order, derived where they are missing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ibt_deploy.errors import MissingLeads
from ibt_deploy.leads import CHEST_LEADS, DERIVED, LEADS, canonical_lead
from ibt_deploy.preprocess.plausibility import limb_lead_notices, valid_samples
from ibt_deploy.records import Notice, Recording

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class OrderedLeads:
    """The 12 leads in their order.

    Attributes
    ----------
    signal
        Millivolts, shape ``(12, n)``; NaN where invalid, wholly NaN for a lead that is missing.
    changes, warnings
        As in :class:`ibt_deploy.preprocess.ecg.StandardEcg`.
    missing
        Leads without any valid sample.
    """

    signal: FloatArray
    changes: tuple[str, ...]
    warnings: tuple[Notice, ...]
    missing: tuple[str, ...]


def ordered_leads(recording: Recording) -> OrderedLeads:
    """The 12 leads of ``recording``, which may have any leads in any order.

    Leads I and II and at least one chest lead are needed: without the former neither axis nor limb leads
    are known, without any chest lead it is no 12-lead ECG. A lead that is there but flat is kept.

    Raises
    ------
    MissingLeads
        One of these is not there, or a lead is there twice.
    BadUnits, TooShort
        See :func:`ibt_deploy.preprocess.plausibility.valid_samples`.
    """
    rows, changes = _rows(recording)
    if "I" not in rows or "II" not in rows:
        raise MissingLeads(f"needs leads I and II; found {_listed(recording.leads)}")
    if not rows.keys() & set(CHEST_LEADS):
        raise MissingLeads("no chest lead (V1 to V6)", code="no_chest_lead")
    names = [lead for lead in LEADS if lead in rows]
    order = [rows[lead] for lead in names]
    if order != sorted(order):
        changes.append("put the leads in the standard order")
    unchanged = order == list(range(len(recording.leads)))
    found, warnings = valid_samples(recording.signal if unchanged else recording.signal[order], names)

    signal, derived = _completed(found, names)
    if derived:
        changes.append(f"derived {', '.join(derived)} from I and II")
    else:
        warnings += limb_lead_notices(signal)
    missing = [
        lead for lead, row in zip(LEADS, signal, strict=True) if np.isnan(row[0]) and np.isnan(row).all()
    ]
    if missing:
        warnings.append(Notice("missing_leads", f"without a valid sample, set to zero: {', '.join(missing)}"))
    return OrderedLeads(signal, tuple(changes), tuple(warnings), tuple(missing))


def _rows(recording: Recording) -> tuple[dict[str, int], list[str]]:
    """Row of each standard lead that the recording has, and which others are left out."""
    rows: dict[str, int] = {}
    others: list[str] = []
    for row, name in enumerate(recording.leads):
        lead = canonical_lead(name)
        if lead is None:
            others.append(name)
        elif lead in rows:
            raise MissingLeads(f"lead {lead} is there twice", code="doubled_lead")
        else:
            rows[lead] = row
    return rows, [f"left out {_listed(others)}"] if others else []


def _completed(found: FloatArray, names: list[str]) -> tuple[FloatArray, list[str]]:
    """All 12 leads, and which of them were derived; NaN for those that cannot be."""
    if len(names) == len(LEADS):
        return found, []
    signal = np.full((len(LEADS), found.shape[1]), np.nan)
    signal[[LEADS.index(name) for name in names]] = found
    derived = [lead for lead in DERIVED if lead not in names]
    for lead in derived:
        one, two = DERIVED[lead]
        signal[LEADS.index(lead)] = one * signal[0] + two * signal[1]
    return signal, derived


def _listed(names: Iterable[str]) -> str:
    """The first of ``names``, shortened to what fits a line."""
    some = [name[:20] for name in names]
    return ", ".join(some[:15]) + (", ..." if len(some) > 15 else "")
