"""Milliseconds per recording and per stay-hour: the graph of the packaged bundles against PyTorch eager."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from benchmarks.machine import EAGER, markdown, seconds_per_call
from export.graph import graph_of
from ibt_deploy import load
from ibt_deploy.bundle import Bundle, load_bundle
from ibt_deploy.device import open_session
from ibt_deploy.predictions import SepsisPrediction
from ibt_deploy.records import Stay
from ibt_deploy.types import Float32s
from ibt_deploy.vocabulary import CLASSES, NAMES
from training.models import Encoder
from training.models.students import EcgTransformer
from training.recipe import recipe_from_dict
from training.tasks import build_network

PAPER = "paper's student in PyTorch eager"
HOURS = 48
TORCH_ECG = ("resnet_nature_comm", "multi_scopic", "resnet_leadwise")
BATCHES = (1, 32)
SPELT_OUT = 18
"""An opset without an operator for attention."""


def scoring_times(threads: int, least: float) -> dict[str, dict[str, float]]:
    """Milliseconds by engine and task, then by batch; the model's alone, without preprocessing."""
    times = _ecg(threads, least) | torch_ecg_times(least) | _stay(threads, least)
    return {
        name: {f"batch {b}": ms for b, ms in zip(BATCHES, row, strict=True)} for name, row in times.items()
    }


def scoring_table(times: dict[str, dict[str, float]]) -> str:
    """One row for each engine and task, with its shares of other rows' time at each batch size.

    The other rows are the step before (torch_ecg is no step) and our packaged network in PyTorch eager.
    """
    rows: list[list[str]] = []
    before: dict[str, dict[str, float]] = {}
    for name, row in times.items():
        kind = name.partition(", ")[0]
        step = None if "torch_ecg" in name else before.get(kind)
        digits = 3 if "stay" in name else 2
        shares = [_shares(row, other) for other in (step, times[f"{kind}, {EAGER}"])]
        rows.append([name, *(f"{ms:.{digits}f}" for ms in row.values()), *shares])
        before[kind] = row
    header = [*(f"batch {b}" for b in BATCHES), "of the step before", f"of the {EAGER}"]
    return markdown(["scoring, ms", *header], rows)


def _shares(row: dict[str, float], other: dict[str, float] | None) -> str:
    return ", ".join(f"{ms / other[batch]:.2f}" for batch, ms in row.items()) if other else ""


def packaged_network(bundle: Bundle, n_inputs: int, samples: int) -> Encoder:
    """A network of the bundle's shape, untrained: the time does not depend on the weights."""
    recipe = recipe_from_dict(bundle.contract["training"]["student"]["recipe"])
    return build_network(recipe, n_inputs, samples)


def torch_ecg_times(least: float) -> dict[str, list[float]]:
    """The CRNN models of torch_ecg with 26 classes, on ten seconds at their 500 Hz; empty without it."""
    try:
        from torch_ecg.model_configs import ECG_CRNN_CONFIG
        from torch_ecg.models.ecg_crnn import ECG_CRNN
    except ModuleNotFoundError as error:
        print(f"not measured: torch_ecg ({error})", file=sys.stderr)
        return {}
    generator = np.random.default_rng(0)
    times = {}
    for name in TORCH_ECG:
        config = deepcopy(ECG_CRNN_CONFIG)
        config.cnn.name = name
        network = ECG_CRNN(classes=[c.abbreviation for c in CLASSES], n_leads=12, config=config).eval()
        row = []
        for b in BATCHES:
            signal = torch.from_numpy(generator.standard_normal((b, 12, 5000), dtype=np.float32))
            with torch.inference_mode():
                row.append(seconds_per_call(lambda x=signal, n=network: n(x), least) / b * 1e3)
        times[f"a recording, torch_ecg {name}, PyTorch eager"] = row
    return times


