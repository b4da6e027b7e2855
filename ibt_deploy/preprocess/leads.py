"""The 12 standard leads of a recording: found by name, checked for amplitude, derived where they are missing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ibt_deploy.errors import BadUnits, MissingLeads, TooShort
from ibt_deploy.leads import CHEST_LEADS, DERIVED, LEADS, canonical_lead
from ibt_deploy.records import Notice, Recording

FloatArray = npt.NDArray[np.float64]

PLAUSIBLE_MV = (0.04, 40.0)
"""Refused outside: median over the leads that are not flat of the peak-to-peak amplitude.

Of 2,589 public recordings those with a right gain lie between 0.50 and 12.4 mV, those with a header whose gain
is wrong (a factor of 5, early releases of the Challenge 2020) between 0.14 and 14.3 mV. A factor of 1000, one
unit taken for the other, puts every one of them outside these bounds.
"""

USUAL_MV = (0.3, 7.0)
"""Outside these the score carries a warning: of the recordings with a right gain, one in 2,565."""


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


def ordered_leads(recording: Recording, limit: float, max_invalid: float) -> OrderedLeads:
    """The 12 leads of ``recording``.

    Leads I and II and at least one chest lead are needed: without the former neither axis nor limb leads
    are known, without any chest lead it is no 12-lead ECG. A lead that is there but flat is kept.

    Parameters
    ----------
    recording
        With any leads, in any order.
    limit
        Samples beyond it, in mV, are invalid.
    max_invalid
        Share of invalid samples that is still accepted.

    Raises
    ------
    MissingLeads, BadUnits, TooShort
        See the body; each with its code.
    """
    rows, changes = _rows(recording)
    missing = [lead for lead in LEADS if lead not in rows and lead not in DERIVED]
    if "I" in missing or "II" in missing:
        raise MissingLeads(f"needs leads I and II; found {_listed(recording.leads)}")
    if len([lead for lead in missing if lead in CHEST_LEADS]) == len(CHEST_LEADS):
        raise MissingLeads("no chest lead (V1 to V6)", code="no_chest_lead")

    order = [rows[lead] for lead in LEADS if lead in rows]
    found = recording.signal if order == list(range(len(recording.leads))) else recording.signal[order]
    names = [lead for lead in LEADS if lead in rows]
    highest, lowest = found.max(axis=1), found.min(axis=1)
    if not np.isfinite(highest - lowest).all():
        found = np.where(np.isfinite(found), found, np.nan)
        highest, lowest = np.fmax.reduce(found, axis=1), np.fmin.reduce(found, axis=1)
    spread = highest - lowest
    warnings = _amplitude_notices(spread, names)
    if max(np.nanmax(highest), -np.nanmin(lowest)) > limit:
        found = np.where(np.abs(found) > limit, np.nan, found)
    if np.isnan(found).any():
        found = _checked_for_invalid(found, max_invalid)

    signal, derived = _completed(found, names)
    if derived:
        changes.append(f"derived {', '.join(derived)} from I and II")
    if missing:
        warnings.append(Notice("missing_leads", f"missing, set to zero: {', '.join(missing)}"))
    empty = [lead for lead, row in zip(names, found, strict=True) if np.isnan(row).all()]
    if empty:
        warnings.append(Notice("empty_leads", f"without a valid sample, set to zero: {', '.join(empty)}"))
    absent = {*missing, *empty}
    return OrderedLeads(
        signal, tuple(changes), tuple(warnings), tuple(lead for lead in LEADS if lead in absent)
    )


def _rows(recording: Recording) -> tuple[dict[str, int], list[str]]:
    """Row of each standard lead that the recording has, and what was reordered or left out."""
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
    changes = []
    if others:
        changes.append(f"left out {_listed(others)}")
    if list(rows.values()) != sorted(rows.values()) or list(rows) != [lead for lead in LEADS if lead in rows]:
        changes.append("leads put in the standard order")
    return rows, changes


def _amplitude_notices(spread: FloatArray, names: list[str]) -> list[Notice]:
    """Warnings about flat leads and unusual amplitude; refusals for all flat and for impossible amplitude."""
    alive = spread[spread > 0]
    if not len(alive):
        if np.isnan(spread).all():
            raise TooShort("no valid sample in any lead", code="invalid_samples")
        raise TooShort("every lead is flat", code="all_leads_flat")
    typical = float(np.median(alive))
    if not PLAUSIBLE_MV[0] <= typical <= PLAUSIBLE_MV[1]:
        raise BadUnits(
            f"typical peak-to-peak amplitude {typical:.3g} mV is no ECG; check gain and unit (uV for mV?)",
            code="implausible_amplitude",
        )
    notices = []
    flat = [lead for lead, extent in zip(names, spread, strict=True) if extent == 0]
    if flat:
        notices.append(Notice("flat_leads", f"flat: {', '.join(flat)}"))
    if not USUAL_MV[0] <= typical <= USUAL_MV[1]:
        notices.append(
            Notice(
                "unusual_amplitude",
                f"typical peak-to-peak amplitude {typical:.2g} mV is unusual; check the gain",
            )
        )
    return notices


def _checked_for_invalid(found: FloatArray, max_invalid: float) -> FloatArray:
    """``found``, unless more than ``max_invalid`` of it is NaN or what is left is flat."""
    share = float(np.isnan(found).mean())
    if share > max_invalid:
        raise TooShort(
            f"{100 * share:.0f} % of the samples are invalid; at most {100 * max_invalid:.0f} % are accepted",
            code="invalid_samples",
        )
    return found


def _completed(found: FloatArray, names: list[str]) -> tuple[FloatArray, list[str]]:
    """All 12 leads, and which of them were derived; NaN for those that cannot be."""
    if names == list(LEADS):
        return found, []
    signal = np.full((len(LEADS), found.shape[1]), np.nan)
    for name, row in zip(names, found, strict=True):
        signal[LEADS.index(name)] = row
    derived = [lead for lead in DERIVED if lead not in names]
    for lead in derived:
        one, two = DERIVED[lead]
        signal[LEADS.index(lead)] = one * signal[0] + two * signal[1]
    return signal, derived


def _listed(names: tuple[str, ...] | list[str]) -> str:
    """``names`` as a short list."""
    shown = ", ".join(name[:20] for name in names[:15])
    return f"{shown}, ..." if len(names) > 15 else shown or "none"
