"""The 12 standard leads of a recording: found by name, put in order, derived where they are missing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ibt_deploy.errors import MissingLeads
from ibt_deploy.leads import CHEST_LEADS, DERIVED, LEADS, LIMB_LEADS, canonical_lead
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

    Two of the leads I, II and III and at least one chest lead are needed: without the former neither axis
    nor limb leads are known, without any chest lead it is no 12-lead ECG. A flat lead is kept; a
    limb lead without any valid sample counts as absent.

    Raises
    ------
    MissingLeads
        One of these is not there, or a lead is there twice.
    BadUnits, TooShort
        See :func:`ibt_deploy.preprocess.plausibility.valid_samples`.
    """
    rows, changes = _rows(recording)
    empty = [lead for lead in LIMB_LEADS if lead in rows and _is_empty(recording.signal[rows[lead]])]
    if empty:
        rows = {lead: row for lead, row in rows.items() if lead not in empty}
        changes.append(f"took {', '.join(empty)} for absent: not one valid sample")
    if len(rows.keys() & {"I", "II", "III"}) < 2:
        raise MissingLeads(
            "needs leads I and II, or III in place of one of them; found "
            f"{_listed(name for name in recording.leads if canonical_lead(name) not in empty)}"
        )
    if not rows.keys() & set(CHEST_LEADS):
        raise MissingLeads("no chest lead (V1 to V6)", code="no_chest_lead")
    names = [lead for lead in LEADS if lead in rows]
    order = [rows[lead] for lead in names]
    if order != sorted(order):
        changes.append("put the leads in the standard order")
    unchanged = order == list(range(len(recording.leads)))
    found, warnings = valid_samples(recording.signal if unchanged else recording.signal[order], names)

    signal, derived, absent = _completed(found, names)
    if absent:
        changes.append(f"derived {absent} from {'II' if absent == 'I' else 'I'} and III")
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


def _is_empty(row: FloatArray) -> bool:
    """Whether a lead has no finite sample."""
    return not len(row) or not (np.isfinite(row[0]) or np.isfinite(row).any())


def _completed(found: FloatArray, names: list[str]) -> tuple[FloatArray, list[str], str | None]:
    """All 12 leads, NaN for those that cannot be derived.

    Returns
    -------
    The signal; the leads derived from I and II; I or II, where it was derived from the other and III by
    Einthoven's law (I + III = II).
    """
    if len(names) == len(LEADS):
        return found, [], None
    signal = np.full((len(LEADS), found.shape[1]), np.nan)
    signal[[LEADS.index(name) for name in names]] = found
    absent = next((lead for lead in ("I", "II") if lead not in names), None)
    if absent == "I":
        signal[0] = signal[1] - signal[2]
    elif absent == "II":
        signal[1] = signal[0] + signal[2]
    derived = [lead for lead in DERIVED if lead not in names]
    for lead in derived:
        one, two = DERIVED[lead]
        signal[LEADS.index(lead)] = one * signal[0] + two * signal[1]
    return signal, derived, absent


def _listed(names: Iterable[str]) -> str:
    """The first of ``names``, shortened to what fits a line."""
    some = [name[:20] for name in names]
    return ", ".join(some[:15]) + (", ..." if len(some) > 15 else "")
