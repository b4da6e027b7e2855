"""Limb leads that are absent or hold no valid sample follow from Einthoven's law."""

from __future__ import annotations

import numpy as np
import pytest

from ibt_deploy.errors import MissingLeads
from ibt_deploy.leads import LEADS
from ibt_deploy.preprocess.leads import ordered_leads
from ibt_deploy.records import Recording
from tests.helpers.wfdb_records import raw_ecg


def recording(leave_out: tuple[str, ...] = (), empty: tuple[str, ...] = ()) -> Recording:
    one, two, *others = raw_ecg().astype(np.float64) / 1000
    signal = np.array([one, two, two - one, -(one + two) / 2, one - two / 2, two - one / 2, *others[4:]])
    signal[[LEADS.index(lead) for lead in empty]] = np.nan
    rows = [row for row, lead in enumerate(LEADS) if lead not in leave_out]
    return Recording(signal[rows], 500.0, tuple(LEADS[row] for row in rows), "r", "r", "test")


@pytest.mark.parametrize("how", ["absent", "empty"])
@pytest.mark.parametrize(("lead", "other"), [("I", "II"), ("II", "I")])
def test_one_of_leads_one_and_two_follows_from_the_other_and_three(how: str, lead: str, other: str) -> None:
    leads = ordered_leads(recording(**{"leave_out" if how == "absent" else "empty": (lead,)}))
    np.testing.assert_allclose(leads.signal, recording().signal, atol=1e-12)
    assert f"derived {lead} from {other} and III" in leads.changes
    assert (leads.missing, leads.warnings) == ((), ())


def test_limb_leads_without_a_sample_are_derived() -> None:
    leads = ordered_leads(recording(empty=("III", "aVF")))
    np.testing.assert_allclose(leads.signal, recording().signal, atol=1e-12)
    assert leads.changes == (
        "took III, aVF for absent: not one valid sample",
        "derived III, aVF from I and II",
    )


@pytest.mark.parametrize("how", ["leave_out", "empty"])
def test_two_of_the_three_are_needed(how: str) -> None:
    with pytest.raises(MissingLeads, match="needs leads I and II, or III"):
        ordered_leads(recording(**{how: ("I", "III")}))
