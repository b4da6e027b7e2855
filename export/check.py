"""Checks of a bundle on real inputs: that its graph matches the network, and that int8 may be shipped.

==================================== =====================================================
ONNX against torch, both float32     logits within 1e-4, absolute or relative; calibrated
                                     probabilities within 1e-5
decisions at every operating point   identical unless within 1e-4 of the threshold
a batch against its inputs one by    logits within 1e-5, absolute or relative
one, and (stays) hour by hour
(stays) later hours changed          earlier logits bit-identical
==================================== =====================================================

Golden inputs let every machine repeat the check. They are made from the examples of the repository, never
from patients of the data sets, and quantised like device output (int16 microvolts; table values), so that the
file holds exactly what was scored. The ECG variants exercise every branch of preprocessing: sampling rates
that need different filters, an odd rate, derived leads, invalid samples, several windows, a short recording.
The stay variants are one hour, two weeks, a stay known only from its 30th hour on, and one with hardly any
measurements.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ibt_deploy.bundle import Calibration
from ibt_deploy.device import OpenGraph
from ibt_deploy.errors import DataError, ExportError, IbtError
from ibt_deploy.golden import GOLDEN, GoldenCase, golden_arrays
from ibt_deploy.preprocess.filters import resample
from ibt_deploy.readers import read
from ibt_deploy.records import Recording, Stay
from ibt_deploy.scorers import TaskScorer
from ibt_deploy.scorers.stay import streamed_logits
from ibt_deploy.types import Bools, Floats, Int16s
from ibt_deploy.vocabulary import INDEX, LEADS, MAX_HOURS, N_TIME_VARYING

Logits = npt.NDArray[np.floating[Any]]

LOGIT_TOLERANCE = 1e-4
PROBABILITY_TOLERANCE = 1e-5
NEAR_THRESHOLD = 1e-4
BATCH_TOLERANCE = 1e-5


@dataclass(frozen=True)
class ParityReport:
    """Result of a parity check.

    Attributes
    ----------
    inputs, outputs
        Number of recordings or stays compared, and of their logits.
    logits
        Largest difference from torch, relative where a logit is larger than 1.
    probabilities
        Largest difference of calibrated probabilities.
    decisions, decisions_changed, decisions_on_edge
        Decisions compared over all operating points; those that differ; those that differ within 1e-4 of
        the threshold, which is allowed.
    batch
        Largest difference between inputs scored in a batch and one by one.
    streaming
        The same between a whole stay and its hours one by one with cached keys and values; None for ECGs.
    earlier
        Largest change of a logit when later hours change; None for ECGs.
    failures
        One sentence for every tolerance exceeded.
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
        """Whether all tolerances are met."""
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
        Number of recordings or stays they come from.
    torch_logits, onnx_logits, onnx_logits_singly
        Shape ``(n, outputs)``, or ``(n,)`` for one output: from the network, from the graph in batches, and
        from the graph one input at a time.
    calibration
        Map from logits to probabilities.
    thresholds
        Thresholds of every operating point, shape ``(outputs,)`` each.
    streaming, earlier
        As measured by :mod:`export.check`.
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
    """Largest difference, relative where the expected number is larger than 1; 0 for empty arrays."""
    if found.shape != expected.shape:
        raise ValueError(f"logits of shapes {found.shape} and {expected.shape} cannot be compared")
    truth = expected.astype(np.float64)
    return float((np.abs(found - truth) / np.maximum(np.abs(truth), 1.0)).max(initial=0.0))


def require_parity(report: ParityReport) -> ParityReport:
    """Return the report if it passed; otherwise raise ExportError with every failure."""
    if not report.passed:
        raise ExportError(
            f"the ONNX graph is not the network, over {report.inputs} inputs: {'; '.join(report.failures)}"
        )
    return report


Features = Sequence[npt.NDArray[np.float32]]


