"""int8: which products are quantised, what changes, and the gate."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from export.check import StayGraph, batch_change, earlier_change, gate_report, streaming_difference
from export.graph import graph_of, quantised
from ibt_deploy.device import OpenGraph, open_session
from training.models.students import EcgTransformer, StayTransformer


@pytest.fixture(scope="module")
def ecg_model() -> onnx.ModelProto:
    torch.manual_seed(0)
    return graph_of(EcgTransformer(dim=32, depth=2, heads=2), 12, 2000, {"task": "arrhythmia"})


@pytest.fixture(scope="module")
def stay_model() -> onnx.ModelProto:
    torch.manual_seed(0)
    return graph_of(StayTransformer(n_features=7, dim=16, depth=2, heads=2), 7, 0, {})


def opened(model: onnx.ModelProto) -> StayGraph:
    session, device = open_session(model.SerializeToString(), device="cpu", threads=1)
    return StayGraph(OpenGraph(session, "any", device))


@pytest.fixture(scope="module")
def rows() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal((hours, 7), dtype=np.float32) for hours in (1, 2, 9, 40)]


def test_products_with_weights_become_integers_and_nothing_is_left_behind(
    ecg_model: onnx.ModelProto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = ecg_model.SerializeToString()
    smaller = quantised(ecg_model)
    kinds = [node.op_type for node in smaller.graph.node]
    # four in each of two blocks, the embedding and the head; products inside attention have no weights
    assert kinds.count("MatMulInteger") == 10
    assert kinds.count("MatMul") == 4
    assert smaller.ByteSize() < 0.5 * ecg_model.ByteSize()
    assert {p.key: p.value for p in smaller.metadata_props} == {
        "task": "arrhythmia",
        "precision": "int8, dynamic",
    }
    assert ecg_model.SerializeToString() == before
    assert not list(tmp_path.iterdir())


def test_int8_logits_are_near_and_depend_on_the_window_alone(ecg_model: onnx.ModelProto) -> None:
    signal = np.random.default_rng(0).standard_normal((3, 12, 2000), dtype=np.float32)
    exact, _ = open_session(ecg_model.SerializeToString(), device="cpu", threads=1)
    rough, _ = open_session(quantised(ecg_model).SerializeToString(), device="cpu", threads=1)
    expected = exact.run(None, {"signal": signal})[0]
    found = np.concatenate([rough.run(None, {"signal": signal[i : i + 1]})[0] for i in range(3)])
    assert 0 < np.abs(found - expected).max() < 0.05


def test_scales_from_calibration_make_a_window_independent_of_its_batch(ecg_model: onnx.ModelProto) -> None:
    rng = np.random.default_rng(0)
    seen = rng.standard_normal((40, 12, 2000), dtype=np.float32)
    smaller = quantised(ecg_model, seen)
    kinds = [node.op_type for node in smaller.graph.node]
    # the embedding and the head stay in float32; each other weight is stored once, as integers
    assert kinds.count("DequantizeLinear") > kinds.count("QuantizeLinear") > 0
    assert smaller.ByteSize() < ecg_model.ByteSize()
    assert {p.key: p.value for p in smaller.metadata_props}["precision"] == "int8, static"
    session, device = open_session(smaller.SerializeToString(), device="cpu", threads=1)
    assert not OpenGraph(session, "int8", device).takes_scales_from_batch
    loud = np.concatenate([seen[:1], 20 * seen[1:4]])
    alone, together = (session.run(["logits"], {"signal": x})[0][0] for x in (seen[:1], loud))
    np.testing.assert_allclose(alone, together, atol=1e-5)
    exact, _ = open_session(ecg_model.SerializeToString(), device="cpu", threads=1)
    assert np.abs(alone - exact.run(["logits"], {"signal": seen[:1]})[0][0]).max() < 0.05


def test_scales_from_the_batch_are_noticed(ecg_model: onnx.ModelProto) -> None:
    session, device = open_session(quantised(ecg_model).SerializeToString(), device="cpu", threads=1)
    assert OpenGraph(session, "int8", device).takes_scales_from_batch
    assert not OpenGraph(session, "fp32", device).takes_scales_from_batch


def test_stays_in_float_keep_causality_and_streaming(
    stay_model: onnx.ModelProto, rows: list[np.ndarray]
) -> None:
    graph = opened(stay_model)
    assert earlier_change(graph, rows) == 0
    assert batch_change(graph, rows) < 1e-6
    assert streaming_difference(graph, rows) < 1e-5


def test_stays_in_int8_lose_causality(stay_model: onnx.ModelProto, rows: list[np.ndarray]) -> None:
    graph = opened(quantised(stay_model))
    assert earlier_change(graph, rows) > 1e-4
    assert batch_change(graph, rows) > 1e-4


PROBABILITIES = np.full((100, 2), 0.3)
DECISIONS = np.zeros((100, 2), dtype=bool)


def test_the_gate_opens_for_small_changes() -> None:
    found = gate_report(
        100,
        (PROBABILITIES, PROBABILITIES + 0.004),
        (DECISIONS, DECISIONS),
        (0.9, 0.899),
        (0.6, 0.601),
        (100, 30),
    )
    assert found.shipped
    assert found.to_dict()["limits"]["decisions_changed"] == 0.01
    assert found.metric_drop == pytest.approx(-0.001)


@pytest.mark.parametrize(
    ("probability", "auroc", "metric", "n_decisions", "reason"),
    [
        (0.006, 0.9, 0.6, 0, "mean change of probability"),
        (0.0, 0.897, 0.6, 0, "drop of AUROC"),
        (0.0, float("nan"), 0.6, 0, "drop of AUROC nan"),
        (0.0, 0.9, 0.594, 0, "drop of the main metric"),
        (0.0, 0.9, 0.6, 3, "share of changed decisions 0.0150"),
    ],
)
def test_the_gate_closes(
    probability: float, auroc: float, metric: float, n_decisions: int, reason: str
) -> None:
    changed = DECISIONS.copy()
    changed.flat[:n_decisions] = True
    found = gate_report(
        100,
        (PROBABILITIES, PROBABILITIES + probability),
        (DECISIONS, changed),
        (0.9, auroc),
        (0.6, metric),
        (100, 30),
    )
    assert not found.shipped
    assert [reason in line for line in found.reasons] == [True]


def test_stays_never_pass() -> None:
    same = (PROBABILITIES, PROBABILITIES)
    found = gate_report(
        100, same, (DECISIONS, DECISIONS), (0.9, 0.9), (0.6, 0.6), (100, 30), earlier=0.0, batch=0.0
    )
    assert not found.shipped
    assert "causality" in found.reasons[0]
