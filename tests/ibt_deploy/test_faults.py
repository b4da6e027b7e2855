"""Damaged and odd inputs: each is refused, warned of or read in a stated unit; none is silently wrong."""

from __future__ import annotations

import pytest

from tests.helpers.faults import FAULTS, outcomes


@pytest.mark.slow
def test_no_fault_is_wrong_in_silence() -> None:
    assert len(FAULTS) >= 150
    assert len({(fault.task, fault.name) for fault in FAULTS}) == len(FAULTS)
    wrong = [outcome.row for outcome in outcomes() if not outcome.right]
    assert not wrong
