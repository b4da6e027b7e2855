"""The graph computes what the network computes, for every size of its dynamic axes."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from helpers.exports import shaken

from export.check import largest_difference
from export.graph import converted_down, graph_of
from ibt_deploy.device import open_session
from ibt_deploy.errors import ExportError
from training.models import Encoder
from training.models.students import EcgDeiT, EcgTransformer, StayDeiT, StayTransformer, StayTwoHeads
from training.models.teachers import HannunResNet, ResidualLSTM

SMALL: dict[str, Any] = {"dim": 16, "depth": 2, "heads": 2, "mlp_ratio": 2.0}
METADATA = {"task": "arrhythmia", "checkpoint_sha256": "abc"}
FEATURES = 7


def ecg_network(name: str) -> Encoder:
    torch.manual_seed(0)
    if name == "resnet":
        return shaken(HannunResNet(base_filters=4, n_blocks=8))
    return shaken(EcgDeiT(**SMALL, readout="cls") if name == "deit, class token" else EcgTransformer(**SMALL))


def stay_network(name: str) -> Encoder:
    torch.manual_seed(0)
    kinds = {"plain": StayTransformer, "deit": StayDeiT, "two heads": StayTwoHeads}
    return shaken(kinds[name](n_features=FEATURES, **SMALL))


@cache
def ecg_model(name: str, opset: int = 23) -> onnx.ModelProto:
    return graph_of(ecg_network(name), 12, 2000, METADATA, opset)


@cache
def stay_model(name: str, opset: int = 23) -> onnx.ModelProto:
    return graph_of(stay_network(name), FEATURES, 0, {}, opset)


def torch_logits(network: Encoder, inputs: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    with torch.no_grad():
        found: npt.NDArray[np.float32] = network(torch.from_numpy(inputs)).numpy()
    return found


@pytest.mark.parametrize(
    ("name", "opset"),
    [
        ("plain", 23),
        ("plain", 18),
        ("plain", 17),
        ("deit, class token", 23),
        ("deit, class token", 20),
        ("resnet", 23),
    ],
)
def test_ecg_graph_equals_the_network_at_any_batch(name: str, opset: int) -> None:
    model = converted_down(ecg_model(name, 18), opset) if opset < 18 else ecg_model(name, opset)
    assert [o.version for o in model.opset_import] == [opset]
    session, _ = open_session(model.SerializeToString(), device="cpu", threads=1)
    signal = np.random.default_rng(0).standard_normal((17, 12, 2000), dtype=np.float32)
    expected = torch_logits(ecg_network(name), signal)
    for batch in (1, 3, 17):
        found = session.run(["logits"], {"signal": signal[:batch]})[0]
        assert largest_difference(found, expected[:batch]) < 1e-4


@pytest.mark.parametrize("opset", [18, 23])
@pytest.mark.parametrize("name", ["plain", "deit, class token"])
def test_ecg_graph_scores_a_short_recording_as_if_it_were_cut(name: str, opset: int) -> None:
    session, _ = open_session(ecg_model(name, opset).SerializeToString(), device="cpu", threads=1)
    signal = np.random.default_rng(0).standard_normal((3, 12, 2000), dtype=np.float32)
    short = signal.copy()
    short[1, :, 1200:] = np.nan
    found = session.run(["logits"], {"signal": short})[0]
    network = ecg_network(name)
    alone = [torch_logits(network, signal[i : i + 1, :, :n]) for i, n in enumerate((2000, 1200, 2000))]
    assert largest_difference(found, np.concatenate(alone)) < 1e-4


@pytest.mark.parametrize(
    ("name", "opset"),
    [("plain", 23), ("plain", 18), ("plain", 17), ("deit", 23), ("two heads", 20), ("two heads", 23)],
)
def test_stay_graph_continues_from_any_number_of_rows(name: str, opset: int) -> None:
    model = converted_down(stay_model(name, 18), opset) if opset < 18 else stay_model(name, opset)
    session, _ = open_session(model.SerializeToString(), device="cpu", threads=1)
    network, rng = stay_network(name), np.random.default_rng(0)
    for batch, past, hours in ((1, 0, 1), (3, 0, 336), (17, 1, 5), (2, 335, 1)):
        rows = rng.standard_normal((batch, past + hours, FEATURES), dtype=np.float32)
        position = np.tile(np.arange(past + hours), (batch, 1))
        keys = values = np.zeros((2, batch, 2, 0, 8), dtype=np.float32)
        if past:
            before = {"rows": rows[:, :past], "position": position[:, :past]}
            _, keys, values = session.run(None, {**before, "past_k": keys, "past_v": values})
        after = {"rows": rows[:, past:], "position": position[:, past:]}
        found, keys, values = session.run(None, {**after, "past_k": keys, "past_v": values})
        assert keys.shape == values.shape == (2, batch, 2, past + hours, 8)
        assert largest_difference(found, torch_logits(network, rows)[:, past:]) < 1e-4


def test_axes_have_the_names_of_the_contract() -> None:
    model = stay_model("plain")
    shapes = {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert shapes == {
        "rows": ["batch", "hours", FEATURES],
        "position": ["batch", "hours"],
        "past_k": [2, "batch", 2, "past", 8],
        "past_v": [2, "batch", 2, "past", 8],
        "logit": ["batch", "hours"],
        "present_k": [2, "batch", 2, "hours + past", 8],
        "present_v": [2, "batch", 2, "hours + past", 8],
    }


def test_graph_holds_its_weights_its_metadata_and_nothing_of_this_machine() -> None:
    model, network = ecg_model("plain"), ecg_network("plain")
    assert {entry.key: entry.value for entry in model.metadata_props} == METADATA
    assert not any(onnx.external_data_helper.uses_external_data(t) for t in model.graph.initializer)
    weights = sum(int(np.prod(t.dims)) for t in model.graph.initializer)
    parameters = sum(p.numel() for p in network.parameters())
    assert parameters <= weights <= parameters + 100
    for mark in (b".py", b"File ", b"training.models"):
        assert mark not in model.SerializeToString()


def test_equal_networks_give_equal_bytes_and_stay_in_their_mode() -> None:
    network = ecg_network("plain").train()
    again = graph_of(network, 12, 2000, METADATA)
    assert network.training
    assert again.SerializeToString() == ecg_model("plain").SerializeToString()


def test_a_network_without_such_a_graph_is_refused() -> None:
    with pytest.raises(ExportError, match="ResidualLSTM cannot be exported"):
        graph_of(ResidualLSTM(n_features=FEATURES, hidden=8), FEATURES, 0, {})
    with pytest.raises(ExportError, match="opset 17; use 18 or later"):
        converted_down(ecg_model("resnet"), 17)