def row_by_row_times(threads: int, least: float) -> dict[str, dict[str, float]]:
    """Milliseconds per hour of the example stay: in one pass, and from each row's past sliced with pandas.

    Both preprocess, and give the same risks. The second is a loop over ``frame.iloc[: hour]``, as the
    Challenge 2019 required of its entries.
    """
    frame = pd.read_csv(Path(__file__).parents[1] / "examples" / "stay.psv", sep="|")
    predictor = load("sepsis", device="cpu", threads=threads)

    def risk(past: pd.DataFrame) -> float:
        answer = predictor.predict(
            Stay(past[list(NAMES)].to_numpy(dtype=np.float64), "stay", "stay.psv", "PSV")
        )
        assert isinstance(answer, SepsisPrediction)
        return float(answer.risk[-1])

    def row_by_row() -> list[float]:
        return [risk(frame.iloc[: hour + 1]) for hour in range(len(frame))]

    ways = {"one pass": lambda: risk(frame), "row by row with pandas": row_by_row}
    return {
        f"a stay-hour with preprocessing, {name}": {
            "batch 1": seconds_per_call(way, least) / len(frame) * 1e3
        }
        for name, way in ways.items()
    }


def _eager_seconds(network: Encoder, inputs: Float32s, least: float) -> float:
    network.eval()
    with torch.inference_mode():
        return seconds_per_call(lambda: network(torch.from_numpy(inputs)), least)


def _graphs(bundle: Bundle, network: Encoder, n_inputs: int, samples: int) -> dict[str, bytes]:
    """Graphs by name: float32 with attention spelt out, then every variant of the bundle."""
    spelt_out = graph_of(network, n_inputs, samples, {}, SPELT_OUT)
    packaged = {variant: bundle.graph(variant) for variant in bundle.variants}
    return {f"fp32, opset {SPELT_OUT}": spelt_out.SerializeToString(), **packaged}


def ecg_inputs(batch: int, leads: int = 12, samples: int = 2000) -> Float32s:
    """Random signals ``(batch, leads, samples)``; by default ten seconds of 12 leads at 200 Hz."""
    return np.random.default_rng(0).standard_normal((batch, leads, samples), dtype=np.float32)


def graph_times(graph: bytes, inputs: Mapping[int, Float32s], threads: int, least: float) -> list[float]:
    """Milliseconds per recording of an ECG graph in ONNX Runtime, for each size of a batch.

    ``inputs`` has a signal ``(batch, leads, samples)`` for every size; each is timed for at least ``least``
    seconds.
    """
    session, _ = open_session(graph, device="cpu", threads=threads)
    return [
        seconds_per_call(lambda x=signal: session.run(["logits"], {"signal": x}), least) / batch * 1e3
        for batch, signal in inputs.items()
    ]


def _ecg(threads: int, least: float) -> dict[str, list[float]]:
    inputs = {b: ecg_inputs(b) for b in BATCHES}
    bundle = load_bundle("arrhythmia")
    networks = {PAPER: EcgTransformer(), EAGER: packaged_network(bundle, 12, 2000)}
    times = {
        f"a recording, {name}": [_eager_seconds(network, inputs[b], least) / b * 1e3 for b in BATCHES]
        for name, network in networks.items()
    }
    for name, graph in _graphs(bundle, networks[EAGER], 12, 2000).items():
        times[f"a recording, ONNX Runtime {name}"] = graph_times(graph, inputs, threads, least)
    return times


def _stay(threads: int, least: float) -> dict[str, list[float]]:
    generator = np.random.default_rng(0)
    bundle = load_bundle("sepsis")
    network = packaged_network(bundle, 109, HOURS)
    feeds = {}
    for b in BATCHES:
        empty = np.zeros((3, b, 8, 0, 32), dtype=np.float32)
        position = np.tile(np.arange(HOURS), (b, 1))
        rows = generator.standard_normal((b, HOURS, 109), dtype=np.float32)
        feeds[b] = {"rows": rows, "position": position, "past_k": empty, "past_v": empty}
    kind = f"a stay-hour ({HOURS} h stays)"
    times = {
        f"{kind}, {EAGER}": [
            _eager_seconds(network, feeds[b]["rows"], least) / b / HOURS * 1e3 for b in BATCHES
        ]
    }
    for name, graph in _graphs(bundle, network, 109, HOURS).items():
        session, _ = open_session(graph, device="cpu", threads=threads)
        times[f"{kind}, ONNX Runtime {name}"] = [
            seconds_per_call(lambda b=b, s=session: s.run(["logit"], feeds[b]), least) / b / HOURS * 1e3
            for b in BATCHES
        ]
    return times
