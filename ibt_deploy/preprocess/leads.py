"""The 12 standard leads of a recording: found by name, put in order, derived where they are missing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ibt_deploy.errors import MissingLeads
from ibt_deploy.leads import CHEST_LEADS, DERIVED, LEADS, LIMB_LEADS, canonical_lead
from ibt_deploy.preprocess.plausibility import limb_lead_notices, valid_samples
from ibt_deploy.records import Notice, Recording
from ibt_deploy.types import Floats


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

    signal: Floats
    changes: tuple[str, ...]
    warnings: tuple[Notice, ...]
    missing: tuple[str, ...]


def ordered_leads(recording: Recording) -> OrderedLeads:
    """The 12 leads of ``recording``, which may have any leads in any order.

    At least two limb leads that say different things and one chest lead are needed: without the former the
    limb leads are not known, without any chest lead it is no 12-lead ECG. A lead that is there but flat is
    kept; one without any valid sample counts as missing.

    Raises
    ------
    MissingLeads
        One of these is not there, or a lead is there twice.
    BadUnits, TooShort
        See :func:`ibt_deploy.preprocess.plausibility.valid_samples`.
    """
    rows, changes = _rows(recording)
    limb = [lead for lead in LIMB_LEADS if lead in rows]
    valid = [lead for lead in limb if _has_samples(recording.signal[rows[lead]])]
    if len(limb) < 2:
        raise MissingLeads(
            f"needs leads I and II, or two limb leads they follow from; found {_listed(recording.leads)}"
        )
    if 2 <= len(valid) < len(limb):
        rows = {lead: row for lead, row in rows.items() if lead not in limb or lead in valid}
        limb = valid
    if not rows.keys() & set(CHEST_LEADS):
        raise MissingLeads("no chest lead (V1 to V6)", code="no_chest_lead")
    names = [lead for lead in LEADS if lead in rows]
    order = [rows[lead] for lead in names]
    if order != sorted(order):
        changes.append("put the leads in the standard order")
    unchanged = order == list(range(len(recording.leads)))
    found, warnings = valid_samples(recording.signal if unchanged else recording.signal[order], names)

    signal, derived = _completed(found, names, limb[:2])
    if derived:
        changes.append(f"derived {', '.join(derived)} from {' and '.join(limb[:2])}")
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


def _has_samples(row: Floats) -> bool:
    """Whether one sample is a number; where the first is, the others need no look."""
    return not np.isnan(row[:1]).all() or not np.isnan(row).all()


def _completed(found: Floats, names: list[str], sources: Sequence[str]) -> tuple[Floats, list[str]]:
    """All 12 leads, and which were derived from two limb leads, ``sources``; NaN for those that cannot be.

    No two limb leads point the same way, so that any two give leads I and II, and with them the others.
    """
    if len(names) == len(LEADS):
        return found, []
    signal = np.full((len(LEADS), found.shape[1]), np.nan)
    signal[[LEADS.index(name) for name in names]] = found
    derived = [lead for lead in LIMB_LEADS if lead not in names]
    from_one_and_two = np.array([(1.0, 0.0), (0.0, 1.0), *DERIVED.values()])
    given = [LIMB_LEADS.index(lead) for lead in sources]
    weights = from_one_and_two @ np.linalg.inv(from_one_and_two[given])
    for lead in derived:
        first, second = weights[LIMB_LEADS.index(lead)].round(9).tolist()
        signal[LEADS.index(lead)] = first * signal[given[0]] + second * signal[given[1]]
    return signal, derived


def _listed(names: Iterable[str]) -> str:
    """The first of ``names``, shortened to what fits a line."""
    some = [name[:20] for name in names]
    return ", ".join(some[:15]) + (", ..." if len(some) > 15 else "")
