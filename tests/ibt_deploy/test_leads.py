from __future__ import annotations

import pytest

from ibt_deploy.vocabulary import LEADS, canonical_lead


@pytest.mark.parametrize("lead", LEADS)
def test_case_and_blanks_do_not_matter(lead: str) -> None:
    for name in (lead, lead.lower(), lead.upper(), f" {lead} "):
        assert canonical_lead(name) == lead


@pytest.mark.parametrize(
    ("name", "lead"),
    [
        ("Lead I", "I"),
        ("LEAD_aVR", "aVR"),
        ("ECG V1", "V1"),
        ("ECG Lead II", "II"),
        ("MDC_ECG_LEAD_AVF", "aVF"),
        ("MDC_ECG_LEAD_V6", "V6"),
        ("DII", "II"),
        ("D3", "III"),
        ("C4", "V4"),
    ],
)
def test_usual_aliases(name: str, lead: str) -> None:
    assert canonical_lead(name) == lead


@pytest.mark.parametrize(
    "name",
    ["", "-aVR", "MLII", "V", "V7", "V3R", "vx", "ECG", "IIII", "Lead", "PLETH", "avR2", "C7", "Leads I"],
)
def test_other_leads_are_not_taken_for_standard_ones(name: str) -> None:
    assert canonical_lead(name) is None
