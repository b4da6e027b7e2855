"""An int8 variant of a transformer's graph, and the gate that it must pass to be shipped.

Quantised are the products with weights (MatMul and Gemm), dynamically: weights per channel beforehand,
activations per tensor while scoring. Convolutions are left alone, because dynamic integer convolution is
several times slower than float (science specification, 9.4).

Weights keep 7 bits (``reduce_range``): x86 CPUs without VNNI add pairs of products in 16 bits, which 8-bit
weights overflow, so that one file would give other answers on other machines.

Scales taken over a whole tensor make an answer depend on everything in that tensor. For ECGs that is one
window, scored alone. For stays it is all hours, later ones too, so that an earlier risk would change when
later rows arrive; a stay graph is never shipped in int8.
"""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

MOST_PROBABILITY_CHANGE = 0.005
MOST_AUROC_DROP = 0.002
MOST_METRIC_DROP = 0.005
MOST_DECISIONS_CHANGED = 0.01
QUANTISED = ("MatMul", "Gemm")


@dataclass(frozen=True)
class GateReport:
    """What int8 costs on the validation part, against float32 with the same calibration and thresholds.

    Attributes
    ----------
    inputs
        Recordings or stays.
    mean_probability_change
        Mean absolute difference of calibrated probabilities.
    auroc_drop, metric_drop
        Of the macro AUROC, and of the challenge metric or utility at the default operating point.
    decisions_changed
        Share of the decisions.
    bytes_float, bytes_int8
        Sizes of the graphs.
    earlier_risk_change, batch_risk_change
        Stays only: largest change of an earlier logit when later rows change, and of any logit when the stay
        shares a batch; None for ECGs.
    reasons
        Why it is not shipped; empty where it is.
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


def quantised(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph with integer products; metadata is kept and says so."""
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.quant_utils import add_pre_process_metadata

    prepared = onnx.ModelProto()
    prepared.CopyFrom(model)
    # the exporter has folded constants and inferred shapes, which is all that the preparation would do
    add_pre_process_metadata(prepared)
    # a Gemm's weight is transposed under its old name, and would then contradict the shape noted for it
    del prepared.graph.value_info[:]
    with tempfile.TemporaryDirectory(prefix="ibt-int8-") as folder:
        out = Path(folder) / "model.onnx"
        quantize_dynamic(
            prepared,
            out,
            op_types_to_quantize=list(QUANTISED),
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
        )
        found = onnx.load(out)
    found.producer_name, found.producer_version = model.producer_name, model.producer_version
    del found.metadata_props[:]
    for entry in model.metadata_props:
        found.metadata_props.add(key=entry.key, value=entry.value)
    found.metadata_props.add(key="precision", value="int8, dynamic")
    onnx.checker.check_model(found, full_check=False)
    return found


def gate_report(
    inputs: int,
    probabilities: tuple[Floats, Floats],
    decisions: tuple[Bools, Bools],
    aurocs: tuple[float, float],
    metrics: tuple[float, float],
    sizes: tuple[int, int],
    *,
    earlier: float | None = None,
    batch: float | None = None,
) -> GateReport:
    """Judge int8 against float32; every pair is (float32, int8).

    Parameters
    ----------
    inputs
        Recordings or stays compared.
    probabilities, decisions
        Of equal shapes.
    aurocs, metrics
        Macro AUROC, and challenge metric or utility.
    sizes
        Bytes of the graphs.
    earlier, batch
        For stays, as measured by :mod:`export.stay_checks`.
    """
    change = float(np.abs(probabilities[1] - probabilities[0]).mean())
    auroc_drop, metric_drop = aurocs[0] - aurocs[1], metrics[0] - metrics[1]
    changed = float((decisions[1] != decisions[0]).mean())
    reasons = []
    if earlier is not None:
        reasons.append(
            "it breaks causality: scales are taken over all hours, so that later rows changed earlier logits "
            f"by up to {earlier:.3g}"
            + ("" if batch is None else f" and a stay's neighbours in a batch by up to {batch:.3g}")
        )
    for what, value, limit in (
        ("mean change of probability", change, MOST_PROBABILITY_CHANGE),
        ("drop of AUROC", auroc_drop, MOST_AUROC_DROP),
        ("drop of the main metric", metric_drop, MOST_METRIC_DROP),
        ("share of changed decisions", changed, MOST_DECISIONS_CHANGED),
    ):
        # written so that NaN fails
        if not value <= limit:
            reasons.append(f"{what} {value:.4f}, allowed is {limit}")
    return GateReport(
        inputs, change, auroc_drop, metric_drop, changed, *sizes, earlier, batch, tuple(reasons)
    )
