"""What counts as the same model, and what does not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from export.check import largest_difference, parity_report, require_parity
from ibt_deploy.bundle import Calibration
from ibt_deploy.errors import ExportError

IDENTITY = Calibration(np.ones(3), np.zeros(3))
LOGITS = np.random.default_rng(0).normal(0, 2, (50, 3))
THRESHOLDS = {"tuned": np.array([0.2, 0.5, 0.7])}


def report(found: np.ndarray, singly: np.ndarray | None = None, **others: Any) -> Any:
    singly = found if singly is None else singly
    return parity_report(50, LOGITS, found, singly, IDENTITY, THRESHOLDS, **others)


def test_equal_logits_pass() -> None:
    found = report(LOGITS)
    assert found.passed
    assert (found.logits, found.probabilities, found.decisions, found.decisions_changed) == (0, 0, 150, 0)
    assert require_parity(found) is found


def test_large_logits_may_differ_relatively() -> None:
    assert largest_difference(np.array([1000.05]), np.array([1000.0])) == pytest.approx(5e-5)
    assert largest_difference(np.array([0.5]), np.array([0.4])) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("changes", "failure"),
    [
        ({"found": LOGITS + 1e-3}, "logits differ from torch by 1.00e-03"),
        ({"found": LOGITS + 9e-5}, "probabilities differ"),
        ({"found": LOGITS, "singly": LOGITS + 1e-3}, "depend on the batch"),
        ({"found": LOGITS, "streaming": 1e-3}, "hour by hour"),
        ({"found": LOGITS, "earlier": 1e-9}, "depend on later hours"),
        ({"found": np.where(np.arange(50)[:, None] == 7, np.nan, LOGITS)}, "logits differ from torch by nan"),
    ],
)
def test_every_tolerance_is_kept(changes: dict[str, Any], failure: str) -> None:
    found = report(**changes)
    assert any(failure in line for line in found.failures)
    with pytest.raises(ExportError, match="is not the network, over 50 inputs"):
        require_parity(found)


def test_a_decision_may_differ_on_the_edge_only() -> None:
    edge = np.log(0.2 / 0.8)
    expected, found = LOGITS.copy(), LOGITS.copy()
    expected[0, 0], found[0, 0] = edge - 1e-6, edge + 1e-6
    on_edge = parity_report(50, expected, found, found, IDENTITY, THRESHOLDS)
    assert (on_edge.decisions_changed, on_edge.decisions_on_edge, on_edge.passed) == (1, 1, True)
    expected[0, 0], found[0, 0] = edge - 0.01, edge + 0.01
    beyond = parity_report(50, expected, found, found, IDENTITY, THRESHOLDS)
    assert any("1 decisions differ" in line for line in beyond.failures)


def test_the_report_is_json_with_its_tolerances() -> None:
    entry = report(LOGITS, streaming=1e-7, earlier=0.0).to_dict()
    assert entry["failures"] == []
    assert entry["tolerances"] == {
        "logits": 1e-4,
        "probabilities": 1e-5,
        "near_threshold": 1e-4,
        "batch": 1e-5,
    }
