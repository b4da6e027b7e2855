"""Damaged and odd inputs: each is refused or warned of, and none gets another answer in silence."""

from __future__ import annotations

import pytest

from tests.helpers.faults import FAULTS, NOT_NOTICED, outcomes


@pytest.mark.slow
def test_no_fault_is_wrong_in_silence() -> None:
    assert len(FAULTS) >= 150
    assert len({(fault.task, fault.name) for fault in FAULTS}) == len(FAULTS)
    wrong = [
        outcome.row for outcome in outcomes() if not outcome.right and outcome.fault.name not in NOT_NOTICED
    ]
    assert not wrong
