"""Proof that the graph computes what the network computes, on real inputs (science specification, 9.4).

==================================== =====================================================
ONNX against torch, both float32     logits within 1e-4, absolute or relative; calibrated
                                     probabilities within 1e-5
decisions at every operating point   identical unless within 1e-4 of the threshold
a batch against its inputs one by    logits within 1e-5, absolute or relative
one, and (stays) hour by hour
(stays) later hours changed          earlier logits bit-identical
==================================== =====================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ibt_deploy.bundle import Calibration
from ibt_deploy.errors import ExportError

Logits = npt.NDArray[np.floating[Any]]
Floats = npt.NDArray[np.float64]

LOGIT_TOLERANCE = 1e-4
PROBABILITY_TOLERANCE = 1e-5
NEAR_THRESHOLD = 1e-4
BATCH_TOLERANCE = 1e-5


@dataclass(frozen=True)
class ParityReport:
    """What was found.

    Attributes
    ----------
    inputs, outputs
        Recordings or stays compared, and the logits that they have.
    logits
        Largest difference to torch, relative where a logit is larger than 1.
    probabilities
        Largest difference of calibrated probabilities.
    decisions, decisions_changed, decisions_on_edge
        Decisions compared over all operating points; those that differ; those that differ within 1e-4 of
        the threshold, which is allowed.
    batch
        Largest difference between a batch and its inputs one by one.
    streaming
        The same between a whole stay and hour by hour with cached keys and values; None for ECGs.
    earlier
        Largest change of a logit when later hours change; None for ECGs.
    failures
        One sentence for every tolerance that is not kept.
    """

    inputs: int
    outputs: int
    logits: float
    probabilities: float
    decisions: int
    decisions_changed: int
    decisions_on_edge: int
    batch: float
    streaming: float | None
    earlier: float | None
    failures: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether every tolerance is kept."""
        return not self.failures

    def to_dict(self) -> dict[str, Any]:
        """The report as a bundle keeps it, with the tolerances."""
        return asdict(self) | {
            "failures": list(self.failures),
            "tolerances": {
                "logits": LOGIT_TOLERANCE,
                "probabilities": PROBABILITY_TOLERANCE,
                "near_threshold": NEAR_THRESHOLD,
                "batch": BATCH_TOLERANCE,
            },
        }


def parity_report(
    inputs: int,
    torch_logits: Logits,
    onnx_logits: Logits,
    onnx_logits_singly: Logits,
    calibration: Calibration,
    thresholds: Mapping[str, Floats],
    *,
    streaming: float | None = None,
    earlier: float | None = None,
) -> ParityReport:
    """Compare logits of the same inputs.

    Parameters
    ----------
    inputs
        How many recordings or stays they come from.
    torch_logits, onnx_logits, onnx_logits_singly
        Shape ``(n, outputs)``, or ``(n,)`` for one output: from the network, from the graph in batches, and
        from the graph one input at a time.
    calibration
        From logits to probabilities.
    thresholds
        Of every operating point, shape ``(outputs,)`` each.
    streaming, earlier
        As measured by :mod:`export.stay_checks`.
    """
    expected = calibration.probability(torch_logits)
    found = calibration.probability(onnx_logits)
    changed = on_edge = 0
    for threshold in thresholds.values():
        differs = (expected >= threshold) != (found >= threshold)
        edge = differs & (np.abs(expected - threshold) <= NEAR_THRESHOLD)
        changed, on_edge = changed + int(differs.sum()), on_edge + int(edge.sum())
    logits = largest_difference(onnx_logits, torch_logits)
    probabilities = float(np.abs(found - expected).max(initial=0.0))
    batch = largest_difference(onnx_logits, onnx_logits_singly)
    failures = []
    for what, value, tolerance in (
        ("logits differ from torch", logits, LOGIT_TOLERANCE),
        ("probabilities differ from torch", probabilities, PROBABILITY_TOLERANCE),
        ("logits depend on the batch", batch, BATCH_TOLERANCE),
        ("logits differ hour by hour", streaming or 0.0, BATCH_TOLERANCE),
        ("logits depend on later hours", earlier or 0.0, 0.0),
    ):
        # written so that NaN fails
        if not value <= tolerance:
            failures.append(f"{what} by {value:.2e}, allowed is {tolerance:.0e}")
    if changed > on_edge:
        failures.append(
            f"{changed - on_edge} decisions differ from torch further than 1e-4 from the threshold"
        )
    return ParityReport(
        inputs=inputs,
        outputs=int(np.size(torch_logits)),
        logits=logits,
        probabilities=probabilities,
        decisions=int(found.size) * len(thresholds),
        decisions_changed=changed,
        decisions_on_edge=on_edge,
        batch=batch,
        streaming=streaming,
        earlier=earlier,
        failures=tuple(failures),
    )


def largest_difference(found: Logits, expected: Logits) -> float:
    """Largest difference, relative where the expected number is larger than 1; 0 for nothing."""
    if found.shape != expected.shape:
        raise ValueError(f"logits of shapes {found.shape} and {expected.shape} cannot be compared")
    truth = expected.astype(np.float64)
    return float((np.abs(found - truth) / np.maximum(np.abs(truth), 1.0)).max(initial=0.0))


def require_parity(report: ParityReport) -> ParityReport:
    """The report itself, if it passed; ExportError with every failure otherwise."""
    if not report.passed:
        raise ExportError(
            f"the ONNX graph is not the network, over {report.inputs} inputs: {'; '.join(report.failures)}"
        )
    return report