class StayGraph:
    """An open graph for stays, run on one stay or on a batch of stays of equal length."""

    def __init__(self, graph: OpenGraph) -> None:
        self._graph = graph

    def logits(self, rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Logits ``(batch, hours)`` of rows ``(batch, hours, features)``, all at once."""
        batch, hours = rows.shape[:2]
        keys, values = self._graph.empty_cache(batch)
        position = np.tile(np.arange(hours), (batch, 1))
        inputs: dict[str, npt.NDArray[Any]] = {"rows": rows, "position": position}
        inputs |= {"past_k": keys, "past_v": values}
        return self._graph.run(["logit"], inputs)[0]

    def streamed_logits(self, rows: npt.NDArray[np.float32], steps: Sequence[int]) -> npt.NDArray[np.float32]:
        """Logits of one stay ``(hours, features)`` whose rows arrive in ``steps``, as ``(hours,)``."""
        return streamed_logits(self._graph, rows, steps)


def streaming_difference(graph: StayGraph, stays: Features) -> float:
    """Largest difference of logits between whole stays and the same stays fed in steps.

    Every second stay is fed hour by hour; the others as all rows but the last, then the last, which tests the
    longest caches.
    """
    worst = 0.0
    for i, rows in enumerate(stays):
        hours = len(rows)
        steps = [1] * hours if i % 2 == 0 or hours == 1 else [hours - 1, 1]
        worst = max(
            worst, largest_difference(graph.streamed_logits(rows, steps), graph.logits(rows[None])[0])
        )
    return worst


def earlier_change(graph: StayGraph, stays: Features, seed: int = 0) -> float:
    """Largest change of any earlier logit when the later half of a stay is replaced by other rows.

    The replacement is drawn from a normal distribution with five times the rows' own standard deviation:
    large enough to move a scale computed over the whole tensor.
    """
    rng = np.random.default_rng(seed)
    worst = 0.0
    for rows in stays:
        keep = len(rows) // 2
        other = rows.copy()
        other[keep:] = rng.normal(0, 5 * max(float(rows.std()), 1e-3), other[keep:].shape)
        if keep:
            both = np.stack([rows, other])
            first, second = (graph.logits(both[i : i + 1])[0, :keep] for i in range(2))
            worst = max(worst, float(np.abs(first.astype(np.float64) - second).max()))
    return worst


def batch_change(graph: StayGraph, stays: Features) -> float:
    """Largest change of any logit of a stay when it shares its batch with another stay."""
    worst = 0.0
    for rows, mate in zip(stays, [*stays[1:], stays[0]], strict=True):
        hours = max(len(rows), len(mate))
        batch = np.zeros((2, hours, rows.shape[1]), dtype=np.float32)
        batch[0, : len(rows)], batch[1, : len(mate)] = rows, mate
        alone, together = graph.logits(rows[None])[0], graph.logits(batch)[0, : len(rows)]
        worst = max(worst, float(np.abs(alone.astype(np.float64) - together).max()))
    return worst


MOST_PROBABILITY_CHANGE = 0.005
MOST_AUROC_DROP = 0.002
MOST_METRIC_DROP = 0.005
MOST_DECISIONS_CHANGED = 0.01
INT8_TOLERANCE = 0.01
"""Most that a batch or hourly arrival may change a logit in int8.

A number halfway between two integers can be rounded up or down, which moves a logit by far more than the last
bits of float32, and by far less than int8 itself does.
"""


@dataclass(frozen=True)
class GateReport:
    """Cost of int8 on the validation part, against float32 with the same calibration and thresholds.

    Attributes
    ----------
    inputs
        Recordings or stays.
    mean_probability_change
        Mean absolute difference of calibrated probabilities.
    auroc_drop, metric_drop
        Drop of the macro AUROC, and of the challenge metric or utility at the default operating point.
    decisions_changed
        Share of decisions changed.
    bytes_float, bytes_int8
        Sizes of the graphs.
    earlier_risk_change, batch_risk_change, streaming_change
        Stays only: largest change of an earlier logit when later rows change, of any logit when the stay
        shares a batch, and of any logit when its hours arrive one by one; None for ECGs.
    reasons
        Why int8 is not shipped; empty if it is.
    """

    inputs: int
    mean_probability_change: float
    auroc_drop: float
    metric_drop: float
    decisions_changed: float
    bytes_float: int
    bytes_int8: int
    earlier_risk_change: float | None
    batch_risk_change: float | None
    streaming_change: float | None
    reasons: tuple[str, ...]

    @property
    def shipped(self) -> bool:
        """Whether the variant passed."""
        return not self.reasons

    def to_dict(self) -> dict[str, Any]:
        """The report as a bundle keeps it, with the limits."""
        return asdict(self) | {
            "shipped": self.shipped,
            "reasons": list(self.reasons),
            "limits": {
                "mean_probability_change": MOST_PROBABILITY_CHANGE,
                "auroc_drop": MOST_AUROC_DROP,
                "metric_drop": MOST_METRIC_DROP,
                "decisions_changed": MOST_DECISIONS_CHANGED,
            },
        }


def gate_report(
    inputs: int,
    probabilities: tuple[Floats, Floats],
    decisions: tuple[Bools, Bools],
    aurocs: tuple[float, float],
    metrics: tuple[float, float],
    sizes: tuple[int, int],
    *,
    stays: tuple[float, float, float] | None = None,
) -> GateReport:
    """Compare int8 with float32; every pair is (float32, int8).

    Parameters
    ----------
    inputs
        Recordings or stays compared.
    probabilities, decisions
        Pairs of arrays of equal shapes.
    aurocs, metrics
        Macro AUROC, and challenge metric or utility.
    sizes
        Bytes of the graphs.
    stays
        For stays, the results of :func:`earlier_change`, :func:`batch_change` and
        :func:`streaming_difference`.
    """
    change = float(np.abs(probabilities[1] - probabilities[0]).mean())
    auroc_drop, metric_drop = aurocs[0] - aurocs[1], metrics[0] - metrics[1]
    changed = float((decisions[1] != decisions[0]).mean())
    earlier, batch, streaming = stays or (None, None, None)
    reasons = []
    for what, value, limit in (
        ("change of earlier logits when later hours change", earlier or 0.0, 0.0),
        ("change of logits with the other stays of a batch", batch or 0.0, INT8_TOLERANCE),
        ("change of logits when hours arrive one by one", streaming or 0.0, INT8_TOLERANCE),
        ("mean change of probability", change, MOST_PROBABILITY_CHANGE),
        ("drop of AUROC", auroc_drop, MOST_AUROC_DROP),
        ("drop of the main metric", metric_drop, MOST_METRIC_DROP),
        ("share of changed decisions", changed, MOST_DECISIONS_CHANGED),
    ):
        # written so that NaN fails
        if not value <= limit:
            reasons.append(f"{what} {value:.3g}, allowed is {limit:g}")
    return GateReport(
        inputs, change, auroc_drop, metric_drop, changed, *sizes, earlier, batch, streaming, tuple(reasons)
    )


MICROVOLTS = 1000.0
INVALID = np.iinfo(np.int16).min
RECORDING, STAY = "recording.hea", "stay.psv"


def ecg_inputs(examples: Path) -> dict[str, Recording]:
    """Recordings by name, from the example recording."""
    given = _example(examples / RECORDING, Recording)
    if given.leads != LEADS or np.isnan(given.signal).any() or given.duration < 10:
        raise DataError(f"{given.source}: golden inputs need 10 s of the 12 leads without gaps")
    rate = round(given.sampling_rate)
    at = {hz: resample(given.signal, rate, hz) if hz != rate else given.signal for hz in (257, 500, 1000)}
    gaps = _microvolts(at[500])
    gaps[6, 1000:1040] = gaps[9, 2500:3200] = INVALID
    eight = [LEADS.index(lead) for lead in ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")]
    cases: dict[str, tuple[Int16s, int, tuple[str, ...]]] = {
        "1000 Hz": (_microvolts(at[1000]), 1000, LEADS),
        "500 Hz, half amplitude": (_microvolts(0.5 * at[500]), 500, LEADS),
        "257 Hz, one and a half amplitude": (_microvolts(1.5 * at[257]), 257, LEADS),
        "500 Hz, invalid samples": (gaps, 500, LEADS),
        "500 Hz, eight leads, 9 s": (_microvolts(at[500][eight, :4500]), 500, tuple(LEADS[i] for i in eight)),
        "257 Hz, three windows": (_microvolts(np.tile(at[257], (1, 3))[:, : 26 * 257]), 257, LEADS),
    }
    return {name: _recording(name, *case) for name, case in cases.items()}


def stay_inputs(examples: Path) -> dict[str, Stay]:
    """Stays by name, from the example stay."""
    given = _example(examples / STAY, Stay)
    values = given.values
    repeats = -(-MAX_HOURS // len(values))
    long = np.tile(values, (repeats, 1))[:MAX_HOURS]
    sparse = values.copy()
    sparse[:, 1:N_TIME_VARYING] = np.nan
    hour = INDEX["ICULOS"]
    found = {
        "as it is": values,
        "one hour": values[:1],
        "two weeks": long,
        "known from hour 30": values.copy(),
        "heart rate only": sparse,
    }
    found["two weeks"][:, hour] = np.arange(1, MAX_HOURS + 1)
    found["known from hour 30"][:, hour] = np.arange(30, 30 + len(values))
    return {name: Stay(rows, name, GOLDEN, "golden") for name, rows in found.items()}


def golden_cases(scorer: TaskScorer, inputs: Mapping[str, Recording | Stay]) -> dict[str, GoldenCase]:
    """The inputs with the features and logits that scoring gives on this machine."""
    return {
        name: GoldenCase(name, given, *scorer.features_and_logits(given)) for name, given in inputs.items()
    }


def write_cases(path: Path, cases: dict[str, GoldenCase]) -> None:
    """Write ``golden.npz``, with recordings as int16 microvolts."""
    arrays: dict[str, npt.NDArray[Any]] = golden_arrays(cases)
    for name, case in cases.items():
        if isinstance(case.given, Recording):
            arrays[f"{name}/signal"] = _microvolts(case.given.signal)
    np.savez_compressed(path, allow_pickle=False, **arrays)


def _example(path: Path, kind: type[Any]) -> Any:
    try:
        found = read(path)
    except IbtError as error:
        raise DataError(f"golden inputs are made from the example {path}, which fails: {error}") from error
    if len(found) != 1 or not isinstance(found[0], kind):
        raise DataError(f"{path}: is not the example {kind.__name__.lower()}")
    return found[0]


def _microvolts(signal: npt.NDArray[np.float64]) -> Int16s:
    """Convert millivolts to int16 microvolts; -32768 where invalid."""
    rounded = np.rint(signal * MICROVOLTS).clip(INVALID + 1, np.iinfo(np.int16).max)
    return np.where(np.isnan(rounded), INVALID, rounded).astype(np.int16)


def _recording(name: str, raw: Int16s, rate: int, leads: tuple[str, ...]) -> Recording:
    recording = Recording(raw / MICROVOLTS, float(rate), leads, name, GOLDEN, "golden")
    invalid = raw == INVALID
    return (
        replace(recording, signal=np.where(invalid, np.nan, recording.signal)) if invalid.any() else recording
    )
