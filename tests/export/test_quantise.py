"""int8: which products are quantised, what changes, and the gate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
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


def signals(n: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal((n, 12, 2000), dtype=np.float32)


def in_batches(seen: npt.NDArray[np.float32]) -> list[dict[str, npt.NDArray[np.float32]]]:
    return [{"signal": seen[i : i + 16]} for i in range(0, len(seen), 16)]


def stays_alone(stays: list[npt.NDArray[np.float32]]) -> list[dict[str, npt.NDArray[Any]]]:
    cache = np.zeros((2, 1, 2, 0, 8), dtype=np.float32)
    return [
        {"rows": rows[None], "position": np.arange(len(rows))[None], "past_k": cache, "past_v": cache}
        for rows in stays
    ]


def test_products_with_weights_become_integers_and_nothing_is_left_behind(
    ecg_model: onnx.ModelProto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = ecg_model.SerializeToString()
    smaller = quantised(ecg_model, in_batches(signals(40)))
    stored = {t.name: t.data_type for t in smaller.graph.initializer}
    made = {out: node for node in smaller.graph.node for out in node.output}
    products = [node for node in smaller.graph.node if node.op_type in ("Gemm", "MatMul")]
    integer = [made.get(node.input[1]) for node in products]
    # the embedding and the head stay in float32; four products in each of two blocks do not
    assert [node is not None and node.op_type == "DequantizeLinear" for node in integer] == [
        False,
        *[True] * 8,
        False,
    ]
    assert all(stored[node.input[0]] == onnx.TensorProto.INT8 for node in integer if node is not None)
    assert smaller.ByteSize() < 0.6 * ecg_model.ByteSize()
    assert {p.key: p.value for p in smaller.metadata_props} == {
        "task": "arrhythmia",
        "precision": "int8, static",
    }
    assert ecg_model.SerializeToString() == before
    assert not list(tmp_path.iterdir())


def test_fixed_scales_make_a_window_independent_of_its_batch(ecg_model: onnx.ModelProto) -> None:
    seen = signals(40)
    smaller = quantised(ecg_model, in_batches(seen))
    session, device = open_session(smaller.SerializeToString(), device="cpu", threads=1)
    assert not OpenGraph(session, "int8", device).takes_scales_from_batch
    loud = np.concatenate([seen[:1], 20 * seen[1:4]])
    alone, together = (session.run(["logits"], {"signal": x})[0][0] for x in (seen[:1], loud))
    np.testing.assert_allclose(alone, together, atol=1e-5)
    exact, _ = open_session(ecg_model.SerializeToString(), device="cpu", threads=1)
    assert 0 < np.abs(alone - exact.run(["logits"], {"signal": seen[:1]})[0][0]).max() < 0.05


def test_scales_from_the_batch_are_noticed(ecg_model: onnx.ModelProto) -> None:
    # a graph without the note of fixed scales, as bundles before 0.4.2 had it
    session, device = open_session(ecg_model.SerializeToString(), device="cpu", threads=1)
    assert OpenGraph(session, "int8", device).takes_scales_from_batch
    assert not OpenGraph(session, "fp32", device).takes_scales_from_batch


def test_stays_in_float_keep_causality_and_streaming(
    stay_model: onnx.ModelProto, rows: list[np.ndarray]
) -> None:
    graph = opened(stay_model)
    assert earlier_change(graph, rows) == 0
    assert batch_change(graph, rows) < 1e-6
    assert streaming_difference(graph, rows) < 1e-5


def test_stays_in_int8_keep_causality_too(stay_model: onnx.ModelProto, rows: list[np.ndarray]) -> None:
    graph = opened(quantised(stay_model, stays_alone(rows)))
    assert earlier_change(graph, rows) == 0
    assert batch_change(graph, rows) < 0.01
    assert streaming_difference(graph, rows) < 0.01
    exact = opened(stay_model)
    assert 0 < max(np.abs(graph.logits(r[None]) - exact.logits(r[None])).max() for r in rows) < 0.05


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
        (0.0, 0.9, 0.6, 3, "share of changed decisions 0.015"),
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


@pytest.mark.parametrize(
    ("stays", "reason"),
    [
        ((1e-7, 0.0, 0.0), "change of earlier logits when later hours change 1e-07, allowed is 0"),
        ((0.0, 0.02, 0.0), "change of logits with the other stays of a batch"),
        ((0.0, 0.0, float("nan")), "change of logits when hours arrive one by one nan"),
    ],
)
def test_stays_pass_only_if_hours_and_neighbours_change_nothing(
    stays: tuple[float, float, float], reason: str
) -> None:
    same, rest = (PROBABILITIES, PROBABILITIES), ((0.9, 0.9), (0.6, 0.6), (100, 30))
    assert gate_report(100, same, (DECISIONS, DECISIONS), *rest, stays=(0.0, 0.0, 0.0)).shipped
    found = gate_report(100, same, (DECISIONS, DECISIONS), *rest, stays=stays)
    assert [reason in line for line in found.reasons] == [True]
