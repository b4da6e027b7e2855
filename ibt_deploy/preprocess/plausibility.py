"""Is this an ECG in millivolts? About amplitude, invalid samples, flat leads and mixed-up lead names."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ibt_deploy.errors import BadUnits, TooShort
from ibt_deploy.leads import DERIVED, LEADS
from ibt_deploy.records import Notice

FloatArray = npt.NDArray[np.float64]

LIMIT_MV = 20.0
"""Samples beyond it are invalid."""

MAX_INVALID = 0.20
"""Largest share of invalid samples that is accepted."""

PLAUSIBLE_MV = (0.04, 40.0)
"""Typical amplitude (peak to peak, median over the leads that are not flat) outside which a unit is wrong.

Of 2,589 public recordings those whose header states the right gain lie between 0.50 and 12.4 mV, the 24 of an
early release that state a gain wrong by a factor of 5 between 0.14 and 14.3 mV. Microvolts taken for
millivolts, or the reverse, put every one of them outside: a factor of 1000.
"""

USUAL_MV = (0.3, 7.0)
"""Typical amplitude outside which the score carries a warning; among the above one of 2,565."""

MAX_LIMB_RESIDUAL = 0.75
"""Spread of a limb lead about what leads I and II say it is, over the mean spread of the limb leads.

Above it the names of the limb leads are doubtful: in one of the 2,583 recordings above without flat leads.
"""


def valid_samples(found: FloatArray, names: Sequence[str]) -> tuple[FloatArray, list[Notice]]:
    """``found`` with NaN for every invalid sample, and what its reader should know.

    Parameters
    ----------
    found
        Millivolts, shape ``(leads, n)``, at least one lead.
    names
        The standard name of each row.

    Raises
    ------
    BadUnits
        No heart makes this amplitude.
    TooShort
        Every lead is flat, or more than 20 % of the samples are invalid.
    """
    highest, lowest = found.max(axis=1), found.min(axis=1)
    stated = _typical(highest - lowest)
    share = 0.0
    if not (highest.max() <= LIMIT_MV and lowest.min() >= -LIMIT_MV):
        finite = np.where(np.isfinite(found), found, np.nan)
        stated = _typical(np.fmax.reduce(finite, axis=1) - np.fmin.reduce(finite, axis=1))
        found = np.where(np.abs(finite) <= LIMIT_MV, finite, np.nan)
        highest, lowest = np.fmax.reduce(found, axis=1), np.fmin.reduce(found, axis=1)
        share = float(np.isnan(found).mean())
    spread = highest - lowest
    typical = _typical(spread)
    too_high = stated > PLAUSIBLE_MV[1] and (share > MAX_INVALID or typical > LIMIT_MV)
    if too_high or 0 < stated < PLAUSIBLE_MV[0]:
        raise BadUnits(
            f"typical peak-to-peak amplitude {stated:.3g} mV is no ECG; check gain and unit (uV for mV?)",
            code="implausible_amplitude",
        )
    if share > MAX_INVALID:
        raise TooShort(
            f"{100 * share:.0f} % of the samples are invalid; at most {100 * MAX_INVALID:.0f} % are accepted",
            code="invalid_samples",
        )
    if typical == 0:
        raise TooShort("every lead is flat", code="all_leads_flat")
    notices = []
    flat = [name for name, extent in zip(names, spread, strict=True) if extent == 0]
    if flat:
        notices.append(Notice("flat_leads", f"flat: {', '.join(flat)}"))
    if not USUAL_MV[0] <= typical <= USUAL_MV[1]:
        sentence = f"typical peak-to-peak amplitude {typical:.2g} mV is unusual; check the gain"
        notices.append(Notice("unusual_amplitude", sentence))
    return found, notices


def limb_lead_notices(signal: FloatArray) -> list[Notice]:
    """A warning if the limb leads of ``signal``, shape ``(12, n)``, contradict each other.

    III, aVR, aVL and aVF follow from I and II; where they do not, leads were swapped or named wrongly. Says
    nothing where one of the six is flat or has invalid samples.
    """
    limb = signal[:6, ::8]
    limb = limb - limb.mean(axis=1, keepdims=True)
    spread = np.abs(limb).mean(axis=1)
    if not spread.min() > 0:
        return []
    weights = np.array([DERIVED[lead] for lead in LEADS[2:6]])
    residual = np.abs(limb[2:] - weights @ limb[:2]).mean(axis=1)
    doubtful = [
        lead
        for lead, part in zip(LEADS[2:6], residual / spread.mean(), strict=True)
        if part > MAX_LIMB_RESIDUAL
    ]
    if not doubtful:
        return []
    return [
        Notice(
            "limb_leads_contradict",
            f"{', '.join(doubtful)}: not what leads I and II say; check the lead names",
        )
    ]


def _typical(spread: FloatArray) -> float:
    """Median of the peak-to-peak amplitudes that are neither 0 nor unknown; 0 where there is none."""
    alive = spread[spread > 0]
    return float(np.median(alive)) if len(alive) else 0.0
